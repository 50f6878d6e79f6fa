"""Implants at two dates: which is which, and where each lies in the frame of its vertebra."""

from __future__ import annotations

from math import degrees, hypot, sqrt
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from vertinst.structures import Rle, rle
from vertinst.structures.measures import Measure
from vertinst.structures.spine import Implant, Spine

__all__ = ["Moved", "Placement", "match_implants", "place_implant"]

Factors: TypeAlias = tuple[float, float]
Points: TypeAlias = npt.NDArray[np.float64]

# Metal is sharp: its centroid is known to about half a pixel.
_CENTROID_SD_PX = 0.5
# Below it a mask has no long axis to speak of.
_LONG_RATIO = 1.3


class Placement(NamedTuple):
    """Where an implant lies.

    Attributes:
        anterior: Of its centroid, from the centre of the vertebra towards the front, unit of the factors.
        up: Of its centroid, from the centre of the vertebra towards the head.
        angle: Of its long axis from the vertebra's anterior axis towards the head, degrees in -90 .. 90; None where
            it is about as long as wide.
    """

    anterior: Measure
    up: Measure
    angle: Measure | None


class Moved(NamedTuple):
    """An implant at two dates.

    Attributes:
        before: Its place in `implants` of the first date.
        after: Its place in `implants` of the second date.
        positions: Name, before and after of `anterior` and `up`; none of rods.
        angles: Of the long axis, before and after, degrees; None where one is not known.
    """

    before: int
    after: int
    positions: tuple[tuple[str, Measure, Measure], ...]
    angles: tuple[Measure, Measure] | None


def place_implant(spine: Spine, implant: Implant, level: str, factors: Factors) -> Placement | None:
    """Position and angle of an implant in the frame of a vertebra.

    The frame has its origin in the mean of the four corners. Its anterior axis is the mean of the directions of both
    endplates, from posterior to anterior; its other axis is at a right angle to that, towards the superior endplate.
    Standard deviations are of first order, from those of the corners (half of their variance along each axis): the
    origin's, and the turn of the frame by the distance from it.

    Args:
        spine: A measured spine.
        implant: One on it.
        level: Of the vertebra.
        factors: Unit per px along x and y.

    Returns:
        None where the vertebra is not there or was not measured.
    """
    body = next((v.body for v in spine.vertebrae if v.level == level), None)
    if body is None:
        return None
    scale = np.array(factors)
    corners = body.corners_px * scale
    superior, inferior = corners[0] - corners[1], corners[3] - corners[2]
    axis = superior + inferior
    length = float(np.hypot(*axis))
    if length == 0:
        return None
    anterior = axis / length
    up = np.array([anterior[1], -anterior[0]])
    if up @ (corners[:2].mean(axis=0) - corners[2:].mean(axis=0)) < 0:
        up = -up
    centre, long_axis = _moments(implant.mask, scale)
    offset = centre - corners.mean(axis=0)
    sds = body.corners_sd_px * float(scale.mean()) / sqrt(2)
    origin_sd = hypot(float(np.sqrt((sds**2).sum())) / 4, _CENTROID_SD_PX * float(scale.mean()))
    # The two endplates together are `length` long; each of the four corners turns the frame.
    turn_sd = float(np.sqrt((sds**2).sum())) / length
    along, above = float(offset @ anterior), float(offset @ up)
    angle = None
    if long_axis is not None:
        tilt = degrees(float(np.arctan2(long_axis @ up, long_axis @ anterior)))
        angle = Measure((tilt + 90) % 180 - 90, degrees(turn_sd))
    return Placement(
        Measure(along, hypot(origin_sd, above * turn_sd)), Measure(above, hypot(origin_sd, along * turn_sd)), angle
    )


def _moments(mask: Rle, scale: Points) -> tuple[Points, Points | None]:
    """Centroid and direction of the long axis of a mask, in scaled coordinates."""
    rows, columns = np.nonzero(rle.decode(mask))
    points = (np.stack([columns, rows], axis=1) + 0.5) * scale
    centre = points.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(points.T)) if len(points) > 2 else (np.ones(2), np.eye(2))
    is_long = values[1] > 0 and sqrt(values[1]) > _LONG_RATIO * sqrt(max(values[0], 0.0))
    return centre, vectors[:, 1] if is_long else None


def match_implants(before: Spine, after: Spine, factors: tuple[Factors, Factors]) -> list[Moved]:
    """Match implants of the same class and the same levels, the nearest pair first.

    Rods are matched where their lowest levels are the same, for the film may cut their ends. Implants without levels,
    or on a vertebra that was not measured at both dates, match none.

    Args:
        before: First date, measured.
        after: Second date, measured.
        factors: Unit per px along x and y, of both dates.

    Returns:
        In the order of the first date's implants.
    """
    old, new = (_placed(spine, factor) for spine, factor in zip((before, after), factors, strict=True))
    pairs = sorted(
        (_apart(here, there), m, n)
        for m, (key, here) in old.items()
        for n, (other, there) in new.items()
        if key == other
    )
    moved: dict[int, Moved] = {}
    taken: set[int] = set()
    for _, m, n in pairs:
        if m not in moved and n not in taken:
            moved[m] = _moved(m, n, old[m][1], new[n][1], before.implants[m].category)
            taken.add(n)
    return [moved[m] for m in sorted(moved)]


def _placed(spine: Spine, factors: Factors) -> dict[int, tuple[tuple[str, ...], Placement]]:
    placed = {}
    for number, implant in enumerate(spine.implants):
        level = next(iter(implant.levels), "")
        # Names counted without an anchor say nothing about another film's.
        place = place_implant(spine, implant, level, factors) if level and not level.startswith("+") else None
        if place is not None:
            levels = (level,) if implant.category == "rod" else implant.levels
            placed[number] = (implant.category, *levels), place
    return placed


def _apart(first: Placement, second: Placement) -> float:
    return hypot(first.anterior.value - second.anterior.value, first.up.value - second.up.value)


def _moved(before: int, after: int, old: Placement, new: Placement, category: str) -> Moved:
    positions = (("anterior", old.anterior, new.anterior), ("up", old.up, new.up))
    angles = (old.angle, new.angle) if old.angle is not None and new.angle is not None else None
    return Moved(before, after, () if category == "rod" else positions, angles)
