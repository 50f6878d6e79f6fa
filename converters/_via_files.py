"""VIA files as lists of films: exports and projects of VIA 1, 2 and 3, told apart by what they hold."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vertinst.errors import DataError
from vertinst.files import read_json
from vertinst.structures.conversion import Skip

from ._source import Entry, Labels, Options, Region, tidy
from ._via3 import is_via3, read_via3
from ._via_csv import is_csv, read_csv

__all__ = ["read_entries"]

_OF_FILMS = {"regions", "file_attributes", "size"}
_OF_ENTRIES = {*_OF_FILMS, "filename", "fileref", "base64_img_data"}
_OF_REGIONS = {"shape_attributes", "region_attributes"}
_EXPORT_FIX = "In VIA choose Annotation > Export Annotations (as json), or Project > Save."


def read_entries(path: Path) -> tuple[list[Entry], list[Skip]]:
    """Read all films of one VIA file.

    Args:
        path: VIA 2 project (with or without `_via_image_id_list`, whose order is followed), VIA 2 annotation export,
            VIA 1 export, where regions are a dict, either's CSV, or VIA 3 project.

    Returns:
        The films, those without regions included, and what could not be read.

    Raises:
        DataError: The file is not readable or holds no annotations of images.
    """
    if is_csv(path):
        return read_csv(path)
    again = _Again()
    content = read_json(path, keeps_again=again)
    if not isinstance(content, dict):
        raise DataError("must be a VIA file, got JSON of another kind", where=path, fix=_EXPORT_FIX)
    if is_via3(content):
        return read_via3(content, path)
    skips = again.listed(str(path))
    metadata, options = _sections(content, path)
    entries = []
    for key in _order(content, metadata, path, skips):
        raw = metadata[key]
        if not isinstance(raw, dict) or not isinstance(raw.get("filename"), str) or not raw["filename"].strip():
            lost = raw.get("regions") if isinstance(raw, dict) else None
            count = f" with {len(lost)} regions" if isinstance(lost, list | dict) and lost else ""
            skips.append(Skip(str(path), tidy(key), None, f"entry has no file name: left out{count}"))
            continue
        name = raw["filename"]
        regions = tuple(_regions(raw.get("regions"), str(path), name, skips))
        source = {key: tidy(raw[key]) for key in ("filename", "size", "fileref") if key in raw}
        attributes = _attributes(raw.get("file_attributes"))
        skips += _not_taken(str(path), name, None, raw, _OF_ENTRIES, ("file_attributes",))
        entries.append(Entry(str(path), name, attributes, regions, options, source, elsewhere=_elsewhere(raw)))
    return entries, skips


class _Again:
    """Keeps films and regions whose key another of the file has: files that people merged by hand have such."""

    def __init__(self) -> None:
        self._films: list[str] = []
        self._regions = 0

    def __call__(self, key: str, value: Any) -> bool:
        if isinstance(value, dict) and isinstance(value.get("filename"), str):
            self._films.append(value["filename"])
            return True
        is_region = isinstance(value, dict) and "shape_attributes" in value
        self._regions += is_region
        return is_region

    def listed(self, file: str) -> list[Skip]:
        """What was kept."""
        reason = "stands in the file more than once: all its entries are read"
        found = [Skip(file, tidy(name), None, reason, repaired=True) for name in self._films]
        if self._regions:
            reason = f"{self._regions} regions have the number of another of their film: all are read"
            found.append(Skip(file, "", None, reason, repaired=True))
        return found


def _sections(content: dict[str, Any], path: Path) -> tuple[dict[str, Any], Options]:
    metadata = content.get("_via_img_metadata")
    if isinstance(metadata, dict):
        return metadata, _options(content.get("_via_attributes"))
    if any(isinstance(v, dict) and "filename" in v and v.keys() & _OF_FILMS for v in content.values()) or not content:
        return content, Options()
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
        reason = "is listed in _via_image_id_list but has no entry: left out"
        skips.append(Skip(str(path), tidy(unknown), None, reason))
    return list(dict.fromkeys([*(i for i in ids if i in metadata), *metadata]))


def _options(attributes: Any) -> Options:
    sections = attributes if isinstance(attributes, dict) else {}
    definitions = {name: found for name in ("region", "file") if (found := _attributes(sections.get(name)))}
    return Options(_labels(definitions.get("region", {})), _labels(definitions.get("file", {})), definitions)


def _labels(section: dict[str, Any]) -> Labels:
    found = {name: a.get("options") for name, a in section.items() if isinstance(a, dict)}
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
        if not isinstance(region, dict):
            skips.append(Skip(file, name, number, "has no shape"))
            continue
        shape, attributes = region.get("shape_attributes"), region.get("region_attributes")
        if not (isinstance(shape, dict) and isinstance(attributes, dict) and len(region) == 2):
            skips += _not_taken(file, name, number, region, _OF_REGIONS, ("shape_attributes", "region_attributes"))
        # Without a shape it is no annotation, but what was written of it must not be lost.
        yield Region(number, shape if isinstance(shape, dict) else {}, _attributes(attributes))


def _not_taken(
    file: str, name: str, number: int | None, found: dict[str, Any], known: set[str], objects: tuple[str, ...]
) -> list[Skip]:
    """What of an entry or region no reader of VIA files would look at."""
    wrong = [key for key in objects if found.get(key) and not isinstance(found[key], dict)]
    reasons = [f"{key} must be an object: taken as empty" for key in wrong]
    others = sorted(found.keys() - known)
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        reasons.append(f"has keys that are not VIA's, not taken over: {', '.join(tidy(others[:5]))[:200]}{more}")
    return [Skip(file, name, number, reason, repaired=True) for reason in reasons]


def _attributes(raw: Any) -> dict[str, Any]:
    cleaned: dict[str, Any] = tidy(raw) if isinstance(raw, dict) else {}
    return cleaned


def _elsewhere(raw: dict[str, Any]) -> str:
    """Where VIA 1 says that the film can be had, if it is not in the folder."""
    address, data = raw.get("fileref"), raw.get("base64_img_data")
    if isinstance(data, str) and data.strip():
        return "The annotation file holds pixels itself (base64_img_data); they are not read."
    if isinstance(address, str) and address.strip():
        return "The annotation file gives addresses of films (fileref)."
    return ""
