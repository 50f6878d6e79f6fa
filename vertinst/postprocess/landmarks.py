"""The four corners of a vertebral body, and of the sacral endplate, from a mask."""

from __future__ import annotations

import numpy as np

from vertinst.postprocess.contours import Points, body_outline, disturb
from vertinst.structures import Rle
from vertinst.structures.measures import Orientation

__all__ = ["CORRELATION", "NOISE", "find_corners", "sample_corners"]

NOISE = 0.0147
"""SD by which outlines differ, as a share of the square root of a body's area: 1.5 px on films of 1024 px height."""
CORRELATION = 0.147
"""Length along the outline over which they differ together, likewise: 15 px."""

_LUMBAR_TILT_DEG = 0.0
_SACRAL_TILT_DEG = 40.0
"""Usual direction of the superior endplate's normal, from `up` towards `anterior`. A sacral slope of 40 degrees is the
mean of healthy adults (Vialle et al. 2005, doi 10.2106/JBJS.D.02043: 41 +- 8)."""

_STRAIGHT = 0.8
"""Share of a side, around its middle, to which its line is fitted: corners are round, and rims stand out."""
_STRAY = 0.04
"""Distance from a line, as a share of the body's size, at which a point counts a quarter."""
_ROUNDS = 3


def find_corners(mask: Rle, orientation: Orientation, *, sacral: bool = False) -> Points | None:
    """Corners of a body from its mask.

    Args:
        mask: RLE of the vertebra; processes and loose parts may be in it, and it may be cut by the film's border: then
            these are the corners of what is seen.
        orientation: How the body lies on the film.
        sacral: The mask is S1, or the whole sacrum: corners 0 and 1 are those of the endplate that faces L5, 2 and 3
            the lower end.

    Returns:
        (4, 2) float64 xy px in the order of `CORNERS`; None for an empty mask, one of a few pixels, and a line.
    """
    outline = body_outline(mask)
    return None if outline is None else _corners(outline[None], orientation, sacral)[0]


def sample_corners(
    mask: Rle, orientation: Orientation, *, sacral: bool = False, count: int = 16, seed: int = 0
) -> Points | None:
    """Corners of a body when its outline is drawn `count` times with smooth noise (`NOISE`, `CORRELATION`).

    Args:
        mask: RLE of the vertebra.
        orientation: How the body lies on the film.
        sacral: As for `find_corners`.
        count: Number of outlines, 0 or more.
        seed: Of the noise: the same mask and seed give the same corners, whatever else is on the film.

    Returns:
        (count, 4, 2) float64 xy px; None where `find_corners` finds none.
    """
    outline = body_outline(mask)
    if outline is None:
        return None
    size_px = _size_px(outline)
    drawn = disturb(
        outline,
        count,
        sd_px=NOISE * size_px,
        correlation_px=CORRELATION * size_px,
        rng=np.random.default_rng(seed),
    )
    return _corners(drawn, orientation, sacral)


def _size_px(outline: Points) -> float:
    """Square root of the area of an outline."""
    following = np.roll(outline, -1, axis=0)
    return float(np.sqrt(abs((outline[:, 0] * following[:, 1] - outline[:, 1] * following[:, 0]).sum()) / 2))


def _corners(outlines: Points, orientation: Orientation, sacral: bool) -> Points:
    """Corners (B, 4, 2) of outlines (B, V, 2), xy px."""
    if len(outlines) == 0:
        return np.zeros((0, 4, 2))
    centre = outlines.mean(axis=1, keepdims=True)
    axes = _axes(outlines, orientation, sacral)
    local = (outlines - centre) @ np.swapaxes(axes, 1, 2)
    return np.asarray(rough_corners(local) @ axes + centre, dtype=np.float64)


def _axes(outlines: Points, orientation: Orientation, sacral: bool) -> Points:
    """Anterior and superior unit vectors of bodies, (B, 2, 2) xy.

    A body has two directions of sides, at right angles: the direction of its outline, taken fourfold so that all sides
    agree, averaged over its length. Of the four ways round, the one nearest to what is usual is taken.
    """
    along = np.roll(outlines, -2, axis=1) - np.roll(outlines, 2, axis=1)
    steps = along[..., 0] + 1j * along[..., 1]
    turn = np.angle((steps**4 / np.maximum(np.abs(steps), 1e-12) ** 3).sum(axis=1)) / 4
    turns = turn[:, None] + np.arange(4) * (np.pi / 2)
    ways = np.stack([np.cos(turns), np.sin(turns)], axis=-1)
    tilt = np.radians(_SACRAL_TILT_DEG if sacral else _LUMBAR_TILT_DEG)
    usual = np.cos(tilt) * orientation.up + np.sin(tilt) * orientation.anterior
    superior = ways[np.arange(len(ways)), (ways @ usual).argmax(axis=1)]
    anterior = np.stack([-superior[:, 1], superior[:, 0]], axis=-1)
    mirrored = orientation.up[0] * orientation.anterior[1] - orientation.up[1] * orientation.anterior[0] < 0
    return np.stack([-anterior if mirrored else anterior, superior], axis=1)


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
