"""YOLACT: instances as linear combinations of prototype masks (Bolya et al. 2019, arXiv 1904.02689).

A feature pyramid feeds two branches: one gives `prototypes` for the whole film, the other gives class, box and mask
coefficients for each anchor. A mask is the sigmoid of the coefficients' combination of prototypes, cropped to its box.
"""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FeaturePyramidNetwork, clip_boxes_to_image
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from vertinst.models._anchors import anchor_boxes, decode_boxes, encode_boxes
from vertinst.models._backbones import BackboneName, BackboneWeights, resnet, stage_channels
from vertinst.models._inputs import FilmTransform, Target, check_images, check_outputs, check_targets
from vertinst.models._instances import to_instances
from vertinst.models._yolact_detection import assemble_masks, fast_nms, paste_masks
from vertinst.models._yolact_losses import class_loss, coverage, mask_loss, match_anchors, semantic_loss
from vertinst.structures import Instances

__all__ = ["Options", "Yolact", "build"]

# P3 has stride 8; prototypes have twice its resolution.
SEMANTIC_STRIDE = 8
PROTOTYPE_STRIDE = 4
# Softmax mass of all classes together in an untrained network: most anchors are background.
FOREGROUND_PRIOR = 0.05

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Options(BaseModel, extra="forbid"):
    """Settings of YOLACT. The defaults are the paper's 550 px network with ResNet-50 and anchors for vertebrae.

    Attributes:
        backbone: Network that extracts the features.
        backbone_weights: `imagenet` downloads torchvision's weights when the model is built.
        frozen_batch_norm: Constant batch norm in the backbone: for batches of one to three films, with weights.
        trainable_layers: Stages of the backbone that are trained, counted from its output.
        image_size: Longest side of the film inside the network, px; the aspect is kept.
        channels: Width of pyramid, prototype branch and prediction head.
        prototypes: Number of prototype masks.
        prototype_convs: 3x3 convolutions before the prototypes are doubled in size.
        head_convs: 3x3 convolutions that class, box and coefficients share.
        anchor_sizes: Side of the square anchor on P3..P7, as a fraction of `image_size`. A vertebra (0.1 to 0.15) so
            falls on P3, whose fine grid gives it several anchors; the paper's (0.044, 0.087, ...) would put it on P4.
        anchor_scales: Factors on the sides. Two an octave: vertebrae of a film differ less than an octave.
        aspect_ratios: Width over height. The outer ones serve rods and screws.
        positive_iou: An anchor with at least this IoU with a truth is trained as that truth.
        negative_iou: An anchor with less IoU than this with any truth is trained as background.
        negatives_per_positive: Hardest background anchors per positive one.
        class_loss_weight: Factor on the class loss.
        box_loss_weight: Factor on the box loss.
        mask_loss_weight: Factor on the mask loss.
        semantic_loss_weight: Factor on the auxiliary semantic loss.
        score_threshold: Detections must score more than this.
        nms_iou_threshold: Fast NMS drops what overlaps a better box of its class by more than this IoU.
        top_k: Candidates of a class that Fast NMS looks at.
        max_detections: Most detections of a film.
    """

    backbone: BackboneName = "resnet50"
    backbone_weights: BackboneWeights = "none"
    frozen_batch_norm: bool = False
    trainable_layers: int = Field(5, ge=0, le=5)
    image_size: int = Field(550, ge=64, le=4096)
    channels: int = Field(256, ge=8, le=1024)
    prototypes: int = Field(32, ge=1, le=256)
    prototype_convs: int = Field(3, ge=0, le=8)
    head_convs: int = Field(1, ge=0, le=8)
    anchor_sizes: tuple[Positive, Positive, Positive, Positive, Positive] = (0.07, 0.14, 0.28, 0.56, 1.0)
    anchor_scales: tuple[Positive, ...] = Field((1.0, math.sqrt(2.0)), min_length=1)
    aspect_ratios: tuple[Positive, ...] = Field((0.35, 1.0, 2.5), min_length=1)
    positive_iou: Fraction = 0.5
    negative_iou: Fraction = 0.4
    negatives_per_positive: Positive = 3.0
    class_loss_weight: Weight = 1.0
    box_loss_weight: Weight = 1.5
    mask_loss_weight: Weight = 6.125
    semantic_loss_weight: Weight = 1.0
    score_threshold: Fraction = 0.05
    nms_iou_threshold: Fraction = 0.5
    top_k: int = Field(200, ge=1)
    max_detections: int = Field(100, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Options:
        if self.negative_iou > self.positive_iou:
            raise ValueError(
                f"negative_iou must not be above positive_iou, got {self.negative_iou} and {self.positive_iou}"
            )
        return self


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
    """(B, k, h, w) >= 0 at stride 4."""
    anchors: Tensor
    """(A, 4) xyxy px of the resized film."""


class ProtoNet(nn.Sequential):
    """Prototype masks from P3 (section 3.1 of the paper; ReLU makes the prototypes easy to read)."""

    def __init__(self, channels: int, prototypes: int, convs: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(convs):
            layers += _conv3x3(channels)
        layers.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False))
        layers += _conv3x3(channels)
        layers += [nn.Conv2d(channels, prototypes, 1), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class PredictionHead(nn.Module):
    """Boxes, classes and coefficients of one level; the same weights serve all levels (figure 4 of the paper)."""

    def __init__(self, channels: int, anchors: int, classes: int, prototypes: int, convs: int) -> None:
        super().__init__()
        self.widths = (4, classes + 1, prototypes)
        self.trunk = nn.Sequential(*(layer for _ in range(convs) for layer in _conv3x3(channels)))
        self.box = nn.Conv2d(channels, anchors * 4, 3, padding=1)
        self.score = nn.Conv2d(channels, anchors * (classes + 1), 3, padding=1)
        self.coefficient = nn.Conv2d(channels, anchors * prototypes, 3, padding=1)

    def start_as_background(self) -> None:
        """Small score weights and a bias towards background: the first steps are then calm (arXiv 1708.02002, 4.1)."""
        classes = self.widths[1] - 1
        bias = torch.zeros(self.score.out_channels // self.widths[1], self.widths[1])
        bias[:, 0] = math.log(classes * (1 - FOREGROUND_PRIOR) / FOREGROUND_PRIOR)
        with torch.no_grad():
            nn.init.normal_(self.score.weight, std=0.01)
            self.score.bias.copy_(bias.flatten())  # type: ignore[union-attr]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, c, h, w) to (B, h * w * anchors, 4), (..., C + 1) and (..., k)."""
        features = self.trunk(features)
        outputs = (self.box(features), self.score(features), torch.tanh(self.coefficient(features)))
        deltas, logits, coefficients = (
            output.permute(0, 2, 3, 1).reshape(len(output), -1, width)
            for output, width in zip(outputs, self.widths, strict=True)
        )
        return deltas, logits, coefficients


class Yolact(nn.Module):
    """YOLACT: losses in training, `Instances` in evaluation.

    Args:
        options: Settings.
        classes: Number of classes, background left out.
    """

    def __init__(self, options: Options, classes: int) -> None:
        super().__init__()
        self.options = options
        self.classes = classes
        self.transform = FilmTransform(options.image_size)
        body = resnet(
            options.backbone,
            options.backbone_weights,
            frozen_batch_norm=options.frozen_batch_norm,
            trainable_layers=options.trainable_layers,
        )
        channels = options.channels
        self.body = IntermediateLayerGetter(body, {"layer2": "p3", "layer3": "p4", "layer4": "p5"})
        self.fpn = FeaturePyramidNetwork(
            list(stage_channels(body)[1:]), channels, extra_blocks=LastLevelP6P7(channels, channels)
        )
        anchors = len(options.anchor_scales) * len(options.aspect_ratios)
        self.protonet = ProtoNet(channels, options.prototypes, options.prototype_convs)
        self.head = PredictionHead(channels, anchors, classes, options.prototypes, options.head_convs)
        self.semantic = nn.Conv2d(channels, classes, 1)
        for part in (self.protonet, self.head, self.semantic):
            part.apply(_xavier)
        self.head.start_as_background()

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> dict[str, Tensor] | list[Instances]:
        """Losses in training, detections in evaluation.

        Args:
            images: Float tensors (3, H, W), 0..1, of any sizes.
            targets: Needed in training: dicts of `boxes` (N, 4) xyxy px, `labels` (N,) int64 in 1..C and `masks`
                (N, H, W) bool or uint8; N = 0 is fine.

        Returns:
            In training the weighted scalars `loss_class`, `loss_box`, `loss_mask` and `loss_semantic`, float32;
            their sum is to be minimised. Else the `Instances` of each film in its own pixels, best score first, no
            mask reaching outside of its box; none where nothing was found.

        Raises:
            DataError: Films or targets are unusable (see `vertinst.models._inputs`).
            CheckpointError: In evaluation the network's outputs are not finite.
        """
        check_images(images)
        checked = check_targets(images, targets, self.classes) if self.training else None
        batch, resized = self.transform(images, checked)
        levels = list(self.fpn(self.body(batch.tensors)).values())
        raw = self._predict(levels, batch.tensors)
        with torch.autocast(batch.tensors.device.type, enabled=False):
            if self.training:
                semantic = self.semantic(levels[0].float())
                return self._losses(raw, semantic, resized, tuple(batch.tensors.shape[-2:]))
            sizes = [(image.shape[1], image.shape[2]) for image in images]
            return [self._detect(raw, i, size, batch.image_sizes[i]) for i, size in enumerate(sizes)]

    def _predict(self, levels: list[Tensor], batch: Tensor) -> Raw:
        options = self.options
        anchors = anchor_boxes(
            tuple(batch.shape[-2:]),
            tuple(tuple(level.shape[-2:]) for level in levels),
            tuple(size * options.image_size for size in options.anchor_sizes),
            options.anchor_scales,
            options.aspect_ratios,
            batch.device,
        )
        outputs = [self.head(level) for level in levels]
        deltas, logits, coefficients = (torch.cat(parts, dim=1).float() for parts in zip(*outputs, strict=True))
        return Raw(deltas, logits, coefficients, self.protonet(levels[0]).float(), anchors)

    def _losses(
        self, raw: Raw, semantic: Tensor, targets: list[Target], padded_size: tuple[int, int]
    ) -> dict[str, Tensor]:
        options = self.options
        assigned = [
            match_anchors(raw.anchors, target["boxes"], options.positive_iou, options.negative_iou)
            for target in targets
        ]
        labels = torch.stack([_anchor_labels(a, t["labels"]) for a, t in zip(assigned, targets, strict=True)])
        box = raw.deltas.sum() * 0.0
        mask = raw.prototypes.sum() * 0.0
        fine = [coverage(target["masks"], padded_size, PROTOTYPE_STRIDE) for target in targets]
        for film, (target, anchor_truth) in enumerate(zip(targets, assigned, strict=True)):
            positive = (anchor_truth >= 0).nonzero()[:, 0]
            truth = anchor_truth[positive]
            wanted = encode_boxes(target["boxes"][truth], raw.anchors[positive])
            box = box + F.smooth_l1_loss(raw.deltas[film, positive], wanted, reduction="sum")
            mask = mask + mask_loss(
                raw.prototypes[film],
                raw.coefficients[film, positive],
                truth,
                fine[film],
                target["boxes"] / PROTOTYPE_STRIDE,
            )
        positives = max(int((labels > 0).sum()), 1)
        ratio = SEMANTIC_STRIDE // PROTOTYPE_STRIDE
        coarse = [F.avg_pool2d(masks[:, None], ratio)[:, 0] for masks in fine]
        return {
            "loss_class": options.class_loss_weight * class_loss(raw.logits, labels, options.negatives_per_positive),
            "loss_box": options.box_loss_weight * box / positives,
            "loss_mask": options.mask_loss_weight * mask / positives,
            "loss_semantic": options.semantic_loss_weight
            * semantic_loss(semantic, [target["labels"] for target in targets], coarse),
        }

    def _detect(self, raw: Raw, film: int, image_size: tuple[int, int], resized: tuple[int, int]) -> Instances:
        options = self.options
        probabilities = raw.logits[film].softmax(dim=-1)[:, 1:]
        check_outputs(probabilities, raw.deltas[film], raw.coefficients[film], raw.prototypes[film])
        anchor, column = (probabilities > options.score_threshold).nonzero(as_tuple=True)
        scores, labels = probabilities[anchor, column], column + 1
        boxes = clip_boxes_to_image(decode_boxes(raw.deltas[film, anchor], raw.anchors[anchor]), resized)
        solid = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(dim=1)
        kept = fast_nms(boxes, scores.where(solid, -1.0), labels, options.nms_iou_threshold, options.top_k)
        kept = kept[solid[kept]][: options.max_detections]
        scale = (resized[0] / image_size[0], resized[1] / image_size[1])
        film_boxes = clip_boxes_to_image(boxes[kept] / boxes.new_tensor([scale[1], scale[0]] * 2), image_size)
        masks = assemble_masks(raw.prototypes[film], raw.coefficients[film, anchor[kept]])
        step = (scale[0] / PROTOTYPE_STRIDE, scale[1] / PROTOTYPE_STRIDE)
        pasted = paste_masks(masks, film_boxes, image_size, step)
        return to_instances(film_boxes, labels[kept], scores[kept], pasted, image_size)


def _conv3x3(channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)]


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _anchor_labels(assigned: Tensor, labels: Tensor) -> Tensor:
    """(A,) class of each anchor: 0 for background, the value of `NEUTRAL` for those in between."""
    background_or_neutral = assigned + 1
    if labels.shape[0] == 0:
        return background_or_neutral
    return torch.where(assigned >= 0, labels[assigned.clamp(min=0)], background_or_neutral)
