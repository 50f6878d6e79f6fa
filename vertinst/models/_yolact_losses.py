"""YOLACT's losses and the matching of anchors with truth (Bolya et al. 2019, arXiv 1904.02689; 2020, arXiv 1912.06218).

Everything here runs in float32 and outside autocast: the caller sees to both.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vertinst.models._yolact_masks import CROP_MARGIN

__all__ = [
    "BACKGROUND",
    "NEUTRAL",
    "MaskTargets",
    "boundary_weights",
    "crop_to_boxes",
    "focal_loss",
    "mask_iou_loss",
    "mask_loss",
    "match_anchors",
    "ohem_loss",
    "semantic_loss",
    "shrink_masks",
]

MaskTargets = Literal["soft", "binary"]

BACKGROUND = -1
NEUTRAL = -2
# A film without any object still teaches background: as many negatives as this many positive anchors would bring.
STAND_IN_POSITIVES = 4
# Weights of foreground and background and the exponent of the focal loss (Lin et al. 2017, arXiv 1708.02002, 4.1).
FOCAL_ALPHA = 0.25
FOCAL_GAMMA = 2.0
# The mask-IoU network learns from truths of more pixels of the prototypes than this.
MIN_RESCORED_AREA = 25.0


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
    iou = _pairwise_iou(boxes, anchors)
    best_iou, assigned = iou.max(dim=0)
    assigned[best_iou < positive_iou] = NEUTRAL
    assigned[best_iou < negative_iou] = BACKGROUND
    pairs = torch.tensor(_best_pairs(iou), device=anchors.device)
    assigned[pairs[:, 1]] = pairs[:, 0]
    return assigned


def _pairwise_iou(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Torchvision's `box_iou` (G, A) to the last bit, axis by axis: in a quarter of the time for tens of thousands."""
    sides = []
    for low, high in ((0, 2), (1, 3)):
        side = torch.minimum(boxes[:, None, high], anchors[:, high])
        sides.append(side.sub_(torch.maximum(boxes[:, None, low], anchors[:, low])).clamp_(min=0))
    shared = sides[0].mul_(sides[1])
    areas, anchor_areas = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes, anchors))
    return shared / (areas[:, None] + anchor_areas).sub_(shared)


def _best_pairs(iou: Tensor) -> list[tuple[int, int]]:
    """A truth and its anchor for `iou` (G, A), neither twice, the largest IoU of all first.

    Others can take at most G - 1 anchors from a truth, so that its best G are enough: a small table, which leaves the
    device once.
    """
    # Of anchors with equal IoU, which are common, the original takes the first, but topk takes any and a stable sort
    # of tens of thousands its time. Bits of floats from 0 up are in their order: with the place below them none tie.
    last = iou.shape[1] - 1
    places = torch.arange(last, -1, -1, device=iou.device)
    keys = (iou.to(torch.float32).view(torch.int32).long() << 32) | places
    best = last - (keys.topk(min(iou.shape), dim=1).values & 0xFFFFFFFF)
    table, anchors = iou.gather(1, best).cpu().numpy(), best.cpu().numpy()
    anchor_of: dict[int, int] = {}
    for position in np.argsort(-table, axis=None, kind="stable"):
        truth, rank = divmod(int(position), table.shape[1])
        anchor = int(anchors[truth, rank])
        if truth not in anchor_of and anchor not in anchor_of.values():
            anchor_of[truth] = anchor
    return list(anchor_of.items())


def ohem_loss(logits: Tensor, labels: Tensor, negatives_per_positive: float) -> Tensor:
    """Softmax cross-entropy over all positives and the hardest negatives of each film.

    Hardest are the negatives with the largest cross-entropy. A film without positives contributes as many negatives
    as `STAND_IN_POSITIVES` positives would bring, where the original takes none.

    Args:
        logits: (B, A, C + 1), background first.
        labels: (B, A) int64: 0 background, 1..C, or negative where neutral.
        negatives_per_positive: 3 in the paper.

    Returns:
        Scalar: the sum over the chosen anchors, divided by the positives that their number stands for.
    """
    entropy = F.cross_entropy(logits.flatten(0, 1), labels.clamp(min=0).flatten(), reduction="none").view(labels.shape)
    positive = labels > 0
    stand_in = positive.sum(dim=1)
    stand_in = torch.where(stand_in > 0, stand_in, STAND_IN_POSITIVES)
    hardness = entropy.detach().masked_fill(labels != 0, -torch.inf)
    # Rank of each anchor among those of its film, the hardest being 0.
    rank = hardness.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    hard = (rank < (stand_in * negatives_per_positive).long()[:, None]) & (labels == 0)
    return (entropy * (positive | hard)).sum() / stand_in.sum()


def focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax focal loss over all anchors that are not neutral: easy ones hardly count (arXiv 1708.02002, equation 5).

    Args:
        logits: (B, A, C + 1), background first.
        labels: (B, A) int64: 0 background, 1..C, or negative where neutral.

    Returns:
        Scalar: the sum over the anchors, divided by the number of positives, or by 1 where there is none.
    """
    log_probability = -F.cross_entropy(logits.flatten(0, 1), labels.clamp(min=0).flatten(), reduction="none")
    log_probability = log_probability.view(labels.shape)
    alpha = torch.where(labels > 0, FOCAL_ALPHA, 1 - FOCAL_ALPHA) * (labels >= 0)
    loss = -alpha * (1 - log_probability.exp()) ** FOCAL_GAMMA * log_probability
    return loss.sum() / (labels > 0).sum().clamp(min=1)


def shrink_masks(masks: Tensor, padded_size: tuple[int, int], size: tuple[int, int], targets: MaskTargets) -> Tensor:
    """Masks on the coarser grid of the network's output.

    Args:
        masks: (N, H, W) in the pixels of the resized film: float 0..1, bool or uint8.
        padded_size: (H, W) of the batch.
        size: (h, w) of the output.
        targets: `soft`: how much of each cell they cover. `binary`: 1 where the mask interpolated at the cell's
            centre is above a half, as in the original.

    Returns:
        (N, h, w) float 0..1.
    """
    masks = masks.float()
    if masks.shape[0] == 0:
        return masks.new_zeros((0, *size))
    right, below = padded_size[1] - masks.shape[2], padded_size[0] - masks.shape[1]
    padded = F.pad(masks, (0, right, 0, below))[None]
    if targets == "soft":
        return F.interpolate(padded, size=size, mode="area")[0]
    return (F.interpolate(padded, size=size, mode="bilinear", align_corners=False)[0] > 0.5).to(masks.dtype)


def boundary_weights(masks: Tensor, weight: float) -> Tensor:
    """Weight of each pixel in the mask loss: more where mask and background meet.

    Args:
        masks: (N, h, w) float 0..1.
        weight: What pixels within one pixel of the contour count in addition.

    Returns:
        (N, h, w): 1 away from contours, 1 + weight on them.
    """
    if masks.shape[0] == 0:
        return masks
    around = F.max_pool2d(masks[:, None], 3, stride=1, padding=1) + F.max_pool2d(-masks[:, None], 3, 1, padding=1)
    return 1 + weight * around[:, 0]


def mask_loss(
    prototypes: Tensor,
    coefficients: Tensor,
    truth: Tensor,
    masks: Tensor,
    boxes: Tensor,
    *,
    box_expansion: float = 0.0,
    boundary_weight: float = 0.0,
) -> Tensor:
    """Binary cross-entropy of the assembled masks around the truth's box, divided by the box's area (section 3.2).

    Only the prototypes' pixels inside the box and a pixel beyond it are combined: the rest could not change the sum.

    Args:
        prototypes: (k, h, w).
        coefficients: (P, k) of the positive anchors.
        truth: (P,) int64, the truth of each.
        masks: (G, h, w) float 0..1.
        boxes: (G, 4) xyxy in pixels of the prototypes, with positive sides.
        box_expansion: Share of the sides by which boxes reach further on each side.
        boundary_weight: See `boundary_weights`.

    Returns:
        Scalar: the sum over the P anchors, 0 where P = 0.
    """
    total = (prototypes.sum() + coefficients.sum()) * 0.0
    weights = boundary_weights(masks, boundary_weight) if boundary_weight else torch.ones_like(masks)
    sides = boxes[:, 2:] - boxes[:, :2]
    windows = _windows(boxes, sides * box_expansion, (prototypes.shape[1], prototypes.shape[2]))
    # A box of less than a pixel would count a thousandfold.
    areas = sides.prod(dim=1).clamp(min=1.0).tolist()
    counts = torch.bincount(truth, minlength=len(masks)).tolist()
    of_truth = torch.split(coefficients[truth.argsort(stable=True)], counts)
    for mine, mask, weight, area, (rows, columns) in zip(of_truth, masks, weights, areas, windows, strict=True):
        if len(mine):
            target = mask[rows, columns].flatten().expand(len(mine), -1)
            logits = mine @ prototypes[:, rows, columns].flatten(1)
            entropy = F.binary_cross_entropy_with_logits(
                logits, target, weight[rows, columns].flatten(), reduction="sum"
            )
            total = total + entropy / area
    return total


def _windows(boxes: Tensor, expansion: Tensor, size: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Rows and columns of pixels that lie inside of each box and its margin; see `crop_to_boxes`."""
    grown = torch.cat((boxes[:, :2] - expansion, boxes[:, 2:] + expansion), dim=1).tolist()
    return [(_span(y1, y2, size[0]), _span(x1, x2, size[1])) for x1, y1, x2, y2 in grown]


def _span(low: float, high: float, size: int) -> slice:
    start = min(max(math.ceil(low - CROP_MARGIN), 0), size)
    return slice(start, max(min(math.ceil(high + CROP_MARGIN), size), start))


def crop_to_boxes(masks: Tensor, boxes: Tensor) -> Tensor:
    """Zero what lies outside of the boxes and a margin of one pixel.

    A pixel of number i is kept where x1 - 1 <= i < x2 + 1, and the same vertically.

    Args:
        masks: (N, h, w).
        boxes: (N, 4) xyxy in pixels of the masks.

    Returns:
        (N, h, w).
    """
    low, high = boxes[:, :2] - CROP_MARGIN, boxes[:, 2:] + CROP_MARGIN
    columns = torch.arange(masks.shape[2], device=masks.device)
    rows = torch.arange(masks.shape[1], device=masks.device)
    across = (columns >= low[:, :1]) & (columns < high[:, :1])
    down = (rows >= low[:, 1:]) & (rows < high[:, 1:])
    return masks * (down[:, :, None] & across[:, None, :])


def mask_iou_loss(masks: Tensor, targets: Tensor, labels: Tensor, network: nn.Module) -> Tensor:
    """Smooth L1 of the IoU that the mask-IoU network guesses (YOLACT++, arXiv 1912.06218, section 4.1).

    Args:
        masks: (P, h, w) assembled masks 0..1, cropped to the truth's boxes.
        targets: (P, h, w) 0..1, the truth of each.
        labels: (P,) int64 from 1.
        network: `MaskIoUNet`.

    Returns:
        Scalar: the sum over masks whose truth has more than 25 pixels of the prototypes, 0 without any.
    """
    large = targets.sum(dim=(1, 2)) > MIN_RESCORED_AREA
    if not large.any():
        return masks.sum() * 0.0
    masks, targets = masks[large], targets[large]
    binary = (masks.detach() > 0.5).to(targets.dtype)
    shared = (binary * targets).sum(dim=(1, 2))
    iou = shared / (binary.sum(dim=(1, 2)) + targets.sum(dim=(1, 2)) - shared)
    return F.smooth_l1_loss(network(masks, labels[large]), iou, reduction="sum")


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
