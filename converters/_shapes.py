"""VIA's shapes as outlines, their numbers checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from vertinst.structures.rle import MAX_OUTLINE_PX

__all__ = ["MAX_COORDINATE_PX", "RegionFault", "check_points", "place", "trace", "trace_line"]

Points = npt.NDArray[np.float64]

# Beyond any film; the rasteriser works in 32-bit integers.
MAX_COORDINATE_PX = 100_000.0
# Between a circle and the polygon that stands for it.
CURVE_ERROR_PX = 0.05


class RegionFault(Exception):
    """A region that cannot be used; the text is the reason."""


def place(shape: Mapping[str, Any]) -> tuple[float, float]:
    """Place of a VIA point, xy px; it may lie outside of the film.

    Raises:
        RegionFault: `cx` and `cy` are not finite numbers of at most 100,000 px.
    """
    check_points(_numbers([shape.get("cx"), shape.get("cy")], "cx, cy").reshape(1, 2))
    return shape["cx"], shape["cy"]


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


def trace_line(shape: Mapping[str, Any]) -> Points:
    """Points of a VIA polyline, (V, 2) float64 xy px, V >= 2.

    Raises:
        RegionFault: Its numbers cannot be used, or all points are the same.
    """
    points = _columns(shape)
    check_points(points)
    if (points == points[:1]).all():
        raise RegionFault("line must have at least two different points")
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
    numbers = _numbers([shape.get(key) for key in ("x", "y", "width", "height")], "x, y, width, height")
    # Python's own: numpy warns of sums that overflow.
    x, y, width, height = numbers.tolist()
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
