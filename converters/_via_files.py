"""VIA files as lists of films: exports and projects of VIA 1 and 2, told apart by what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vertinst.errors import DataError
from vertinst.files import read_json
from vertinst.structures.conversion import Skip

from ._source import Entry, Labels, Options, Region, tidy

__all__ = ["read_entries"]

_EXPORT_FIX = "In VIA choose Annotation > Export Annotations (as json), or Project > Save."


def read_entries(path: Path) -> tuple[list[Entry], list[Skip]]:
    """Read all films of one VIA file.

    Args:
        path: VIA 2 project (with or without `_via_image_id_list`, whose order is followed), VIA 2 annotation export,
            or VIA 1 export, where regions are a dict.

    Returns:
        The films, those without regions included, and what could not be read.

    Raises:
        DataError: The file is not readable or holds no VIA 1 or 2 annotations.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError("must be a VIA file, got JSON of another kind", where=path, fix=_EXPORT_FIX)
    skips: list[Skip] = []
    metadata, options = _sections(content, path)
    entries = []
    for key in _order(content, metadata, path, skips):
        raw = metadata[key]
        if not isinstance(raw, dict) or not isinstance(raw.get("filename"), str) or not raw["filename"].strip():
            skips.append(Skip(str(path), str(key), None, "entry has no file name: left out"))
            continue
        name = raw["filename"]
        regions = tuple(_regions(raw.get("regions"), str(path), name, skips))
        source = {key: tidy(raw[key]) for key in ("filename", "size", "fileref") if key in raw}
        entries.append(Entry(str(path), name, _attributes(raw.get("file_attributes")), regions, options, source))
    return entries, skips


def _sections(content: dict[str, Any], path: Path) -> tuple[dict[str, Any], Options]:
    metadata = content.get("_via_img_metadata")
    if isinstance(metadata, dict):
        return metadata, _options(content.get("_via_attributes"))
    if any(isinstance(v, dict) and "filename" in v and "regions" in v for v in content.values()) or not content:
        return content, Options()
    if {"project", "config", "attribute", "file"} <= content.keys():
        raise DataError("is a VIA 3 project, which cannot be read", where=path, fix="Export it for VIA 2.")
    if {"images", "annotations"} <= content.keys():
        raise DataError("is a COCO file, not a VIA file", where=path, fix="Use it as it is: it needs no conversion.")
    if content.keys() <= {"region", "file"}:
        raise DataError("holds VIA's attribute definitions, no films", where=path, fix=_EXPORT_FIX)
    raise DataError("holds no VIA annotations", where=path, fix=_EXPORT_FIX)


def _order(content: dict[str, Any], metadata: dict[str, Any], path: Path, skips: list[Skip]) -> list[str]:
    listed = content.get("_via_image_id_list") if metadata is not content else None
    if not isinstance(listed, list):
        return list(metadata)
    ids = dict.fromkeys(i for i in listed if isinstance(i, str))
    for unknown in (i for i in ids if i not in metadata):
        skips.append(Skip(str(path), unknown, None, "is listed in _via_image_id_list but has no entry: left out"))
    return list(dict.fromkeys([*(i for i in ids if i in metadata), *metadata]))


def _options(attributes: Any) -> Options:
    sections = attributes if isinstance(attributes, dict) else {}
    definitions = {name: _attributes(sections.get(name)) for name in ("region", "file") if sections.get(name)}
    return Options(_labels(sections.get("region")), _labels(sections.get("file")), definitions)


def _labels(section: Any) -> Labels:
    attributes = section if isinstance(section, dict) else {}
    found = {name: a.get("options") for name, a in attributes.items() if isinstance(a, dict)}
    return {
        name: {str(k): v for k, v in options.items() if isinstance(v, str) and v.strip()}
        for name, options in found.items()
        if isinstance(options, dict)
    }


def _regions(raw: Any, file: str, name: str, skips: list[Skip]) -> Iterator[Region]:
    if isinstance(raw, dict):
        numbered = [(int(key) if key.isdecimal() and len(key) < 10 else n, r) for n, (key, r) in enumerate(raw.items())]
    elif isinstance(raw, list):
        numbered = list(enumerate(raw))
    else:
        numbered = []
        if raw is not None:
            skips.append(Skip(file, name, None, "regions must be a list: film kept without any"))
    for number, region in numbered:
        shape = region.get("shape_attributes") if isinstance(region, dict) else None
        if isinstance(shape, dict):
            yield Region(number, shape, _attributes(region.get("region_attributes")))
        else:
            skips.append(Skip(file, name, number, "has no shape"))


def _attributes(raw: Any) -> dict[str, Any]:
    cleaned: dict[str, Any] = tidy(raw) if isinstance(raw, dict) else {}
    return cleaned
