"""Masks of ordinary polygons, of some films at once: what nearly all regions are, at a fraction of the time."""

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
Points = npt.NDArray[np.float64]


def ordinary_masks(
    films: Sequence[Sequence[Mapping[str, Any]]], sizes: Sequence[tuple[int, int]]
) -> list[list[Rle | None]]:
    """Draw those shapes of some films that need no care.

    A shape is ordinary if it is a polygon of finite int and float coordinates that lies wholly on the film, does not
    touch itself, covers a pixel, and has so few vertices that it can be no longer than `MAX_OUTLINE_PX`. Its mask is
    the one that `rasterise(trace(shape))` gives, and there is nothing to report.

    Args:
        films: For each film its shapes, `shape_attributes` as found in a file; may be anything.
        sizes: For each film (height, width) px, in range.

    Returns:
        For each film a mask for each ordinary shape, None for every other: those go through `trace` and `rasterise`.
    """
    masks: list[list[Rle | None]] = [[None] * len(shapes) for shapes in films]
    places = [
        (film, number, columns)
        for film, (shapes, size) in enumerate(zip(films, sizes, strict=True))
        for number, shape in enumerate(shapes)
        if (columns := _columns(shape, int(MAX_OUTLINE_PX / max(size)))) is not None
    ]
    coordinates = _coordinates([columns for _, _, columns in places])
    if coordinates is None:
        # Whatever is odd must not slow down the other films.
        return [ordinary_masks([f], [s])[0] for f, s in zip(films, sizes, strict=True)] if len(films) > 1 else masks
    polygons = _fitting(coordinates, [len(x) for _, _, (x, _) in places], [sizes[film] for film, _, _ in places])
    chosen: dict[int, list[tuple[int, Points]]] = {}
    for (film, number, _), polygon in zip(places, polygons, strict=True):
        if polygon is not None:
            chosen.setdefault(film, []).append((number, polygon))
    for film, found in chosen.items():
        nothing = _nothing(sizes[film])
        for (number, _), mask in zip(found, rle_masks.draw_each([p for _, p in found], sizes[film]), strict=True):
            masks[film][number] = mask if mask["counts"] != nothing else None
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
    if not x:
        return None
    try:
        found = np.array([x, y])
    except (ValueError, OverflowError):
        # Lists among the numbers.
        return None
    # Texts, nulls and integers of hundreds of digits make arrays of other kinds; true and false hide among 1 and 0.
    if found.dtype.kind not in "if" or (found.min() <= 1 and bool in set(map(type, chain(x, y)))):
        return None
    return found.astype(np.float64, copy=False)


def _fitting(
    coordinates: npt.NDArray[np.float64], lengths: Sequence[int], sizes: Sequence[tuple[int, int]]
) -> list[Points | None]:
    """Points (V, 2) xy of each polygon, or None if it leaves its film, is not finite, or touches itself."""
    ends = np.cumsum(lengths)
    starts = np.concatenate([[0], ends[:-1]])
    limits = np.minimum(np.array(sizes)[:, ::-1].T, MAX_COORDINATE_PX)
    low, high = (bound.reduceat(coordinates, starts, axis=1) for bound in (np.minimum, np.maximum))
    fits = ((low >= 0) & (high <= limits)).all(axis=0)
    points = coordinates.T.copy()
    if fits.any():
        rings = points if fits.all() else points[np.repeat(fits, lengths)]
        fits[fits] = _valid(rings, np.asarray(lengths)[fits])
    places = zip(starts.tolist(), ends.tolist(), fits.tolist(), strict=True)
    return [points[start:end] if fit else None for start, end, fit in places]


def _valid(points: Points, lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Whether each polygon is free of crossings, of the points of all and the number of each one's."""
    rings = shapely.linearrings(points, indices=np.repeat(np.arange(len(lengths)), lengths))
    return np.asarray(shapely.is_valid(shapely.polygons(rings)), dtype=np.bool_)
