"""Regions of VIA 3, `[shape id, numbers...]`, as the shapes of VIA 2."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["as_shape"]

_POINT, _RECTANGLE, _CIRCLE, _ELLIPSE, _LINE, _POLYLINE, _POLYGON, _EXTREME_RECTANGLE, _EXTREME_CIRCLE = range(1, 10)
_FIELDS = {
    _POINT: ("point", ("cx", "cy")),
    _RECTANGLE: ("rect", ("x", "y", "width", "height")),
    _CIRCLE: ("circle", ("cx", "cy", "r")),
    _ELLIPSE: ("ellipse", ("cx", "cy", "rx", "ry")),
}
_OUTLINES = {_LINE: "polyline", _POLYLINE: "polyline", _POLYGON: "polygon"}
_EXTREMES = {_EXTREME_RECTANGLE: "rect", _EXTREME_CIRCLE: "circle"}
_LARGEST = 1e100


def as_shape(numbers: Any) -> dict[str, Any]:
    """Translate a region's `xy`.

    A rectangle drawn by its four extreme points, or a circle by three points on it, keeps those points as
    `all_points_x` and `all_points_y`. What cannot be a shape is kept as `xy`, to be refused where it would be drawn.

    Args:
        numbers: As found; may be anything.

    Returns:
        `shape_attributes` of VIA 2.
    """
    shape_id = numbers[0] if isinstance(numbers, list) and numbers and type(numbers[0]) is int else None
    values = numbers[1:] if shape_id is not None else []
    if shape_id in _FIELDS:
        name, keys = _FIELDS[shape_id]
        if len(values) == len(keys):
            return {"name": name, **dict(zip(keys, values, strict=True))}
        return {"name": name, "xy": numbers}
    if shape_id in _OUTLINES:
        return {"name": _OUTLINES[shape_id], **_points(values)}
    if shape_id in _EXTREMES:
        extent = _extent(values) if shape_id == _EXTREME_RECTANGLE else _circle(values)
        return {"name": _EXTREMES[shape_id], **extent, **_points(values)}
    return {"name": f"VIA 3 shape {shape_id}", "xy": numbers}


def _points(values: list[Any]) -> dict[str, Any]:
    return {"all_points_x": values[::2], "all_points_y": values[1::2]}


def _usable(values: list[Any]) -> bool:
    return all(type(v) in (int, float) and abs(v) < _LARGEST for v in values) and len(values) % 2 == 0


def _extent(values: list[Any]) -> dict[str, Any]:
    if not values or not _usable(values):
        return {}
    x, y = values[::2], values[1::2]
    return {"x": min(x), "y": min(y), "width": max(x) - min(x), "height": max(y) - min(y)}


def _circle(values: list[Any]) -> dict[str, Any]:
    """The circle through three points; nothing if they lie on a line."""
    if len(values) != 6 or not _usable(values):
        return {}
    points = np.array(values, dtype=np.float64).reshape(3, 2)
    # Equal distances to the first and each other point: two linear equations for the centre, taken from the first.
    sides = points[1:] - points[0]
    if np.linalg.cond(sides) > 1e12:
        return {}
    offset = np.linalg.solve(2 * sides, (sides**2).sum(axis=1))
    x, y = (points[0] + offset).tolist()
    return {"cx": x, "cy": y, "r": float(np.hypot(*offset))}
