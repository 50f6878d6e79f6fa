"""The four sides of a body as straight lines, and where they meet."""

from __future__ import annotations

import numpy as np

from vertinst.postprocess.contours import Points

__all__ = ["rough_corners"]

_STRAIGHT = 0.8
"""Share of a side, around its middle, to which its line is fitted: corners are round, and rims stand out."""
_STRAY = 0.04
"""Distance from a line, as a share of the body's size, at which a point counts a quarter."""
_ROUNDS = 2


def rough_corners(local: Points) -> Points:
    """Corners (B, 4, 2) where robust lines through the four sides meet.

    Args:
        local: (B, V, 2) outlines in their own frames: anterior, superior.
    """
    corners = _frame(local)
    for _ in range(_ROUNDS):
        lines = _side_lines(local, corners)
        corners = _meeting(np.roll(lines, 1, axis=1), lines)
    return corners


def _frame(local: Points) -> Points:
    """Corners (B, 4, 2) of boxes that hold all but the outermost points."""
    low, high = np.quantile(local, [0.06, 0.94], axis=1)
    order = np.array([[1, 1], [0, 1], [0, 0], [1, 0]], dtype=bool)
    corners: Points = np.where(order, high[:, None], low[:, None])
    return corners


def _side_lines(local: Points, corners: Points) -> Points:
    """Lines (B, 4, 3) n . x = d through the superior, posterior, inferior and anterior side, as (n_x, n_y, d).

    Each point belongs to the side whose line, so far, is nearest. Weighted total least squares with the weights of
    Geman and McClure (1987).
    """
    ends = np.roll(corners, -1, axis=1)
    along = (ends - corners) / np.maximum(np.linalg.norm(ends - corners, axis=2, keepdims=True), 1e-9)
    normal = np.stack([-along[..., 1], along[..., 0]], axis=-1)
    middle = (corners + ends) / 2
    # (B, 4, V): distance to the inside of each side, and position along it, from -1 to 1.
    off = normal @ np.swapaxes(local, 1, 2) - (normal * middle).sum(-1)[..., None]
    half = np.linalg.norm(ends - corners, axis=2) / 2
    place = (along @ np.swapaxes(local, 1, 2) - (along * middle).sum(-1)[..., None]) / np.maximum(half, 1e-9)[..., None]
    size = np.sqrt(half[:, 0] * half[:, 1])[:, None, None] * 2
    mine = off.argmin(axis=1)[:, None] == np.arange(4)[:, None]
    weight = mine * (np.abs(place) < _STRAIGHT) / (1 + (off / (_STRAY * size)) ** 2) ** 2 + 1e-12
    return _weighted_lines(place * half[..., None], off, weight, along, normal, middle)


def _weighted_lines(
    place: Points, off: Points, weight: Points, along: Points, normal: Points, middle: Points
) -> Points:
    """Lines by least squares of `off` on `place` (B, 4, V), given back in the frame of the body."""
    total = weight.sum(-1)
    mean_place, mean_off = (weight * place).sum(-1) / total, (weight * off).sum(-1) / total
    from_mean = place - mean_place[..., None]
    slope = (weight * from_mean * off).sum(-1) / np.maximum((weight * from_mean**2).sum(-1), 1e-9)
    turned = normal - slope[..., None] * along
    turned /= np.linalg.norm(turned, axis=-1, keepdims=True)
    through = middle + mean_place[..., None] * along + mean_off[..., None] * normal
    return np.concatenate([turned, (turned * through).sum(-1)[..., None]], axis=-1)


def _meeting(first: Points, second: Points) -> Points:
    """Points (B, 4, 2) where lines (B, 4, 3) meet."""
    cross = first[..., 0] * second[..., 1] - first[..., 1] * second[..., 0]
    cross = np.where(np.abs(cross) < 1e-6, 1e-6, cross)
    x = (first[..., 2] * second[..., 1] - second[..., 2] * first[..., 1]) / cross
    y = (first[..., 0] * second[..., 2] - second[..., 0] * first[..., 2]) / cross
    return np.stack([x, y], axis=-1)
