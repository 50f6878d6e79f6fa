"""What is known about a phantom film: outlines for the annotation, corners, angles."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from shapely import Polygon, union_all
from shapely.geometry.base import BaseGeometry

from vertinst.data.phantom_anatomy import SACRAL_LEVELS, Anatomy, lumbar_levels
from vertinst.data.phantom_front import coronal_corners_mm
from vertinst.data.phantom_implants import Implant
from vertinst.data.phantom_projection import View, largest_polygon, silhouette
from vertinst.data.phantom_solids import Points, Solid

LEAST_VISIBLE = 0.15
"""A region of which a smaller share lies in the field is not annotated."""
_BONE_TOLERANCE_PX = 0.45
_METAL_TOLERANCE_PX = 0.6


@dataclass(frozen=True)
class Region:
    """One annotated region.

    Attributes:
        category: `lumbar`, `sacral`, `cage`, `screw` or `rod`.
        level: The vertebra's name; empty for metal.
        outline: (V, 2) xy px, first vertex not repeated.
        visible: Share of the whole outline that lies in the field, 0.15 to 1.
    """

    category: str
    level: str
    outline: NDArray[np.float64]
    visible: float


def bone_regions(bodies: dict[str, list[Solid]], view: View, field_px: NDArray[np.float64]) -> list[Region]:
    """Regions of the vertebral bodies from the lowest up: S2, S1, L5 to T12, as far as they are in the field.

    Args:
        bodies: Solids by level, the outer shape first; hollow ones (of negative integral) do not matter.
        view: The projection.
        field_px: (V, 2) corners of the collimated field, xy px.
    """
    categories = {"S2": "sacral", "S1": "sacral"} | dict.fromkeys(lumbar_levels(bodies), "lumbar")
    found = []
    for level, category in categories.items():
        outline = bone_outline(bodies[level], view)
        found.append(_visible_region(category, level, outline, view, field_px))
    return [region for region in found if region is not None]


def bone_outline(solids: list[Solid], view: View) -> Polygon:
    """Outline of a body with its osteophytes: of all its solids that are not hollow."""
    outer, *spurs = (solid for solid in solids if solid.integral > 0)
    body = silhouette(outer.slices, view, _BONE_TOLERANCE_PX)
    if not spurs:
        return body
    joined = largest_polygon(union_all([body, *(silhouette(spur.slices, view, _BONE_TOLERANCE_PX) for spur in spurs)]))
    return Polygon(joined.exterior)


def metal_regions(implants: list[Implant], view: View, field_px: NDArray[np.float64]) -> list[Region | None]:
    """The region of every implant, None where less than 15 % of it lies in the field."""
    result = []
    for implant in implants:
        solids = implant.solids[:1] if implant.category == "cage" else implant.solids
        joined = largest_polygon(union_all([silhouette(solid.slices, view, 0.0) for solid in solids]))
        outline = Polygon(joined.exterior).simplify(_METAL_TOLERANCE_PX)
        result.append(_visible_region(implant.category, "", outline, view, field_px))
    return result


def _visible_region(
    category: str, level: str, outline: BaseGeometry, view: View, field_px: NDArray[np.float64]
) -> Region | None:
    whole = largest_polygon(outline)
    rows, columns = view.size
    film = Polygon([(0, 0), (columns, 0), (columns, rows), (0, rows)])
    seen = largest_polygon(whole.intersection(film.intersection(Polygon(field_px))))
    share = min(seen.area / whole.area, 1.0) if whole.area > 0 else 0.0
    if share < LEAST_VISIBLE:
        return None
    points = np.asarray(np.round(np.asarray(seen.exterior.coords[:-1]), 2), np.float64)
    return Region(category, level, points, float(share))


def corners_px(anatomy: Anatomy, view: View) -> dict[str, Points]:
    """Projected corners of the named bodies, T12 to S2, each (4, 2) xy px: mid-sagittal, or mid-coronal if `ap`.

    Order: superior-anterior, superior-posterior, inferior-posterior, inferior-anterior; on antero-posterior films the
    film's right (the patient's left) stands for anterior. Corners may lie outside the
    film where a vertebra is cut by its border.
    """
    result = {}
    for level in (*reversed(anatomy.lumbar_levels), *SACRAL_LEVELS):
        vertebra = anatomy.vertebrae[level]
        shape = vertebra.shape
        corners = shape.corners_mm() if anatomy.variant.view == "lateral" else coronal_corners_mm(shape)
        result[level] = view.project(vertebra.frame.place(corners))
    return result


def middles_px(anatomy: Anatomy, view: View) -> dict[str, Points]:
    """Projected middles of the endplates of the named bodies, superior then inferior, each (2, 2) xy px.

    Each lies half-way between its corners, and as far inside the body as a biconcave fracture has sunk the endplate
    (`BodyShape.collapse_mm`), which antero-posterior films do not show. The shallow bowl of a sound endplate does not
    count: the rims at its sides hide it.
    """
    result = {}
    lateral = anatomy.variant.view == "lateral"
    for level in (*reversed(anatomy.lumbar_levels), *SACRAL_LEVELS):
        vertebra = anatomy.vertebrae[level]
        corners = vertebra.shape.corners_mm()
        sunk = vertebra.shape.collapse_mm if lateral else (0.0, 0.0)
        middles = (corners[[0, 3]] + corners[[1, 2]]) / 2 + np.array([[0, sunk[0], 0], [0, -sunk[1], 0]])
        result[level] = view.project(vertebra.frame.place(middles))
    return result


def cobb_deg(upper: Points, lower: Points) -> float:
    """Cobb angle between two vertebrae: superior endplate of the upper against inferior endplate of the lower (1948).

    Args:
        upper: (4, 2) corners on an antero-posterior film, order as in `corners_px`.
        lower: The same of the vertebra below.

    Returns:
        Degrees, positive where the endplates open towards the film's right.
    """
    above, below = upper[0] - upper[1], lower[3] - lower[2]
    return float(np.degrees(np.arctan2(above[0] * below[1] - above[1] * below[0], above @ below)))


def largest_cobb(corners: dict[str, Points]) -> tuple[float, tuple[str, str]]:
    """The largest Cobb angle between two lumbar vertebrae or T12, in degrees of either sign as `cobb_deg` gives it.

    Args:
        corners: By level, as `corners_px` gives them (from above).

    Returns:
        The angle, and the upper and lower level.
    """
    levels = lumbar_levels(corners)
    pairs = itertools.combinations(levels, 2)
    return max(((cobb_deg(corners[a], corners[b]), (a, b)) for a, b in pairs), key=lambda found: abs(found[0]))


def lordosis_deg(upper: Points, lower: Points) -> float:
    """Lordosis between two vertebrae: the angle between their superior endplates in the mid-sagittal projection.

    Each endplate is the line from its posterior to its anterior corner. Positive where the endplates open towards
    the anterior side, as they do in lordosis; the same for films facing left and right.

    Args:
        upper: (4, 2) corners of the upper vertebra (L1 for the usual L1-S1 angle), xy px, order as in `corners_px`.
        lower: (4, 2) corners of the lower one (S1).

    Returns:
        Degrees, between -180 and 180.
    """
    above, below = upper[0] - upper[1], lower[0] - lower[1]
    # Mirrored films turn the other way round: the anterior direction decides the sign.
    turn = np.sign(below[0]) * (above[0] * below[1] - above[1] * below[0])
    return float(np.degrees(np.arctan2(turn, above @ below)))
