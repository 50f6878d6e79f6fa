"""The four corners of a vertebral body, and of the sacral endplate, from a mask."""

from __future__ import annotations

import numpy as np

from vertinst.postprocess.body_shape import CORRELATION, NOISE, BodyShape, fit_corners, lumbar_and_sacral
from vertinst.postprocess.contours import Points, body_outline, disturb
from vertinst.postprocess.sides import rough_corners
from vertinst.structures import Rle
from vertinst.structures.measures import Orientation

__all__ = ["find_corners", "sample_corners"]

_LUMBAR_TILT_DEG = 0.0
_SACRAL_TILT_DEG = 40.0
"""Usual direction of the superior endplate's normal, from `up` towards `anterior`. A sacral slope of 40 degrees is the
mean of healthy adults (Vialle et al. 2005, doi 10.2106/JBJS.D.02043: 41 +- 8)."""


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
    shapes = BodyShape(*(values[[int(sacral)]] for values in lumbar_and_sacral()))
    return np.asarray(fit_corners(local, rough_corners(local), shapes) @ axes + centre, dtype=np.float64)


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
