"""COCO files that other tools broke, mended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vertinst.progress import Progress, silent, track
from vertinst.structures.conversion import ReadOptions, Skip
from vertinst.structures.dataset import Dataset, ImageRecord

from ._coco_loose import Found, LooseCoco, load, whole
from ._coco_masks import outlines_of
from ._coco_segments import Segments, extent, measures_fault, read_segments
from ._shapes import RegionFault
from ._source import Entry, Region, tidy
from ._stated import FilmSizes, build_stated, faulty, mask_region, own_instance, stated

__all__ = ["read"]


def read(
    paths: Sequence[Path],
    images: Path | None,
    options: ReadOptions | None = None,
    *,
    progress: Progress = silent,
) -> tuple[Dataset, tuple[Skip, ...]]:
    """Read COCO files, mending what can be mended and listing each such thing; a correct file passes unchanged.

    Mended are: ids that are missing, 0, doubled, text or fractions; references by text, fraction or file name; missing
    `info`, `categories` (taken from attributes such as `Objekte`, or from keys such as `category`, else numbered, else
    called `object`), `area`, `bbox`, `iscrowd`; areas of boxes; flat segmentations and lists of points; RLE in lists,
    as Python's text of bytes, or without a size; points that are no numbers; segmentations that are absent or have
    less than three points (the box instead); width and height exchanged (told by the films, else by outlines that fit
    only so). Left out and listed: annotations of unknown images, and those without anything to draw.

    Names of classes are kept as they are; only the class map changes them. Image ids are kept if all are integers from
    1 on. What vertinst adds to COCO is read as `coco.read` does.

    Args:
        paths: COCO files; several are merged.
        images: Folder that holds the films; None takes names and sizes as the files state them.
        options: See `ReadOptions`.
        progress: Told after each film.

    Returns:
        The data set and everything that was mended or left out; see `build`. What concerns the whole file, or many
        annotations alike, is listed once.

    Raises:
        DataError: A file is missing, no JSON, or without lists of images and annotations; see also `build`.
    """
    options = options or ReadOptions()
    sizes = FilmSizes(images, options)
    entries: list[Entry] = []
    skips: list[Skip] = []
    files = [load(path) for path in paths]
    for coco in track(files, len(files), "mending", progress):
        entries += _entries(coco, sizes, has_films=images is not None)
        skips += coco.mended.all()
    dataset, found = build_stated(paths, entries, skips, images, options, progress, aliases=False)
    return _with_extras(dataset, files, [sizes.found(e.name) for e in entries], options), found


def _entries(coco: LooseCoco, sizes: FilmSizes, *, has_films: bool) -> list[Entry]:
    segments: dict[int, Segments | RegionFault] = {}
    for found in coco.annotations:
        try:
            segments[found.position] = read_segments(found.raw)
        except RegionFault as fault:
            segments[found.position] = fault
    if not has_films:
        _exchange_sizes(coco, segments)
    grouped: dict[int, list[Found]] = {}
    for found in coco.annotations:
        grouped.setdefault(found.image, []).append(found)
    entries = []
    for position, image in enumerate(coco.images):
        attributes = image.raw.get("attributes")
        entry = Entry(
            str(coco.mended.path),
            image.name,
            attributes if isinstance(attributes, dict) else {},
            (),
            source=image.raw["source"] if isinstance(image.raw.get("source"), dict) else {},
            size=image.size,
        )
        size = sizes.of(entry) or _needed_size([segments[f.position] for f in grouped.get(position, [])])
        regions = [_region(f, segments[f.position], size, coco) for f in grouped.get(position, [])]
        if image.size is None:
            coco.mended.add(image.name, None, "image without width and height: taken from the film, or its outlines")
        entries.append(replace(entry, regions=tuple(regions), size=image.size or size))
    return entries


def _needed_size(segments: Sequence[Segments | RegionFault]) -> tuple[int, int]:
    """The smallest size that holds everything, for an image without film or size."""
    reach = [extent(s) for s in segments if isinstance(s, Segments)]
    right, bottom = max((x for x, _ in reach), default=1.0), max((y for _, y in reach), default=1.0)
    return max(1, min(20_000, int(bottom) + 1)), max(1, min(20_000, int(right) + 1))


def _exchange_sizes(coco: LooseCoco, segments: Mapping[int, Segments | RegionFault]) -> None:
    """Width and height exchanged, where outlines fit only so: of all images, since one tool wrote them all.

    Images whose outlines fit only the size as stated speak against it: then only those that need it are changed.
    """
    reach: dict[int, tuple[float, float]] = {}
    for found in coco.annotations:
        part = segments[found.position]
        x, y = extent(part) if isinstance(part, Segments) else (0.0, 0.0)
        far = reach.get(found.image, (0.0, 0.0))
        reach[found.image] = max(far[0], x), max(far[1], y)
    exchanged, stated_only = set(), False
    for position, (x, y) in reach.items():
        size = coco.images[position].size
        if size is None:
            continue
        fits, fits_exchanged = (x <= w + 1 and y <= h + 1 for h, w in (size, size[::-1]))
        if fits_exchanged and not fits:
            exchanged.add(position)
        stated_only |= fits and not fits_exchanged
    if not exchanged:
        return
    for position, image in enumerate(coco.images):
        is_shown = position in exchanged
        if image.size is not None and image.size[0] != image.size[1] and (is_shown or not stated_only):
            image.size = image.size[::-1]
            why = "its outlines fit only so" if is_shown else "as in other images of this file"
            coco.mended.add(image.name, None, f"width and height exchanged: {why}")


def _region(found: Found, segments: Segments | RegionFault, size: tuple[int, int], coco: LooseCoco) -> Region:
    film, raw, number = coco.images[found.image].name, found.raw, found.position
    attributes = raw["attributes"] if isinstance(raw.get("attributes"), dict) else {}
    instance = own_instance(attributes, f"annotation {number}")
    try:
        if isinstance(segments, RegionFault):
            raise segments
        for repair in segments.repairs:
            coco.mended.add(film, number, repair)
        if segments.box is not None:
            x, y, width, height = segments.box
            shape = {"name": "rect", "x": x, "y": y, "width": width, "height": height}
            return Region(
                number, shape, stated(found.category, attributes, **_extras(raw, coco)), None, f"box {number}"
            )
        mask = segments.mask(size)
    except RegionFault as fault:
        shape = {"name": "unknown", **{key: tidy(raw.get(key)) for key in ("segmentation", "bbox")}}
        return faulty(number, shape, {"label": found.category, **attributes}, str(fault))
    for wrong in measures_fault(raw, segments, mask):
        coco.mended.often[f"{wrong}: measured anew"] += 1
    outlines = outlines_of(list(segments.polygons)) if segments.polygons else ()
    extras = {"outlines": outlines, "drawn": bool(outlines), **_extras(raw, coco)}
    region = mask_region(number, mask, stated(found.category, attributes, **extras), instance)
    return replace(region, shape={**region.shape, "polygons": list(segments.polygons)}) if outlines else region


def _extras(raw: Mapping[str, Any], coco: LooseCoco) -> dict[str, Any]:
    """Fields that COCO, or vertinst in it, says beside class and mask."""
    if whole(raw.get("iscrowd")) is None and not isinstance(raw.get("iscrowd"), bool):
        coco.mended.often["iscrowd is missing or no number: taken as 0"] += 1
    result: dict[str, Any] = {}
    if any(whole(raw.get(key)) == 1 or raw.get(key) is True for key in ("iscrowd", "ignore")):
        result["ignore"] = True
    if isinstance(raw.get("named_level"), str):
        result["named_level"] = raw["named_level"]
    for key in ("outlines", "part_attributes"):
        if isinstance(raw.get(key), list) and all(isinstance(part, dict) for part in raw[key]):
            result[key] = tuple(raw[key])
            if key == "outlines":
                result["drawn"] = False
    points = raw.get("named_keypoints")
    if isinstance(points, dict):
        pairs = {name: point for name, point in points.items() if _is_point(point)}
        result["keypoints"] = {str(name): (point[0], point[1]) for name, point in pairs.items()}
    return result


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(type(v) in (int, float) and abs(v) < 1e9 for v in point)


def _with_extras(dataset: Dataset, files: Sequence[LooseCoco], names: Sequence[str], options: ReadOptions) -> Dataset:
    """Ids, order of the classes, and what vertinst adds to the images of a COCO file."""
    raws = [image.raw for coco in files for image in coco.images]
    by_name: dict[str, Mapping[str, Any]] = {}
    for name, raw in zip(names, raws, strict=True):
        by_name.setdefault(name, raw)
    found = [by_name.get(image.file_name, {}) for image in dataset.images]
    ids = [raw.get("id") for raw in found]
    keep = len(files) == 1 and all(type(i) is int and i >= 1 for i in ids) and len(set(map(str, ids))) == len(ids)
    records = tuple(
        _record(image, raw, raw["id"] if keep else image.image_id)
        for image, raw in zip(dataset.images, found, strict=True)
    )
    mapped = options.class_map or {}
    stated_names = [mapped.get(name, name) for coco in files for name in coco.categories]
    used = {a.category for r in records for a in r.annotations}
    categories = dict.fromkeys([*(n for n in stated_names if n is not None), *sorted(used)])
    return replace(dataset, categories=tuple(categories), images=records)


def _record(image: ImageRecord, raw: Mapping[str, Any], image_id: int) -> ImageRecord:
    fields: dict[str, Any] = {"image_id": image_id}
    fields |= {key: raw[key] for key in ("patient", "view") if isinstance(raw.get(key), str) and raw[key].strip()}
    spacing, source = raw.get("pixel_spacing_mm"), raw.get("pixel_spacing_source")
    if isinstance(spacing, list) and _is_point(spacing) and min(spacing) > 0 and isinstance(source, str) and source:
        fields |= {"pixel_spacing_mm": (spacing[0], spacing[1]), "pixel_spacing_source": source}
    unread = raw.get("unread")
    if isinstance(unread, list):
        fields["unread"] = (*image.unread, *(part for part in unread if isinstance(part, dict)))
    return replace(image, **fields)
