"""Scoliosis of a phantom: a curve to the side, with the axial turn that goes with it."""

from dataclasses import replace

import numpy as np
from numpy.random import Generator

from vertinst.data.phantom_anatomy import Anatomy, Frame, Vertebra, rotation
from vertinst.data.phantom_solids import Points

_AXIAL_SHARE = 0.4
"""Largest axial turn as a share of the Cobb angle."""
_FADE_MM = 90.0
_STEPS = 400


def bend(rng: Generator, anatomy: Anatomy) -> Anatomy:
    """Bend the spine to the side by its `variant.scoliosis_deg`.

    The spine's line turns by that angle from the lower end vertebra (the second or third from the sacrum) to the upper
    one (L1, T12 or T11), most steeply in the middle, and comes back to the upright on both sides. Bodies stand
    square on that line and turn about it towards the convex side, most at the apex.

    Args:
        rng: Draws the end vertebrae.
        anatomy: A patient whose spine is straight but for a sway of a degree or so.
    """
    column = [level for level in anatomy.vertebrae if not level.startswith("S")]
    heights = {level: -float(anatomy.vertebrae[level].frame.origin[1]) for level in column}
    lower = heights[column[int(rng.integers(1, 3))]]
    upper = heights[str(rng.choice(["L1", "T12", "T11"], p=[0.2, 0.4, 0.4]))]
    along = np.linspace(0.0, max(heights.values()), _STEPS)
    tilt = np.radians(_tilt_deg(along, lower, upper, anatomy.variant.scoliosis_deg))
    step = np.gradient(along)
    # Where the lateral tilt is positive the upper end leans towards -z.
    rise, aside = np.cumsum(np.cos(tilt) * step) - step[0], -np.cumsum(np.sin(tilt) * step)
    bent = dict(anatomy.vertebrae)
    for level in column:
        height = heights[level]
        bent[level] = _leaned(
            bent[level],
            -float(np.interp(height, along, rise)),
            float(np.interp(height, along, aside)),
            float(np.degrees(np.interp(height, along, tilt))),
            _axial_deg(height, lower, upper, anatomy.variant.scoliosis_deg),
        )
    return replace(anatomy, vertebrae=bent)


def _tilt_deg(height: Points, lower: float, upper: float, cobb_deg: float) -> Points:
    """Lateral tilt of the spine's line at heights (N,) above S1, mm."""
    share = np.clip((height - lower) / (upper - lower), 0, 1)
    fade = np.clip(height / lower, 0, 1) * np.clip(1 - (height - upper) / _FADE_MM, 0, 1)
    result: Points = cobb_deg / 2 * np.cos(np.pi * share) * fade**2 * (3 - 2 * fade)
    return result


def _axial_deg(height: float, lower: float, upper: float, cobb_deg: float) -> float:
    middle, reach = (lower + upper) / 2, (upper - lower) / 2 + 20
    away = min(abs(height - middle) / reach, 1.0)
    return float(_AXIAL_SHARE * cobb_deg * np.cos(np.pi / 2 * away) ** 2)


def _leaned(vertebra: Vertebra, y: float, z: float, lateral_deg: float, axial_deg: float) -> Vertebra:
    """A vertebra at another height and side, turned about its own axis and then tilted to the side."""
    turn = rotation(0.0, 0.0, lateral_deg) @ vertebra.frame.rotation @ rotation(0.0, axial_deg)
    return replace(vertebra, frame=Frame(turn, np.array([vertebra.frame.origin[0], y, vertebra.frame.origin[2] + z])))
