"""Masks of ordinary polygons, all of a film at once: what nearly all regions are, at a fraction of the time."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from vertinst.structures import rle as rle_masks
from vertinst.structures.rle import MAX_OUTLINE_PX, Rle

from ._shapes import MAX_COORDINATE_PX

__all__ = ["ordinary_masks"]

Column = list[Any]


def ordinary_masks(shapes: Sequence[Mapping[str, Any]], image_size: tuple[int, int]) -> list[Rle | None]:
    """Draw those shapes of a film that need no care.

    A shape is ordinary if it is a polygon of finite int and float coordinates that lies wholly on the film, does not
    touch itself, covers a pixel, and has so few vertices that it can be no longer than `MAX_OUTLINE_PX`. Its mask is
    the one that `rasterise(trace(shape))` gives, and there is nothing to report.

    Args:
        shapes: `shape_attributes` as found in a file; may be anything.
        image_size: (height, width) px, in range.

    Returns:
        A mask for each ordinary shape, None for every other: those go through `trace` and `rasterise`.
    """
    masks: list[Rle | None] = [None] * len(shapes)
    most = int(MAX_OUTLINE_PX / max(image_size))
    columns = {n: c for n, shape in enumerate(shapes) if (c := _columns(shape, most)) is not None}
    coordinates = _coordinates(list(columns.values()))
    if coordinates is None:
        return masks
    points = coordinates.T.copy()
    lengths = np.array([len(x) for x, _ in columns.values()])
    ends = np.cumsum(lengths)
    starts = ends - lengths
    fits = _on_film(coordinates, starts, image_size)
    fits[fits] = _valid(points if fits.all() else points[np.repeat(fits, lengths)], lengths[fits])
    places = zip(columns, starts.tolist(), ends.tolist(), fits.tolist(), strict=True)
    chosen = [(number, start, end) for number, start, end, fit in places if fit]
    drawn = rle_masks.draw_each([points[start:end] for _, start, end in chosen], image_size)
    nothing = _nothing(image_size)
    for (number, _, _), mask in zip(chosen, drawn, strict=True):
        masks[number] = mask if mask["counts"] != nothing else None
    return masks


@functools.lru_cache
def _nothing(image_size: tuple[int, int]) -> bytes:
    counts: bytes = rle_masks.empty(image_size)["counts"]
    return counts


def _columns(shape: Mapping[str, Any], most: int) -> tuple[Column, Column] | None:
    """Both columns of a polygon, without the last point where it repeats the first; None if it cannot be ordinary."""
    x, y = shape.get("all_points_x"), shape.get("all_points_y")
    if shape.get("name") != "polygon" or type(x) is not list or type(y) is not list or len(x) != len(y):
        return None
    if len(x) > 3 and x[0] == x[-1] and y[0] == y[-1]:
        x, y = x[:-1], y[:-1]
    if not 3 <= len(x) <= most or (x[0] == x[-1] and y[0] == y[-1]):
        return None
    return x, y


def _coordinates(columns: Sequence[tuple[Column, Column]]) -> npt.NDArray[np.float64] | None:
    """All x and all y (2, V); None if there is none, or anything but a number among them."""
    x, y = (list(chain.from_iterable(values)) for values in zip(*columns, strict=True)) if columns else ([], [])
    if not x or not set(map(type, chain(x, y))) <= {int, float}:
        return None
    try:
        return np.array([x, y], dtype=np.float64)
    except OverflowError:
        # An integer of hundreds of digits.
        return None


def _on_film(
    coordinates: npt.NDArray[np.float64], starts: npt.NDArray[np.int64], image_size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Whether each polygon lies wholly on the film; NaN and infinity do not."""
    limits = np.array([[min(side, MAX_COORDINATE_PX)] for side in reversed(image_size)])
    if coordinates.min() >= 0 and (coordinates.max(axis=1, keepdims=True) <= limits).all():
        return np.ones(len(starts), dtype=np.bool_)
    return np.logical_and.reduceat(((coordinates >= 0) & (coordinates <= limits)).all(axis=0), starts)


def _valid(points: npt.NDArray[np.float64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each polygon is free of crossings, of the points of all and the number of each one's."""
    rings = shapely.linearrings(points, indices=np.repeat(np.arange(len(lengths)), lengths))
    return np.asarray(shapely.is_valid(shapely.polygons(rings)), dtype=np.bool_)
