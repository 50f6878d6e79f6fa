"""YOLACT's four losses and the matching of anchors with truth (Bolya et al. 2019, arXiv 1904.02689).

Everything here runs in float32 and outside autocast: the caller sees to both.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

__all__ = ["BACKGROUND", "NEUTRAL", "class_loss", "coverage", "mask_loss", "match_anchors", "semantic_loss"]

BACKGROUND = -1
NEUTRAL = -2
# A film without any object still teaches background: as many negatives as this many objects would bring.
MIN_POSITIVES = 4


def match_anchors(anchors: Tensor, boxes: Tensor, positive_iou: float, negative_iou: float) -> Tensor:
    """Give each anchor a truth, the background, or neither.

    Args:
        anchors: (A, 4) xyxy px.
        boxes: (G, 4) xyxy px of the truth.
        positive_iou: An anchor with at least this IoU takes the truth that it overlaps most.
        negative_iou: An anchor whose largest IoU is below this is background.

    Returns:
        (A,) int64: index of the truth, `BACKGROUND`, or `NEUTRAL` for what lies between. While A >= G, each truth
        has at least one anchor, whatever the IoU. With G = 0 all is background.
    """
    if boxes.shape[0] == 0:
        return anchors.new_full((anchors.shape[0],), BACKGROUND, dtype=torch.int64)
    iou: Tensor = box_iou(boxes, anchors)
    best_iou, assigned = iou.max(dim=0)
    assigned[best_iou < positive_iou] = NEUTRAL
    assigned[best_iou < negative_iou] = BACKGROUND
    anchor_of_truth = _best_anchors(iou)
    assigned[anchor_of_truth] = torch.arange(len(anchor_of_truth), device=anchors.device)
    return assigned


def _best_anchors(iou: Tensor) -> Tensor:
    """One anchor for each truth, no anchor twice, the largest IoU of all first. Writes into `iou` (G, A)."""
    best_iou, chosen = iou.max(dim=1)
    for _ in range(iou.shape[0]):
        truth = best_iou.argmax()
        best_iou[truth] = -torch.inf
        iou[:, chosen[truth]] = -1.0
        outbid = (chosen == chosen[truth]) & (best_iou > -torch.inf)
        if outbid.any():
            best_iou[outbid], chosen[outbid] = iou[outbid].max(dim=1)
    return chosen


def class_loss(logits: Tensor, labels: Tensor, negatives_per_positive: float) -> Tensor:
    """Softmax cross-entropy over all positives and the hardest negatives of each film (OHEM).

    Hardest are the negatives with the largest cross-entropy. A film without objects contributes as many negatives
    as one with `MIN_POSITIVES` objects' anchors.

    Args:
        logits: (B, A, C + 1), background first.
        labels: (B, A) int64: 0 background, 1..C, or negative where neutral.
        negatives_per_positive: 3 in the paper.

    Returns:
        Scalar: the sum over the chosen anchors, divided by the positives that their number stands for.
    """
    entropy = F.cross_entropy(logits.flatten(0, 1), labels.clamp(min=0).flatten(), reduction="none").view(labels.shape)
    chosen = labels > 0
    positives = 0
    for film, hardness in enumerate(entropy.detach().masked_fill(labels != 0, -torch.inf)):
        stand_in = max(int(chosen[film].sum()), MIN_POSITIVES)
        negatives = min(int(stand_in * negatives_per_positive), int((labels[film] == 0).sum()))
        chosen[film, hardness.topk(negatives).indices] = True
        positives += stand_in
    return entropy[chosen].sum() / max(positives, 1)


def coverage(masks: Tensor, padded_size: tuple[int, int], stride: int) -> Tensor:
    """Masks on a coarser grid: how much of each cell they cover.

    Args:
        masks: (N, H, W) float 0..1 in the pixels of the resized film.
        padded_size: (H, W) of the batch, multiples of `stride`.
        stride: Side of a cell in px.

    Returns:
        (N, padded H / stride, padded W / stride) float 0..1.
    """
    right, below = padded_size[1] - masks.shape[2], padded_size[0] - masks.shape[1]
    # The channel is for N = 0, which pooling takes for a missing one otherwise.
    return F.avg_pool2d(F.pad(masks, (0, right, 0, below))[:, None], stride)[:, 0]


def mask_loss(prototypes: Tensor, coefficients: Tensor, truth: Tensor, masks: Tensor, boxes: Tensor) -> Tensor:
    """Binary cross-entropy of the assembled masks inside the truth's box, divided by the box's area.

    Only the prototypes' pixels inside the box are combined: the rest could not change the sum.

    Args:
        prototypes: (k, h, w).
        coefficients: (P, k) of the positive anchors.
        truth: (P,) int64, the truth of each.
        masks: (G, h, w) float 0..1.
        boxes: (G, 4) xyxy in pixels of the prototypes; rounded outwards, so that no box is without a pixel.

    Returns:
        Scalar: the sum over the P anchors, 0 where P = 0.
    """
    total = (prototypes.sum() + coefficients.sum()) * 0.0
    size = prototypes.shape[1:]
    for index, box in enumerate(boxes.tolist()):
        mine = coefficients[truth == index]
        if mine.shape[0] == 0:
            continue
        rows, columns = _span(box[1], box[3], size[0]), _span(box[0], box[2], size[1])
        patch = prototypes[:, rows, columns].flatten(1)
        target = masks[index, rows, columns].flatten()
        entropy = F.binary_cross_entropy_with_logits(mine @ patch, target.expand(len(mine), -1), reduction="sum")
        total = total + entropy / target.numel()
    return total


def _span(low: float, high: float, size: int) -> slice:
    start = min(max(math.floor(low), 0), size - 1)
    return slice(start, max(min(math.ceil(high), size), start + 1))


def semantic_loss(logits: Tensor, labels: list[Tensor], masks: list[Tensor]) -> Tensor:
    """Binary cross-entropy of each class against the union of its masks; used in training only.

    Args:
        logits: (B, C, h, w).
        labels: One (G,) int64 in 1..C for each film.
        masks: One (G, h, w) float 0..1 for each film.

    Returns:
        Scalar: summed over the classes, averaged over pixels and films.
    """
    target = torch.zeros_like(logits)
    for film, (film_labels, film_masks) in enumerate(zip(labels, masks, strict=True)):
        for label, mask in zip(film_labels.tolist(), film_masks, strict=True):
            torch.maximum(target[film, label - 1], mask, out=target[film, label - 1])
    return F.binary_cross_entropy_with_logits(logits, target) * logits.shape[1]
