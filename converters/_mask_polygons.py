"""Masks as simple polygons without holes, for formats that have nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import shapely

from vertinst.structures import rle as rle_masks
from vertinst.structures.rle import Rle

__all__ = ["Points", "simple_polygons", "thinned_polygons"]

Patch = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float64]

_BRIDGED_PX = 0.8
_NECK_PX = 0.1
# Shapely may also leave out the point where a ring begins, and then moves the outline further than it was told.
_SHARES = (1.0, 0.9, 0.75, 0.5, 0.25)
# Distances from as many pixels to all vertices are held in memory together.
_AT_ONCE = 256


def simple_polygons(mask: Rle) -> list[Points]:
    """Polygons that cover exactly the pixels of a mask.

    None of them crosses or touches itself. Parts that touch at a corner are joined there by a neck too narrow to cover
    a pixel; a part with holes is cut through these, so that its pieces lie around them: a slit from the outer edge to
    the hole would be one polygon, but one that touches itself, which many programs refuse or fill in.

    Args:
        mask: Any; the columns that it touches are held once as a dense picture.

    Returns:
        Each (V, 2) float64 xy px, V >= 3, not closed; largest pieces first; none for an empty mask. Rasterised again
        their union is the mask.
    """
    left, top, right, bottom = (int(v) for v in rle_masks.box_xyxy(mask))
    if right <= left:
        return []
    patch = _columns(mask, left, right)[top:bottom]
    found = [points + np.array([left, top]) for points in _pieces(patch)]
    return sorted(found, key=lambda points: -cv2.contourArea(points.astype(np.float32)))


def thinned_polygons(polygons: Sequence[Points], tolerance_px: float) -> list[Points]:
    """Polygons with as few vertices as a tolerance allows, so that a person can correct them.

    Args:
        polygons: As `simple_polygons` gives them, the largest first; possibly none.
        tolerance_px: At least 0.

    Returns:
        Each with some of its vertices, in their order: no point of an outline is further than the tolerance from the
        other outline (Hausdorff distance), and none crosses itself. Polygons of less area than a circle of that radius
        are left out, but the first stays; those of which no pixel would be left stay as they are.
    """
    kept = []
    for number, points in enumerate(polygons):
        if number and shapely.Polygon(points).area < math.pi * tolerance_px**2:
            continue
        found = (_simplified(points, share * tolerance_px) for share in _SHARES)
        fitting = (thin for thin in found if _moved_px(points, thin) <= tolerance_px and _covers_a_pixel(thin))
        kept.append(next(fitting, points))
    return kept


def _simplified(points: Points, tolerance_px: float) -> Points:
    # From a corner that stays: the point furthest from the middle.
    start = int(np.square(points - points.mean(axis=0)).sum(axis=1).argmax())
    outline = shapely.Polygon(np.roll(points, -start, axis=0))
    thin = shapely.simplify(outline, tolerance_px, preserve_topology=True)
    return np.asarray(thin.exterior.coords)[:-1]


def _moved_px(outline: Points, thin: Points) -> float:
    """How far the vertices that were left out lie from the sides that stand for them, at most."""
    numbers = {point: number for number, point in enumerate(map(tuple, outline.tolist()))}
    at = np.array([numbers[point] for point in map(tuple, thin.tolist())])
    turned = np.roll(outline, -at[0], axis=0)
    steps = np.diff((at - at[0]) % len(outline), append=len(outline))
    sides = np.asarray(shapely.linestrings(np.stack([thin, np.roll(thin, -1, axis=0)], axis=1)))
    return float(shapely.distance(shapely.points(turned), np.repeat(sides, steps)).max())


def _covers_a_pixel(points: Points) -> bool:
    low, high = np.floor(points.min(axis=0)), np.ceil(points.max(axis=0))
    width, height = (int(v) for v in high - low)
    return rle_masks.area(rle_masks.polygons_to_rle([points - low], (max(1, height), max(1, width)))) > 0


def _columns(mask: Rle, left: int, right: int) -> Patch:
    """Dense columns of a mask; decoding a whole film for each of its instances would take most of the time."""
    height = int(mask["size"][0])
    edges = np.concatenate([[0], np.cumsum(rle_masks.runs(mask))]).clip(left * height, right * height)
    inside = np.arange(len(edges) - 1) % 2 == 1
    return np.ascontiguousarray(np.repeat(inside, np.diff(edges)).reshape(right - left, height).T)


def _pieces(patch: Patch) -> Iterator[Points]:
    waiting = [(patch, 0, 0)]
    while waiting:
        dense, left, top = waiting.pop()
        for part, x, y in _parts(dense, connectivity=8):
            outline, *_ = rle_masks.rle_to_polygons(rle_masks.encode(part))
            if outline.holes:
                column = _middle(outline.holes[len(outline.holes) // 2])
                waiting.append((part[:, :column], left + x, top + y))
                waiting.append((part[:, column:], left + x + column, top + y))
            else:
                yield from (points + np.array([left + x, top + y]) for points in _without_holes(outline.exterior, part))


def _parts(dense: Patch, connectivity: int) -> Iterator[tuple[Patch, int, int]]:
    """Each connected part, cropped, with its column and row."""
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(dense.astype(np.uint8), connectivity=connectivity)
    for number in range(1, count):
        x, y, width, height = (int(v) for v in boxes[number][:4])
        yield labels[y : y + height, x : x + width] == number, x, y


def _without_holes(outline: Points, part: Patch) -> list[Points]:
    """Polygons of one part whose pixels touch at sides or corners: one, if that can be drawn."""
    sides = list(_parts(part, connectivity=4))
    if len(sides) == 1:
        return [_thinned(outline, part)]
    outlines = [rle_masks.rle_to_polygons(rle_masks.encode(p))[0].exterior + np.array([x, y]) for p, x, y in sides]
    joined = shapely.union_all([*(shapely.Polygon(points) for points in outlines), *_necks(part)])
    if isinstance(joined, shapely.Polygon) and not joined.interiors:
        whole = np.asarray(joined.exterior.coords)[:-1]
        if rle_masks.polygons_to_rle([whole], part.shape)["counts"] == rle_masks.encode(part)["counts"]:
            return [_thinned(whole, part)]
    return [
        _thinned(points - np.array([x, y]), p) + np.array([x, y])
        for points, (p, x, y) in zip(outlines, sides, strict=True)
    ]


def _necks(part: Patch) -> list[shapely.Polygon]:
    """A thin strip between the middles of any two pixels that touch only at a corner."""
    falling = part[:-1, :-1] & part[1:, 1:] & ~part[:-1, 1:] & ~part[1:, :-1]
    rising = part[:-1, 1:] & part[1:, :-1] & ~part[:-1, :-1] & ~part[1:, 1:]
    lines = [((x + 0.5, y + 0.5), (x + 1.5, y + 1.5)) for y, x in np.argwhere(falling)]
    lines += [((x + 1.5, y + 0.5), (x + 0.5, y + 1.5)) for y, x in np.argwhere(rising)]
    return [shapely.LineString(line).buffer(_NECK_PX / 2, cap_style="flat") for line in lines]


def _middle(hole: Points) -> int:
    """A column of pixels inside a hole, whose outline runs on the pixels around it."""
    first, last = int(np.floor(hole[:, 0].min())) + 1, int(np.floor(hole[:, 0].max())) - 1
    return (first + last + 1) // 2


def _thinned(outline: Points, part: Patch) -> Points:
    """As few of the vertices as still give the same pixels, so that a person can drag what is left.

    Long straight runs are bridged first; wherever that turned a pixel, the nearest vertex left out comes back.
    """
    kept = _bridged(outline)
    while not kept.all():
        curve = outline[kept]
        drawn = rle_masks.decode(rle_masks.polygons_to_rle([curve], part.shape)) if len(curve) >= 3 else ~part
        turned = np.argwhere(drawn != part)[:_AT_ONCE, ::-1] + 0.5
        if not len(turned):
            return curve if shapely.Polygon(curve).is_valid else outline
        out = np.flatnonzero(~kept)
        distances = ((turned[:, None, :] - outline[out][None]) ** 2).sum(axis=2)
        kept[out[distances.argmin(axis=1)]] = True
    return outline


def _bridged(outline: Points) -> Patch:
    """Which vertices a simplification within a pixel's width keeps."""
    curve = cv2.approxPolyDP(outline.astype(np.float32)[:, None], _BRIDGED_PX, closed=True)[:, 0]
    wanted = set(map(tuple, curve.tolist()))
    return np.array([tuple(point) in wanted for point in outline.tolist()])
