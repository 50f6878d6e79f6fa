"""Image projects of VIA 3: regions as arrays of numbers, attributes by id."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vertinst.errors import DataError
from vertinst.structures.conversion import Skip

from ._source import Entry, Options, Region, tidy
from ._via3_shapes import as_shape

__all__ = ["is_via3", "read_via3"]

_IMAGE = 2
_KINDS = {4: "a video", 8: "a sound recording"}
_TYPES = {1: "text", 2: "checkbox", 3: "radio", 4: "dropdown", 5: "image"}
_CHECKBOX = "checkbox"
# An address, or a drive.
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:|[/\\]")


def is_via3(content: Mapping[str, Any]) -> bool:
    """Whether the content of a JSON file is a VIA 3 project."""
    return {"project", "config", "attribute", "file", "view"} <= content.keys()


def read_via3(content: Mapping[str, Any], path: Path) -> tuple[list[Entry], list[Skip]]:
    """Read the images of a VIA 3 project.

    Shapes become those of VIA 2, attributes get their names for their ids, options keep their ids, and ticked boxes
    (`"1,2"`) become a dict as in VIA 2. Films come in the order of the views.

    Args:
        content: The project, `is_via3`.
        path: The file, for messages.

    Returns:
        The images, those without regions included, and what is no region of one image: videos, sound, segments in
        time, what belongs to a pair of images.

    Raises:
        DataError: There are files in it, and none is an image.
    """
    files, views = _section(content, "file"), _section(content, "view")
    if files and all(file.get("type", _IMAGE) != _IMAGE for file in files.values()):
        raise DataError(
            "is a VIA 3 project without images", where=path, fix="Only images can be read, no video and no sound."
        )
    skips: list[Skip] = []
    images = _images({fid: files[fid] for fid in _order(content, files, views)}, path, skips)
    attributes = _Attributes(_section(content, "attribute"))
    regions: dict[str, list[Region]] = {fid: [] for fid in images}
    own: dict[str, dict[str, Any]] = {fid: {} for fid in images}
    for identity, record in _metadata(content, path, skips):
        fids = _fids(views.get(str(record.get("vid")), {}))
        numbers, values = record.get("xy"), record.get("av")
        if len(fids) != 1 or fids[0] not in images:
            skips.append(_of_no_image(path, identity, fids, files))
        elif record.get("z"):
            reason = f"{tidy(identity)} is a segment in time, not a region: left out"
            skips.append(Skip(str(path), images[fids[0]], None, reason))
        elif numbers:
            named = attributes.named("region", values)
            regions[fids[0]].append(Region(len(regions[fids[0]]), as_shape(numbers), named))
        else:
            named, known = attributes.named("file", values), own[fids[0]]
            if any(name in known and known[name] != value for name, value in named.items()):
                reason = "has an attribute twice: the last taken"
                skips.append(Skip(str(path), images[fids[0]], None, reason, repaired=True))
            known |= named
    entries = [
        Entry(str(path), name, own[fid], tuple(regions[fid]), attributes.options, _source(files[fid]))
        for fid, name in images.items()
    ]
    return entries, skips


def _metadata(content: Mapping[str, Any], path: Path, skips: list[Skip]) -> Iterator[tuple[str, dict[str, Any]]]:
    raw = content.get("metadata")
    for identity, record in raw.items() if isinstance(raw, dict) else ():
        if isinstance(record, dict):
            yield identity, record
        else:
            skips.append(Skip(str(path), "", None, f"{tidy(identity)} is no region: left out"))


def _images(files: Mapping[str, Mapping[str, Any]], path: Path, skips: list[Skip]) -> dict[str, str]:
    """Names of the images by id; files of other kinds and without a name are listed."""
    images = {}
    for fid, file in files.items():
        name, kind = file.get("fname") or file.get("src"), file.get("type", _IMAGE)
        if kind != _IMAGE:
            what = _KINDS.get(kind, "no image") if isinstance(kind, int) else "no image"
            skips.append(Skip(str(path), _shown(name), None, f"is {what}: left out"))
        elif not isinstance(name, str) or not name.strip():
            skips.append(Skip(str(path), tidy(fid), None, "entry has no file name: left out"))
        else:
            images[fid] = _film_name(name, file.get("src"))
    return images


class _Attributes:
    """Attributes by id, with the names they have in VIA 2."""

    def __init__(self, section: Mapping[str, Mapping[str, Any]]) -> None:
        self._names: dict[str, dict[str, str]] = {"region": {}, "file": {}}
        self._types: dict[str, Any] = {}
        definitions: dict[str, dict[str, Any]] = {}
        labels: dict[str, dict[str, dict[str, str]]] = {"region": {}, "file": {}}
        for aid, raw in section.items():
            kind = "region" if re.search("XY[1-9N]", str(raw.get("anchor_id"))) else "file"
            name = self._names[kind][aid] = self._name(kind, aid, raw.get("aname"))
            self._types[aid] = _TYPES.get(raw["type"]) if isinstance(raw.get("type"), int) else None
            choices = raw.get("options")
            choices = {str(k): tidy(v) for k, v in choices.items()} if isinstance(choices, dict) else {}
            found = {k: v for k, v in choices.items() if isinstance(v, str) and v.strip()}
            if found and self._types[aid] != "text":
                labels[kind][name] = found
            definitions.setdefault(kind, {})[name] = _definition(raw, self._types[aid] or "text", choices)
        self.options = Options(labels["region"], labels["file"], definitions)

    def _name(self, kind: str, aid: str, wanted: Any) -> str:
        text = tidy(wanted) if isinstance(wanted, str) and wanted.strip() else f"attribute {aid}"
        return text if text not in self._names[kind].values() else f"{text} ({aid})"

    def named(self, kind: str, values: Any) -> dict[str, Any]:
        """Values by name; those of attributes that were deleted, by their id."""
        if not isinstance(values, dict):
            return {}
        result: dict[str, Any] = {}
        for aid, value in values.items():
            # People attach what they defined for regions to films too, and the other way round.
            name = next((names[aid] for names in self._both(kind) if aid in names), tidy(aid))
            name = name if name not in result else f"{name} ({tidy(aid)})"
            result[name] = _ticks(tidy(value)) if self._types.get(aid) == _CHECKBOX else tidy(value)
        return result

    def _both(self, kind: str) -> tuple[dict[str, str], dict[str, str]]:
        return self._names[kind], self._names["file" if kind == "region" else "region"]


def _definition(raw: Mapping[str, Any], kind: str, choices: Mapping[str, Any]) -> dict[str, Any]:
    definition: dict[str, Any] = {"type": kind, "description": tidy(raw.get("desc")) or ""}
    if kind != "text":
        default = raw.get("default_option_id")
        ticked = [i for i in str(default).split(",") if i in choices] if default not in (None, "") else []
        definition |= {"options": dict(choices), "default_options": dict.fromkeys(ticked, True)}
    return definition


def _ticks(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return {option: True for part in value.split(",") if (option := part.strip())}


def _section(content: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    raw = content.get(key)
    return {k: v for k, v in raw.items() if isinstance(v, dict)} if isinstance(raw, dict) else {}


def _order(content: Mapping[str, Any], files: Mapping[str, Any], views: Mapping[str, Any]) -> list[str]:
    project = content.get("project")
    listed = project.get("vid_list") if isinstance(project, dict) else None
    listed = content.get("vid_list") if listed is None else listed
    vids = [*(str(v) for v in listed), *views] if isinstance(listed, list) else list(views)
    shown = [fid for vid in dict.fromkeys(vids) for fid in _fids(views.get(vid, {}))]
    return [fid for fid in dict.fromkeys([*shown, *files]) if fid in files]


def _fids(view: Mapping[str, Any]) -> list[str]:
    fids = view.get("fid_list")
    return [str(fid) for fid in fids if isinstance(fid, int | str)] if isinstance(fids, list) else []


def _of_no_image(path: Path, identity: str, fids: list[str], files: Mapping[str, Mapping[str, Any]]) -> Skip:
    if len(fids) > 1:
        reason = f"{tidy(identity)} belongs to {len(fids)} files together: left out"
    elif fids and fids[0] in files:
        reason = f"{tidy(identity)} belongs to a file that is no image: left out"
    else:
        reason = f"{tidy(identity)} belongs to no file: left out"
    return Skip(str(path), _shown(files.get(fids[0], {}).get("fname") if fids else ""), None, reason)


def _film_name(name: str, source: Any) -> str:
    """Name under which an image is looked for: with its folders, where the project has them."""
    if not isinstance(source, str) or _ABSOLUTE.match(source):
        return name
    parts = source.replace("\\", "/").split("/")
    return source if parts[-1] == name and ".." not in parts else name


def _source(file: Mapping[str, Any]) -> dict[str, Any]:
    source = file.get("src")
    known = {"filename": tidy(file.get("fname") or source)}
    # An image written into the project itself is no name of anything.
    return known | ({"src": tidy(source)} if isinstance(source, str) and not source.startswith("data:") else {})


def _shown(name: Any) -> str:
    return str(tidy(name)) if isinstance(name, str) else ""
