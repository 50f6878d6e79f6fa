"""Masks of VIA's shapes, and what had to be repaired for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from vertinst.errors import ConfigError
from vertinst.structures import rle as rle_masks
from vertinst.structures.rle import Rle

from ._shapes import RegionFault, check_points, trace, trace_line

__all__ = ["check_line_width", "draw", "rasterise"]

Points = npt.NDArray[np.float64]

# Untangling takes time with the square of the pieces that it makes: what an annotator draws makes a few, a file made to
# harm makes millions.
MAX_REPAIRED_POINTS = 20_000
MAX_MEETINGS, MAX_NEIGHBOURS = 500, 1_000_000
# Buffering takes time with the square of the points that lie within each other's width.
MAX_LINE_POINTS = 1_000
_EDGES_AT_ONCE = 100
MAX_LINE_WIDTH_PX = 10_000.0


def draw(
    shape: Mapping[str, Any], image_size: tuple[int, int], line_width_px: float | None = None
) -> tuple[Rle, tuple[str, ...]]:
    """Mask of a VIA shape, and what had to be repaired for it.

    Args:
        shape: `shape_attributes` as found in a file; may be anything.
        image_size: (height, width) px.
        line_width_px: Width of polylines, which end flat at their ends and are round at their bends; checked by
            `check_line_width`.

    Returns:
        As `rasterise`; a rectangle of negative width or height, taken as drawn from its other corner, is a repair too.

    Raises:
        RegionFault: As `trace` and `rasterise`; or a polyline without a width, of too many points, or a tangled one.
    """
    if shape.get("name") == "polyline":
        return _draw_line(shape, image_size, line_width_px)
    mask, repairs = rasterise(trace(shape), image_size)
    if shape["name"] == "rect" and (shape["width"] < 0 or shape["height"] < 0):
        repairs = ("rectangle of negative size: taken as drawn from its other corner", *repairs)
    return mask, repairs


def check_line_width(width_px: float | None) -> None:
    """Refuse a width that no line can have; None is no width.

    Raises:
        ConfigError: It is not above 0 and at most 10,000 px.
    """
    if width_px is not None and not 0 < width_px <= MAX_LINE_WIDTH_PX:
        raise ConfigError(
            f"line width must be above 0 and at most {MAX_LINE_WIDTH_PX:.0f} px, got {width_px:g}",
            fix="Give the width of rods or wires on your films in pixels, for example --line-width 12.",
        )


def rasterise(points: Points, image_size: tuple[int, int]) -> tuple[Rle, tuple[str, ...]]:
    """Mask of an outline, and what had to be repaired for it.

    Args:
        points: (V, 2) float64 xy px, V >= 3, checked by `check_points`.
        image_size: (height, width) px.

    Returns:
        A mask of at least one pixel, and the repairs in words: a self-intersecting outline is cut into valid parts (one
        that meets itself in more than some 500 places is filled as drawn), a region that leaves the film is cut off at
        its edge.

    Raises:
        RegionFault: Nothing of the region lies on the film.
    """
    repairs = _leaving(points, image_size)
    outline = shapely.Polygon(points)
    if outline.is_valid:
        mask = rle_masks.polygons_to_rle([points], image_size)
    elif not _can_be_untangled(np.stack([points, np.roll(points, -1, axis=0)], axis=1)):
        repairs.append("outline crosses itself in too many places to be untangled: filled as drawn")
        mask = rle_masks.polygons_to_rle([points], image_size)
    else:
        mask, parts = _untangle(outline, image_size)
        repairs.append(f"outline crosses or touches itself: kept as {parts} valid part{'s' if parts != 1 else ''}")
    if rle_masks.area(mask) == 0:
        raise RegionFault("covers no pixel of the film")
    return mask, tuple(repairs)


def _leaving(points: Points, image_size: tuple[int, int]) -> list[str]:
    height, width = image_size
    low, high = points.min(axis=0), points.max(axis=0)
    if (high <= 0).any() or low[0] >= width or low[1] >= height:
        raise RegionFault("lies wholly outside of the film")
    if (low < 0).any() or high[0] > width or high[1] > height:
        return ["lies partly outside of the film: cut off at its edge"]
    return []


def _draw_line(
    shape: Mapping[str, Any], image_size: tuple[int, int], width_px: float | None
) -> tuple[Rle, tuple[str, ...]]:
    if width_px is None:
        raise RegionFault("an open line has no area: give --line-width")
    points = trace_line(shape)
    if len(points) > MAX_LINE_POINTS:
        raise RegionFault(f"line must have at most {MAX_LINE_POINTS} points, got {len(points)}")
    if not _can_be_untangled(np.stack([points[:-1], points[1:]], axis=1)):
        raise RegionFault("line crosses itself in too many places")
    area = shapely.buffer(shapely.LineString(points), width_px / 2, cap_style="flat")
    covered = [np.asarray(part.exterior.coords) for part in shapely.get_parts(area)]
    if not covered:
        raise RegionFault("encloses no area")
    for ring in covered:
        check_points(ring)
    repairs = _leaving(np.concatenate(covered), image_size)
    mask, _ = _fill(area, image_size)
    if rle_masks.area(mask) == 0:
        raise RegionFault("covers no pixel of the film")
    return mask, tuple(repairs)


def _can_be_untangled(edges: Points) -> bool:
    """Whether edges (N, 2, 2), each beginning where the one before ends, meet in few places beyond their ends."""
    if len(edges) > MAX_REPAIRED_POINTS:
        return False
    # What is traced twice, or back along itself, meets itself everywhere and is simple all the same.
    order = np.lexsort((edges[:, :, 1], edges[:, :, 0]), axis=1)
    distinct = np.unique(np.take_along_axis(edges, order[:, :, None], axis=1), axis=0)
    lines = np.asarray(shapely.linestrings(distinct), dtype=object)
    tree = shapely.STRtree(lines)
    meetings = neighbours = 0
    for start in range(0, len(lines), _EDGES_AT_ONCE):
        first, second = tree.query(lines[start : start + _EDGES_AT_ONCE])
        first += start
        later = second > first
        neighbours += int(later.sum())
        if neighbours > MAX_NEIGHBOURS:
            return False
        meetings += int(shapely.intersects(lines[first[later]], lines[second[later]]).sum())
        if meetings > len(lines) + MAX_MEETINGS:
            return False
    return True


def _untangle(outline: shapely.Polygon, image_size: tuple[int, int]) -> tuple[Rle, int]:
    return _fill(shapely.make_valid(outline), image_size)


def _fill(valid: shapely.Geometry, image_size: tuple[int, int]) -> tuple[Rle, int]:
    """Mask of the polygons of a valid geometry, and their number."""
    # A collection may hold multipolygons beside the lines and points that a crossing left over.
    pieces = shapely.get_parts(shapely.get_parts(valid))
    parts = [p for p in pieces if isinstance(p, shapely.Polygon) and p.area > 0]
    if not parts:
        raise RegionFault("encloses no area")
    masks = []
    for part in parts:
        mask = rle_masks.polygons_to_rle([np.asarray(part.exterior.coords)], image_size)
        holes = [np.asarray(ring.coords) for ring in part.interiors]
        masks.append(rle_masks.difference(mask, rle_masks.polygons_to_rle(holes, image_size)) if holes else mask)
    return rle_masks.union(masks, image_size), len(parts)
