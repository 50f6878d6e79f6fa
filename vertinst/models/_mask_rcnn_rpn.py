"""Mask R-CNN's first stage: where something is (region proposal network, Ren et al. 2015, arXiv 1506.01497)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import _utils as detection
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image

from vertinst.models._mask_rcnn_options import Options

__all__ = ["RPN", "Outputs", "grid_anchors", "label_anchors", "losses", "sample", "select_proposals"]

STRIDES = (4, 8, 16, 32, 64)
# An anchor is an object from this IoU on, background below that; between them it is left out.
POSITIVE_IOU, NEGATIVE_IOU = 0.7, 0.3
POSITIVE_SHARE = 0.5
# torchvision's smooth L1 loss is quadratic below this; Detectron2's is L1 throughout.
TORCHVISION_BETA = 1 / 9
TORCHVISION_SMALLEST_PX = 1e-3

CODER = detection.BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))


class Outputs(NamedTuple):
    """What the network gives for a batch of B films, level by level; A_l anchors of a level."""

    logits: list[Tensor]
    """(B, A_l) of an object being there."""
    deltas: list[Tensor]
    """(B, A_l, 4) of its box relative to the anchor."""


class RPN(nn.Module):
    """The network: shared over the levels.

    Args:
        options: Settings.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.head = RPNHead(options.channels, len(options.aspect_ratios), options.rpn_convs)

    def forward(self, levels: Sequence[Tensor]) -> Outputs:
        """Logits and deltas, float32, of levels (B, channels, h, w): row by row, then column and ratio."""
        logits, deltas = self.head(list(levels))
        return Outputs(
            [level.permute(0, 2, 3, 1).flatten(1).float() for level in logits],
            [level.permute(0, 2, 3, 1).reshape(len(level), -1, 4).float() for level in deltas],
        )


@lru_cache(maxsize=32)
def grid_anchors(
    batch_size: tuple[int, int],
    feature_sizes: tuple[tuple[int, int], ...],
    sizes_px: tuple[float, ...],
    aspect_ratios: tuple[float, ...],
    device: torch.device,
    *,
    rounded: bool,
) -> tuple[Tensor, ...]:
    """Anchors of each level, cached for each shape of input.

    Args:
        batch_size: (h, w) of the batch.
        feature_sizes: (h, w) of each level.
        sizes_px: Side of the square anchor of each level.
        aspect_ratios: Width over height; the area stays that of the square.
        device: Where the result lies.
        rounded: torchvision's: corners rounded to whole pixels, and steps of the batch's side over the feature's side
            (which is not the stride where a side is no multiple of it). Else Detectron2's.

    Returns:
        (A_l, 4) float32 xyxy px of each level: row by row, then column and ratio; around (0, 0) of each cell. Shared
        between calls: not to be written to.
    """
    # A tensor cached inside inference mode could never be used in training afterwards.
    with torch.inference_mode(mode=False):
        levels = []
        for stride, size, side in zip(STRIDES, feature_sizes, sizes_px, strict=True):
            steps = [whole // cells for whole, cells in zip(batch_size, size, strict=True)] if rounded else [stride] * 2
            y, x = torch.meshgrid(*(torch.arange(n) * step for n, step in zip(size, steps, strict=True)), indexing="ij")
            places = torch.stack((x, y, x, y), dim=-1).reshape(-1, 1, 4)
            levels.append((places + _cell(side, aspect_ratios, rounded=rounded)).reshape(-1, 4).to(device))
        return tuple(levels)


def _cell(side: float, aspect_ratios: tuple[float, ...], *, rounded: bool) -> Tensor:
    """(K, 4) anchors around (0, 0)."""
    shapes = [(side * math.sqrt(ratio), side / math.sqrt(ratio)) for ratio in aspect_ratios]
    anchors = torch.tensor([(-w / 2, -h / 2, w / 2, h / 2) for w, h in shapes])
    return anchors.round() if rounded else anchors


@torch.no_grad()
def select_proposals(
    outputs: Outputs,
    anchors: Sequence[Tensor],
    image_sizes: Sequence[tuple[int, int]],
    options: Options,
    *,
    train: bool,
) -> list[tuple[Tensor, Tensor]]:
    """The best proposals of each film: per level the best candidates, then NMS within the levels.

    Args:
        outputs: Of the network.
        anchors: Of its levels.
        image_sizes: (h, w) of each film inside the batch.
        options: Settings.
        train: With the numbers for training.

    Returns:
        For each film boxes (N, 4) xyxy px, clipped to it and not empty, and logits (N,), best first.
    """
    most = options.rpn_candidates_train if train else options.rpn_candidates_test
    kept = options.rpn_proposals_train if train else options.rpn_proposals_test
    boxes, logits, levels = [], [], []
    for number, (level_logits, deltas, level) in enumerate(zip(*outputs, anchors, strict=True)):
        best, index = level_logits.topk(min(most, level_logits.shape[1]), dim=1)
        chosen = deltas.gather(1, index[..., None].expand(-1, -1, 4))
        decoded = CODER.decode_single(chosen.flatten(0, 1), level[index].flatten(0, 1))
        boxes.append(decoded.reshape(*index.shape, 4))
        logits.append(best)
        levels.append(torch.full(index.shape[1:], number, device=index.device))
    films = zip(torch.cat(boxes, dim=1), torch.cat(logits, dim=1), image_sizes, strict=True)
    level_ids = torch.cat(levels)
    return [_of_film(*film, level_ids, options, kept) for film in films]


def _of_film(
    boxes: Tensor, logits: Tensor, size: tuple[int, int], levels: Tensor, options: Options, most: int
) -> tuple[Tensor, Tensor]:
    torchvisions = options.conventions == "torchvision"
    boxes = clip_boxes_to_image(boxes, size)
    sides = boxes[:, 2:] - boxes[:, :2]
    whole = (sides >= TORCHVISION_SMALLEST_PX if torchvisions else sides > 0).all(dim=1).nonzero()[:, 0]
    boxes, logits, levels = boxes[whole], logits[whole], levels[whole]
    # torchvision ranks by probability, where very high logits are all 1.
    kept = batched_nms(boxes, logits.sigmoid() if torchvisions else logits, levels, options.rpn_nms_iou_threshold)[
        :most
    ]
    return boxes[kept], logits[kept]


@torch.no_grad()
def label_anchors(anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """What each anchor of a film stands for.

    Args:
        anchors: (A, 4) xyxy px of all levels.
        boxes: (N, 4) of the truths; N = 0 is fine.

    Returns:
        Labels (A,) int64: 1 from `POSITIVE_IOU` on and for the best anchors of every truth, 0 below `NEGATIVE_IOU`,
        else -1. And the truth's box (A, 4), which means nothing where the label is not 1.
    """
    if not len(boxes):
        return torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device), torch.zeros_like(anchors)
    matcher = detection.Matcher(POSITIVE_IOU, NEGATIVE_IOU, allow_low_quality_matches=True)
    truth = matcher(box_iou(boxes, anchors))
    labels = (truth >= 0).to(torch.int64)
    labels[truth == matcher.BETWEEN_THRESHOLDS] = -1
    return labels, boxes[truth.clamp(min=0)]


def sample(labels: Tensor, count: int, positive_share: float, background: int) -> Tensor:
    """Random examples: positives up to their share, then background.

    Args:
        labels: (N,); -1 is never drawn.
        count: Wanted; fewer if there are not enough.
        positive_share: Of `count`, at most.
        background: Its label; all others are positive.

    Returns:
        Indices of the positives, then of the background.
    """
    positive = ((labels != background) & (labels != -1)).nonzero()[:, 0]
    negative = (labels == background).nonzero()[:, 0]
    some = positive[torch.randperm(len(positive), device=labels.device)[: int(count * positive_share)]]
    rest = negative[torch.randperm(len(negative), device=labels.device)[: count - len(some)]]
    return torch.cat((some, rest))


def losses(
    outputs: Outputs, anchors: Sequence[Tensor], labels: Tensor, boxes: Tensor, options: Options
) -> tuple[Tensor, Tensor]:
    """Losses of logits and of boxes.

    Args:
        outputs: Of the network.
        anchors: Of its levels.
        labels: (B, A) of the anchors that were drawn: 1 object, 0 background; -1 for all others.
        boxes: (B, A, 4) xyxy px of the truths, where the label is 1.
        options: Settings.

    Returns:
        Both scalars. Detectron2 divides by the number of anchors that were asked for, torchvision by that of those
        that were drawn.
    """
    logits, deltas = torch.cat(outputs.logits, dim=1), torch.cat(outputs.deltas, dim=1)
    # Numbers rather than flags, with which a GPU would stand still at every use.
    positive, drawn = (flags.nonzero(as_tuple=True) for flags in (labels == 1, labels >= 0))
    wanted = CODER.encode_single(boxes[positive], torch.cat(list(anchors))[positive[1]])
    torchvisions = options.conventions == "torchvision"
    beta, count = (
        (TORCHVISION_BETA, len(drawn[0])) if torchvisions else (0.0, len(labels) * options.rpn_anchors_per_image)
    )
    objectness = F.binary_cross_entropy_with_logits(logits[drawn], labels[drawn].to(logits.dtype), reduction="sum")
    return objectness / count, F.smooth_l1_loss(deltas[positive], wanted, beta=beta, reduction="sum") / count
