"""RoIAlign (He et al. 2017, arXiv 1703.06870): features of boxes, on a grid of the same size for each box.

On a GPU torchvision's kernel does it. On a processor that uses one thread and reads four cells for each sampling
point; here the points of a bin are merged first. Their mean is a sum over the cells below them whose weights are those
of a row times those of a column, so that a bin becomes a bag of an `embedding_bag`: each cell once, channels side by
side, all threads, forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import ops

__all__ = ["pool_pyramid", "roi_align"]

# A box of this side (square root of its area, px) belongs to the level of this stride (arXiv 1612.03144, equation 1).
CANONICAL_SIDE_PX = 224
CANONICAL_LEVEL = 4
FINEST_LEVEL = 2


def roi_align(
    features: Tensor, rois: Tensor, output_size: int, scale: float, *, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Mean of bilinear samples in each bin of each box, as `torchvision.ops.roi_align` computes it.

    Points outside by more than a cell count as 0, those nearer take the border's values. Boxes may lie outside, or have
    no area: where a bin has no point, it is 0.

    Args:
        features: (B, C, H, W). Fastest in the memory layout channels-last.
        rois: (R, 5): number of the film in the batch, then the box, xyxy px of that film. R = 0 is fine.
        output_size: Bins P along each side.
        scale: Cells of the features per px.
        sampling_ratio: Points along each side of a bin; 0 for as many as it has cells, rounded up.
        aligned: Pixel centres are at .5, as they should be. False is the older behaviour: half a cell off, and no box
            narrower than a cell.

    Returns:
        (R, C, P, P) of the features' type, on a processor in the memory layout channels-last. Sums are in float32, or
        in float64 where the features are.
    """
    if features.device.type != "cpu":
        return _kernel(features, rois, output_size, scale, sampling_ratio, aligned)
    film, boxes = rois[:, 0].long(), rois[:, 1:]
    (table, places), rows = _table([features]), torch.zeros_like(film)
    return _pool(table, places.of(rows, film), boxes * scale, output_size, sampling_ratio, aligned).to(features.dtype)


def pool_pyramid(
    levels: Sequence[Tensor], boxes: Sequence[Tensor], output_size: int, *, sampling_ratio: int, aligned: bool
) -> Tensor:
    """`roi_align` of each box on the level of a feature pyramid that suits its area.

    The level is floor(4 + log2(sqrt(area) / 224 + 1e-8)), as Detectron2 has it, of those there are. torchvision adds
    1e-6 to the logarithm instead: boxes whose side is below 112, 224 or 448 px by less than 1e-6 of it go up a level.

    Args:
        levels: (B, C, h, w) each: P2, P3 and so on, of strides 4, 8 and so on.
        boxes: For each film (n, 4) xyxy px of the batch.
        output_size: See `roi_align`.
        sampling_ratio: See `roi_align`.
        aligned: See `roi_align`.

    Returns:
        (sum of n, C, P, P), film by film. See `roi_align`.
    """
    every = torch.cat(list(boxes))
    film = torch.cat([torch.full((len(part),), i, device=part.device) for i, part in enumerate(boxes)])
    level = _level(every, len(levels))
    scale = 0.5 ** (level + FINEST_LEVEL)
    if every.device.type == "cpu":
        # Levels without a box are left out: to lay out the finest one takes longer than to pool a dozen masks.
        used, level = torch.unique(level, return_inverse=True)
        table, places = _table([levels[i] for i in used.tolist()] or levels[:1])
        cells = every * scale[:, None]
        return _pool(table, places.of(level, film), cells, output_size, sampling_ratio, aligned).to(levels[0].dtype)
    rois = torch.cat((film[:, None].to(every), every), dim=1)
    return _pyramid_kernel(levels, rois, level, output_size, sampling_ratio, aligned)


def _pyramid_kernel(
    levels: Sequence[Tensor], rois: Tensor, level: Tensor, output_size: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Of boxes (R, 5) that belong to these of the levels (R,), from 0."""
    pooled = levels[0].new_zeros(len(rois), levels[0].shape[1], output_size, output_size)
    for number, features in enumerate(levels):
        chosen = torch.nonzero(level == number)[:, 0]
        part = _kernel(features, rois[chosen], output_size, 0.5 ** (number + FINEST_LEVEL), sampling_ratio, aligned)
        pooled = pooled.index_put((chosen,), part)
    return pooled


def _kernel(
    features: Tensor, rois: Tensor, output_size: int, scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    kind = _sum_type(features)
    pooled: Tensor = ops.roi_align(
        features.to(kind), rois.to(kind), output_size, scale, sampling_ratio or -1, aligned=aligned
    )
    return pooled.to(features.dtype)


def _sum_type(features: Tensor) -> torch.dtype:
    return features.dtype if features.dtype == torch.float64 else torch.float32


def _level(boxes: Tensor, levels: int) -> Tensor:
    sides_px = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp_min(0).sqrt()
    level = torch.floor(CANONICAL_LEVEL + torch.log2(sides_px / CANONICAL_SIDE_PX + 1e-8))
    return (level.long() - FINEST_LEVEL).clamp(0, levels - 1)


class _Places(NamedTuple):
    """Where features are in a table: for each level, or for each box."""

    first: Tensor
    """Row of the first cell."""
    height: Tensor
    width: Tensor

    def of(self, level: Tensor, film: Tensor) -> _Places:
        """For boxes on these levels of these films."""
        first, height, width = (part.index_select(0, level) for part in self)
        return _Places(first + film * height * width, height, width)


def _table(levels: Sequence[Tensor]) -> tuple[Tensor, _Places]:
    """Cells of all levels one below the other, (cells, C), and where each level is."""
    table = torch.cat([features.permute(0, 2, 3, 1).flatten(0, 2) for features in levels])
    sizes = torch.tensor([(features.numel() // features.shape[1], *features.shape[2:]) for features in levels])
    cells, height, width = sizes.unbind(1)
    return table.to(_sum_type(table)), _Places(cells.cumsum(0) - cells, height, width)


def _pool(table: Tensor, places: _Places, boxes: Tensor, bins: int, sampling_ratio: int, aligned: bool) -> Tensor:
    """(R, C, P, P) of boxes that are given in cells."""
    boxes = boxes.detach().to(table.dtype) - (0.5 if aligned else 0.0)
    starts, sides = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    sides = sides if aligned else sides.clamp_min(1)
    points = (sides / bins).ceil().long().clamp_min(0)
    points = torch.full_like(points, sampling_ratio) if sampling_ratio else points
    columns = _runs(starts[:, 0], sides[:, 0], points[:, 0], places.width, bins)
    rows = _runs(starts[:, 1], sides[:, 1], points[:, 1], places.height, bins)
    cells, offsets, weights = _bags(rows, columns, places, bins)
    pooled = F.embedding_bag(cells, table, offsets, mode="sum", per_sample_weights=weights)
    return pooled.view(len(boxes), bins, bins, table.shape[1]).permute(0, 3, 1, 2)


class _Runs(NamedTuple):
    """Along one axis: the consecutive cells that the points of each bin touch, and what each of them counts."""

    first: Tensor
    """(R P) number of the first cell."""
    length: Tensor
    """(R P) how many cells, 0 where a bin has no point."""
    offset: Tensor
    """(R P) where its weights begin."""
    weights: Tensor
    """(sum of length)"""


def _runs(start: Tensor, side: Tensor, points: Tensor, cells: Tensor, bins: int) -> _Runs:
    """Args are (R,): begin and length in cells, points in each bin, and how many cells there are."""
    width = (side / bins).repeat_interleave(bins)
    begin = (start[:, None] + torch.arange(bins) * (side / bins)[:, None]).flatten()
    points, cells = points.repeat_interleave(bins), cells.repeat_interleave(bins)
    last = cells - 1

    def below(place: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        inside = torch.minimum(place.clamp_min(0), limit)
        whole = inside.floor()
        return whole.long(), inside - whole

    # In the kernel's order of operations, which decides what is rounded.
    ends = (begin + 0.5 * width / points, begin + (points - 0.5) * width / points)
    low, high = (below(end, last)[0] for end in ends)
    # A box whose sides are negative has its points the other way round.
    first = torch.minimum(low, high)
    length = torch.where(points > 0, torch.minimum(torch.maximum(low, high) + 1, last) - first + 1, 0)
    offset = _before(length)
    point = torch.repeat_interleave(points)
    number = torch.arange(len(point)) - _before(points).index_select(0, point)
    of_point = [values.index_select(0, point) for values in (begin, width, points, cells, last, offset - first)]
    begin, width, points, cells, last, shift = of_point
    place = begin + (number + 0.5) * width / points
    low, fraction = below(place, last)
    weight = ((place >= -1) & (place <= cells)).to(place.dtype) / points
    weights = start.new_zeros(int(length.sum()))
    weights.index_add_(0, shift + low, weight * (1 - fraction))
    weights.index_add_(0, shift + torch.minimum(low + 1, last), weight * fraction)
    return _Runs(first, length, offset, weights)


def _bags(rows: _Runs, columns: _Runs, places: _Places, bins: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each box and bin the rows of the table that count: `embedding_bag`'s indices, offsets and weights."""
    boxes = len(places.first)

    def by_row(values: Tensor) -> Tensor:
        return values.view(boxes, bins, 1).expand(-1, -1, bins).flatten()

    def by_column(values: Tensor) -> Tensor:
        return values.view(boxes, 1, bins).expand(-1, bins, -1).flatten()

    tall, wide = by_row(rows.length), by_column(columns.length)
    first, row_length = (part.repeat_interleave(bins * bins) for part in (places.first, places.width))
    first = first + by_row(rows.first) * row_length + by_column(columns.first)
    # A strip is what a bin has of one row of cells.
    bag = torch.repeat_interleave(tall)
    row = torch.arange(len(bag)) - _before(tall).index_select(0, bag)
    length = wide.index_select(0, bag)
    begin = _before(length)
    cell = first.index_select(0, bag) + row * row_length.index_select(0, bag) - begin
    weight = rows.weights.index_select(0, by_row(rows.offset).index_select(0, bag) + row)
    across = by_column(columns.offset).index_select(0, bag) - begin
    strip = torch.repeat_interleave(length)
    number = torch.arange(len(strip))
    weights = columns.weights.index_select(0, across.index_select(0, strip).add_(number))
    weights *= weight.index_select(0, strip)
    return cell.index_select(0, strip).add_(number), _before(tall * wide), weights


def _before(counts: Tensor) -> Tensor:
    """Sum of the counts before each."""
    return counts.cumsum(0) - counts
