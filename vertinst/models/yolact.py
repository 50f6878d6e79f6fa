"""YOLACT: instances as linear combinations of prototype masks (Bolya et al. 2019, arXiv 1904.02689).

A feature pyramid feeds two branches: one gives `prototypes` for the whole film, the other gives class, box and mask
coefficients for each anchor. A mask is the sigmoid of the coefficients' combination of prototypes, cropped to its box.
YOLACT++ (2020, arXiv 1912.06218) adds deformable convolutions, more anchors and a network that rescores masks.

With `preset: original` everything computes what github.com/dbolya/yolact computes, and its checkpoints fit.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vertinst.models import _yolact_losses as losses
from vertinst.models._anchors import anchor_boxes, decode_boxes, encode_boxes
from vertinst.models._inputs import (
    FilmTransform,
    Target,
    check_images,
    check_outputs,
    check_targets,
    fit_longest,
    fit_square,
)
from vertinst.models._instances import to_instances
from vertinst.models._yolact_backbones import Darknet53, ResNet
from vertinst.models._yolact_detection import Detections, select
from vertinst.models._yolact_masks import film_masks
from vertinst.models._yolact_network import FPN, FineProtoNet, MaskIoUNet, PredictionHead, proto_net, xavier
from vertinst.models._yolact_official import recognise
from vertinst.models._yolact_options import Options
from vertinst.structures import Instances

__all__ = ["Options", "Raw", "Yolact", "build", "recognise"]

# P3..P7: each level has half the size of the one before, rounded up.
STRIDES = (8, 16, 32, 64, 128)
STEM_CHANNELS = 64

# Red, green and blue; the original counts in 0..255.
ORIGINAL_MEAN = tuple(value / 255 for value in (123.68, 116.78, 103.94))
ORIGINAL_STD = tuple(value / 255 for value in (58.40, 57.12, 57.38))


def build(options: Options, classes: tuple[str, ...]) -> Yolact:
    """A YOLACT for these classes, label 1 being the first of them.

    Raises:
        CheckpointError: `backbone_weights` is `imagenet` and the weights can neither be found nor downloaded.
    """
    return Yolact(options, len(classes))


class Raw(NamedTuple):
    """What the network gives for a batch of B films; A anchors, C classes, k prototypes."""

    deltas: Tensor
    """(B, A, 4) boxes relative to the anchors."""
    logits: Tensor
    """(B, A, C + 1), background first."""
    coefficients: Tensor
    """(B, A, k) in -1..1."""
    prototypes: Tensor
    """(B, k, h, w) >= 0 at stride 4, or 2 where they are fine."""


class Yolact(nn.Module):
    """YOLACT: losses in training, instances in evaluation.

    Args:
        options: Settings.
        classes: Number of classes, background left out.
    """

    def __init__(self, options: Options, classes: int) -> None:
        super().__init__()
        self.options = options
        self.classes = classes
        self.transform = _transform(options)
        self.backbone = _backbone(options)
        channels = options.channels
        self.fpn = FPN(self.backbone.channels, channels)
        self.proto_net = proto_net(channels, options.prototypes, options.prototype_convs)
        head = PredictionHead(channels, _anchors_of_a_cell(options), classes, options.prototypes, options.head_convs)
        # One head for all levels; the list is the original's.
        self.prediction_layers = nn.ModuleList([head])
        self.semantic_seg_conv = nn.Conv2d(channels, classes, 1)
        self.fine_prototypes = (
            FineProtoNet(channels, STEM_CHANNELS, options.prototypes) if options.fine_prototypes else None
        )
        self.maskiou_net = MaskIoUNet(classes) if options.mask_rescoring else None
        for name, part in self.named_children():
            if name != "backbone":
                part.apply(xavier)
        head.start_as_background()
        if self.fine_prototypes is not None:
            self.fine_prototypes.start_as_interpolation()

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> dict[str, Tensor] | list[Instances]:
        """Losses in training, instances in evaluation.

        Args:
            images: Float tensors (3, H, W), 0..1, of any sizes.
            targets: Needed in training: dicts of `boxes` (N, 4) xyxy px, `labels` (N,) int64 in 1..C and `masks`
                (N, H, W) bool or uint8; N = 0 is fine.

        Returns:
            In training the weighted scalars `loss_class`, `loss_box`, `loss_mask` and `loss_semantic`, with
            `mask_rescoring` also `loss_rescoring`, float32; their sum is to be minimised. Else one `Instances` a
            film, in its own pixels, best score first.

        Raises:
            DataError: Films or targets are unusable (see `vertinst.models._inputs`).
            CheckpointError: In evaluation the network's outputs are not finite.
        """
        if self.training:
            check_images(images)
            batch, resized = self.transform(images, check_targets(images, targets, self.classes))
            raw, p3 = self._compute(batch.tensors)
            with torch.autocast(batch.tensors.device.type, enabled=False):
                return self._losses(raw, self.semantic_seg_conv(p3.float()), resized, _size(batch.tensors))
        batch, resized_sizes = self.prepare(images)
        raw = self.network(batch)
        return self.detect(raw, _size(batch), [(i.shape[1], i.shape[2]) for i in images], resized_sizes)

    def prepare(self, images: list[Tensor]) -> tuple[Tensor, list[tuple[int, int]]]:
        """Films as the network takes them.

        Args:
            images: As in `forward`.

        Returns:
            The batch (B, 3, h, w), and the size (h, w) of each film within it.
        """
        check_images(images)
        batch, _ = self.transform(images)
        return batch.tensors, batch.image_sizes

    def network(self, batch: Tensor) -> Raw:
        """All that is learnt, from a batch (B, 3, h, w) to float32 outputs: tensors alone, to be exported whole."""
        return self._compute(batch)[0]

    def _compute(self, batch: Tensor) -> tuple[Raw, Tensor]:
        """The network's outputs, and P3 for the semantic loss."""
        features = self.backbone(batch)
        levels = self.fpn(features[1:])
        inner = self.proto_net[:-1](levels[0])
        prototypes = self.proto_net[-1](inner)
        if self.fine_prototypes is not None:
            prototypes = self.fine_prototypes(prototypes, inner, features.stem)
        outputs = [self.prediction_layers[0](level) for level in levels]
        deltas, logits, coefficients = (torch.cat(parts, dim=1).float() for parts in zip(*outputs, strict=True))
        return Raw(deltas, logits, coefficients, F.relu(prototypes).float()), levels[0]

    def anchor_count(self, batch_size: tuple[int, int]) -> int:
        """Anchors of a batch of (h, w) px."""
        return sum(h * w for h, w in _level_sizes(batch_size)) * _anchors_of_a_cell(self.options)

    def _anchors(self, batch_size: tuple[int, int], device: torch.device) -> Tensor:
        options = self.options
        return anchor_boxes(
            batch_size,
            _level_sizes(batch_size),
            tuple(size * options.image_size for size in options.anchor_sizes),
            options.anchor_scales,
            options.aspect_ratios,
            device,
            square=options.square_anchors,
        )

    def _losses(
        self, raw: Raw, semantic: Tensor, targets: list[Target], padded_size: tuple[int, int]
    ) -> dict[str, Tensor]:
        options = self.options
        anchors = self._anchors(padded_size, raw.deltas.device)
        assigned = [
            losses.match_anchors(anchors, target["boxes"], options.positive_iou, options.negative_iou)
            for target in targets
        ]
        labels = torch.stack([_anchor_labels(a, t["labels"]) for a, t in zip(assigned, targets, strict=True)])
        size, coarse_size = _size(raw.prototypes), _size(semantic)
        box, mask, rescoring = (raw.prototypes.sum() + raw.deltas.sum()) * raw.deltas.new_zeros(3)
        for film, (target, truth) in enumerate(zip(targets, assigned, strict=True)):
            positive = (truth >= 0).nonzero()[:, 0]
            wanted = encode_boxes(target["boxes"][truth[positive]], anchors[positive])
            box = box + F.smooth_l1_loss(raw.deltas[film, positive], wanted, reduction="sum")
            masks = losses.shrink_masks(target["masks"], padded_size, size, options.mask_targets)
            film_mask, film_rescoring = self._mask_losses(raw, film, positive, truth, target, masks, padded_size)
            mask, rescoring = mask + film_mask, rescoring + film_rescoring
        positives = (labels > 0).sum().clamp(min=1)
        coarse = [losses.shrink_masks(t["masks"], padded_size, coarse_size, options.mask_targets) for t in targets]
        parts = {
            "loss_class": options.class_loss_weight * self._class_loss(raw.logits, labels),
            "loss_box": options.box_loss_weight * box / positives,
            "loss_mask": options.mask_loss_weight * mask / positives,
            "loss_semantic": options.semantic_loss_weight
            * losses.semantic_loss(semantic, [target["labels"] for target in targets], coarse),
        }
        if self.maskiou_net is not None:
            parts["loss_rescoring"] = options.rescoring_loss_weight * rescoring / positives
        return parts

    def _class_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        if self.options.class_loss == "focal":
            return losses.focal_loss(logits, labels)
        return losses.ohem_loss(logits, labels, self.options.negatives_per_positive)

    def _mask_losses(
        self,
        raw: Raw,
        film: int,
        positive: Tensor,
        assigned: Tensor,
        target: Target,
        masks: Tensor,
        padded_size: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """Mask loss and rescoring loss of one film, both summed over its positive anchors."""
        options, most = self.options, self.options.masks_per_film
        scale = 1.0
        if most is not None and len(positive) > most:
            scale = len(positive) / most
            positive = positive[torch.randperm(len(positive), device=positive.device)[:most]]
        truth = assigned[positive]
        prototypes, coefficients = raw.prototypes[film], raw.coefficients[film, positive]
        height, width = _size(prototypes)
        boxes = target["boxes"] * target["boxes"].new_tensor([width / padded_size[1], height / padded_size[0]] * 2)
        loss = losses.mask_loss(
            prototypes,
            coefficients,
            truth,
            masks,
            boxes,
            box_expansion=options.box_expansion,
            boundary_weight=options.boundary_weight,
        )
        if self.maskiou_net is None:
            return loss * scale, loss.new_zeros(())
        cropped = losses.crop_to_boxes(_assemble(prototypes, coefficients), boxes[truth])
        labels = target["labels"][truth]
        return loss * scale, losses.mask_iou_loss(cropped, masks[truth], labels, self.maskiou_net)

    def detect(
        self, raw: Raw, batch_size: tuple[int, int], image_sizes: list[tuple[int, int]], sizes: list[tuple[int, int]]
    ) -> list[Instances]:
        """Instances from what the network gave, wherever it ran.

        Args:
            raw: The network's outputs.
            batch_size: (h, w) of the batch.
            image_sizes: (H, W) of each film.
            sizes: (h, w) of each film within the batch.

        Returns:
            One `Instances` a film.

        Raises:
            CheckpointError: The outputs are not finite.
        """
        check_outputs(*raw)
        anchors = self._anchors(batch_size, raw.deltas.device)
        with torch.autocast(raw.deltas.device.type, enabled=False):
            return [
                self._detect_film(raw, film, anchors, batch_size, image_size, size)
                for film, (image_size, size) in enumerate(zip(image_sizes, sizes, strict=True))
            ]

    def _detect_film(
        self,
        raw: Raw,
        film: int,
        anchors: Tensor,
        batch_size: tuple[int, int],
        image_size: tuple[int, int],
        size: tuple[int, int],
    ) -> Instances:
        options = self.options
        boxes = decode_boxes(raw.deltas[film], anchors)
        found = select(
            raw.logits[film].softmax(dim=-1)[:, 1:],
            boxes,
            kind=options.nms,
            score_threshold=options.score_threshold,
            second_threshold=options.second_threshold,
            iou_threshold=options.nms_iou_threshold,
            top_k=options.top_k,
            max_detections=options.max_detections,
        )
        coefficients, prototypes = raw.coefficients[film, found.anchors], raw.prototypes[film]
        boxes = boxes[found.anchors]
        down, across = (side / whole for side, whole in zip(size, image_size, strict=True))
        step = _size(prototypes)[0] / batch_size[0], _size(prototypes)[1] / batch_size[1]
        film_boxes = boxes / boxes.new_tensor([across, down] * 2)
        masks = film_masks(
            prototypes,
            coefficients,
            film_boxes,
            image_size,
            (down * step[0], across * step[1]),
            crop=options.mask_crop,
            interpolate=options.mask_interpolation,
            box_expansion=options.box_expansion,
        )
        scores = self._scores(found, prototypes, coefficients, boxes * boxes.new_tensor([step[1], step[0]] * 2))
        return to_instances(film_boxes, found.labels, scores, masks, image_size)

    def _scores(self, found: Detections, prototypes: Tensor, coefficients: Tensor, boxes: Tensor) -> Tensor:
        """Scores of detections, with rescoring times the IoU that is expected of their masks."""
        if self.maskiou_net is None or len(found.labels) == 0:
            return found.scores
        masks = losses.crop_to_boxes(_assemble(prototypes, coefficients), boxes)
        expected: Tensor = self.maskiou_net(masks, found.labels)
        # May exceed 1, as in the original, whose order it decides; scores are cut at 1 when all is ordered.
        return found.scores * expected


def _transform(options: Options) -> FilmTransform:
    if options.preprocessing == "radiograph":
        return FilmTransform(partial(fit_longest, longest=options.image_size))
    # Darknet was trained on values 0..1.
    mean, std = ((0.0,) * 3, (1.0,) * 3) if options.backbone == "darknet53" else (ORIGINAL_MEAN, ORIGINAL_STD)
    square = partial(fit_square, side=options.image_size)
    return FilmTransform(square, mean=mean, std=std, smooth=False, divisible=1)


def _backbone(options: Options) -> ResNet | Darknet53:
    if options.backbone == "darknet53":
        return Darknet53(frozen_batch_norm=options.frozen_batch_norm, trainable_layers=options.trainable_layers)
    return ResNet(
        options.backbone,
        options.backbone_weights,
        frozen_batch_norm=options.frozen_batch_norm,
        trainable_layers=options.trainable_layers,
        deformable_interval=options.deformable_interval,
    )


def _anchors_of_a_cell(options: Options) -> int:
    return len(options.anchor_scales) * len(options.aspect_ratios)


def _level_sizes(batch_size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """(h, w) of P3..P7 for a batch of (h, w) px."""
    return tuple((-(-batch_size[0] // stride), -(-batch_size[1] // stride)) for stride in STRIDES)


def _size(maps: Tensor) -> tuple[int, int]:
    return maps.shape[-2], maps.shape[-1]


def _assemble(prototypes: Tensor, coefficients: Tensor) -> Tensor:
    """Sigmoid of the linear combinations, (k, h, w) and (N, k) to (N, h, w) (equation 1 of the paper)."""
    return torch.sigmoid(torch.einsum("nk,khw->nhw", coefficients, prototypes))


def _anchor_labels(assigned: Tensor, labels: Tensor) -> Tensor:
    """(A,) class of each anchor: 0 for background, the value of `NEUTRAL` for those in between."""
    background_or_neutral = assigned + 1
    if labels.shape[0] == 0:
        return background_or_neutral
    return torch.where(assigned >= 0, labels[assigned.clamp(min=0)], background_or_neutral)
