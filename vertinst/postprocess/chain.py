"""The spine as a chain of centroids: its axis, the order along it, the spacing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vertinst.structures import Rle, rle

__all__ = ["along", "centroid_xy", "centroids_xy", "extent_along", "spacings_px", "spine_axis", "taper"]

Points = npt.NDArray[np.float64]

_TAPER_PIXELS = 3000
_LEAST_TAPER_PIXELS = 60


def centroid_xy(mask: Rle) -> Points:
    """Centre of mass (2,) float64 xy px of a mask, pixel centres at .5; NaN for an empty mask.

    Works on the runs: a run ends at p = column * height + row, and the sums of columns and rows over all pixels before
    p have closed forms.
    """
    height = int(mask["size"][0])
    column, row = np.divmod(np.cumsum(rle.runs(mask)), height)
    columns_before = height * column * (column - 1) // 2 + row * column
    rows_before = column * (height * (height - 1) // 2) + row * (row - 1) // 2
    count = rle.area(mask)
    if count == 0:
        return np.full(2, np.nan)
    # Odd differences are runs inside of the mask; a mask that does not end inside has one run more.
    sums = [_inside(columns_before), _inside(rows_before)]
    return np.array(sums, dtype=np.float64) / count + 0.5


def _inside(before: npt.NDArray[np.int64]) -> int:
    return int(before[1::2].sum() - before[: 2 * (len(before) // 2) : 2].sum())


def centroids_xy(masks: Sequence[Rle]) -> Points:
    """Centroids (N, 2) float64 xy px of N masks."""
    return np.array([centroid_xy(mask) for mask in masks], dtype=np.float64).reshape(-1, 2)


def spine_axis(centroids: Points) -> Points:
    """Main direction of a chain of centroids, (2,) unit vector xy, its sign chosen so that y grows (then x).

    The eigenvector of Kendall's tau matrix, the mean of outer products of unit vectors between all pairs (Visuri,
    Koivunen, Oja 2000, doi 10.1016/S0378-3758(00)00199-3): a detection far off the spine turns it as little as one
    close by. (0, 1) for fewer than two points, or where all coincide.

    Args:
        centroids: (N, 2) xy px.
    """
    first, second = np.triu_indices(len(centroids), k=1)
    between = centroids[second] - centroids[first]
    lengths = np.linalg.norm(between, axis=1)
    units = between[lengths > 0] / lengths[lengths > 0, None]
    if len(units) == 0:
        return np.array([0.0, 1.0])
    axis = np.linalg.eigh(units.T @ units)[1][:, 1]
    downward = axis[1] > 0 or (axis[1] == 0 and axis[0] > 0)
    return np.asarray(axis if downward else -axis, dtype=np.float64)


def along(points: Points, axis: Points) -> Points:
    """Positions (N,) px of points along an axis. The sum is written out so that it does not depend on N."""
    return np.asarray(points[:, 0] * axis[0] + points[:, 1] * axis[1], dtype=np.float64)


def extent_along(mask: Rle, axis: Points) -> tuple[float, float]:
    """Least and greatest position (px) of a mask's outline along an axis; the mask must not be empty."""
    positions = along(np.concatenate([part.exterior for part in rle.rle_to_polygons(mask)]), axis)
    return float(positions.min()), float(positions.max())


def taper(mask: Rle, up: Points) -> float:
    """How much wider a mask's upper third is than its lower one: the logarithm of the ratio of their widths.

    Widths are between the 5th and 95th percentile of the pixels across `up`, thirds between the 10th and 90th along it;
    masks of many pixels are thinned out. 0 where a third holds too few of them.

    Args:
        mask: RLE, not empty.
        up: (2,) unit vector xy.
    """
    patch, _, _ = rle.decode_crop(mask)
    step = max(1, int(np.sqrt(patch.size / _TAPER_PIXELS)))
    rows, columns = np.nonzero(patch[::step, ::step])
    height, across = columns * up[0] + rows * up[1], rows * up[0] - columns * up[1]
    if len(rows) < _LEAST_TAPER_PIXELS:
        return 0.0
    low, high = _quantiles(height, (0.1, 0.9))
    third = (high - low) / 3
    widths = []
    for inside in ((height >= high - third) & (height <= high), (height >= low) & (height <= low + third)):
        if inside.sum() < _LEAST_TAPER_PIXELS / 6:
            return 0.0
        left, right = _quantiles(across[inside], (0.05, 0.95))
        widths.append(right - left)
    return float(np.log(widths[0] / widths[1])) if min(widths) > 0 else 0.0


def _quantiles(values: Points, shares: tuple[float, float]) -> list[float]:
    """Linearly interpolated quantiles; `np.quantile` gives the same and takes several times as long."""
    places = np.array(shares) * (len(values) - 1)
    below = places.astype(np.int64)
    ranked = np.partition(values, np.concatenate([below, below + 1]))
    return [float(v) for v in ranked[below] + (places - below) * (ranked[below + 1] - ranked[below])]


def spacings_px(centroids: Points) -> Points:
    """Distances (N - 1,) px between neighbours of an ordered chain; none for N < 2."""
    return np.asarray(np.linalg.norm(np.diff(centroids, axis=0), axis=1), dtype=np.float64)
