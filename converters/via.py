"""VIA in: exports and projects of VGG Image Annotator 1 and 2 (Dutta & Zisserman 2019, doi 10.1145/3343031.3350535)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vertinst.data.radiograph import read_size
from vertinst.errors import DataError
from vertinst.progress import Progress, silent, track
from vertinst.structures import rle as rle_masks
from vertinst.structures.dataset import CLASSES, Annotation, Dataset, ImageRecord
from vertinst.structures.rle import Rle
from vertinst.structures.spine import level_name

from ._class_names import read_class_map
from ._film_attributes import film_fields
from ._films import FilmFolder
from ._skip import Skip
from ._via_classes import ClassReader, choose_classes, ticked, truth
from ._via_files import Entry, Options, Region, read_entries, tidy
from ._via_shapes import RegionFault, negative_size, rasterise, trace

__all__ = ["Skip", "read", "read_class_map"]

_POINTS = ("all_points_x", "all_points_y")


def read(
    paths: Sequence[Path],
    images: Path,
    *,
    class_attribute: str | None = None,
    class_map: Mapping[str, str | None] | None = None,
    progress: Progress = silent,
) -> tuple[Dataset, tuple[Skip, ...]]:
    """Read VIA files as one data set.

    Annotation exports and projects of VIA 2 and exports of VIA 1 are told apart by what they hold. A film named in
    several files (or several times in one) is one film with the regions of all, each region that is the same in two
    of them taken once. Regions of one entry and one class with the same value of the attribute `instance` are parts
    of one annotation. The attribute `ignore` marks regions that are neither learnt nor scored. A class value that
    names a level (L5, S1, LWK 3) gives `lumbar` or `sacral` and, where the attribute `level` is absent, the level.
    Films without regions are kept. Widths and heights are those of the film turned as its EXIF orientation says.

    Args:
        paths: VIA files.
        images: Folder that holds the films.
        class_attribute: Region attribute that holds the class; None finds it if only one fits (`choose_classes`).
        class_map: The user's names -> classes or None to skip (`read_class_map`); known aliases need none.
        progress: Told after each film.

    Returns:
        The data set, and everything that was skipped or repaired, in the order of the files. Its categories are the
        paper's five if any of them occurs (or no region does), in their fixed order, followed by others by alphabet.

    Raises:
        DataError: A file or film is missing or cannot be read, a name leads outside of `images`, the class cannot be
            found, or there is no film at all.
    """
    skips: list[Skip] = []
    entries: list[Entry] = []
    for path in paths:
        found, faults = read_entries(path)
        entries += found
        skips += faults
    if not entries:
        raise DataError(
            "no film in any of the files",
            where=", ".join(map(str, paths)) or None,
            fix="Add films to the VIA project and export the annotations again.",
        )
    classes = choose_classes(entries, class_attribute, class_map)
    records = []
    films = _by_film(entries, FilmFolder(images))
    steps = track(films.items(), len(films), "reading annotations", progress)
    for number, (file_name, group) in enumerate(steps, start=1):
        records.append(_record(number, file_name, group, read_size(images / file_name), classes, skips))
    return Dataset(_categories(records), tuple(records)), tuple(skips)


@dataclass(frozen=True)
class _Part:
    """One region on its way into an annotation."""

    entry: int
    region: Region
    instance: str
    annotation: Annotation


def _by_film(entries: Sequence[Entry], folder: FilmFolder) -> dict[str, list[Entry]]:
    found = {name: folder.find(name) for name in dict.fromkeys(e.name for e in entries)}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise DataError(
            f"{len(missing)} of {len(found)} films are not there: {', '.join(missing[:10])}{more}",
            where=folder.folder,
            fix="Give the folder that holds the films with --images.",
        )
    films: dict[str, list[Entry]] = {}
    for entry in entries:
        films.setdefault(str(found[entry.name]), []).append(entry)
    return films


def _record(
    image_id: int,
    file_name: str,
    entries: Sequence[Entry],
    image_size: tuple[int, int],
    classes: ClassReader,
    skips: list[Skip],
) -> ImageRecord:
    height, width = image_size
    parts: list[_Part] = []
    seen: dict[bytes, list[_Part]] = {}
    for number, entry in enumerate(entries):
        if any(entry.regions == e.regions and entry.attributes == e.attributes for e in entries[:number]):
            skips.append(Skip(entry.file, entry.name, None, "the same film with the same regions occurs again: once"))
            continue
        for region in entry.regions:
            part = _part(number, entry, region, image_size, classes, skips)
            if part is not None and not _repeats(part, entries, seen, skips):
                parts.append(part)
    attributes: dict[str, Any] = {}
    for entry in reversed(entries):
        attributes |= entry.attributes
    fields, fault = film_fields(attributes, entries[0].options.film)
    if fault is not None:
        skips.append(Skip(entries[0].file, entries[0].name, None, fault))
    annotations = _unite(parts, image_size)
    return ImageRecord(image_id, file_name, width, height, **fields, attributes=attributes, annotations=annotations)


def _part(
    number: int, entry: Entry, region: Region, image_size: tuple[int, int], classes: ClassReader, skips: list[Skip]
) -> _Part | None:
    try:
        points = trace(region.shape)
        category, level = classes.read(region.attributes, entry.options)
        mask, repairs = rasterise(points, image_size)
    except RegionFault as fault:
        skips.append(Skip(entry.file, entry.name, region.number, str(fault)))
        return None
    if negative_size(region.shape):
        repairs = ("rectangle of negative size: taken as drawn from its other corner", *repairs)
    skips += [Skip(entry.file, entry.name, region.number, reason, repaired=True) for reason in repairs]
    attributes = _levelled(region.attributes, level, entry.options)
    # Of a traced polygon the two long lists are known to hold finite numbers.
    traced = _POINTS if region.shape["name"] == "polygon" else ()
    outline = {tidy(key): value if key in traced else tidy(value) for key, value in region.shape.items()}
    ignore = truth(region.attributes, "ignore", entry.options)
    annotation = Annotation(category, mask, (outline,), attributes, ignore=ignore)
    instance = ", ".join(texts[-1] for texts in ticked(region.attributes, "instance", entry.options))
    return _Part(number, region, instance, annotation)


def _levelled(attributes: Mapping[str, Any], level: str | None, options: Options) -> Mapping[str, Any]:
    """Attributes with the level that the class value named, or that the label or tick of a `level` option names."""
    texts = [text for choice in ticked(attributes, "level", options) for text in choice]
    if not texts:
        return {**attributes, "level": level} if level else attributes
    named = level_name(texts[0])
    is_option = len(texts) == 2 or isinstance(attributes["level"], Mapping)
    return {**attributes, "level": named} if is_option and named else attributes


def _repeats(part: _Part, entries: Sequence[Entry], seen: dict[bytes, list[_Part]], skips: list[Skip]) -> bool:
    """List a region that is the same as an earlier one; true if it must go because that one is of another entry."""
    same = seen.setdefault(part.annotation.mask["counts"], [])
    earlier = next(
        (p for p in same if p.region.shape == part.region.shape and p.region.attributes == part.region.attributes), None
    )
    same.append(part)
    if earlier is None:
        return False
    entry, twin = entries[part.entry], f"region {earlier.region.number}"
    if earlier.entry != part.entry:
        reason = f"the same as {twin} of {entries[earlier.entry].file}: left out"
        skips.append(Skip(entry.file, entry.name, part.region.number, reason))
        return True
    skips.append(Skip(entry.file, entry.name, part.region.number, f"the same as {twin}: both kept", repaired=True))
    return False


def _unite(parts: Sequence[_Part], image_size: tuple[int, int]) -> tuple[Annotation, ...]:
    groups: dict[tuple[Any, ...], list[Annotation]] = {}
    for number, part in enumerate(parts):
        shared = (part.entry, part.annotation.category, part.instance)
        groups.setdefault(shared if part.instance else (number,), []).append(part.annotation)
    return tuple(_one(group, image_size) for group in groups.values())


def _one(group: Sequence[Annotation], image_size: tuple[int, int]) -> Annotation:
    if len(group) == 1:
        return group[0]
    masks: list[Rle] = [a.mask for a in group]
    attributes: dict[str, Any] = {}
    for annotation in reversed(group):
        attributes |= annotation.attributes
    return replace(
        group[0],
        mask=rle_masks.union(masks, image_size),
        outlines=tuple(outline for a in group for outline in a.outlines),
        attributes=attributes,
        ignore=any(a.ignore for a in group),
    )


def _categories(records: Sequence[ImageRecord]) -> tuple[str, ...]:
    used = {a.category for r in records for a in r.annotations}
    ours = CLASSES if not used or used & set(CLASSES) else ()
    return (*ours, *sorted(used - set(CLASSES)))
