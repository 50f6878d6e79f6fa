"""What angles, heights and slips are: formulas on the corners of bodies, over any leading axes.

Corners are (..., 4, 2) xy px in the order of `CORNERS`, in square pixels. A corner that is not known is NaN, and so is
every value that depends on it. `side` is +1 where front is to the right of up as the film is looked at (a film that
faces right), -1 where it is to the left: signs of angles then mean the same on all films. Whatever is called anterior
here is the film's right on antero-posterior films.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vertinst.structures import Orientation

__all__ = [
    "body_values",
    "cobb_deg",
    "disc_heights_px",
    "disc_values",
    "genant_grade",
    "lordosis_deg",
    "meyerding_grade",
    "side_of",
    "slip_percent",
    "tilt_deg",
    "turn_deg",
]

Points = npt.NDArray[np.float64]

NO_SLIP_PERCENT = 8.0
"""A slip up to this is grade 0: sound phantoms show up to about as much."""


def side_of(orientation: Orientation) -> int:
    """+1 where front is to the right of up as the film is looked at, else -1."""
    up, ahead = orientation.up, orientation.anterior
    return 1 if up[0] * ahead[1] - up[1] * ahead[0] > 0 else -1


def superior(corners: Points) -> Points:
    """The superior endplate (..., 2), from its posterior to its anterior corner."""
    return np.asarray(corners[..., 0, :] - corners[..., 1, :], dtype=np.float64)


def inferior(corners: Points) -> Points:
    """The inferior endplate (..., 2), from its posterior to its anterior corner."""
    return np.asarray(corners[..., 3, :] - corners[..., 2, :], dtype=np.float64)


def length(vectors: Points) -> Points:
    """Lengths (...) of vectors (..., 2)."""
    return np.asarray(np.hypot(vectors[..., 0], vectors[..., 1]), dtype=np.float64)


def turn_deg(above: Points, below: Points, side: int) -> Points:
    """Angle (...) between endplates (..., 2), degrees in -180..180, positive where they open towards the front.

    Args:
        above: From the posterior to the anterior corner.
        below: Likewise.
        side: See above.
    """
    cross = above[..., 0] * below[..., 1] - above[..., 1] * below[..., 0]
    inner = (above * below).sum(axis=-1)
    return np.asarray(np.degrees(np.arctan2(side * cross, inner)), dtype=np.float64)


def lordosis_deg(upper: Points, lower: Points, side: int) -> Points:
    """Lordosis between two vertebrae (...): the angle between their superior endplates, degrees, lordosis positive.

    Of L1 and S1 it is lumbar lordosis (Vialle et al. 2005, doi 10.2106/JBJS.D.02043), of neighbours the segmental
    angle. The sign is that of `vertinst.data.phantom_truth.lordosis_deg`.
    """
    return turn_deg(superior(upper), superior(lower), side)


def cobb_deg(upper: Points, lower: Points) -> Points:
    """Cobb angle (...), degrees 0..180: superior endplate of the upper to inferior endplate of the lower end vertebra.

    Cobb 1948, Outline for the study of scoliosis (Instr Course Lect 5:261-275).
    """
    return np.abs(turn_deg(superior(upper), inferior(lower), 1))


def tilt_deg(corners: Points, orientation: Orientation) -> Points:
    """Slope (...) of the superior endplate to the horizontal, degrees, positive where the anterior end is lower.

    Of S1 it is sacral slope (Legaye et al. 1998, doi 10.1007/s005860050038). Horizontal is the film's edge; a film that
    lies upside down or on its side is turned by the quarter turns that bring the head nearest to the top.
    """
    along = int(np.argmax(np.abs(orientation.up)))
    down = np.zeros(2)
    down[along] = -1.0 if orientation.up[along] > 0 else 1.0
    ahead = side_of(orientation) * np.array([down[1], -down[0]])
    endplate = superior(corners)
    return np.asarray(np.degrees(np.arctan2(endplate @ down, endplate @ ahead)), dtype=np.float64)


def _bisector(upper: Points, lower: Points) -> Points:
    """Unit vectors (..., 2) half-way between the endplates around a disc, towards the front."""
    above, below = inferior(upper), superior(lower)
    both = above / length(above)[..., None] + below / length(below)[..., None]
    return np.asarray(both / length(both)[..., None], dtype=np.float64)


def disc_heights_px(upper: Points, lower: Points, roof: Points, floor: Points, side: int) -> Points:
    """Heights (..., 3) of a disc in front, in the middle and behind, px; below 0 where the bodies overlap.

    Distances between facing points perpendicular to the bisector of the two endplates, as Frobin et al. 1997 (Clin
    Biomech 12 Suppl 1:S1-S63) measure them in front, and behind; in the middle between the endplates themselves, which
    are hollow (Dabbs and Dabbs 1990, Spine 15:1366-1369, compare such ways to measure).

    Args:
        upper: Corners of the vertebra above.
        lower: Corners of the vertebra below.
        roof: (..., 2) middle of the inferior endplate of the vertebra above.
        floor: (..., 2) middle of the superior endplate of the vertebra below.
        side: See above.
    """
    ahead = _bisector(upper, lower)
    down = side * np.stack([-ahead[..., 1], ahead[..., 0]], axis=-1)
    gaps = [lower[..., 0, :] - upper[..., 3, :], floor - roof, lower[..., 1, :] - upper[..., 2, :]]
    return np.stack([(gap * down).sum(axis=-1) for gap in gaps], axis=-1)


def slip_percent(upper: Points, lower: Points) -> Points:
    """How far the upper body (...) stands forward on the lower, per cent of the lower's superior depth.

    The distance of the posterior corners that face each other along the lower's superior endplate, forward positive
    (Taillard 1954, Acta Orthop Scand 24:115-144), the same as `vertinst.data.phantom_changes.slip_percent`. A wedged
    disc makes it a few per cent negative without any slip.
    """
    endplate = superior(lower)
    step = ((upper[..., 2, :] - lower[..., 1, :]) * endplate).sum(axis=-1)
    return np.asarray(100 * step / (endplate**2).sum(axis=-1), dtype=np.float64)


def body_values(corners: Points, top: Points, bottom: Points, side: int) -> dict[str, Points]:
    """Heights, depths, ratios and wedging of bodies, by name, each (...).

    Heights in front and behind are the distances of corners, in the middle that of the hollow endplates.

    Args:
        corners: (..., 4, 2).
        top: (..., 2) middle of the superior endplate.
        bottom: (..., 2) middle of the inferior endplate.
        side: See above.
    """
    front = length(corners[..., 0, :] - corners[..., 3, :])
    back = length(corners[..., 1, :] - corners[..., 2, :])
    middle = length(top - bottom)
    return {
        "height_anterior_px": front,
        "height_middle_px": middle,
        "height_posterior_px": back,
        "depth_superior_px": length(superior(corners)),
        "depth_inferior_px": length(inferior(corners)),
        "wedge_ratio": front / back,
        "biconcave_ratio": middle / back,
        "wedge_deg": turn_deg(superior(corners), inferior(corners), side),
    }


def disc_values(upper: Points, lower: Points, roof: Points, floor: Points, side: int) -> dict[str, Points]:
    """Heights, ratio, angles and slip of discs, by name, each (...); arguments as of `disc_heights_px`.

    `height_ratio` is the mean of the heights in front and behind over the depth of the endplate above; `wedge_deg` the
    angle between the facing endplates; `segment_deg` that between the superior endplates.
    """
    heights = disc_heights_px(upper, lower, roof, floor, side)
    return {
        "height_anterior_px": heights[..., 0],
        "height_middle_px": heights[..., 1],
        "height_posterior_px": heights[..., 2],
        "height_ratio": (heights[..., 0] + heights[..., 2]) / 2 / length(inferior(upper)),
        "wedge_deg": turn_deg(inferior(upper), superior(lower), side),
        "segment_deg": lordosis_deg(upper, lower, side),
        "slip_percent": slip_percent(upper, lower),
    }


def genant_grade(loss: float) -> int:
    """Genant grade 0..3 of a loss of height of 0..1: from 0.20 mild, above 0.25 moderate, above 0.40 severe.

    Genant et al. 1993, doi 10.1002/jbmr.5650080915. A hint: the grade is a reader's, and shapes other than fractures
    look alike.
    """
    return int(loss >= 0.20) + int(loss > 0.25) + int(loss > 0.40)


def meyerding_grade(slip: float) -> int:
    """Meyerding grade 0..5 of a slip in per cent, forward or backward: I to 25, II to 50, III to 75, IV to 100, then V.

    Meyerding 1932 (Surg Gynecol Obstet 54:371-377); up to `NO_SLIP_PERCENT` it is grade 0.
    """
    size = abs(slip)
    return 0 if size <= NO_SLIP_PERCENT else 1 + sum(size > bound for bound in (25, 50, 75, 100))
