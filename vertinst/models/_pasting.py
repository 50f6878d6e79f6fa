"""Masks that were predicted inside their boxes, put onto the film as Detectron2 puts them, without making pixels.

A mask is linear down each column of the film between two rows of its own cells, so it crosses the threshold there at
most once: each column is computed at those rows alone, and the film's rows where its runs begin and end follow. Where
rounding could decide about a pixel, all of its column is sampled by the function that Detectron2 samples with.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from vertinst.structures.rle import Rle, empty, from_edges

__all__ = ["paste_roi_masks"]

MASK_THRESHOLD = 0.5
# Rounding changes a number by at most this share of it. Added up over the operations, sampling moves a place down a
# mask by at most 6 of it for each cell along the axis (and two more); across, only the last steps differ from those
# here, and 3 are left; both bilinear sums change probabilities by less than 12. From cell to cell they differ by 1.
UNIT = 2.0**-24
# What is held at once: 4096 columns are half a MiB of a mask's cells, 2^20 samples 12 MiB.
COLUMNS_AT_ONCE = 4096
SAMPLES_AT_ONCE = 1 << 20

Grid: TypeAlias = npt.NDArray[np.float32]
Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]


class _Axis(NamedTuple):
    """One axis of N boxes on the film."""

    low: Grid
    """Where they begin, (N,) px."""
    side: Grid
    """Their sides, (N,) px."""
    start: Integers
    """The film's first pixel that is looked at, (N,)."""
    stop: Integers
    """The pixel after the last, (N,)."""
    cells: int
    """Cells of a mask along this axis."""

    @classmethod
    def of(cls, low: Grid, high: Grid, film: int, cells: int) -> _Axis:
        """Boxes from `low` to `high` on `film` pixels; those that are not finite or have no side see none of them."""
        with np.errstate(over="ignore", invalid="ignore"):
            side = high - low
        usable = np.isfinite(side) & (side > 0)
        # A pixel more at both ends than those that the box touches, as in Detectron2.
        start, stop = (
            np.where(usable, bound, 0).clip(0, film).astype(np.int64)
            for bound in (np.floor(low) - 1, np.ceil(high) + 1)
        )
        return cls(low, side, start, stop, cells)

    def coordinates(self, pixels: Integers, box: Integers) -> Grid:
        """Where centres of pixels lie in boxes, -1..1, with Detectron2's operations in their order."""
        centres = pixels.astype(np.float32) + np.float32(0.5)
        with np.errstate(over="ignore"):
            return (centres - self.low[box]) / self.side[box] * np.float32(2) - np.float32(1)

    def places(self, pixels: Integers, box: Integers) -> Grid:
        """The same counted in cells, centres of cells being whole; what lies outside at the first cell outside."""
        places = (self.coordinates(pixels, box) + np.float32(1)) * np.float32(self.cells / 2) - np.float32(0.5)
        return places.clip(-1, self.cells)

    def pixels(self, places: Floats, box: Integers) -> Floats:
        """The inverse of `places`."""
        return self.low[box] + (places + 0.5) * self.per_cell(box) - 0.5

    def per_cell(self, box: Integers) -> Floats:
        """Pixels of the film for each cell."""
        return self.side[box].astype(np.float64) / self.cells


class _Columns(NamedTuple):
    """Columns of boxes, box after box."""

    box: Integers
    """The box of each, (C,)."""
    pixel: Integers
    """The column of the film, (C,)."""
    edge: Integers
    """Where the film's column begins in the order of an RLE, each box having a film of its own, (C,)."""


def paste_roi_masks(masks: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> list[Rle]:
    """Masks on the film; a pixel belongs to one where its probability is at least a half.

    The pixels are those of Detectron2's `paste_masks_in_image` on a processor, every one: its bilinear samples with
    nothing outside of the mask. Work and memory grow with the width of the boxes on the film.

    Args:
        masks: (N, m, m) or (N, 1, m, m) float 0..1. On a GPU they are copied to the processor once.
        boxes: (N, 4) xyxy px of the film, over which they may reach.
        image_size: (H, W) of the film.

    Returns:
        N masks of the film's size, empty for boxes beside the film, and for those that have no area or are not finite.
    """
    height, width = image_size
    values = masks.detach().float().cpu().reshape(-1, *masks.shape[-2:])
    corners = boxes.detach().float().cpu().numpy().reshape(-1, 4)
    down = _Axis.of(corners[:, 1], corners[:, 3], height, values.shape[1])
    across = _Axis.of(corners[:, 0], corners[:, 2], width, values.shape[2])
    seen = np.flatnonzero((across.stop > across.start) & (down.stop > down.start))
    # One more than the film has pixels: no mask ends where the next begins.
    period = height * width + 1
    pasted = [empty(image_size)] * len(values)
    for part in _parts(seen, across):
        edges = _edges(values, _columns(part, across, height, period), across, down)
        ends = edges.searchsorted((part + 1) * period).tolist()
        for box, start, end in zip(part.tolist(), [0, *ends], ends, strict=False):
            pasted[box] = from_edges(edges[start:end] - box * period, image_size)
    return pasted


def _parts(boxes: Integers, across: _Axis) -> Iterator[Integers]:
    """Boxes in pieces of about as many columns as are held at once."""
    ends = np.cumsum(across.stop[boxes] - across.start[boxes])
    piece = ends // COLUMNS_AT_ONCE
    return iter(np.split(boxes, np.flatnonzero(np.diff(piece)) + 1)) if len(boxes) else iter(())


def _columns(boxes: Integers, across: _Axis, height: int, period: int) -> _Columns:
    widths = across.stop[boxes] - across.start[boxes]
    box = np.repeat(boxes, widths)
    before = np.repeat(np.cumsum(widths) - widths, widths)
    pixel = np.arange(len(box)) - before + across.start[box]
    return _Columns(box, pixel, pixel * height + box * period)


def _edges(masks: Tensor, columns: _Columns, across: _Axis, down: _Axis) -> Integers:
    """Where runs begin and end, by turns and never falling, each box having a film of its own."""
    enlarged = _enlarge(masks.numpy(), columns, across)
    column, place, steepness = _crossings(enlarged)
    box = columns.box[column]
    row = down.pixels(place, box)
    place_error = 6 * UNIT * (down.cells + 2)
    value_error = 3 * UNIT * (across.cells + 2) + 12 * UNIT
    reach = (np.minimum(value_error / steepness, 1) + place_error) * down.per_cell(box)
    doubtful = np.zeros(len(enlarged), dtype=np.bool_)
    # Of what is no number none is certain.
    doubtful[np.flatnonzero(~(np.abs(enlarged) > value_error + place_error)) // enlarged.shape[1]] = True
    doubtful[column[~(np.ceil(row - reach) > row + reach)]] = True
    certain = ~doubtful[column]
    row, box, column = row[certain], box[certain], column[certain]
    edges: Integers = columns.edge[column] + np.ceil(row).clip(down.start[box], down.stop[box]).astype(np.int64)
    if doubtful.any():
        samples = _sample(masks, _Columns(*(part[doubtful] for part in columns)), across, down)
        sampled = np.concatenate(list(samples))
        edges = np.insert(edges, edges.searchsorted(sampled), sampled)
    return edges


def _enlarge(masks: Grid, columns: _Columns, across: _Axis) -> Grid:
    """Masks less the threshold at the film's columns and the cells' rows, (C, m + 2): a row outside at both ends."""
    padded = np.full((len(masks), across.cells + 2, masks.shape[1] + 2), -MASK_THRESHOLD, dtype=np.float32)
    padded[:, 1:-1, 1:-1] = masks.transpose(0, 2, 1) - np.float32(MASK_THRESHOLD)
    flat = padded.reshape(-1, padded.shape[2])
    places = across.places(columns.pixel, columns.box)
    left = np.minimum(np.floor(places), across.cells - 1)
    index = left.astype(np.int64) + (columns.box * (across.cells + 2) + 1)
    enlarged: Grid = flat.take(index, axis=0)
    step = flat.take(index + 1, axis=0)
    step -= enlarged
    step *= (places - left)[:, None]
    enlarged += step
    return enlarged


def _crossings(enlarged: Grid) -> tuple[Integers, Floats, Floats]:
    """Where columns that are outside at both ends cross zero: column, place among the mask's rows, and steepness."""
    flat = enlarged.ravel()
    inside = flat > 0
    above = np.flatnonzero(inside[1:] != inside[:-1])
    column = above // enlarged.shape[1]
    row = above - column * enlarged.shape[1]
    upper, lower = flat[above].astype(np.float64), flat[above + 1].astype(np.float64)
    return column, row - 1 + upper / (upper - lower), np.abs(upper - lower)


def _sample(masks: Tensor, columns: _Columns, across: _Axis, down: _Axis) -> Iterator[Integers]:
    """Edges of columns by their pixels, each sampled as Detectron2 samples it."""
    start = down.start[columns.box]
    heights = down.stop[columns.box] - start
    longest = int(heights.max())
    step = max(SAMPLES_AT_ONCE // longest, 1)
    for block in (slice(first, first + step) for first in range(0, len(heights), step)):
        box = columns.box[block]
        rows = np.arange(longest) + start[block, None]
        grid = np.empty((len(box), 1, longest, 2), dtype=np.float32)
        grid[..., 0] = across.coordinates(columns.pixel[block], box)[:, None, None]
        grid[:, 0, :, 1] = down.coordinates(rows, box[:, None])
        values = F.grid_sample(masks[torch.from_numpy(box), None], torch.from_numpy(grid), align_corners=False)
        inside = np.zeros((len(box), longest + 2), dtype=np.bool_)
        inside[:, 1:-1] = values[:, 0, 0].numpy() >= MASK_THRESHOLD
        inside[:, 1:-1] &= rows < down.stop[box, None]
        column, row = np.nonzero(inside[:, 1:] != inside[:, :-1])
        yield columns.edge[block][column] + start[block][column] + row
