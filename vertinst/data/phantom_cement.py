"""Bone cement of a phantom: irregular dense blobs inside a body, as after vertebroplasty."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from vertinst.data.phantom_solids import BodyShape, Points, Solid, tube_slices

CEMENT_PER_MM = 0.09
"""Attenuation in excess of soft tissue at about 70 keV: acrylic with some 30 % of barium sulphate, by weight, lies
between bone and titanium."""
_SLICES = 6


@dataclass(frozen=True)
class Cement:
    """Cement in one body.

    Attributes:
        seed: Seeds the shape of its blobs.
        blobs: How many, 1 or more.
        leak: `none`, `disc` (a streak through the superior endplate) or `anterior` (drops in front of the body).
    """

    seed: int
    blobs: int
    leak: str = "none"


def cement_slices(shape: BodyShape, cement: Cement) -> list[Solid]:
    """Solids of cement in the body's own frame."""
    rng = np.random.default_rng(cement.seed)
    room = _room(shape)
    solids = [lump for _ in range(cement.blobs) for lump in _blob(rng, rng.uniform(-0.6, 0.75, 3) * room, room)]
    if cement.leak != "none":
        solids += _leak(rng, shape, cement.leak)
    return solids


def _room(shape: BodyShape) -> Points:
    """Half of the box within a body that cement fills, (3,) mm."""
    points = shape.corners_mm()
    height = min(points[3, 1] - points[0, 1], points[2, 1] - points[1, 1]) - sum(shape.collapse_mm) - sum(shape.bowl_mm)
    depth = min(shape.depth_superior_mm, shape.depth_inferior_mm) * (1 - shape.waist)
    return np.array([0.44 * depth, max(0.47 * height, 1.5), 0.3 * shape.width_mm])


def _blob(rng: Generator, centre: Points, room: Points) -> list[Solid]:
    """A few overlapping lumps in a row that stay within `room` of the body's middle."""
    size = min(4.5, 0.45 * float(room[1]))
    steps = rng.normal(0, 1, (4, 3)) * np.array([3.0, 1.8, 2.2])
    middles = centre + np.cumsum(steps, axis=0)
    half_lengths = np.clip(rng.normal(0, 1.2, (4, 3)), -0.3 * size, 0.3 * size)
    half_lengths[:, 0] += 0.1
    limits = room - 1.1 * size - np.abs(half_lengths)
    return [
        _dense(np.stack([middle - half, middle + half]), rng.uniform(0.5, 1.1, 2) * size)
        for middle, half in zip(np.clip(middles, -limits, limits), half_lengths, strict=True)
    ]


def _dense(path: Points, radii: Points) -> Solid:
    return Solid(tube_slices(path, radii, _SLICES), CEMENT_PER_MM * 2 * float(radii.mean()) / _SLICES)


def _leak(rng: Generator, shape: BodyShape, where: str) -> list[Solid]:
    if where == "disc":
        start = np.array([rng.uniform(-0.2, 0.3) * shape.depth_superior_mm, -0.3 * shape.height_mm, rng.normal(0, 4)])
        end = start + np.array([rng.normal(0, 2), -0.2 * shape.height_mm - rng.uniform(2, 5), 0])
        path = np.linspace(start, end, 4) + rng.normal(0, 0.4, (4, 3))
        return [_dense(path, rng.uniform(0.8, 1.6, 4))]
    front = shape.depth_inferior_mm / 2 + rng.uniform(1, 4)
    path = np.array([[front, 0.0, 0.0], [front + 0.5, 3.0, 0.0], [front, 6.0, 0.0]])
    return [_dense(path + rng.normal(0, 1.2, (3, 3)), rng.uniform(0.9, 2.0, 3))]
