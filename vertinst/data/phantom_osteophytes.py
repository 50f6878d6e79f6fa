"""Osteophytes of a phantom: spurs of bone at the corners of a body."""

from dataclasses import dataclass

import numpy as np

from vertinst.data.phantom_solids import BodyShape, Points, half_depth_mm, slice_positions, smooth_outline
from vertinst.structures.measures import CORNERS

_SLICES = 14
_ROOT_MM = 1.8
"""How deep a spur is rooted in the body, so that the rounded corner leaves no gap."""
_FOOT_SHARE = 0.3
"""How far a spur runs down the wall, as a share of the body's height."""


@dataclass(frozen=True)
class Osteophyte:
    """A spur at one corner. It is no part of the body's shape: the body's corners stay what they are without it.

    Attributes:
        corner: One of `vertinst.structures.measures.CORNERS`.
        size_mm: How far its tip stands out from the corner of the body, along the endplate.
        rise_mm: How far the tip curls over the plane of the endplate towards the neighbour, 0 or more.
        reach: Half of its lateral extent as a share of half of the body's width, above 0, below 1.
    """

    corner: str
    size_mm: float
    rise_mm: float
    reach: float


def osteophyte_slices(shape: BodyShape, spur: Osteophyte) -> Points:
    """Slices of a spur in the body's own frame, (14, V, 3) mm; it thins out sideways and follows the body's rim."""
    index = CORNERS.index(spur.corner)
    points = shape.corners_mm()[:, :2]
    partner = points[(1, 0, 3, 2)[index]]
    outward = (points[index] - partner) / np.linalg.norm(points[index] - partner)
    to_disc = np.array([-outward[1], outward[0]])
    to_disc = to_disc * np.sign(to_disc[1]) * (-1 if index < 2 else 1)
    lateral = slice_positions(_SLICES) * spur.reach
    taper = np.sqrt(1 - (lateral / spur.reach) ** 2)[:, None]
    local = np.repeat(_profile(shape, spur)[None], _SLICES, axis=0)
    local[..., 0] = np.where(local[..., 0] > 0, local[..., 0] * taper, local[..., 0])
    local[..., 1] = np.where(local[..., 1] > 0, local[..., 1] * taper, local[..., 1])
    local[..., 0] -= half_depth_mm(shape, superior=index < 2) * (1 - _rim(shape, lateral, superior=index < 2))[:, None]
    flat = points[index] + local[..., :1] * outward + local[..., 1:] * to_disc
    z = np.broadcast_to((lateral * shape.width_mm / 2)[:, None, None], (*flat.shape[:2], 1))
    result: Points = np.concatenate([flat, z], axis=2)
    return result


def _rim(shape: BodyShape, lateral: Points, *, superior: bool) -> Points:
    """Half-depths of the rim at lateral positions (S,), relative to the middle."""
    depths = half_depth_mm(shape, superior=superior, lateral=lateral)
    result: Points = depths / half_depth_mm(shape, superior=superior)
    return result


def _profile(shape: BodyShape, spur: Osteophyte) -> Points:
    """Outline of a spur in its middle, (V, 2) mm: outward from the corner, and towards the disc."""
    size, rise, foot = spur.size_mm, spur.rise_mm, _FOOT_SHARE * shape.height_mm
    superior, anterior = spur.corner.startswith("superior"), spur.corner.endswith("anterior")
    lip = shape.lip_mm[0 if superior else 1] if anterior else 0.0
    # At its foot the wall has drawn in by the waist (the posterior one by half of it) and by all of the lip.
    waist = (0.84 if anterior else 0.42) * shape.waist * float(half_depth_mm(shape, superior=superior))
    wall = -lip - waist
    tip = [(0.55 * size, 0.2 * rise), (size, rise), (1.02 * size, 0.5 * rise - 0.8), (0.45 * size, -0.35 * size - 1)]
    points = [(-_ROOT_MM, -1.0), (-1.0, -0.2), *tip, (wall, -foot), (wall - _ROOT_MM, -0.8 * foot)]
    smooth = smooth_outline(np.array(points))
    # Smoothing blunts the tip: drawn out again to the stated size.
    ahead = smooth[:, 0] > 0
    smooth[ahead, 0] *= size / smooth[:, 0].max()
    return smooth
