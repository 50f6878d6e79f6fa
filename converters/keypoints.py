"""Corner points in COCO-keypoints form to quadrilaterals (cocodataset.org/#format-data)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import shapely

from vertinst.progress import Progress, silent, track
from vertinst.structures.conversion import ReadOptions, Skip
from vertinst.structures.dataset import Dataset
from vertinst.structures.spine import level_name

from ._coco_loose import Found, LooseCoco, load, whole
from ._source import Entry, Region, tidy
from ._stated import build_stated, faulty, own_instance, stated

__all__ = ["read"]

_CORNERS = 4
Point = tuple[str, float, float, int]


def read(
    paths: Sequence[Path],
    images: Path | None,
    options: ReadOptions | None = None,
    *,
    progress: Progress = silent,
) -> tuple[Dataset, tuple[Skip, ...]]:
    """Read corner points as quadrilaterals; the points stay with the annotation as its keypoints.

    An annotation has four keypoints, or several times four, each four of them a vertebra: then the level that begins
    all four names (`L1_superior_anterior`) is its class. The corners are joined in the order of the file; where that
    crosses itself they are sorted around their middle, and that is listed. Names come from the category's `keypoints`,
    else they are numbered. A corner of visibility 0 is not annotated, and a vertebra without all four is left out;
    visibilities other than 2 are kept as attribute `visibility`. Known names of classes and levels are understood as
    everywhere; ids and references are mended as in `repair`.

    Args:
        paths: COCO files with keypoints; several are merged.
        images: Folder that holds the films; None takes names and sizes as the files state them.
        options: See `ReadOptions`.
        progress: Told after each film.

    Returns:
        The data set and everything that was skipped or repaired; see `build`.

    Raises:
        DataError: A file is missing, no JSON, or without lists of images and annotations; see also `build`.
    """
    skips: list[Skip] = []
    entries: list[Entry] = []
    for path in track(paths, len(paths), "reading keypoints", progress):
        coco = load(path)
        regions: list[list[Region]] = [[] for _ in coco.images]
        for found in coco.annotations:
            regions[found.image] += _regions(found, coco)
        for image, own in zip(coco.images, regions, strict=True):
            attributes = image.raw.get("attributes")
            known = attributes if isinstance(attributes, dict) else {}
            entries.append(Entry(str(path), image.name, known, tuple(own), size=image.size))
        skips += coco.mended.all()
    return build_stated(paths, entries, skips, images, options or ReadOptions(), progress)


def _regions(found: Found, coco: LooseCoco) -> Iterator[Region]:
    raw = found.raw
    attributes = raw["attributes"] if isinstance(raw.get("attributes"), dict) else {}
    points = _points(raw.get("keypoints"), coco.raw_categories.get(whole(found.category_id), {}))
    if points is None or not points or len(points) % _CORNERS:
        shape = {"name": "unknown", "keypoints": tidy(raw.get("keypoints"))}
        reason = "keypoints must be numbers x, y, visibility, four points for each vertebra"
        yield faulty(found.position, shape, {"label": found.category, **attributes}, reason)
        return
    for start in range(0, len(points), _CORNERS):
        corners = points[start : start + _CORNERS]
        level = _level(corners) if len(points) > _CORNERS else None
        yield _region(found, corners, level or found.category, attributes, coco)


def _points(flat: Any, category: Mapping[str, Any]) -> list[Point] | None:
    if not isinstance(flat, list) or len(flat) % 3 or not all(_is_number(v) for v in flat):
        return None
    names = category.get("keypoints")
    texts = [str(n).strip() for n in names] if isinstance(names, list) else []
    count = len(flat) // 3
    if len(texts) != count or len(set(texts)) != count:
        texts = [f"corner_{number}" for number in range(1, count + 1)]
    return [(texts[k], flat[3 * k], flat[3 * k + 1], whole(flat[3 * k + 2]) or 0) for k in range(count)]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9


def _level(corners: Sequence[Point]) -> str | None:
    """The level that begins the names of all corners."""
    starts = {level_name(match[0]) if (match := re.match(r"[A-Za-z]+\d+", name)) else None for name, *_ in corners}
    return starts.pop() if len(starts) == 1 else None


def _region(
    found: Found, corners: Sequence[Point], category: str, attributes: Mapping[str, Any], coco: LooseCoco
) -> Region:
    seen = {name: seen for name, _, _, seen in corners}
    if any(value != 2 for value in seen.values()):
        attributes = {**attributes, "visibility": seen}
    if min(seen.values()) < 1:
        shape = {"name": "unknown", "keypoints": [value for _, *values in corners for value in values]}
        missing = ", ".join(name for name, value in seen.items() if value < 1)
        return faulty(found.position, shape, {"label": category, **attributes}, f"corners are not annotated: {missing}")
    points = [(x, y) for _, x, y, _ in corners]
    if not shapely.LinearRing(points).is_simple:
        points = _around(points)
        reason = "corners joined in the order of the file cross: sorted around their middle"
        coco.mended.add(coco.images[found.image].name, found.position, reason)
    shape = {"name": "polygon", "all_points_x": [x for x, _ in points], "all_points_y": [y for _, y in points]}
    extras: dict[str, Any] = {"keypoints": {name: (x, y) for name, x, y, _ in corners}}
    if whole(found.raw.get("iscrowd")) == 1:
        extras["ignore"] = True
    instance = own_instance(attributes, f"annotation {found.position} {corners[0][0]}")
    return Region(found.position, shape, stated(category, attributes, **extras), None, instance)


def _around(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points clockwise on screen about their mean, from the first one on."""
    x, y = (sum(p[axis] for p in points) / len(points) for axis in (0, 1))
    turned = sorted(points, key=lambda p: math.atan2(p[1] - y, p[0] - x))
    start = turned.index(points[0])
    return turned[start:] + turned[:start]
