"""Everything written on an overlay: levels, the angle, flags and the construct, none over another."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vertinst.postprocess.construct import spanned
from vertinst.report import lettering
from vertinst.report.lettering import Block, Box, overlap_area
from vertinst.report.overlay_landmarks import Angle
from vertinst.structures import Spine, rle
from vertinst.structures.rle import Rle

__all__ = ["write_angle", "write_levels", "write_notes"]

Image: TypeAlias = npt.NDArray[np.uint8]
Place: TypeAlias = tuple[int, int]
"""Left and top px."""

_NOTE_LINES = 8
_LINE_LETTERS = (30, 25, 20, 15, 10)
_HIGHEST = 0.45
"""Share of the film's height that notes may take."""
_LEAST_UNIT = 0.65
"""Levels on films below 500 px become smaller with them, down to letters of 11 px."""


def write_notes(image: Image, spine: Spine, angle: Angle | None, unit: float) -> list[Box]:
    """Write the flags and the construct into the corner where they cover least; in place.

    Args:
        image: (H, W, 3) uint8 RGB.
        spine: What was found.
        angle: From `main_angle`; its lines are not covered either.
        unit: px of a thin line.

    Returns:
        The places taken: none where there is nothing to say.
    """
    notes = _notes(spine)
    if not notes:
        return []
    found = _boxes([v.mask for v in spine.vertebrae] + [i.mask for i in spine.implants])
    for start, end in angle.lines if angle is not None else ():
        (left, top), (right, bottom) = np.minimum(start, end), np.maximum(start, end) + 1
        found.append((int(left), int(top), int(right) + 1, int(bottom) + 1))
    block, corner = _notes_place(image, notes, found, max(9, round(9 * unit)))
    return [lettering.write(image, block, *corner)]


def _notes(spine: Spine) -> list[str]:
    """What holds for the film first: where there is little room, it is that which must be read."""
    parts = [(v.level, v.flags) for v in spine.vertebrae]
    parts += [(f"{i.category} {spanned(i)}".strip(), i.flags) for i in spine.implants]
    notes = [*spine.flags, spine.construct, *(f"{name}: {', '.join(flags)}" for name, flags in parts if flags)]
    return [note.replace("_", " ") for note in notes if note]


def _notes_place(image: Image, notes: Sequence[str], found: Sequence[Box], font_px: int) -> tuple[Block, Place]:
    """As many notes as a corner holds beside the spine, in lines as long as they may be; the rest is counted there."""
    size = _size(image)
    tried: list[tuple[tuple[int, float], Block, Place]] = []
    for told in range(min(len(notes), _NOTE_LINES), -1, -1):
        for letters in _LINE_LETTERS:
            lines = _lines(notes, told, letters)
            if len(lines) > _NOTE_LINES:
                break
            block = lettering.fit(lines, font_px, size)
            cost, corner = min((_cost(image, block, corner, found), corner) for corner in _corners(block, size))
            if cost[0] == 0 and block.font_px == font_px and block.height <= _HIGHEST * size[0]:
                return block, corner
            tried.append((cost, block, corner))
    # Nowhere beside the spine: then the least of it is covered.
    _, block, corner = min(tried, key=lambda one: one[0])
    return block, corner


def _corners(block: Block, size: tuple[int, int]) -> list[Place]:
    # Letters flush with the film's edge look cut off.
    gap = block.font_px // 2
    columns, rows = (gap, size[1] - block.width - gap), (gap, size[0] - block.height - gap)
    return [(x, y) for x in columns for y in rows]


def _lines(notes: Sequence[str], told: int, letters: int) -> list[str]:
    """The first `told` notes in lines of so many letters, words kept whole, and how many more there are."""
    wrapped = [textwrap.wrap(note, letters, subsequent_indent=" ", break_long_words=False) for note in notes[:told]]
    rest = len(notes) - told
    more = f"and {rest} more" if told else f"{rest} note{'s' if rest > 1 else ''}"
    return [line for lines in wrapped for line in lines] + ([more] if rest else [])


def write_levels(image: Image, spine: Spine, taken: Sequence[Box], unit: float) -> list[Box]:
    """Write every level on its vertebra, or beside it where it would cover the bone or another text; in place.

    Args:
        image: (H, W, 3) uint8 RGB.
        spine: What was found.
        taken: Where text stands already.
        unit: px of a thin line.

    Returns:
        `taken` and the places of the levels.
    """
    font_px = round(17 * max(_LEAST_UNIT, min(unit, max(_size(image)) / 500)))
    places = list(taken)
    for vertebra in spine.vertebrae:
        block = lettering.fit([vertebra.level], font_px, _size(image))
        choices = _around(vertebra.mask, block, _size(image))
        places.append(lettering.write(image, block, *_best(choices, block, _size(image), places)))
    return places


def _around(mask: Rle, block: Block, size: tuple[int, int]) -> list[Place]:
    """Where a level may stand, best first: on bone that it does not hide, to the right, to the left."""
    left, top, right, bottom = (int(v) for v in rle.box_xyxy(mask))
    x, y = _centre(mask) if right > left else (size[1] / 2, size[0] / 2)
    gap = block.font_px // 4
    on_bone = round(x - block.width / 2)
    columns = [on_bone, right + gap, left - gap - block.width]
    if block.width > 0.9 * (right - left) or block.height > 0.9 * (bottom - top):
        columns = [*columns[1:], on_bone]
    row = round(y - block.height / 2)
    beside = (right + gap, left - gap - block.width)
    shifts = (-block.height // 2, block.height // 2, -block.height, block.height)
    return [(column, row) for column in columns] + [(column, row + shift) for shift in shifts for column in beside]


def write_angle(image: Image, angle: Angle, spine: Spine, taken: Sequence[Box], unit: float) -> Box:
    """Write the value of an angle at the end of one of its lines, off the bone and off other text; in place.

    Args:
        image: (H, W, 3) uint8 RGB.
        angle: From `main_angle`.
        spine: What was found.
        taken: Where text stands already.
        unit: px of a thin line.

    Returns:
        Where it stands.
    """
    block = lettering.fit(angle.text, max(9, round(11 * unit)), _size(image))
    choices: list[Place] = []
    gap = block.font_px // 3
    for start, end in angle.lines:
        outwards = end[0] >= start[0]
        left = end[0] + gap if outwards else end[0] - gap - block.width
        inner = end[0] - block.width if outwards else end[0]
        above, below = end[1] - gap - block.height, end[1] + gap
        choices += [
            (round(x), round(y))
            for x, y in ((left, end[1] - block.height / 2), (inner, above), (inner, below), (left, above))
        ]
    choices += _corners(block, _size(image))
    bone = _boxes([v.mask for v in spine.vertebrae])
    return lettering.write(image, block, *_best(choices, block, _size(image), taken, bone, block.height))


def _best(
    choices: Sequence[Place],
    block: Block,
    size: tuple[int, int],
    taken: Sequence[Box],
    avoid: Sequence[Box] = (),
    slack_px: int = 1,
) -> Place:
    """The place that covers least of other text, then of what is to be avoided, then lies best on the film.

    It must be moved to lie on the film by less than `slack_px` to be as good as one that lies there.
    """

    def cost(place: Place) -> tuple[int, int, int]:
        left = max(0, min(place[0], size[1] - block.width))
        top = max(0, min(place[1], size[0] - block.height))
        box = (left, top, left + block.width, top + block.height)
        moved = abs(left - place[0]) + abs(top - place[1])
        return sum(overlap_area(box, b) for b in taken), sum(overlap_area(box, b) for b in avoid), moved // slack_px

    return min(choices, key=cost)


def _cost(image: Image, block: Block, corner: Place, found: Sequence[Box]) -> tuple[int, float]:
    """What a text in this corner would hide: first of the spine, then of the film; a side marker stands out."""
    x, y = max(0, corner[0]), max(0, corner[1])
    place = (x, y, x + block.width, y + block.height)
    covered = sum(overlap_area(place, box) for box in found)
    below = image[y : y + block.height, x : x + block.width]
    # On films of a few pixels the corner lies outside.
    return covered, float(below.std()) if below.size else 0.0


def _centre(mask: Rle) -> tuple[float, float]:
    inside, left, top = rle.decode_crop(mask)
    rows, columns = np.nonzero(inside)
    return left + float(columns.mean()), top + float(rows.mean())


def _boxes(masks: Sequence[Rle]) -> list[Box]:
    boxes = (rle.box_xyxy(mask) for mask in masks)
    return [(int(left), int(top), int(right), int(bottom)) for left, top, right, bottom in boxes]


def _size(image: Image) -> tuple[int, int]:
    return image.shape[0], image.shape[1]
