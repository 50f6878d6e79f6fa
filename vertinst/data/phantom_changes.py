"""What disease does to the spine of a phantom: each change moves one segment and takes along everything above it.

All of them are pure: an anatomy goes in and another comes out. Angles and displacements are those of the mid-sagittal
corners (`BodyShape.corners_mm`), in the patient's space and therefore before any tilt of the patient and any ray.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from vertinst.data.phantom_anatomy import Anatomy, Frame, Vertebra, rotation
from vertinst.data.phantom_solids import BodyShape, Points
from vertinst.errors import DataError

FRACTURES = {"wedge": "anterior", "biconcave": "middle", "crush": "posterior"}
"""Kinds of compression fractures (Genant et al. 1993), each with the height that tells it: a wedge has lost anterior, a
biconcave body middle height; a crushed one has lost all, the posterior too."""


def column(anatomy: Anatomy) -> tuple[str, ...]:
    """Levels from S1 upward, whatever their names."""
    free = [level for level in anatomy.vertebrae if level not in ("S2", "S3", "S4", "S5")]
    return tuple(sorted(free, key=lambda level: -float(anatomy.vertebrae[level].frame.origin[1])))


def below(anatomy: Anatomy, level: str) -> str:
    """The level on which another stands."""
    levels = column(anatomy)
    return levels[levels.index(level) - 1]


def corners(vertebra: Vertebra) -> Points:
    """Mid-sagittal corners of a body in the patient's space, (4, 3) mm, order as in `BodyShape.corners_mm`."""
    return vertebra.frame.place(vertebra.shape.corners_mm())


def slip_percent(upper: Points, lower: Points) -> float:
    """Slip of a body on the one below: positive where the upper stands too far anterior.

    Displacement of the upper body's posterior inferior corner from the posterior superior corner of the lower one,
    along the latter's superior endplate, in per cent of that endplate's depth (Taillard 1954; Meyerding 1932 counts
    quarters of it).

    Args:
        upper: (4, 2) or (4, 3) corners.
        lower: The same of the body below.
    """
    endplate = lower[0] - lower[1]
    return float(100 * (upper[2] - lower[1]) @ endplate / (endplate @ endplate))


def slip_of(anatomy: Anatomy, upper: str) -> float:
    """Slip of a level on the one below in the patient's space, per cent."""
    vertebrae = anatomy.vertebrae
    return slip_percent(corners(vertebrae[upper]), corners(vertebrae[below(anatomy, upper)]))


def heights(vertebra: Vertebra) -> dict[str, float]:
    """Anterior, middle and posterior height of a body, mm.

    Anterior and posterior are distances of corners. The middle one is that of the middles between the corners, less
    what a fracture has sunk the endplates in; the shallow bowl of a sound endplate does not count, because the rims at
    its sides hide it on a lateral film.
    """
    points = corners(vertebra)
    middle = np.linalg.norm((points[0] + points[1]) - (points[2] + points[3])) / 2 - sum(vertebra.shape.collapse_mm)
    return {
        "anterior": float(np.linalg.norm(points[0] - points[3])),
        "middle": float(middle),
        "posterior": float(np.linalg.norm(points[1] - points[2])),
    }


def disc_heights(anatomy: Anatomy, upper: str) -> tuple[float, float]:
    """Anterior and posterior height of the disc below a vertebra, mm, at a right angle to the endplate below it."""
    above, base = corners(anatomy.vertebrae[upper]), anatomy.vertebrae[below(anatomy, upper)]
    points, up = corners(base), endplate_axes(base)[1]
    return float((above[3] - points[0]) @ up), float((above[2] - points[1]) @ up)


def move(vertebra: Vertebra, turn: Points, shift: Points) -> Vertebra:
    """A vertebra after x -> turn @ x + shift, with everything that hangs on it."""
    frame = Frame(turn @ vertebra.frame.rotation, turn @ vertebra.frame.origin + shift)
    sagittal_deg = float(np.degrees(np.arctan2(turn[1, 0], turn[0, 0])))
    return replace(vertebra, frame=frame, tilt_deg=vertebra.tilt_deg + sagittal_deg)


def _carried(anatomy: Anatomy, first: str, turn: Points, shift: Points) -> Anatomy:
    """The anatomy with a level and everything above it moved as one."""
    levels = column(anatomy)
    moved = set(levels[levels.index(first) :])
    vertebrae = {k: move(v, turn, shift) if k in moved else v for k, v in anatomy.vertebrae.items()}
    return replace(anatomy, vertebrae=vertebrae)


def endplate_axes(vertebra: Vertebra) -> tuple[Points, Points]:
    """Unit vectors of a superior endplate: towards the front, and upwards at a right angle to it."""
    points = corners(vertebra)
    ahead = (points[0] - points[1]) / np.linalg.norm(points[0] - points[1])
    # The lateral axis, which is towards the detector, comes third: x ahead, y down.
    up = -np.cross(vertebra.frame.rotation[:, 2], ahead)
    return ahead, up


def slip(anatomy: Anatomy, upper: str, percent: float) -> Anatomy:
    """Bring a vertebra and all above it to a slip, as `slip_percent` counts it, along the endplate below."""
    base = anatomy.vertebrae[below(anatomy, upper)]
    points = corners(base)
    missing = percent - slip_of(anatomy, upper)
    return _carried(anatomy, upper, np.eye(3), missing / 100 * (points[0] - points[1]))


def narrow(anatomy: Anatomy, upper: str, factor: float) -> Anatomy:
    """Lower the disc below a vertebra to a share of its heights, anterior and posterior alike.

    The vertebra turns about its posterior inferior corner, so that the angle of the disc falls by the same share, and
    comes down at a right angle to the endplate below: the slip stays what it was.

    Args:
        anatomy: The patient.
        upper: The vertebra above the disc.
        factor: Above 0; above 1 makes the disc higher.
    """
    vertebra, base = anatomy.vertebrae[upper], anatomy.vertebrae[below(anatomy, upper)]
    ahead, up = endplate_axes(base)
    points = corners(vertebra)
    opening = np.arctan2((points[3] - points[2]) @ up, (points[3] - points[2]) @ ahead)
    own = base.frame.rotation
    turn = own @ rotation(float(np.degrees((1 - factor) * opening))) @ own.T
    _, posterior = disc_heights(anatomy, upper)
    shift = points[2] - turn @ points[2] - (1 - factor) * posterior * up
    return _carried(anatomy, upper, turn, shift)


def _wedged(shape: BodyShape, anterior: float, posterior: float) -> BodyShape:
    """A body whose corners lie so far apart along its own axis as shares of now."""
    points = shape.corners_mm()
    front, back = anterior * (points[3, 1] - points[0, 1]), posterior * (points[2, 1] - points[1, 1])
    reach = points[0, 0] + points[3, 0], -points[1, 0] - points[2, 0]
    slope = (front - back) / (reach[0] + reach[1])
    return replace(shape, height_mm=float(back + reach[1] * slope), wedge_deg=float(np.degrees(2 * np.arctan(slope))))


def _sunken(shape: BodyShape, loss: float) -> BodyShape:
    """A body whose endplates have sunk in the middle by a share of its height, more from above."""
    depth = loss * (shape.height_mm - sum(shape.collapse_mm))
    return replace(shape, collapse_mm=(shape.collapse_mm[0] + 0.58 * depth, shape.collapse_mm[1] + 0.42 * depth))


_FRACTURED: dict[str, Callable[[BodyShape, float], BodyShape]] = {
    "wedge": lambda shape, loss: _wedged(shape, 1 - loss, 1.0),
    "biconcave": _sunken,
    "crush": lambda shape, loss: _wedged(shape, 1 - loss, 1 - loss),
}


def fracture(anatomy: Anatomy, level: str, kind: str, loss: float) -> Anatomy:
    """Break a vertebra; its inferior endplate stays where it is, and what stands on it comes down.

    Args:
        anatomy: The patient.
        level: The vertebra.
        kind: One of `FRACTURES`.
        loss: Share of the anterior (`wedge`), middle (`biconcave`) or of all heights (`crush`) that is lost, 0 to 0.7.

    Raises:
        DataError: `kind` is unknown.
    """
    if kind not in FRACTURES:
        raise DataError(f"kind must be one of {', '.join(FRACTURES)}, got {kind}", where="fracture", fix="Name one.")
    before = anatomy.vertebrae[level]
    shape = _FRACTURED[kind](before.shape, loss)
    half_deg = (before.shape.wedge_deg - shape.wedge_deg) / 2
    frame = Frame(before.frame.rotation @ rotation(half_deg), before.frame.origin)
    broken = replace(before, shape=shape, frame=frame, tilt_deg=before.tilt_deg + half_deg)
    broken = move(broken, np.eye(3), corners(before)[2] - corners(broken)[2])
    result = replace(anatomy, vertebrae={**anatomy.vertebrae, level: broken})
    levels = column(anatomy)
    if level == levels[-1]:
        return result
    own = before.frame.rotation
    turn = own @ rotation(2 * half_deg) @ own.T
    return _carried(result, levels[levels.index(level) + 1], turn, corners(broken)[1] - turn @ corners(before)[1])
