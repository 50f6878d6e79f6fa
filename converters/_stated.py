"""Formats that state a region's class themselves, apart from its attributes: their way through the one builder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vertinst.progress import Progress, silent
from vertinst.structures import rle as rle_masks
from vertinst.structures.conversion import ReadOptions, Skip
from vertinst.structures.dataset import Annotation, Dataset, ImageRecord
from vertinst.structures.rle import Rle

from ._build import build
from ._class_names import ClassNames
from ._films import FilmFolder
from ._source import Entry, Region, tidy

__all__ = [
    "UNREAD",
    "FilmSizes",
    "build_stated",
    "faulty",
    "is_named",
    "mask_region",
    "own_instance",
    "stated",
    "stated_size",
]

UNREAD = "unread"
"""Class under which a region that became no annotation is written, so that reading it again leaves it out again."""

# Names under which class and extras travel among the attributes; `build_stated` takes them out again.
_CLASS = "stated class"
_EXTRA = "stated extras"
_LABEL = "label"


class FilmSizes:
    """Sizes of films as annotations see them.

    Args:
        images: Folder that holds the films, or None.
        options: Whether the films were annotated as stored, and headers read before.
    """

    def __init__(self, images: Path | None, options: ReadOptions) -> None:
        self._folder = FilmFolder(images, options.known_films) if images is not None else None
        self._as_stored = options.ignore_exif

    def found(self, name: str) -> str:
        """Name of a film relative to its folder, or the name as it is where there are no films.

        Raises:
            DataError: The name leads outside of the folder.
        """
        return (self._folder.find(name) if self._folder is not None else None) or name

    def of(self, entry: Entry) -> tuple[int, int] | None:
        """(height, width) px of the film where it is at hand, else as its entry states it, else None.

        Raises:
            DataError: The film cannot be read, or its name leads outside of the folder.
        """
        found = self._folder.find(entry.name) if self._folder is not None else None
        if self._folder is None or found is None:
            return entry.size
        header = self._folder.header(found)
        return (header.height, header.width) if self._as_stored else header.image_size


def own_instance(attributes: Mapping[str, Any], name: str) -> str:
    """Instance of a region that is a whole one, whatever its attribute `instance` says; "" if it has none."""
    return name if {"instance", "instanz"} & attributes.keys() else ""


def stated(name: str, attributes: Mapping[str, Any], **extra: Any) -> dict[str, Any]:
    """Attributes of a region whose class the format states.

    Args:
        name: The class as written; "" if the region has none.
        attributes: All others.
        extra: Fields of the `Annotation` that are known already (`ignore`, `keypoints`, `named_level`, `outlines`,
            `part_attributes`).
    """
    own = {f"{key} (found)" if key in (_CLASS, _EXTRA) else key: value for key, value in attributes.items()}
    own[_CLASS] = name.strip()
    return own | ({_EXTRA: extra} if extra else {})


def is_named(region: Region) -> bool:
    """Whether the format states a class for a region."""
    return bool(region.attributes[_CLASS])


def mask_region(number: int, mask: Rle, attributes: Mapping[str, Any], instance: str = "") -> Region:
    """A region that has a mask and no outline; the mask is kept even where the region is left out."""
    return Region(number, _mask_shape(mask), attributes, mask, instance)


def faulty(number: int, shape: Mapping[str, Any], attributes: Mapping[str, Any], reason: str) -> Region:
    """A region that is to be left out, listed with `reason` and kept among the unread ones.

    Args:
        number: Its number in the file.
        shape: Whatever is to be kept of it.
        attributes: Without the class.
        reason: What is wrong with it.
    """
    return Region(number, shape, stated(UNREAD, attributes, fault=reason))


def stated_size(height: Any, width: Any) -> tuple[int, int] | None:
    """(height, width) px as a file states it, or None if it states none that could be one."""
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and 1 <= v <= 1e6 for v in (height, width)):
        return None
    size = int(height), int(width)
    return size if size == (height, width) and size[0] * size[1] <= rle_masks.MAX_PIXELS else None


def build_stated(
    paths: Sequence[Path],
    entries: Sequence[Entry],
    skips: Sequence[Skip],
    images: Path | None,
    options: ReadOptions,
    progress: Progress = silent,
    *,
    aliases: bool = True,
) -> tuple[Dataset, tuple[Skip, ...]]:
    """`build` for entries whose regions have the attributes that `stated` makes.

    Known names of our classes give these, as everywhere, and all other names are classes of their own. Where the class
    is called otherwise than the format called it, the attribute `label` keeps the format's word. Regions called
    `unread` are left out unless the class map says otherwise.

    Args:
        paths: See `build`, likewise the following.
        entries: From the reader.
        skips: What the reader could not read.
        images: Folder that holds the films, or None.
        options: A class attribute wins over the class that the format states.
        progress: Told after each film.
        aliases: Whether known names give our classes; if not, only the class map renames.
    """
    if options.class_attribute is None:
        options = replace(options, class_attribute=_CLASS, class_map=_class_map(entries, options, aliases=aliases))
    faults = {
        (e.file, e.name, r.number): fault
        for e in entries
        for r in e.regions
        if (fault := r.attributes.get(_EXTRA, {}).get("fault")) is not None
    }
    dataset, found = build(paths, entries, skips, images, options, progress)
    known = tuple(_with_reason(skip, faults.get((skip.file, skip.image, skip.region or 0))) for skip in found)
    return replace(dataset, images=tuple(_image(image) for image in dataset.images)), known


def _class_map(entries: Sequence[Entry], options: ReadOptions, *, aliases: bool) -> dict[str, str | None]:
    user = dict(options.class_map or {})
    asked = ClassNames(user) if aliases else None
    names = dict.fromkeys(r.attributes[_CLASS] for e in entries for r in e.regions)
    result: dict[str, str | None] = {}
    for name in names:
        is_known = asked.find(name) is not None if asked is not None else _is_mapped(user, name)
        if name and not is_known:
            result[name] = None if name == UNREAD else name
    return result | user


def _is_mapped(user: Mapping[str, str | None], name: str) -> bool:
    marked = ClassNames(dict.fromkeys(user, "\0"))
    found = marked.find(name)
    return found is not None and found.category == "\0"


def _mask_shape(mask: Rle) -> dict[str, Any]:
    return {"name": "mask", **rle_masks.to_coco(mask)}


def _with_reason(skip: Skip, fault: str | None) -> Skip:
    return replace(skip, reason=fault) if fault is not None and not skip.repaired and UNREAD in skip.reason else skip


def _image(image: ImageRecord) -> ImageRecord:
    return replace(
        image,
        annotations=tuple(_annotation(a) for a in image.annotations),
        unread=tuple(
            {**region, "region_attributes": tidy(_own(region["region_attributes"], UNREAD))} for region in image.unread
        ),
    )


def _annotation(annotation: Annotation) -> Annotation:
    extra = {k: v for k, v in annotation.attributes.get(_EXTRA, {}).items() if k != "fault"}
    attributes = _own(annotation.attributes, annotation.category)
    parts = tuple(_own(part, annotation.category) for part in annotation.part_attributes)
    fields = {"attributes": attributes, "part_attributes": parts if any(p != attributes for p in parts) else ()}
    ignore = annotation.ignore or bool(extra.get("ignore"))
    return replace(annotation, **{**fields, **extra, "ignore": ignore})


def _own(attributes: Mapping[str, Any], category: str) -> dict[str, Any]:
    result = {key: value for key, value in attributes.items() if key not in (_CLASS, _EXTRA)}
    name = attributes.get(_CLASS, "")
    return result if name in ("", category, UNREAD) or _LABEL in result else {_LABEL: name, **result}
