"""Solids of a phantom as an antero-posterior film needs them: cut into coronal instead of sagittal slices.

The rays of such a film run nearly along the sagittal axis, so a slice must lie at a right angle to it (see
`phantom_solids`). Vertebral bodies are cut anew from their shape. Everything else exists as a stack of sagittal slices
and is cut through it: a coronal plane meets each sagittal slice in a segment or two, and those of neighbouring slices
make a polygon.
"""

import numpy as np
from numpy.typing import NDArray

from vertinst.data.phantom_solids import BodyShape, Points, Solid, endplate_heights, slice_positions

_POWER = 2.6
_EDGE_POINTS = 13
_WALL_POINTS = 9
_LATERAL_WAIST = 0.7
"""Waist of the side walls as a share of that of the front."""
_MOST_PLANES = 64


def coronal_corners_mm(shape: BodyShape) -> Points:
    """Mid-coronal corners of a body in its own frame, (4, 3) mm; where an endplate has sunk they have sunk with it.

    Order: superior-left, superior-right, inferior-right, inferior-left, where left is the patient's and the film's
    right: that of `vertinst.structures.measures.CORNERS` for antero-posterior films.
    """
    half, side = shape.height_mm / 2, shape.width_mm / 2
    top, bottom = shape.collapse_mm[0] - half, half - shape.collapse_mm[1]
    return np.array([[0.0, top, side], [0.0, top, -side], [0.0, bottom, -side], [0.0, bottom, side]])


def coronal_slices(shape: BodyShape, count: int, *, wall_mm: float = 0.0, endplate_mm: float = 0.0) -> Points:
    """Coronal slices of a vertebral body, or of its inside: the counterpart of `phantom_solids.body_slices`.

    Args:
        shape: The outer shape; lips are left out, as they point to the front.
        count: Number of slices, 1 or more.
        wall_mm: Thickness taken away from the side walls.
        endplate_mm: Thickness taken away below each endplate.

    Returns:
        (count, V, 3) mm in the body's own frame (origin in its middle).
    """
    ahead = slice_positions(count)[:, None] * (depth_mm(shape) / 2 - wall_mm)
    heights = np.linspace(-0.5, 0.5, _WALL_POINTS)[None, 1:-1]
    across = np.linspace(-1.0, 1.0, _EDGE_POINTS)[None, :]
    top = across * _half_width(shape, ahead, np.array([[-0.5]]), wall_mm)
    bottom = across * _half_width(shape, ahead, np.array([[0.5]]), wall_mm)
    top_y = endplate_heights(shape, ahead, top, superior=True) + endplate_mm
    bottom_y = endplate_heights(shape, ahead, bottom, superior=False) - endplate_mm
    side, share = _half_width(shape, ahead, heights, wall_mm), heights + 0.5
    left_y = top_y[:, -1:] * (1 - share) + bottom_y[:, -1:] * share
    right_y = top_y[:, :1] * (1 - share) + bottom_y[:, :1] * share
    z = np.concatenate([top, side, bottom[:, ::-1], -side[:, ::-1]], axis=1) * (shape.width_mm / 2 - wall_mm)
    y = np.concatenate([top_y, left_y, bottom_y[:, ::-1], right_y[:, ::-1]], axis=1)
    return np.stack([np.broadcast_to(ahead, z.shape), y, z], axis=2)


def depth_mm(shape: BodyShape) -> float:
    """The larger depth of a body: what its coronal slices share out among them."""
    return max(shape.depth_superior_mm, shape.depth_inferior_mm)


def _half_width(shape: BodyShape, ahead: Points, height: Points, wall_mm: float) -> Points:
    """Half of the width, relative to the whole body's, at sagittal positions (S, 1) mm and relative heights (1, K)."""
    half_depth = (shape.depth_superior_mm * (0.5 - height) + shape.depth_inferior_mm * (0.5 + height)) / 2 - wall_mm
    bend = 1 - 4 * height**2
    # Where the waist has taken all depth away some width is left, or the slice would fall into two.
    reach = np.minimum(np.abs(ahead) / (half_depth * (1 - shape.waist * bend)), 0.995)
    result: Points = (1 - _LATERAL_WAIST * shape.waist * bend) * (1 - reach**_POWER) ** (1 / _POWER)
    return result


def recut(solid: Solid, step_mm: float) -> Solid:
    """A stack of sagittal slices cut into coronal ones.

    A coronal plane may meet a sagittal slice twice; third and further segments are lost.

    Args:
        solid: Two sagittal slices or more, each polygon simple in the sagittal plane.
        step_mm: Distance of the new slices; wider where a solid would need more than 64 of them.
    """
    x = solid.slices[..., 0]
    low, high = float(x.min()), float(x.max())
    count = int(np.clip(np.ceil((high - low) / step_mm), 4, _MOST_PLANES))
    planes = (low + high) / 2 + slice_positions(count) * (high - low) / 2
    between = (solid.slices[-1].mean(axis=0) - solid.slices[0].mean(axis=0)) / (len(x) - 1)
    y, z = _crossings(solid.slices, planes)
    parts = [
        _joined(planes, run, y[..., i : i + 2], z[..., i : i + 2], between[1:] / 2)
        for i in (0, 2)
        for run in _runs(np.isfinite(y[..., i + 1]))
    ]
    integral = solid.integral / float(np.linalg.norm(between)) * (high - low) / count
    return Solid(np.concatenate(parts), integral)


def _crossings(slices: Points, planes: Points) -> tuple[Points, Points]:
    """Where planes (C,) of constant x meet the outlines of slices (S, V, 3).

    Returns:
        y and z, each (C, S, 4) mm by rising y; infinite and 0 where there are fewer crossings.
    """
    following = np.roll(slices, -1, axis=1)
    place = planes[:, None, None]
    crossed = (slices[..., 0] <= place) != (following[..., 0] <= place)
    run = np.where(crossed, following[..., 0] - slices[..., 0], 1.0)
    share = np.where(crossed, (place - slices[..., 0]) / run, 0.0)
    y = np.where(crossed, slices[..., 1] + share * (following[..., 1] - slices[..., 1]), np.inf)
    z = np.where(crossed, slices[..., 2] + share * (following[..., 2] - slices[..., 2]), 0.0)
    first = np.argsort(y, axis=2)[..., :4]
    return np.take_along_axis(y, first, 2), np.take_along_axis(z, first, 2)


def _runs(there: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The first two runs of neighbouring slices in every row (C, S): what lies on both sides of a gap stays apart."""
    started = np.maximum.accumulate(there, axis=1)
    first = ~np.maximum.accumulate(started & ~there, axis=1) & there
    rest = there & ~first
    started = np.maximum.accumulate(rest, axis=1)
    return [first, ~np.maximum.accumulate(started & ~rest, axis=1) & rest]


def _joined(planes: Points, there: NDArray[np.bool_], y: Points, z: Points, half_step: Points) -> Points:
    """Polygons (P, 2 S + 4, 3) through the segments of a run of slices, for the planes that have any.

    Args:
        planes: (C,) x, mm.
        there: (C, S), one run in a row at most.
        y: (C, S, 2) upper and lower end of the segments.
        z: The same for the other coordinate.
        half_step: Half of the way (y, z) to the next slice: as far the outer slices reach.
    """
    some = there.any(axis=1)
    there, count = there[some], there.shape[1]
    ends = np.stack([y[some], z[some]], axis=3)
    first, last = there.argmax(axis=1), count - 1 - there[:, ::-1].argmax(axis=1)
    # Slices before and after the run repeat its ends.
    near = np.clip(np.arange(count), first[:, None], last[:, None])
    rows = np.arange(len(there))[:, None]
    filled = ends[rows, near]
    start = ends[rows[:, 0], first][:, None] - half_step
    end = ends[rows[:, 0], last][:, None] + half_step
    chain = np.concatenate([start, filled, end], axis=1)
    flat = np.concatenate([chain[:, :, 0], chain[:, ::-1, 1]], axis=1)
    x = np.broadcast_to(planes[some][:, None, None], (*flat.shape[:2], 1))
    return np.concatenate([x, flat], axis=2)
