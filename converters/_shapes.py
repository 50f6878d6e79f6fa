"""VIA's shapes as polygons and masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from vertinst.errors import ConfigError
from vertinst.structures import rle as rle_masks
from vertinst.structures.rle import MAX_OUTLINE_PX, Rle

__all__ = [
    "MAX_COORDINATE_PX",
    "RegionFault",
    "check_line_width",
    "check_points",
    "draw",
    "place",
    "rasterise",
    "trace",
]

Points = npt.NDArray[np.float64]

# Beyond any film; the rasteriser works in 32-bit integers.
MAX_COORDINATE_PX = 100_000.0
# Untangling may cut every edge with every other.
MAX_REPAIRED_POINTS = 20_000
MAX_LINE_WIDTH_PX = 10_000.0
# Between a circle and the polygon that stands for it.
CURVE_ERROR_PX = 0.05


class RegionFault(Exception):
    """A region that cannot be used; the text is the reason."""


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
        RegionFault: As `trace` and `rasterise`; or a polyline without a width.
    """
    if shape.get("name") == "polyline":
        return _draw_line(shape, image_size, line_width_px)
    mask, repairs = rasterise(trace(shape), image_size)
    if shape["name"] == "rect" and (shape["width"] < 0 or shape["height"] < 0):
        repairs = ("rectangle of negative size: taken as drawn from its other corner", *repairs)
    return mask, repairs


def place(shape: Mapping[str, Any]) -> tuple[float, float]:
    """Place of a VIA point, xy px; it may lie outside of the film.

    Raises:
        RegionFault: `cx` and `cy` are not finite numbers of at most 100,000 px.
    """
    check_points(_numbers([shape.get("cx"), shape.get("cy")], "cx, cy").reshape(1, 2))
    return shape["cx"], shape["cy"]


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


def trace(shape: Mapping[str, Any]) -> Points:
    """Outline of a VIA shape that encloses an area.

    Circles and ellipses get as many vertices as keep the polygon within 0.05 px of the curve. A rectangle of negative
    width or height is taken as drawn from its other corner. `theta` of an ellipse is in radians, clockwise on screen,
    as VIA 2 writes it.

    Args:
        shape: `shape_attributes` as found in a file; may be anything.

    Returns:
        (V, 2) float64 xy px, V >= 3, not closed.

    Raises:
        RegionFault: A shape without area (point, polyline), an unknown one, or one with unusable numbers.
    """
    if not shape:
        raise RegionFault("has no shape")
    name = shape.get("name")
    tracer = _TRACERS.get(name) if isinstance(name, str) else None
    if tracer is None:
        raise RegionFault(f"shape must be polygon, rect, circle or ellipse, got {str(name)[:40]!r}")
    points = tracer(shape)
    check_points(points)
    return points


def check_points(points: Points) -> None:
    """Refuse what would cost the rasteriser gigabytes.

    Args:
        points: (V, 2) float64 xy px.

    Raises:
        RegionFault: A coordinate is not finite or beyond 100,000 px, or the outline is longer than 2,000,000 px.
    """
    if not (np.abs(points) <= MAX_COORDINATE_PX).all():
        raise RegionFault(f"coordinates must be finite and at most {MAX_COORDINATE_PX:.0f} px")
    steps = np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1, initial=0)
    if steps.sum() > MAX_OUTLINE_PX:
        raise RegionFault(f"outline must be at most {MAX_OUTLINE_PX:.0f} px long, got {steps.sum():.0f}")


def rasterise(points: Points, image_size: tuple[int, int]) -> tuple[Rle, tuple[str, ...]]:
    """Mask of an outline, and what had to be repaired for it.

    Args:
        points: (V, 2) float64 xy px, V >= 3, checked by `check_points`.
        image_size: (height, width) px.

    Returns:
        A mask of at least one pixel, and the repairs in words: a self-intersecting outline is cut into valid parts, a
        region that leaves the film is cut off at its edge.

    Raises:
        RegionFault: Nothing of the region lies on the film.
    """
    repairs = _leaving(points, image_size)
    outline = shapely.Polygon(points)
    if outline.is_valid:
        mask = rle_masks.polygons_to_rle([points], image_size)
    elif len(points) > MAX_REPAIRED_POINTS:
        repairs.append("outline crosses itself, too long to be untangled: filled as drawn")
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
    points = _columns(shape)
    check_points(points)
    if len(points) > MAX_REPAIRED_POINTS:
        raise RegionFault(f"line must have at most {MAX_REPAIRED_POINTS} points, got {len(points)}")
    if (points == points[:1]).all():
        raise RegionFault("line must have at least two different points")
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


def _columns(shape: Mapping[str, Any]) -> Points:
    columns = [_numbers(shape.get(key), key) for key in ("all_points_x", "all_points_y")]
    if len(columns[0]) != len(columns[1]):
        raise RegionFault(f"must have as many x as y, got {len(columns[0])} and {len(columns[1])}")
    return np.stack(columns, axis=1)


def _polygon(shape: Mapping[str, Any]) -> Points:
    points = _columns(shape)
    # VIA 1 repeats the first point at the end.
    if len(points) > 1 and (points[0] == points[-1]).all():
        points = points[:-1]
    # Counting exactly would sort every outline of a large file for the sake of a few.
    if len(points) < 3 or (len(points) < 16 and len(np.unique(points, axis=0)) < 3):
        raise RegionFault(f"must have at least three different points, got {len(np.unique(points, axis=0))}")
    return points


def _rect(shape: Mapping[str, Any]) -> Points:
    x, y, width, height = _numbers([shape.get(key) for key in ("x", "y", "width", "height")], "x, y, width, height")
    if width == 0 or height == 0:
        raise RegionFault(f"rectangle must have an area, got width {width:g} and height {height:g}")
    return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])


def _circle(shape: Mapping[str, Any]) -> Points:
    x, y, radius = _numbers([shape.get(key) for key in ("cx", "cy", "r")], "cx, cy, r")
    return _curve((x, y), (radius, radius), 0.0)


def _ellipse(shape: Mapping[str, Any]) -> Points:
    keys = ("cx", "cy", "rx", "ry")
    x, y, radius_x, radius_y, theta = _numbers([*(shape.get(k) for k in keys), shape.get("theta", 0)], "cx ... theta")
    return _curve((x, y), (radius_x, radius_y), theta)


def _curve(center: tuple[float, float], radii: tuple[float, float], theta: float) -> Points:
    largest = max(radii)
    if not (min(radii) > 0 and largest <= MAX_COORDINATE_PX and abs(theta) <= MAX_COORDINATE_PX):
        raise RegionFault(f"radius must be positive and at most {MAX_COORDINATE_PX:.0f} px, got {min(radii):g}")
    # A chord of a circle that spans 2 pi / n leaves it by r (1 - cos(pi / n)).
    count = max(16, math.ceil(math.pi / math.acos(1 - min(1.0, CURVE_ERROR_PX / largest))))
    angles = np.arange(count) * (2 * math.pi / count)
    along, across = radii[0] * np.cos(angles), radii[1] * np.sin(angles)
    x = center[0] + along * math.cos(theta) - across * math.sin(theta)
    y = center[1] + along * math.sin(theta) + across * math.cos(theta)
    return np.stack([x, y], axis=1)


def _numbers(values: Any, what: str) -> Points:
    """(N,) float64 of a list of int and float; nothing else is a coordinate, True and "12" included."""
    if not isinstance(values, Sequence) or not set(map(type, values)) <= {int, float}:
        raise RegionFault(f"{what} must be numbers")
    try:
        numbers = np.array(values, dtype=np.float64)
    except OverflowError:
        numbers = np.array([math.inf])
    if not np.isfinite(numbers).all():
        raise RegionFault(f"{what} must be finite")
    return numbers


_TRACERS: dict[str, Callable[[Mapping[str, Any]], Points]] = {
    "polygon": _polygon,
    "rect": _rect,
    "circle": _circle,
    "ellipse": _ellipse,
}
