"""Films with regions, of whatever format, as one data set, and the list of what was skipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vertinst.data.radiograph import FilmHeader
from vertinst.errors import DataError
from vertinst.progress import Progress, silent, track
from vertinst.structures import rle as rle_masks
from vertinst.structures.conversion import ReadOptions, Skip
from vertinst.structures.dataset import CLASSES, Annotation, Dataset, ImageRecord
from vertinst.structures.rle import Rle
from vertinst.structures.spine import level_name

from ._classes import ClassReader, choose_classes, require_instances, ticked, truth
from ._definitions import unite_definitions
from ._film_attributes import film_fields
from ._films import FilmFolder
from ._patients import PatientReader
from ._shapes import RegionFault, check_line_width, draw, place
from ._source import Entry, Options, Region, tidy
from ._turn import turn_regions

__all__ = ["build"]

_POINTS = ("all_points_x", "all_points_y")
_INSTANCE = ("instance", "instanz")
_POINT_NAMES = ("keypoint", "corner", "landmark", "ecke", "punkt", "point")


def build(
    paths: Sequence[Path],
    entries: Sequence[Entry],
    skips: Sequence[Skip],
    images: Path | None,
    options: ReadOptions,
    progress: Progress = silent,
) -> tuple[Dataset, tuple[Skip, ...]]:
    """Make a data set of what a format's reader found.

    A film named in several files (or several times in one) is one film with the regions of all, each region that is
    the same in two of them taken once. Regions of one entry and one class with the same value of the instance
    attribute are parts of one annotation; a point with that value becomes a keypoint of it. The attribute `ignore`
    marks regions that are neither learnt nor scored. A class value that names a level (L5, S1, LWK 3) gives `lumbar`
    or `sacral` and, where the attribute `level` is absent, the level. Films without regions are kept. Widths and
    heights are those of the film turned as its EXIF orientation says; with `ignore_exif` regions are turned with it.

    Args:
        paths: The files or folders that were read, for messages.
        entries: From the reader, in the order of the files.
        skips: What the reader could not read.
        images: Folder that holds the films; None takes names and sizes as the entries state them.
        options: See `ReadOptions`.
        progress: Told after each film.

    Returns:
        The data set, and everything that was skipped or repaired, in the order of the films. Its categories are the
        paper's five if any of them occurs (or no region does), in their fixed order, followed by others by alphabet.

    Raises:
        DataError: A film is missing or cannot be read, a name leads outside of `images`, the class cannot be found, no
            region or film has an attribute that was asked for, or there is no film at all.
        ConfigError: The line width is not positive, or the patient pattern is no regular expression.
    """
    if not entries:
        raise DataError(
            "no film in any of the files",
            where=", ".join(map(str, paths)) or None,
            fix="Add films and export the annotations again.",
        )
    check_line_width(options.line_width_px)
    entries, definitions, rewritten = unite_definitions(entries)
    found = [*skips, *rewritten]
    classes = choose_classes(entries, options.class_attribute, options.class_map)
    require_instances(entries, options.instance_attribute)
    patients = PatientReader(entries, options)
    folder = FilmFolder(images, options.known_films) if images is not None else None
    films = _by_film(entries, folder)
    steps = track(films.items(), len(films), "reading annotations", progress)
    records = tuple(
        _record(number, name, group, folder, classes, patients, options, found)
        for number, (name, group) in enumerate(steps, start=1)
    )
    if patients.unmatched:
        others = f" and {len(patients.unmatched) - 1} more" if len(patients.unmatched) > 1 else ""
        reason = f"name of this film{others} has no patient that --patient-regex finds: each is its own patient"
        found.append(Skip(", ".join(map(str, paths)), patients.unmatched[0], None, reason, repaired=True))
    return Dataset(_categories(records), records, definitions), tuple(found)


@dataclass(frozen=True, slots=True)
class _Part:
    """One region on its way into an annotation; without a mask if it is a point."""

    entry: int
    region: Region
    instance: str
    category: str
    level: str | None
    ignore: bool
    mask: Rle | None
    drawn: bool


def _by_film(entries: Sequence[Entry], folder: FilmFolder | None) -> dict[str, list[Entry]]:
    names = dict.fromkeys(e.name for e in entries)
    found = {name: folder.find(name) if folder is not None else name for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise DataError(
            f"{len(missing)} of {len(found)} films are not there: {', '.join(missing[:10])}{more}",
            where=folder.folder if folder is not None else None,
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
    folder: FilmFolder | None,
    classes: ClassReader,
    patients: PatientReader,
    options: ReadOptions,
    skips: list[Skip],
) -> ImageRecord:
    header = folder.header(file_name) if folder is not None else None
    height, width = image_size = _size(file_name, entries, header, skips, ignore_exif=options.ignore_exif)
    if options.ignore_exif and header is not None and header.orientation != 1:
        entries = [_turned(entry, header, skips) for entry in entries]
    parts: list[_Part] = []
    unread: list[dict[str, Any]] = []
    seen: dict[Any, list[_Part]] = {}
    for number, entry in enumerate(entries):
        if any(entry.regions == e.regions and entry.attributes == e.attributes for e in entries[:number]):
            skips.append(Skip(entry.file, entry.name, None, "the same film with the same regions occurs again: once"))
            continue
        for region in entry.regions:
            part = _part(number, entry, region, image_size, classes, options, skips)
            if part is None:
                unread.append(_as_via(region))
            elif not _repeats(part, entries, seen, skips, drop=options.drop_duplicates):
                parts.append(part)
    attributes, labels = _film_attributes(entries, skips)
    fields, fault = film_fields(attributes, labels)
    fields["patient"] = patients.read(file_name, attributes, labels, fields["patient"])
    if fault is not None:
        skips.append(Skip(entries[0].file, entries[0].name, None, fault))
    annotations, loose = _unite(parts, image_size)
    for part in loose:
        entry = entries[part.entry]
        skips.append(Skip(entry.file, entry.name, part.region.number, "point of no instance: needs its `instance`"))
        unread.append(_as_via(part.region))
    return ImageRecord(
        image_id,
        file_name,
        width,
        height,
        **fields,
        attributes=attributes,
        annotations=annotations,
        source=entries[0].source,
        unread=tuple(unread),
    )


def _size(
    file_name: str, entries: Sequence[Entry], header: FilmHeader | None, skips: list[Skip], *, ignore_exif: bool
) -> tuple[int, int]:
    """(height, width) of the film itself, or as its entries state it where there are no films."""
    stated = next((e for e in entries if e.size is not None), None)
    if header is None:
        if stated is None or stated.size is None:
            raise DataError("the file states no size", where=file_name, fix="Give the folder of the films: --images.")
        return rle_masks.check_size(stated.size)
    annotated = (header.height, header.width) if ignore_exif else header.image_size
    if stated is not None and stated.size not in (None, annotated):
        height, width = annotated
        reason = f"film is {width} x {height} px, the file says otherwise: the film's own size taken"
        skips.append(Skip(stated.file, stated.name, None, reason, repaired=True))
    return header.image_size


def _turned(entry: Entry, header: FilmHeader, skips: list[Skip]) -> Entry:
    if not entry.regions:
        return entry
    reason = f"regions turned with the film, whose EXIF orientation is {header.orientation}"
    skips.append(Skip(entry.file, entry.name, None, reason, repaired=True))
    regions = turn_regions(entry.regions, header.orientation, (header.height, header.width))
    return replace(entry, regions=regions)


def _film_attributes(entries: Sequence[Entry], skips: list[Skip]) -> tuple[dict[str, Any], dict[str, dict[str, str]]]:
    """Attributes of a film from all of its entries, the first winning, and what their option ids stand for."""
    attributes: dict[str, Any] = {}
    labels: dict[str, dict[str, str]] = {}
    for entry in entries:
        differing = [n for n, v in entry.attributes.items() if n in attributes and attributes[n] != v]
        if differing:
            reason = f"film attribute {', '.join(differing)} differs from that in {entries[0].file}: left out"
            skips.append(Skip(entry.file, entry.name, None, reason))
        attributes = {**entry.attributes, **attributes}
        for name, found in entry.options.film.items():
            labels[name] = {**found, **labels.get(name, {})}
    return attributes, labels


def _part(
    number: int,
    entry: Entry,
    region: Region,
    image_size: tuple[int, int],
    classes: ClassReader,
    options: ReadOptions,
    skips: list[Skip],
) -> _Part | None:
    instance = region.instance or _instance(region, entry.options, options.instance_attribute)
    repairs: tuple[str, ...] = ()
    try:
        if region.shape.get("name") == "point":
            x, y = place(region.shape)
            if not (0 <= x <= image_size[1] and 0 <= y <= image_size[0]):
                reason = "point lies outside of the film: kept"
                skips.append(Skip(entry.file, entry.name, region.number, reason, repaired=True))
            # A point needs no class of its own: the instance has one.
            return _Part(number, region, instance, "", None, ignore=False, mask=None, drawn=False)
        if region.mask is None and not region.shape:
            raise RegionFault("has no shape")
        category, level = classes.read(region.attributes, entry.options)
        if region.mask is not None:
            mask = region.mask
        else:
            mask, repairs = draw(region.shape, image_size, options.line_width_px)
    except RegionFault as fault:
        skips.append(Skip(entry.file, entry.name, region.number, str(fault)))
        return None
    drawn = region.shape.get("name") == "polygon" and not any("itself" in reason for reason in repairs)
    skips += [Skip(entry.file, entry.name, region.number, reason, repaired=True) for reason in repairs]
    ignore = truth(region.attributes, "ignore", entry.options)
    named = _named_level(region.attributes, level, entry.options)
    return _Part(number, region, instance, category, named, ignore, mask, drawn)


def _instance(region: Region, options: Options, attribute: str | None) -> str:
    names = (attribute,) if attribute is not None else _INSTANCE
    return next((", ".join(t[-1] for t in c) for n in names if (c := ticked(region.attributes, n, options))), "")


def _named_level(attributes: Mapping[str, Any], level: str | None, options: Options) -> str | None:
    """The level that the class value named, or that the label or tick of a `level` option names."""
    texts = [text for choice in ticked(attributes, "level", options) for text in choice]
    if not texts:
        return level
    is_option = len(texts) == 2 or isinstance(attributes["level"], Mapping)
    return level_name(texts[0]) if is_option else None


def _repeats(
    part: _Part, entries: Sequence[Entry], seen: dict[Any, list[_Part]], skips: list[Skip], *, drop: bool
) -> bool:
    """List a region that is the same as an earlier one; true if it must go."""
    same = seen.setdefault(part.mask["counts"] if part.mask is not None else None, [])
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
    if drop:
        skips.append(Skip(entry.file, entry.name, part.region.number, f"the same as {twin}: left out"))
        return True
    skips.append(Skip(entry.file, entry.name, part.region.number, f"the same as {twin}: both kept", repaired=True))
    return False


def _unite(parts: Sequence[_Part], image_size: tuple[int, int]) -> tuple[tuple[Annotation, ...], list[_Part]]:
    """Annotations in the order of their first parts, and the points that belong to none."""
    groups: dict[tuple[Any, ...], list[_Part]] = {}
    for number, part in enumerate(p for p in parts if p.mask is not None):
        shared = (part.entry, part.category, part.instance)
        groups.setdefault(shared if part.instance else (number,), []).append(part)
    owners: dict[tuple[int, str], list[list[_Part]]] = {}
    for group in groups.values():
        if group[0].instance:
            owners.setdefault((group[0].entry, group[0].instance), []).append(group)
    loose = []
    for point in (p for p in parts if p.mask is None):
        own = owners.get((point.entry, point.instance), []) if point.instance else []
        if len(own) == 1:
            own[0].append(point)
        else:
            loose.append(point)
    return tuple(_one(group, image_size) for group in groups.values()), loose


def _one(group: Sequence[_Part], image_size: tuple[int, int]) -> Annotation:
    first = group[0]
    masks = [p.mask for p in group if p.mask is not None]
    attributes: dict[str, Any] = {}
    for part in reversed(group):
        attributes |= part.region.attributes
    differ = any(p.region.attributes != attributes for p in group)
    return Annotation(
        first.category,
        masks[0] if len(masks) == 1 else rle_masks.union(masks, image_size),
        tuple(_outline(p.region.shape) for p in group if p.region.mask is None),
        attributes,
        _keypoints([p.region for p in group if p.mask is None]),
        ignore=any(p.ignore for p in group),
        part_attributes=tuple(p.region.attributes for p in group if p.region.mask is None) if differ else (),
        named_level=next((p.level for p in group if p.level is not None), None),
        drawn=all(p.drawn for p in group if p.mask is not None),
    )


def _outline(shape: Mapping[str, Any]) -> dict[str, Any]:
    # Of a traced polygon the two long lists are known to hold finite numbers.
    traced = _POINTS if shape["name"] == "polygon" else ()
    return {tidy(key): value if key in traced else tidy(value) for key, value in shape.items()}


def _keypoints(points: Sequence[Region]) -> dict[str, tuple[float, float]]:
    """Points by name; those without one are numbered."""
    result: dict[str, tuple[float, float]] = {}
    for number, region in enumerate(points, start=1):
        named = next((str(region.attributes[n]) for n in _POINT_NAMES if region.attributes.get(n)), "")
        name = named if named and named not in result else f"point_{number}"
        result[name] = (region.shape["cx"], region.shape["cy"])
    return result


def _as_via(region: Region) -> dict[str, Any]:
    return {"shape_attributes": tidy(dict(region.shape)), "region_attributes": dict(region.attributes)}


def _categories(records: Sequence[ImageRecord]) -> tuple[str, ...]:
    used = {a.category for r in records for a in r.annotations}
    ours = CLASSES if not used or used & set(CLASSES) else ()
    return (*ours, *sorted(used - set(CLASSES)))
