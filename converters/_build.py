"""Films with regions, of whatever format, as one data set, and the list of what was skipped."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from vertinst.collector import collector_paused
from vertinst.data.radiograph import FilmHeader
from vertinst.errors import DataError
from vertinst.progress import Progress, silent, track
from vertinst.structures import rle as rle_masks
from vertinst.structures.conversion import ReadOptions, Skip
from vertinst.structures.dataset import CLASSES, Annotation, Dataset, ImageRecord
from vertinst.structures.rle import Rle

from ._classes import choose_classes, require_instances
from ._definitions import unite_definitions
from ._draw import check_line_width
from ._film_attributes import film_fields
from ._films import FilmFolder
from ._films_named import by_film, list_names
from ._ordinary import ordinary_masks
from ._parts import Part, PartReader
from ._patients import PatientReader
from ._repeats import Repeats
from ._source import Entry, content_of
from ._turn import turn_regions
from ._unite import as_via, unite

__all__ = ["build", "categories_of"]

# Films whose masks are drawn at once: each call of numpy and shapely then serves hundreds of regions.
_TOGETHER = 32


@collector_paused()
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
    reader = PartReader(choose_classes(entries, options.class_attribute, options.class_map), options)
    require_instances(entries, options.instance_attribute)
    patients = PatientReader(entries, options)
    folder = FilmFolder(images, options.known_films) if images is not None else None
    films = by_film(entries, folder)
    sized = (_film(name, group, folder, found, ignore_exif=options.ignore_exif) for name, group in films.items())
    steps = track(_drawn(sized), len(films), "reading annotations", progress)
    records = tuple(
        _record(number, film, masks, reader, patients, found) for number, (film, masks) in enumerate(steps, start=1)
    )
    if patients.unmatched:
        others = f" and {len(patients.unmatched) - 1} more" if len(patients.unmatched) > 1 else ""
        reason = f"name of this film{others} has no patient that --patient-regex finds: each is its own patient"
        found.append(Skip(", ".join(map(str, paths)), patients.unmatched[0], None, reason, repaired=True))
    return Dataset(categories_of(records), records, definitions), _in_order(found, chain.from_iterable(films.values()))


@dataclass(frozen=True)
class _Film:
    """A film with all of its entries, their regions turned with it if need be."""

    name: str
    entries: Sequence[Entry]
    header: FilmHeader | None
    image_size: tuple[int, int]


def _film(
    name: str, entries: Sequence[Entry], folder: FilmFolder | None, skips: list[Skip], *, ignore_exif: bool
) -> _Film:
    list_names(name, entries, skips)
    header = folder.header(name) if folder is not None else None
    image_size = _size(name, entries, header, skips, ignore_exif=ignore_exif)
    if ignore_exif and header is not None and header.orientation != 1:
        entries = [_turned(entry, header, skips) for entry in entries]
    return _Film(name, entries, header, image_size)


def _drawn(films: Iterator[_Film]) -> Iterator[tuple[_Film, list[list[Rle | None]]]]:
    """Each film with the masks of its entries' ordinary regions, drawn for some films at a time."""
    while group := list(islice(films, _TOGETHER)):
        shapes = [[region.shape for entry in film.entries for region in entry.regions] for film in group]
        drawn = ordinary_masks(shapes, [film.image_size for film in group])
        for film, masks in zip(group, map(iter, drawn), strict=True):
            yield film, [list(islice(masks, len(entry.regions))) for entry in film.entries]


def _record(
    image_id: int,
    film: _Film,
    masks: Sequence[Sequence[Rle | None]],
    reader: PartReader,
    patients: PatientReader,
    skips: list[Skip],
) -> ImageRecord:
    entries, header, (height, width) = film.entries, film.header, film.image_size
    annotations, unread = _annotations(film, masks, reader, skips)
    attributes, labels = _film_attributes(entries, skips)
    fields, fault = film_fields(attributes, labels)
    fields["patient"] = patients.read(film.name, attributes, labels, fields["patient"])
    if fields["pixel_spacing_mm"] is None and header is not None:
        # What the annotators wrote wins over the film's own header.
        fields["pixel_spacing_mm"] = header.pixel_spacing_mm
        fields["pixel_spacing_source"] = header.pixel_spacing_source
    if fault is not None:
        skips.append(Skip(entries[0].file, entries[0].name, None, fault))
    return ImageRecord(
        image_id,
        film.name,
        width,
        height,
        **fields,
        attributes=attributes,
        annotations=annotations,
        source=entries[0].source,
        unread=tuple(unread),
    )


def _annotations(
    film: _Film, masks: Sequence[Sequence[Rle | None]], reader: PartReader, skips: list[Skip]
) -> tuple[tuple[Annotation, ...], list[dict[str, Any]]]:
    """Annotations of one film, and the regions that became none."""
    entries = film.entries
    unread: list[dict[str, Any]] = []
    repeats = Repeats(entries, skips, drop=reader.options.drop_duplicates)
    parts: list[Part] = []
    for number, entry in _distinct(entries, skips):
        for region, part in reader.read(number, entry, masks[number], film.image_size, skips):
            if part is None:
                unread += as_via(region)
            elif repeats.keeps(part):
                parts.append(part)
    annotations, remarks = unite(parts, film.image_size, repeats.homes)
    for part, reason, kept in remarks:
        entry = entries[part.entry]
        skips.append(Skip(entry.file, entry.name, part.region.number, reason, repaired=kept))
        unread += () if kept else as_via(part.region)
    return annotations, unread


def _distinct(entries: Sequence[Entry], skips: list[Skip]) -> Iterator[tuple[int, Entry]]:
    """Entries of one film with their numbers, those that say what an earlier one says listed and left out."""
    known: set[Hashable] = set()
    for number, entry in enumerate(entries):
        if len(entries) > 1:
            regions = [[r.number, r.shape, r.attributes, r.mask, r.instance] for r in entry.regions]
            said = content_of([dict(entry.attributes), regions])
            if said in known:
                reason = "the same film with the same regions occurs again: once"
                skips.append(Skip(entry.file, entry.name, None, reason))
                continue
            known.add(said)
        yield number, entry


def _size(
    file_name: str, entries: Sequence[Entry], header: FilmHeader | None, skips: list[Skip], *, ignore_exif: bool
) -> tuple[int, int]:
    """(height, width) of the film itself, or as its entries state it where there are no films."""
    stated = [entry for entry in entries if entry.size is not None]
    if header is not None:
        taken, size = header.image_size, (header.height, header.width) if ignore_exif else header.image_size
        whose = "film's own size"
    else:
        taken = size = _stated(file_name, stated)
        whose = "first size"
    for entry in stated:
        if entry.size != size:
            reason = f"film is {size[1]} x {size[0]} px, the file says otherwise: the {whose} taken"
            skips.append(Skip(entry.file, entry.name, None, reason, repaired=True))
    return taken


def _stated(file_name: str, entries: Sequence[Entry]) -> tuple[int, int]:
    if not entries or entries[0].size is None:
        raise DataError("the file states no size", where=file_name, fix="Give the folder of the films: --images.")
    try:
        return rle_masks.check_size(entries[0].size)
    except DataError as error:
        raise DataError(error.message, where=file_name, fix=error.fix) from error


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
        differing = [name for name, value in entry.attributes.items() if attributes.setdefault(name, value) != value]
        if differing:
            reason = f"film attribute {', '.join(differing)} differs from that in {entries[0].file}: left out"
            skips.append(Skip(entry.file, entry.name, None, reason))
    for options in {id(entry.options): entry.options for entry in entries}.values():
        for name, found in options.film.items():
            labels[name] = {**found, **labels.get(name, {})}
    return attributes, labels


def _in_order(skips: Iterable[Skip], entries: Iterable[Entry]) -> tuple[Skip, ...]:
    """By film and region; what concerns a whole film before its regions, and what no film has before all."""
    order: dict[tuple[str, str], int] = {}
    for entry in entries:
        order.setdefault((entry.file, entry.name), len(order))
    return tuple(sorted(skips, key=lambda s: (order.get((s.file, s.image), -1), -1 if s.region is None else s.region)))


def categories_of(records: Sequence[ImageRecord]) -> tuple[str, ...]:
    """The paper's classes if any of them occurs, or none does, and then all others by alphabet."""
    used = {a.category for r in records for a in r.annotations}
    ours = CLASSES if not used or used & set(CLASSES) else ()
    return (*ours, *sorted(used - set(CLASSES)))
