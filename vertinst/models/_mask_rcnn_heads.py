"""Mask R-CNN's second stage: what each proposal is, its exact box and its mask (He et al. 2017, arXiv 1703.06870).

Classes count from 0 here and the background comes last, as in Detectron2.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import _utils as detection
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, roi_align

from vertinst.models._mask_rcnn_options import Options
from vertinst.models._mask_rcnn_rpn import TORCHVISION_BETA, sample
from vertinst.models._roi_align import pool_pyramid

__all__ = ["Drawn", "Found", "RoIHeads", "box_losses", "detect", "draw_proposals", "mask_loss", "mask_targets"]

BOX_POOL, MASK_POOL = 7, 14
POSITIVE_IOU, POSITIVE_SHARE = 0.5, 0.25
TORCHVISION_SAMPLES = 2
# Masks that are held as floats while targets are cut from them: 4 MiB each at 1000 px.
MASKS_AT_ONCE = 16
TORCHVISION_SMALLEST_PX = 1e-2

CODER = detection.BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))


class BoxPredictor(nn.Module):
    """Class scores, and a box for each class.

    Args:
        width: Of its input.
        classes: Number of classes, background left out.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(width, classes + 1)
        self.bbox_pred = nn.Linear(width, classes * 4)
        # Detectron2's start: near zero, so that every class is as likely and boxes stay where they are.
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        nn.init.zeros_(self.cls_score.bias)
        nn.init.zeros_(self.bbox_pred.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (R, C + 1) and deltas (R, 4 C), both float32, of features (R, width)."""
        return self.cls_score(features).float(), self.bbox_pred(features).float()


class RoIHeads(nn.Module):
    """The networks of box and mask.

    Args:
        options: Settings.
        classes: Number of classes, background left out.
    """

    def __init__(self, options: Options, classes: int) -> None:
        super().__init__()
        channels, width = options.channels, options.box_head_width
        norm = nn.BatchNorm2d if options.head_norm else None
        self.box_head = (
            FastRCNNConvFCHead((channels, BOX_POOL, BOX_POOL), [channels] * options.box_head_convs, [width], norm)
            if options.box_head_convs
            else TwoMLPHead(channels * BOX_POOL**2, width)
        )
        self.box_predictor = BoxPredictor(width, classes)
        self.mask_head = MaskRCNNHeads(channels, [channels] * options.mask_head_convs, 1, norm)
        self.mask_predictor = MaskRCNNPredictor(channels, channels, classes)
        self.aligned = options.conventions == "detectron2"
        # 0: as many as a bin has cells.
        self.samples = 0 if self.aligned else TORCHVISION_SAMPLES

    def boxes(self, levels: Sequence[Tensor], proposals: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (R, C + 1) and deltas (R, 4 C) of all proposals (n, 4) of all films, px of the batch."""
        logits, deltas = self.box_predictor(self.box_head(self._pool(levels, proposals, BOX_POOL)))
        return logits, deltas

    def masks(self, levels: Sequence[Tensor], boxes: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Logits (R, m, m) of the masks of all boxes, of their own classes (R,) alone."""
        logits: Tensor = self.mask_predictor(self.mask_head(self._pool(levels, boxes, MASK_POOL)))
        return logits[torch.arange(len(labels), device=labels.device), labels].float()

    def _pool(self, levels: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
        return pool_pyramid(levels, boxes, size, sampling_ratio=self.samples, aligned=self.aligned)


class Drawn(NamedTuple):
    """Proposals of a film that were drawn for training."""

    boxes: Tensor
    """(R, 4) xyxy px of the batch."""
    labels: Tensor
    """(R,) from 0; the number of classes for background."""
    truth: Tensor
    """(R,) index of the truth; means nothing for background."""


@torch.no_grad()
def draw_proposals(proposals: Tensor, boxes: Tensor, labels: Tensor, classes: int, count: int) -> Drawn:
    """Proposals and truths of a film, matched with the truths, and some of them drawn.

    Args:
        proposals: (P, 4) xyxy px.
        boxes: (N, 4) of the truths, which become proposals too; N = 0 is fine.
        labels: (N,) from 0.
        classes: Number of classes.
        count: Wanted; at most `POSITIVE_SHARE` of them are objects, those from `POSITIVE_IOU` on.
    """
    candidates = torch.cat((proposals, boxes))
    truth = torch.zeros(len(candidates), dtype=torch.int64, device=candidates.device)
    found = torch.full_like(truth, classes)
    if len(boxes):
        overlap, truth = box_iou(boxes, candidates).max(dim=0)
        found = torch.where(overlap >= POSITIVE_IOU, labels[truth], classes)
    chosen = sample(found, count, POSITIVE_SHARE, classes)
    return Drawn(candidates[chosen], found[chosen], truth[chosen])


def box_losses(
    logits: Tensor, deltas: Tensor, drawn: Sequence[Drawn], truths: Sequence[Tensor], options: Options
) -> tuple[Tensor, Tensor]:
    """Losses of classes and of boxes.

    Args:
        logits: (R, C + 1) of the proposals that were drawn, film after film.
        deltas: (R, 4 C).
        drawn: For each film.
        truths: (N, 4) xyxy px of each film's truths.
        options: Settings.

    Returns:
        The mean cross-entropy, and the L1 loss of the objects' deltas over the number of all that were drawn.
    """
    labels = torch.cat([film.labels for film in drawn])
    classes = logits.shape[1] - 1
    positive = (labels < classes).nonzero()[:, 0]
    boxes = torch.cat([film.boxes for film in drawn])[positive]
    before = accumulate((len(film) for film in truths[:-1]), initial=0)
    truth = torch.cat([film.truth + first for film, first in zip(drawn, before, strict=True)])[positive]
    wanted = torch.cat(list(truths))[truth]
    own = deltas.reshape(len(deltas), classes, 4)[positive, labels[positive]]
    beta = TORCHVISION_BETA if options.conventions == "torchvision" else 0.0
    box = F.smooth_l1_loss(own, CODER.encode_single(wanted, boxes), beta=beta, reduction="sum") / max(len(labels), 1)
    # The mean over no proposals at all would be no number.
    return F.cross_entropy(logits, labels) if len(labels) else logits.sum(), box


@torch.no_grad()
def mask_targets(masks: Tensor, boxes: Tensor, truth: Tensor, side: int, options: Options) -> Tensor:
    """What is wanted of the masks inside boxes of one film.

    Args:
        masks: (N, h, w) of the truths, of the batch's scale: float 0..1, bool or uint8.
        boxes: (R, 4) xyxy px.
        truth: (R,) which mask is meant.
        side: m.
        options: Settings.

    Returns:
        (R, m, m) float: with Detectron2's conventions 0 or 1, what covers half of a cell or more; with torchvision's
        the share that is covered, half a pixel off as its features are.
    """
    aligned = options.conventions == "detectron2"
    shares = boxes.new_zeros((len(boxes), side, side))
    for first in range(0, len(masks), MASKS_AT_ONCE):
        part = masks[first : first + MASKS_AT_ONCE]
        here = ((truth >= first) & (truth < first + len(part))).nonzero()[:, 0]
        rois = torch.cat(((truth[here] - first)[:, None].to(boxes), boxes[here]), dim=1)
        shares[here] = roi_align(part[:, None].to(boxes), rois, side, aligned=aligned)[:, 0]
    return (shares >= 0.5).to(shares) if aligned else shares


def mask_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross-entropy of (R, m, m) logits and targets; 0 for R = 0."""
    if not len(logits):
        return logits.sum()
    return F.binary_cross_entropy_with_logits(logits, targets)


class Found(NamedTuple):
    """Detections of a film inside the batch, best first."""

    boxes: Tensor
    """(N, 4) xyxy px of the batch, clipped to the film."""
    labels: Tensor
    """(N,) from 0."""
    scores: Tensor
    """(N,)"""


def detect(logits: Tensor, deltas: Tensor, proposals: Tensor, size: tuple[int, int], options: Options) -> Found:
    """Detections of a film from what the box head says of its proposals.

    Args:
        logits: (R, C + 1).
        deltas: (R, 4 C).
        proposals: (R, 4) xyxy px of the batch.
        size: (h, w) of the film inside the batch.
        options: Settings.
    """
    scores = logits.softmax(dim=1)[:, :-1]
    boxes = clip_boxes_to_image(CODER.decode_single(deltas, proposals).reshape(*scores.shape, 4), size)
    wanted = scores > options.score_threshold
    if options.conventions == "torchvision":
        wanted &= ((boxes[..., 2:] - boxes[..., :2]) >= TORCHVISION_SMALLEST_PX).all(dim=2)
    rows, labels = wanted.nonzero(as_tuple=True)
    boxes, scores = boxes[rows, labels], scores[rows, labels]
    kept = batched_nms(boxes, scores, labels, options.nms_iou_threshold)[: options.max_detections]
    return Found(boxes[kept], labels[kept], scores[kept])
