"""The labelled overlay: the film in grey, every instance in colour, and its level written on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from vertinst.errors import DataError
from vertinst.report import lettering
from vertinst.report.lettering import Block, Box, overlap_area
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
_FLAG_LINES = 6
_SHIFT = 4
"""Bits below the pixel in cv2's drawing functions: outlines lie a fraction of a pixel apart."""


def draw(pixels: npt.NDArray[np.float32], spine: Spine, *, truth: Instances | None = None) -> Image:
    """Draw what was found over the film. Pixels far from any mask, outline and text stay the film's grey.

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
    taken = _write_flags(image, spine, max(9, round(9 * unit)))
    for vertebra in spine.vertebrae:
        taken.append(_write_level(image, vertebra.level, vertebra.mask, taken, max(11, round(17 * unit))))
    return image


def _fill(image: Image, mask: Rle, colour: Colour, opacity: float, unit: float) -> None:
    left, top, right, bottom = (int(v) for v in rle.box_xyxy(mask))
    if right <= left:
        return
    inside = rle.decode(mask)[top:bottom, left:right]
    patch = image[top:bottom, left:right]
    mixed = patch[inside] * (1 - opacity) + np.array(colour, dtype=np.float64) * opacity
    patch[inside] = np.rint(mixed).astype(np.uint8)
    outlines = [_fixed_point(ring) for ring in _rings(mask)]
    cv2.polylines(image, outlines, True, colour, max(1, round(unit)), cv2.LINE_AA, _SHIFT)


def _rings(mask: Rle) -> Iterator[npt.NDArray[np.float64]]:
    for part in rle.rle_to_polygons(mask):
        yield part.exterior
        yield from part.holes


def _fixed_point(points: npt.NDArray[np.float64]) -> npt.NDArray[np.int32]:
    # Pixel centres are whole numbers for cv2 and halves for COCO.
    fixed: npt.NDArray[np.int32] = np.rint((points - 0.5) * 2**_SHIFT).astype(np.int32)
    return fixed.reshape(-1, 1, 2)


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
            cv2.polylines(image, [_fixed_point(points)], False, _WHITE, max(1, round(unit * 0.7)), cv2.LINE_AA, _SHIFT)


def _write_level(image: Image, level: str, mask: Rle, taken: Sequence[Box], font_px: int) -> Box:
    """Write a level on its vertebra, or beside it where it would cover the bone or another text."""
    block = lettering.fit([level], font_px, _size(image))
    left, top, right, bottom = (int(v) for v in rle.box_xyxy(mask))
    x, y = _centre(mask) if right > left else (image.shape[1] / 2, image.shape[0] / 2)
    on_bone = round(x - block.width / 2)
    columns = [on_bone, right + font_px // 4, left - font_px // 4 - block.width]
    if block.width > 0.9 * (right - left) or block.height > 0.9 * (bottom - top):
        columns = [*columns[1:], on_bone]
    row = round(y - block.height / 2)
    inside = [c for c in columns if 0 <= c <= image.shape[1] - block.width] or columns
    covered = [sum(overlap_area((c, row, c + block.width, row + block.height), box) for box in taken) for c in inside]
    return lettering.write(image, block, inside[covered.index(min(covered))], row)


def _centre(mask: Rle) -> tuple[float, float]:
    left, top, right, bottom = (int(v) for v in rle.box_xyxy(mask))
    rows, columns = np.nonzero(rle.decode(mask)[top:bottom, left:right])
    return left + float(columns.mean()), top + float(rows.mean())


def _write_flags(image: Image, spine: Spine, font_px: int) -> list[Box]:
    """Write the flags into the corner where they cover least; returns the places taken, none without flags."""
    lines = [*spine.flags, *(f"{v.level}: {', '.join(v.flags)}" for v in spine.vertebrae if v.flags)]
    if not lines:
        return []
    if len(lines) > _FLAG_LINES:
        lines = [*lines[: _FLAG_LINES - 1], f"and {len(lines) - _FLAG_LINES + 1} more"]
    block = lettering.fit([line.replace("_", " ") for line in lines], font_px, _size(image))
    height, width = _size(image)
    masks = [v.mask for v in spine.vertebrae] + [i.mask for i in spine.implants]
    found = [tuple(int(v) for v in rle.box_xyxy(mask)) for mask in masks]
    # Letters flush with the film's edge look cut off.
    gap = block.font_px // 2
    corners = [(x, y) for x in (gap, width - block.width - gap) for y in (gap, height - block.height - gap)]
    return [lettering.write(image, block, *min(corners, key=lambda corner: _cost(image, block, corner, found)))]


def _cost(image: Image, block: Block, corner: tuple[int, int], found: Sequence[tuple[int, ...]]) -> tuple[int, float]:
    """What a text in this corner would hide: first of the spine, then of the film; a side marker stands out."""
    x, y = max(0, corner[0]), max(0, corner[1])
    place = (x, y, x + block.width, y + block.height)
    covered = sum(overlap_area(place, (a, b, c, d)) for a, b, c, d in found)
    below = image[y : y + block.height, x : x + block.width]
    # On films of a few pixels the corner lies outside.
    return covered, float(below.std()) if below.size else 0.0


def _size(image: Image) -> tuple[int, int]:
    return image.shape[0], image.shape[1]
