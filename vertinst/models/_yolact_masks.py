"""From prototypes and coefficients to masks on the film, each computed inside its box only."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from vertinst.structures.rle import Rle, paste

__all__ = ["film_masks"]

CROP_MARGIN = 1.0


def film_masks(
    prototypes: Tensor,
    coefficients: Tensor,
    boxes: Tensor,
    image_size: tuple[int, int],
    prototype_scale: tuple[float, float],
    *,
    crop: Literal["film", "prototype"] = "film",
    interpolate: Literal["logit", "probability"] = "logit",
    box_expansion: float = 0.0,
) -> list[Rle]:
    """Masks of one film's detections (equation 1 of the paper, arXiv 1904.02689).

    Args:
        prototypes: (k, h, w).
        coefficients: (N, k).
        boxes: (N, 4) xyxy px of the film.
        image_size: (H, W) of the film.
        prototype_scale: Pixels of the prototypes per pixel of the film, (vertical, horizontal).
        crop: `film` cuts at the box, rounded outwards to whole pixels of the film; `prototype` zeroes the prototypes'
            pixels more than one beyond the box, and then enlarges.
        interpolate: Whether logits or probabilities are enlarged, bilinearly; the threshold (0, or a half) comes after.
        box_expansion: Share of its sides by which each box grows on each side.

    Returns:
        N masks of the film's size.
    """
    masks = torch.einsum("nk,khw->nhw", coefficients, prototypes)
    if interpolate == "probability":
        masks = masks.sigmoid()
    threshold = 0.5 if interpolate == "probability" else 0.0
    grown = (boxes[:, 2:] - boxes[:, :2]) * box_expansion
    boxes = torch.cat((boxes[:, :2] - grown, boxes[:, 2:] + grown), dim=1)
    found = []
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.tolist(), strict=True):
        if crop == "prototype":
            scale_y, scale_x = prototype_scale
            mask = _cut(mask, y1 * scale_y, y2 * scale_y).T
            mask = _cut(mask, x1 * scale_x, x2 * scale_x).T
            x1, x2 = x1 - 3 / scale_x, x2 + 3 / scale_x
            y1, y2 = y1 - 3 / scale_y, y2 + 3 / scale_y
        rows, columns = _pixels(y1, y2, image_size[0]), _pixels(x1, x2, image_size[1])
        patch = _sample_rows(_sample_rows(mask, rows, prototype_scale[0]).T, columns, prototype_scale[1]).T
        found.append(paste((patch > threshold).cpu().numpy(), rows.start, columns.start, image_size))
    return found


def _cut(mask: Tensor, low: float, high: float) -> Tensor:
    rows = torch.arange(len(mask), device=mask.device)
    return mask * ((rows >= low - CROP_MARGIN) & (rows < high + CROP_MARGIN))[:, None]


def _pixels(low: float, high: float, size: int) -> range:
    start = min(max(math.floor(low), 0), size)
    return range(start, max(min(math.ceil(high), size), start))


def _sample_rows(grid: Tensor, rows: range, scale: float) -> Tensor:
    """Linear interpolation of `grid` at the centres of the film's `rows`; beyond the border its value is kept."""
    centres = torch.arange(rows.start, rows.stop, device=grid.device, dtype=torch.float32) + 0.5
    position = (centres * scale - 0.5).clamp(0, grid.shape[0] - 1)
    above = position.floor().long()
    below = (above + 1).clamp(max=grid.shape[0] - 1)
    return torch.lerp(grid[above], grid[below], (position - above).to(grid.dtype)[:, None])
