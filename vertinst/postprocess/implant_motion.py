"""Implants at two dates: which is which, and where each lies in the frame of its vertebra."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import permutations
from math import degrees, hypot, radians, sqrt
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
# Of one class on one level a spine has two; of more, the best scored are matched: every order of them is tried.
_MOST_ALIKE = 6


class Placement(NamedTuple):
    """Where an implant lies.

    Attributes:
        anterior: Of its centroid, from the centre of the vertebra towards the front, unit of the factors.
        up: Of its centroid, from the centre of the vertebra towards the head.
        angle: Of its long axis from the vertebra's anterior axis towards the head, degrees in -90 .. 90; None where
            it is about as long as wide.
        half_length: Half of its length along its long axis, unit of the factors.
    """

    anterior: Measure
    up: Measure
    angle: Measure | None
    half_length: float


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
    centre, long_axis, half_length = _moments(implant.mask, scale)
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
    sideways, upward = hypot(origin_sd, above * turn_sd), hypot(origin_sd, along * turn_sd)
    return Placement(Measure(along, sideways), Measure(above, upward), angle, half_length)


def _moments(mask: Rle, scale: Points) -> tuple[Points, Points | None, float]:
    """Centroid, direction of the long axis and half of the length of a mask, in scaled coordinates.

    The length is that of a bar with the same variance along the axis.
    """
    patch, left, top = rle.decode_crop(mask)
    rows, columns = np.nonzero(patch)
    points = (np.stack([columns + left, rows + top], axis=1) + 0.5) * scale
    centre = points.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(points.T)) if len(points) > 2 else (np.ones(2), np.eye(2))
    is_long = values[1] > 0 and sqrt(values[1]) > _LONG_RATIO * sqrt(max(values[0], 0.0))
    return centre, vectors[:, 1] if is_long else None, sqrt(3 * max(float(values[1]), 0.0))


def match_implants(before: Spine, after: Spine, factors: tuple[Factors, Factors]) -> list[Moved]:
    """Match implants of the same class and the same levels so that they have moved least, all together.

    What counts is the sum of the squares of how far centroids and ends have moved. Rods are matched where their lowest
    levels are the same, for the film may cut their ends. Implants without levels, or on a vertebra that was not
    measured at both dates, match none.

    Args:
        before: First date, measured.
        after: Second date, measured.
        factors: Unit per px along x and y, of both dates.

    Returns:
        In the order of the first date's implants.
    """
    old, new = (_placed(spine, factor) for spine, factor in zip((before, after), factors, strict=True))
    moved: dict[int, Moved] = {}
    for key in {key for key, _ in old.values()}:
        here = [m for m, (other, _) in old.items() if other == key][:_MOST_ALIKE]
        there = [n for n, (other, _) in new.items() if other == key][:_MOST_ALIKE]
        for m, n in _assigned(here, there, lambda m, n: _apart(old[m][1], new[n][1])):
            moved[m] = _moved(m, n, old[m][1], new[n][1], before.implants[m].category)
    return [moved[m] for m in sorted(moved)]


def _assigned(
    here: Sequence[int], there: Sequence[int], apart: Callable[[int, int], float]
) -> Iterable[tuple[int, int]]:
    """Pairs, as many as there can be, with the least sum of what they are apart; at equality the first."""
    if len(here) > len(there):
        return [(m, n) for n, m in _assigned(there, here, lambda n, m: apart(m, n))]
    chosen = min(permutations(there, len(here)), key=lambda order: sum(map(apart, here, order)))
    return zip(here, chosen, strict=True)


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
    """Square of how far the centroid has moved, and of how far an end has by turning."""
    turned = 0.0
    if first.angle is not None and second.angle is not None:
        difference = (second.angle.value - first.angle.value + 90) % 180 - 90
        turned = radians(difference) * min(first.half_length, second.half_length)
    return (first.anterior.value - second.anterior.value) ** 2 + (first.up.value - second.up.value) ** 2 + turned**2


def _moved(before: int, after: int, old: Placement, new: Placement, category: str) -> Moved:
    positions = (("anterior", old.anterior, new.anterior), ("up", old.up, new.up))
    angles = (old.angle, new.angle) if old.angle is not None and new.angle is not None else None
    return Moved(before, after, () if category == "rod" else positions, angles)
