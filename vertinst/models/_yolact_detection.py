"""From YOLACT's class scores and boxes to detections: thresholds and three kinds of suppression (arXiv 1904.02689)."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

__all__ = ["Detections", "Nms", "select"]

Nms = Literal["fast", "cross_class", "ordinary"]


class Detections(NamedTuple):
    """N detections of a film, best score first."""

    anchors: Tensor
    """(N,) int64: the anchor of each, by which its coefficients are found."""
    labels: Tensor
    """(N,) int64 from 1."""
    scores: Tensor
    """(N,) float."""


def select(
    probabilities: Tensor,
    boxes: Tensor,
    *,
    kind: Nms,
    score_threshold: float,
    second_threshold: bool,
    iou_threshold: float,
    top_k: int,
    max_detections: int,
) -> Detections:
    """Choose the detections of one film.

    Args:
        probabilities: (A, C) of the classes, background left out.
        boxes: (A, 4) xyxy px, not clipped to the film.
        kind: `fast` suppresses within each class, all at once: one that is itself suppressed still suppresses
            (section 4.2 of the paper); `cross_class` does so among the best classes of all anchors; `ordinary`
            goes from the best box of a class down, and what is suppressed suppresses nothing.
        score_threshold: An anchor is looked at if its best class scores more than this.
        second_threshold: `fast` keeps of these anchors only classes that themselves score more; the original
            keeps all of them. The other two kinds have no such classes.
        iou_threshold: A box goes if its IoU with a better one is above this; with `ordinary` also at equality, and
            with sides counted in whole pixels (one more each), as in the original.
        top_k: `fast` and `cross_class` look at so many of a class, or of all, best first.
        max_detections: Most detections of the film.

    Returns:
        At most `max_detections`; none where nothing scores enough.
    """
    candidates = (probabilities.amax(dim=1) > score_threshold).nonzero()[:, 0]
    scores, boxes = probabilities[candidates].T, boxes[candidates]
    if kind == "fast":
        position, label, score = _fast(scores, boxes, iou_threshold, top_k)
        if second_threshold:
            enough = score > score_threshold
            position, label, score = position[enough], label[enough], score[enough]
    elif kind == "cross_class":
        best, of_class = scores.max(dim=0)
        position, _, score = _fast(best[None], boxes, iou_threshold, top_k)
        label = of_class[position]
    else:
        position, label, score = _ordinary(scores, boxes, iou_threshold, score_threshold)
    order = score.argsort(descending=True, stable=True)[:max_detections]
    return Detections(candidates[position[order]], label[order] + 1, score[order])


def _fast(scores: Tensor, boxes: Tensor, iou_threshold: float, top_k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Position, class and score of what stays, for scores (C, n) and boxes (n, 4)."""
    ranked, position = scores.sort(dim=1, descending=True, stable=True)
    ranked, position = ranked[:, :top_k], position[:, :top_k]
    overlap = _pairwise_iou(boxes[position]).triu(diagonal=1)
    kept = overlap.amax(dim=1) <= iou_threshold if overlap.numel() else torch.zeros_like(position, dtype=torch.bool)
    label = kept.nonzero()[:, 0]
    return position[kept], label, ranked[kept]


def _pairwise_iou(boxes: Tensor) -> Tensor:
    """(C, n, 4) to (C, n, n)."""
    shared = (
        torch.minimum(boxes[:, :, None, 2:], boxes[:, None, :, 2:])
        - torch.maximum(boxes[:, :, None, :2], boxes[:, None, :, :2])
    ).clamp(min=0)
    shared = shared[..., 0] * shared[..., 1]
    sides = boxes[..., 2:] - boxes[..., :2]
    areas = sides[..., 0] * sides[..., 1]
    return shared / (areas[:, :, None] + areas[:, None, :] - shared)


def _ordinary(
    scores: Tensor, boxes: Tensor, iou_threshold: float, score_threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    # One pixel more, and just below the threshold: then what torchvision computes is the convention of the original.
    whole = boxes + boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
    below = float(np.nextafter(np.float32(iou_threshold), np.float32(0)))
    parts = []
    for column, of_class in enumerate(scores):
        mine = (of_class > score_threshold).nonzero()[:, 0]
        mine = mine[nms(whole[mine], of_class[mine], below)]
        parts.append((mine, torch.full_like(mine, column), of_class[mine]))
    position, label, score = (torch.cat(part) for part in zip(*parts, strict=True))
    return position, label, score
