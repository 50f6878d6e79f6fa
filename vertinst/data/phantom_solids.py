"""Solids of a phantom as stacks of thin slices, the form in which they are projected.

The rays of a lateral film run nearly along the lateral axis. A solid is therefore cut into slices of constant
lateral position; each is a polygon, and the line integral through the solid at a pixel is the number of slices whose
projections cover that pixel times the thickness of a slice. Any rotation or perspective only moves the polygons.
For antero-posterior films `phantom_front` cuts them the other way.

Coordinates are millimetres: x anterior, y inferior (downwards on the film), z lateral (towards the detector).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

_EDGE_POINTS = 13
_WALL_POINTS = 9
_AXIAL_POWER = 2.6


@dataclass(frozen=True)
class Solid:
    """A stack of polygonal slices of one material.

    Attributes:
        slices: (S, V, 3) float64 vertices in mm.
        integral: Line integral of attenuation through one slice (its thickness times the attenuation coefficient);
            negative where a solid is hollowed out of another.
    """

    slices: Points
    integral: float


@dataclass(frozen=True)
class BodyShape:
    """A vertebral body: a waisted cylinder between two bowl-shaped endplates.

    Attributes:
        depth_superior_mm: Antero-posterior depth at the superior endplate.
        depth_inferior_mm: The same at the inferior endplate.
        width_mm: Lateral width.
        height_mm: Height in the middle between the endplate planes.
        wedge_deg: Angle between the endplate planes, positive where the anterior wall is the higher one.
        waist: Share by which the radius shrinks at mid-height, 0 to 0.3.
        bowl_mm: Depth of the endplates' hollows (superior, inferior).
        lip_mm: How far the anterior rims (superior, inferior) stand out, 0 or more.
        collapse_mm: How far the endplates (superior, inferior) have sunk in the middle over the whole width, as after
            a biconcave fracture, 0 or more; unlike the bowl, the outline on a lateral film shows it.
    """

    depth_superior_mm: float
    depth_inferior_mm: float
    width_mm: float
    height_mm: float
    wedge_deg: float
    waist: float
    bowl_mm: tuple[float, float]
    lip_mm: tuple[float, float] = (0.0, 0.0)
    collapse_mm: tuple[float, float] = (0.0, 0.0)

    def corners_mm(self) -> Points:
        """Mid-sagittal corners, (4, 3) mm.

        Order: superior-anterior, superior-posterior, inferior-posterior, inferior-anterior.
        """
        slope = np.tan(np.radians(self.wedge_deg / 2))
        top, bottom = self.depth_superior_mm / 2, self.depth_inferior_mm / 2
        half = self.height_mm / 2
        front_top, front_bottom = top + self.lip_mm[0], bottom + self.lip_mm[1]
        return np.array(
            [
                [front_top, -half - front_top * slope, 0.0],
                [-top, -half + top * slope, 0.0],
                [-bottom, half - bottom * slope, 0.0],
                [front_bottom, half + front_bottom * slope, 0.0],
            ]
        )


def slice_positions(count: int) -> NDArray[np.float64]:
    """Middles of `count` equal slices of the interval -1 to 1, shape (count,)."""
    return (2 * np.arange(count) + 1) / count - 1


def body_slices(shape: BodyShape, count: int, *, wall_mm: float = 0.0, endplate_mm: float = 0.0) -> Points:
    """Slices of a vertebral body, or of its inside when wall and endplate thicknesses are given.

    Args:
        shape: The outer shape.
        count: Number of slices, 1 or more.
        wall_mm: Thickness taken away from the side walls.
        endplate_mm: Thickness taken away below each endplate.

    Returns:
        (count, V, 3) mm in the body's own frame (origin in its middle).
    """
    lateral = slice_positions(count)[:, None]
    heights = np.linspace(-0.5, 0.5, _WALL_POINTS)[None, 1:-1]
    across = np.linspace(-1.0, 1.0, _EDGE_POINTS)[None, :]
    top_x = across * _half_depth(shape, np.array([[-0.5]]), lateral, wall_mm)
    bottom_x = across * _half_depth(shape, np.array([[0.5]]), lateral, wall_mm)
    top_x, bottom_x = _lipped(top_x, shape.lip_mm[0]), _lipped(bottom_x, shape.lip_mm[1])
    top_y = endplate_heights(shape, top_x, lateral, superior=True) + endplate_mm
    bottom_y = endplate_heights(shape, bottom_x, lateral, superior=False) - endplate_mm
    wall_x = _half_depth(shape, heights, lateral, wall_mm)
    back_x = -_half_depth(replace(shape, waist=shape.waist / 2), heights, lateral, wall_mm)
    front_x = wall_x + _rim_share(heights) * np.where(heights < 0, *shape.lip_mm)
    share = heights + 0.5
    front_y = top_y[:, -1:] * (1 - share) + bottom_y[:, -1:] * share
    back_y = top_y[:, :1] * (1 - share) + bottom_y[:, :1] * share
    x = np.concatenate([top_x, front_x, bottom_x[:, ::-1], back_x[:, ::-1]], axis=1)
    y = np.concatenate([top_y, front_y, bottom_y[:, ::-1], back_y[:, ::-1]], axis=1)
    z = np.broadcast_to(lateral * (shape.width_mm / 2 - wall_mm), x.shape)
    return _rounded(np.stack([x, y, z], axis=2))


def _rounded(slices: Points) -> Points:
    """Closed outlines (S, V, 3) with blunter corners, (S, 2 V, 3)."""
    following = np.roll(slices, -1, axis=1)
    pair = np.stack([0.8 * slices + 0.2 * following, 0.2 * slices + 0.8 * following], axis=2)
    return pair.reshape(len(slices), -1, 3)


def _half_depth(shape: BodyShape, height: Points, lateral: Points, wall_mm: float) -> Points:
    """Half of the depth at relative heights (1, K) and lateral positions (S, 1): a super-ellipse with a waist."""
    depth = shape.depth_superior_mm * (0.5 - height) + shape.depth_inferior_mm * (0.5 + height)
    narrow = 1 - shape.waist * (1 - 4 * height**2)
    # The waist narrows the body sideways as well, but a slice must keep some depth or it would fall into two.
    reach = np.minimum(np.abs(lateral) / np.maximum(narrow, 0.95), 0.995)
    result: Points = (depth / 2 - wall_mm) * narrow * (1 - reach**_AXIAL_POWER) ** (1 / _AXIAL_POWER)
    return result


def half_depth_mm(shape: BodyShape, *, superior: bool, lateral: Points | None = None) -> Points:
    """Half of an endplate's depth without lip, mm, at lateral positions (S,) of -1 to 1; () in the middle without."""
    height = np.array([[-0.5 if superior else 0.5]])
    at = np.zeros(1) if lateral is None else lateral
    result: Points = _half_depth(shape, height, at[:, None], 0.0)[:, 0]
    return result[0] if lateral is None else result


def _lipped(x: Points, lip_mm: float) -> Points:
    """Stretch the anterior quarter of an endplate's positions (S, K) by a lip."""
    reach = np.clip(2 * x / np.maximum(np.abs(x).max(axis=1, keepdims=True), 1e-9) - 1, 0, 1)
    result: Points = x + lip_mm * reach**2
    return result


def _rim_share(height: Points) -> Points:
    """How much of a lip is left at relative heights: 1 at the endplates, next to nothing in the waist."""
    result: Points = np.exp(-(0.5 - np.abs(height)) / 0.07)
    return result


def endplate_heights(shape: BodyShape, x: Points, lateral: Points, *, superior: bool) -> Points:
    """Heights of an endplate, mm: a shallow bowl with its rim in a plane tilted by half of the wedge.

    Args:
        shape: The body.
        x: Sagittal positions in mm from the body's middle.
        lateral: Lateral positions as shares of half of the width; of a shape that goes with `x`.
        superior: Which endplate.
    """
    slope = np.tan(np.radians(shape.wedge_deg / 2))
    depth = shape.depth_superior_mm if superior else shape.depth_inferior_mm
    hollow = np.maximum(0.0, 1 - (2 * x / depth) ** 2 - lateral**2)
    plane = shape.height_mm / 2 + x * slope
    if any(shape.collapse_mm):
        # Steeper than the bowl: a body that has given way in the middle keeps its rims.
        plane = plane - shape.collapse_mm[0 if superior else 1] * np.maximum(0.0, 1 - (2 * x / depth) ** 2) ** 1.3
    result: Points = hollow * shape.bowl_mm[0] - plane if superior else plane - hollow * shape.bowl_mm[1]
    return result


def tube_slices(path: Points, radius: Points, count: int, *, flatness: float = 1.0) -> Points:
    """Slices of a round-ended tube along a path.

    Args:
        path: (P, 3) mm, P >= 2; may not run exactly along the lateral axis.
        radius: (P,) mm, radius at each point in the sagittal plane.
        count: Number of slices.
        flatness: Lateral radius divided by the sagittal one.

    Returns:
        (count, V, 3) mm.
    """
    steps = np.diff(path[:, :2], axis=0)
    tangent = np.concatenate([steps[:1], steps[:-1] + steps[1:], steps[-1:]])
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    turn = np.linspace(0, np.pi, 7)[1:-1, None]
    end_cap = np.cos(turn) * normal[-1] + np.sin(turn) * tangent[-1]
    start_cap = -np.cos(turn) * normal[0] - np.sin(turn) * tangent[0]
    offset = np.concatenate([normal, end_cap, -normal[::-1], start_cap])
    index = np.concatenate(
        [np.arange(len(path)), np.full(5, len(path) - 1), np.arange(len(path))[::-1], np.zeros(5, int)]
    )
    level = slice_positions(count)[:, None]
    reach = np.sqrt(1 - level**2)
    size = radius[index]
    result = np.empty((count, len(index), 3))
    result[..., :2] = path[index, :2] + (offset * size[:, None])[None] * reach[..., None]
    result[..., 2] = path[index, 2] + level * size * flatness
    return result


def plate_slices(outline: Points, middle_z: Points, half_mm: float, count: int) -> Points:
    """Slices of a plate with rounded rim.

    Args:
        outline: (V, 2) mm in the sagittal plane.
        middle_z: (V,) mm, lateral position of the plate's middle at every vertex.
        half_mm: Half of the thickness.
        count: Number of slices.

    Returns:
        (count, V, 3) mm.
    """
    level = slice_positions(count)
    centre = outline.mean(axis=0)
    span = np.abs(outline - centre).max()
    shrink = 1 - half_mm / span * (1 - np.sqrt(1 - level**2))
    flat = centre + (outline - centre)[None] * shrink[:, None, None]
    z = middle_z[None, :] + (level * half_mm)[:, None]
    return np.concatenate([flat, z[..., None]], axis=2)


def smooth_outline(points: Points, rounds: int = 2) -> Points:
    """A closed outline with its corners cut (Chaikin 1974), (V, D) to (V * 2**rounds, D)."""
    for _ in range(rounds):
        following = np.roll(points, -1, axis=0)
        points = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], axis=1)
        points = points.reshape(-1, following.shape[1])
    return points
