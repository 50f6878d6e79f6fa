"""The labelled overlay: the film in grey, every instance in colour, and its level written on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from vertinst.errors import DataError
from vertinst.report.overlay_landmarks import SHIFT, draw_angle, draw_landmarks, fixed_point, main_angle
from vertinst.report.overlay_text import write_angle, write_levels, write_notes
from vertinst.structures import Instances, Spine, rle
from vertinst.structures.rle import Rle

__all__ = ["IMPLANT_COLOURS", "VERTEBRA_COLOURS", "draw"]

Colour: TypeAlias = tuple[int, int, int]
Image: TypeAlias = npt.NDArray[np.uint8]

# Source: Okabe and Ito, "Color Universal Design" (2008), a palette told apart by all common forms of colour blindness.
VERTEBRA_COLOURS: tuple[Colour, ...] = ((86, 180, 233), (240, 228, 66), (0, 158, 115))
"""RGB by turns from the sacrum up, so that neighbours differ."""
IMPLANT_COLOURS: dict[str, Colour] = {"screw": (213, 94, 0), "cage": (204, 121, 167), "rod": (230, 159, 0)}
"""RGB of the known metal parts; others share the last."""
_OTHER_IMPLANT: Colour = (230, 159, 0)
_WHITE: Colour = (255, 255, 255)


def draw(pixels: npt.NDArray[np.float32], spine: Spine, *, truth: Instances | None = None) -> Image:
    """Draw what was found over the film. Pixels far from any mask, line and text stay the film's grey.

    Vertebrae have their levels, endplates and corners; the film its main angle, its flags and the implants in one
    line. Lines and letters grow with the film.

    Args:
        pixels: (H, W) float in 0..1, as `read_film` gives it.
        spine: What was found on it; candidates are not drawn. Nothing found gives the grey film and its flags.
        truth: What was annotated, as dashed white outlines, or None.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        DataError: Film, spine and truth differ in size.
    """
    for what, size in (("spine", spine.image_size), ("truth", spine.image_size if truth is None else truth.image_size)):
        if tuple(pixels.shape) != tuple(size):
            raise DataError(
                f"{what} must have the film's size {tuple(pixels.shape)}, got {tuple(size)}",
                fix="Check that both belong to this film.",
            )
    grey = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    image = np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))
    unit = max(1.0, max(pixels.shape) / 500)
    for number, vertebra in enumerate(spine.vertebrae):
        _fill(image, vertebra.mask, VERTEBRA_COLOURS[number % len(VERTEBRA_COLOURS)], 0.28, unit)
    for implant in reversed(spine.implants):
        _fill(image, implant.mask, IMPLANT_COLOURS.get(implant.category, _OTHER_IMPLANT), 0.4, unit)
    for mask in () if truth is None else truth.masks:
        _dashes(image, mask, unit)
    angle = main_angle(spine, unit)
    if angle is not None:
        draw_angle(image, angle, unit)
    draw_landmarks(image, spine, unit)
    # Last, so that no line crosses a letter.
    taken = write_levels(image, spine, write_notes(image, spine, angle, unit), unit)
    if angle is not None:
        write_angle(image, angle, spine, taken, unit)
    return image


def _fill(image: Image, mask: Rle, colour: Colour, opacity: float, unit: float) -> None:
    inside, left, top = rle.decode_crop(mask)
    if not inside.size:
        return
    patch = image[top : top + inside.shape[0], left : left + inside.shape[1]]
    mixed = np.arange(256)[:, None] * (1 - opacity) + np.array(colour, dtype=np.float64) * opacity
    np.copyto(patch, cv2.LUT(patch, np.rint(mixed).astype(np.uint8)[None]), where=inside[:, :, None])
    outlines = [fixed_point(ring) for ring in _rings(mask)]
    cv2.polylines(image, outlines, True, colour, max(1, round(unit)), cv2.LINE_AA, SHIFT)


def _rings(mask: Rle) -> Iterator[npt.NDArray[np.float64]]:
    for part in rle.rle_to_polygons(mask):
        yield part.exterior
        yield from part.holes


def _dashes(image: Image, mask: Rle, unit: float) -> None:
    for ring in _rings(mask):
        closed = np.vstack([ring, ring[:1]])
        lengths = np.hypot(*np.diff(closed, axis=0).T)
        along = np.concatenate([[0.0], np.cumsum(lengths)])
        # An even number of pieces, so that the pattern closes.
        pieces = max(2, round(along[-1] / (4 * unit)) // 2 * 2)
        ends = np.linspace(0, along[-1], pieces + 1)
        for start, stop in zip(ends[:-1:2], ends[1::2], strict=True):
            steps = np.unique(np.concatenate([[start, stop], along[(along > start) & (along < stop)]]))
            points = np.stack([np.interp(steps, along, closed[:, axis]) for axis in (0, 1)], axis=1)
            cv2.polylines(image, [fixed_point(points)], False, _WHITE, max(1, round(unit * 0.7)), cv2.LINE_AA, SHIFT)
