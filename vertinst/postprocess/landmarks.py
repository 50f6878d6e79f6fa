"""The four corners of a vertebral body, and of the sacral endplate, from a mask."""

from __future__ import annotations

import numpy as np

from vertinst.postprocess.body_shape import (
    CORRELATION,
    NOISE,
    fit_corners,
    lumbar_and_sacral,
    shape_begins,
    unseen_errors,
)
from vertinst.postprocess.contours import SAMPLES, Points, body_outline, disturb, even_samples
from vertinst.postprocess.sides import rough_corners
from vertinst.structures import Rle
from vertinst.structures.measures import Orientation

__all__ = ["corners_with_samples", "find_corners", "sample_corners"]

_LUMBAR_TILT_DEG = 0.0
_SACRAL_TILT_DEG = 40.0
"""Usual direction of the superior endplate's normal, from `up` towards `anterior`. A sacral slope of 40 degrees is the
mean of healthy adults (Vialle et al. 2005, doi 10.2106/JBJS.D.02043: 41 +- 8)."""
_LONG = 1.3
"""Height over depth above which a sacral mask holds more than S1, which is about as high as deep."""
_S1_HEIGHT = 0.85
"""Height of S1 as a share of the depth of its endplate."""


def find_corners(mask: Rle, orientation: Orientation, *, sacral: bool = False) -> Points | None:
    """Corners of a body from its mask.

    Args:
        mask: RLE of the vertebra; processes and loose parts may be in it, and it may be cut by the film's border: then
            these are the corners of what is seen.
        orientation: How the body lies on the film, to within 45 degrees.
        sacral: The mask is S1, or more of the sacrum: corners 0 and 1 are those of the endplate that faces L5, 2 and 3
            the lower end.

    Returns:
        (4, 2) float64 xy px in the order of `CORNERS`; None for an empty mask, one of a few pixels, and a line.
    """
    both = corners_with_samples(mask, orientation, sacral=sacral, count=0)
    return None if both is None else both[0]


def sample_corners(
    mask: Rle, orientation: Orientation, *, sacral: bool = False, count: int = 16, seed: int = 0
) -> Points | None:
    """Corners of a body when its outline is drawn `count` times, (count, 4, 2) float64 xy px.

    As the second of `corners_with_samples`; None where `find_corners` finds none.
    """
    both = corners_with_samples(mask, orientation, sacral=sacral, count=count, seed=seed)
    return None if both is None else both[1]


def corners_with_samples(
    mask: Rle, orientation: Orientation, *, sacral: bool = False, count: int = 16, seed: int = 0
) -> tuple[Points, Points] | None:
    """Corners of a body, and as they might be: of the same outline drawn again, and of a body of another shape.

    The outline is drawn again with smooth noise (`NOISE`, `CORRELATION`); to that comes what no outline tells, however
    well drawn: how much of it is tilt and what the shape of the body (`unseen_errors`).

    Args:
        mask: RLE of the vertebra.
        orientation: As for `find_corners`.
        sacral: As for `find_corners`.
        count: Number of outlines with noise, 0 or more.
        seed: Of the noise: the same mask and seed give the same corners, whatever else is on the film.

    Returns:
        (4, 2) and (count, 4, 2) float64 xy px; None where `find_corners` finds none.
    """
    outline = body_outline(mask)
    if outline is None:
        return None
    size_px = _size_px(outline)
    drawn = disturb(
        outline, count, sd_px=NOISE * size_px, correlation_px=CORRELATION * size_px, rng=np.random.default_rng(seed)
    )
    corners, samples = _fitted(outline, drawn, orientation, sacral)
    if sacral and _is_long(corners):
        # Several sacral bodies in one mask: the endplate is that of the uppermost, which alone looks like a body.
        top = even_samples(_upper_part(outline, corners), SAMPLES)
        tops = [even_samples(_upper_part(one, corners), SAMPLES) for one in drawn]
        upper, uppers = _fitted(top, np.array(tops).reshape(-1, SAMPLES, 2), orientation, sacral)
        corners[:2], samples[:, :2] = upper[:2], uppers[:, :2]
    shape = lumbar_and_sacral()[int(sacral)]
    return corners, samples + unseen_errors(
        np.repeat(corners[None], count, axis=0), shape, np.random.default_rng((seed, 1))
    )


def _is_long(corners: Points) -> bool:
    """Whether a sacral outline goes on below S1."""
    return _height_px(corners) > _LONG * _depth_px(corners)


def _depth_px(corners: Points) -> float:
    return float(np.linalg.norm(corners[0] - corners[1]))


def _height_px(corners: Points) -> float:
    return float(np.linalg.norm((corners[0] + corners[1] - corners[2] - corners[3]) / 2))


def _upper_part(outline: Points, corners: Points) -> Points:
    """The part (V, 2) of an outline that is as high as an S1 of the endplate's depth."""
    down = (corners[2] + corners[3] - corners[0] - corners[1]) / (2 * _height_px(corners))
    limit = (corners[0] + corners[1]) @ down / 2 + _S1_HEIGHT * _depth_px(corners)
    beyond = outline @ down - limit
    # What lies below is laid onto the cutting line.
    cut: Points = outline - np.maximum(beyond, 0)[:, None] * down
    return cut


def _size_px(outline: Points) -> float:
    """Square root of the area of an outline."""
    following = np.roll(outline, -1, axis=0)
    return float(np.sqrt(abs((outline[:, 0] * following[:, 1] - outline[:, 1] * following[:, 0]).sum()) / 2))


def _fitted(outline: Points, drawn: Points, orientation: Orientation, sacral: bool) -> tuple[Points, Points]:
    """Corners of an outline (V, 2) and, beginning with them, of outlines (B, V, 2) like it."""
    centre = outline.mean(axis=0)
    axes = _axes(outline, orientation, sacral)
    shape = lumbar_and_sacral()[int(sacral)]
    local = (outline[None] - centre) @ axes.T
    corners = fit_corners(local, shape_begins(rough_corners(local), shape), shape)
    again = (drawn - centre) @ axes.T
    # From their own rough corners: begun at those of the outline, they would stay nearer to them than another's would.
    begins = shape_begins(rough_corners(again), shape) if len(drawn) else np.zeros((0, 4, 2))
    samples = fit_corners(again, begins, shape)
    return corners[0] @ axes + centre, samples @ axes + centre


def _axes(outline: Points, orientation: Orientation, sacral: bool) -> Points:
    """Anterior and superior unit vectors of a body, (2, 2) xy.

    A body has two directions of sides, at right angles: the direction of its outline, taken fourfold so that all sides
    agree, averaged over its length. Of the four ways round, the one nearest to what is usual is taken.
    """
    along = np.roll(outline, -2, axis=0) - np.roll(outline, 2, axis=0)
    steps = along[:, 0] + 1j * along[:, 1]
    turn = np.angle((steps**4 / np.maximum(np.abs(steps), 1e-12) ** 3).sum()) / 4
    turns = turn + np.arange(4) * (np.pi / 2)
    ways = np.stack([np.cos(turns), np.sin(turns)], axis=-1)
    tilt = np.radians(_SACRAL_TILT_DEG if sacral else _LUMBAR_TILT_DEG)
    x, y = ways[(ways @ (np.cos(tilt) * orientation.up + np.sin(tilt) * orientation.anterior)).argmax()]
    mirrored = orientation.up[0] * orientation.anterior[1] - orientation.up[1] * orientation.anterior[0] < 0
    return np.array([[y, -x] if mirrored else [-y, x], [x, y]])
