"""Corners, endplates and the film's main angle on an overlay."""

from __future__ import annotations

import re
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from vertinst.structures.dataset import BONE
from vertinst.structures.measures import Body, Measure
from vertinst.structures.spine import Spine, Vertebra

__all__ = ["SHIFT", "Angle", "Segment", "draw_angle", "draw_landmarks", "fixed_point", "main_angle"]

Image: TypeAlias = npt.NDArray[np.uint8]
Segment: TypeAlias = npt.NDArray[np.float64]
"""(2, 2) float64 xy px: from, to."""

_WHITE = (255, 255, 255)
_DARK = (10, 10, 10)
SHIFT = 4
"""Bits below the pixel in cv2's drawing functions: outlines lie a fraction of a pixel apart."""
_ANGLE = re.compile(r"(?P<what>lordosis|cobb)_(?P<upper>[A-Z]\d+|\+\d+)_(?P<lower>[A-Z]\d+|\+\d+)_deg")
_LEAST_ENDPLATE = 16
"""Of shorter endplates, in thin lines, no landmarks are drawn: they would hide the bone."""
_USUAL = "lordosis_L1_S1_deg"
"""Drawn rather than any other lordosis."""
_REACH = 0.8
"""How far the lines of an angle go beyond the bone, in lengths of the endplate."""


class Angle(NamedTuple):
    """An angle to be drawn.

    Attributes:
        text: Its levels, and its value: two lines.
        lines: Of each of its two endplates, upper first, what lies beyond the bone.
    """

    text: tuple[str, str]
    lines: tuple[Segment, Segment]


def draw_landmarks(image: Image, spine: Spine, unit: float) -> None:
    """Draw the corners and endplates of every body, of a sacrum the upper endplate only; in place.

    Args:
        image: (H, W, 3) uint8 RGB.
        spine: Bodies without landmarks are left out.
        unit: px of a thin line.
    """
    for vertebra in spine.vertebrae:
        if vertebra.body is None or not _is_large_enough(vertebra.body, unit):
            continue
        corners = vertebra.body.corners_px[: 2 if _is_sacral(vertebra) else 4]
        for start in range(0, len(corners), 2):
            _line(image, corners[start : start + 2], 0.5 * unit)
        for corner in corners:
            _dot(image, corner, unit)


def draw_angle(image: Image, angle: Angle, unit: float) -> None:
    """Draw the two lines of an angle, in place."""
    for segment in angle.lines:
        _line(image, segment, 0.8 * unit)


def main_angle(spine: Spine, unit: float) -> Angle | None:
    """The film's angle: lordosis, or on ap films the largest Cobb angle.

    Its lines leave the bone at the front (on ap films at the film's right), or at the back where there is more of the
    film.

    Args:
        spine: What was found.
        unit: px of a thin line.

    Returns:
        None if it was not measured, or its vertebrae have no landmarks or too small ones.
    """
    found = _named_angle(spine)
    if found is None:
        return None
    what, upper, lower, measure = found
    bodies = {v.level: v for v in spine.vertebrae if v.body is not None and _is_large_enough(v.body, unit)}
    if upper not in bodies or lower not in bodies:
        return None
    first = _endplate(bodies[upper], superior=True)
    second = _endplate(bodies[lower], superior=what == "lordosis" or _is_sacral(bodies[lower]))
    sides = [tuple(_beyond(plate[::step]) for plate in (first, second)) for step in (-1, 1)]
    lines = min(sides, key=lambda pair: sum(_outside(line[1], spine.image_size) for line in pair))
    spread = f" ± {measure.sd:.0f}°" if measure.sd is not None and measure.sd >= 0.5 else ""
    name = "Cobb " if what == "cobb" else ""
    return Angle((f"{name}{upper}-{lower}", f"{measure.value:.0f}°{spread}"), (lines[0], lines[1]))


def _named_angle(spine: Spine) -> tuple[str, str, str, Measure] | None:
    """What it is, its two levels and its value."""
    wanted = "cobb" if spine.view == "ap" else "lordosis"
    largest = spine.values.get("cobb_max_deg")
    for name in sorted(spine.values, key=lambda name: name != _USUAL):
        measure = spine.values[name]
        match = _ANGLE.fullmatch(name)
        if match is None or match["what"] != wanted:
            continue
        if wanted == "lordosis" or (largest is not None and measure.value == largest.value):
            return wanted, match["upper"], match["lower"], measure
    return None


def _is_large_enough(body: Body, unit: float) -> bool:
    """Whether landmarks leave something of the bone to be seen."""
    first, second = body.corners_px[:2]
    return bool(np.hypot(*(second - first)) >= _LEAST_ENDPLATE * unit)


def _is_sacral(vertebra: Vertebra) -> bool:
    return vertebra.category == BONE[1] or vertebra.level.startswith("S")


def _endplate(vertebra: Vertebra, *, superior: bool) -> Segment:
    """From front to back."""
    assert vertebra.body is not None
    corners = vertebra.body.corners_px
    return corners[:2] if superior else corners[[3, 2]]


def _beyond(towards: Segment) -> Segment:
    """The line on from the end of an endplate."""
    step = (towards[1] - towards[0]) * _REACH
    result: Segment = np.stack([towards[1], towards[1] + step])
    return result


def _outside(point: npt.NDArray[np.float64], image_size: tuple[int, int]) -> float:
    """How far a point lies off the film, px; 0 on it."""
    limit = np.array(image_size[::-1], dtype=np.float64)
    return float(np.maximum(0, np.maximum(-point, point - limit)).sum())


def _line(image: Image, segment: Segment, width_px: float) -> None:
    points = fixed_point(segment)
    width = max(1, round(width_px))
    if width > 1:
        # On metal and on bright bone a white line alone is lost.
        cv2.polylines(image, [points], False, _DARK, width + 2 * max(1, width // 2), cv2.LINE_AA, SHIFT)
    cv2.polylines(image, [points], False, _WHITE, width, cv2.LINE_AA, SHIFT)


def _dot(image: Image, point: npt.NDArray[np.float64], unit: float) -> None:
    (x, y) = fixed_point(point)[0, 0].tolist()
    radius = max(1.0, 1.3 * unit)
    cv2.circle(image, (x, y), round((radius + 0.5 * unit) * 2**SHIFT), _DARK, -1, cv2.LINE_AA, SHIFT)
    cv2.circle(image, (x, y), round(radius * 2**SHIFT), _WHITE, -1, cv2.LINE_AA, SHIFT)


def fixed_point(points: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    """Points (N, 2) xy px as cv2 draws them with `SHIFT`: (N, 1, 2)."""
    # Pixel centres are whole numbers for cv2 and halves for COCO. What a stranger's file places far away must not
    # overflow.
    fixed: npt.NDArray[np.int32] = np.rint(np.clip(points - 0.5, -30_000, 60_000) * 2**SHIFT).astype(np.int32)
    return fixed.reshape(-1, 1, 2)
