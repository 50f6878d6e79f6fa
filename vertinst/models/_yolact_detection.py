"""From YOLACT's raw outputs to detections: Fast NMS and the assembly of masks (arXiv 1904.02689)."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import box_iou

from vertinst.structures.rle import Rle, paste

__all__ = ["assemble_masks", "fast_nms", "paste_masks"]

MASK_THRESHOLD = 0.5


def fast_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, top_k: int) -> Tensor:
    """Fast NMS within each class: one that is itself suppressed still suppresses (section 4.2 of the paper).

    Args:
        boxes: (N, 4) xyxy px.
        scores: (N,) float.
        labels: (N,) int64.
        iou_threshold: A box goes when its IoU with any better one of its class is above this; equal stays.
        top_k: Only this many of each class, best first, are looked at.

    Returns:
        (K,) int64 indices of what stays, best score first.
    """
    kept = [torch.empty(0, dtype=torch.int64, device=boxes.device)]
    for label in torch.unique(labels):
        mine = (labels == label).nonzero()[:, 0]
        best_first = mine[scores[mine].argsort(descending=True, stable=True)[:top_k]]
        overlap = box_iou(boxes[best_first], boxes[best_first]).triu(diagonal=1)
        kept.append(best_first[overlap.amax(dim=0) <= iou_threshold])
    indices = torch.cat(kept)
    return indices[scores[indices].argsort(descending=True, stable=True)]


def assemble_masks(prototypes: Tensor, coefficients: Tensor) -> Tensor:
    """Sigmoid of the linear combination of prototypes (equation 1 of the paper).

    Args:
        prototypes: (k, h, w).
        coefficients: (N, k).

    Returns:
        (N, h, w) float 0..1, neither cropped nor thresholded.
    """
    return torch.sigmoid(torch.einsum("nk,khw->nhw", coefficients, prototypes))


def paste_masks(masks: Tensor, boxes: Tensor, image_size: tuple[int, int], scale: tuple[float, float]) -> list[Rle]:
    """Enlarge masks to the film, bilinearly, crop each to its box and keep what is above a half.

    Each mask is computed inside its box only. The values are those of `torch.nn.functional.interpolate` with
    `align_corners=False` of the whole mask.

    Args:
        masks: (N, h, w) float.
        boxes: (N, 4) xyxy px of the film, rounded outwards to whole pixels.
        image_size: (H, W) of the film.
        scale: Pixels of the masks per pixel of the film, (vertical, horizontal).

    Returns:
        N masks of the film's size, empty outside the boxes.
    """
    pasted = []
    for index, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        rows, columns = _pixels(y1, y2, image_size[0]), _pixels(x1, x2, image_size[1])
        patch = _sample_rows(_sample_rows(masks[index], rows, scale[0]).T, columns, scale[1]).T
        pasted.append(paste((patch > MASK_THRESHOLD).cpu().numpy(), rows.start, columns.start, image_size))
    return pasted


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
