"""YOLACT: instances as linear combinations of prototype masks (Bolya et al. 2019, arXiv 1904.02689).

A feature pyramid feeds two branches: one gives `prototypes` for the whole film, the other gives class, box and mask
coefficients for each anchor. A mask is the sigmoid of the coefficients' combination of prototypes, cropped to its box.
YOLACT++ (2020, arXiv 1912.06218) adds deformable convolutions, more anchors and a network that rescores masks.

With `preset: original` everything computes what github.com/dbolya/yolact computes, and its checkpoints fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from vertinst.models import _yolact_losses as losses
from vertinst.models._anchors import anchor_boxes, decode_boxes, encode_boxes
from vertinst.models._backbones import BackboneName, BackboneWeights
from vertinst.models._inputs import FilmTransform, Target, check_images, check_outputs, check_targets
from vertinst.models._instances import to_instances
from vertinst.models._yolact_backbones import Darknet53, ResNet
from vertinst.models._yolact_detection import Detections, Nms, select
from vertinst.models._yolact_losses import MaskTargets
from vertinst.models._yolact_masks import film_masks
from vertinst.models._yolact_network import FPN, FineProtoNet, MaskIoUNet, PredictionHead, proto_net, xavier
from vertinst.models._yolact_official import recognise
from vertinst.structures import Instances

__all__ = ["Options", "Raw", "Yolact", "build", "recognise"]

# P3..P7: each level has half the size of the one before, rounded up.
STRIDES = (8, 16, 32, 64, 128)
STEM_CHANNELS = 64

# Side of the square anchors that the original uses at 550 px, and the size they are meant for.
ORIGINAL_SIZE = 550
ORIGINAL_ANCHORS_PX = (24, 48, 96, 192, 384)
# Red, green and blue; the original counts in 0..255.
ORIGINAL_MEAN = tuple(value / 255 for value in (123.68, 116.78, 103.94))
ORIGINAL_STD = tuple(value / 255 for value in (58.40, 57.12, 57.38))

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Options(BaseModel, extra="forbid"):
    """Settings of YOLACT. The defaults are the paper's 550 px network with ResNet-50, made for vertebrae.

    Attributes:
        preset: `radiograph`: the defaults below. `original`: those of the original implementation instead, for
            everything that is not set.
        preprocessing: `radiograph`: the film's percentile window, the aspect kept, smooth reduction. `original`: grey
            values as stored, stretched to `image_size` squared by bilinear samples, the original's means.
        backbone: Network that extracts the features.
        backbone_weights: `imagenet` downloads torchvision's weights when the model is built; not for `darknet53`.
        frozen_batch_norm: Constant batch norm in the backbone: for batches of one to three films, with weights.
        trainable_layers: Stages of the backbone that are trained, counted from its output.
        deformable_interval: YOLACT++: every so many blocks of stages 2 to 4 have a deformable convolution; 0 for none.
        image_size: Longest side of the film inside the network, px.
        channels: Width of pyramid, prototype branch and prediction head.
        prototypes: Number of prototype masks.
        prototype_convs: 3x3 convolutions before the prototypes are doubled in size.
        fine_prototypes: Prototypes at half the film's resolution instead of a quarter: calmer contours, more memory.
        head_convs: 3x3 convolutions that class, box and coefficients share.
        mask_rescoring: YOLACT++: scores are multiplied by the IoU that a small network expects of the mask.
        anchor_sizes: Side of the square anchor on P3..P7, as a fraction of `image_size`. A vertebra (0.1 to 0.15) so
            falls on P3, whose fine grid gives it several anchors; the paper's (0.044, 0.087, ...) would put it on P4.
        anchor_scales: Factors on the sides. Two an octave: vertebrae of a film differ less than an octave.
        aspect_ratios: Width over height. The outer ones serve rods and screws.
        square_anchors: Anchors are as high as wide, whatever the ratio: what the published weights were trained with.
        positive_iou: An anchor with at least this IoU with a truth is trained as that truth.
        negative_iou: An anchor with less IoU than this with any truth is trained as background.
        class_loss: `ohem`: cross-entropy of the positives and the hardest negatives. `focal`: of all, easy ones hardly
            counting.
        negatives_per_positive: Hardest background anchors per positive one, with `ohem`.
        mask_targets: `soft`: how much of a cell the mask covers. `binary`: whether it covers the cell's centre.
        masks_per_film: So many positive anchors of a film, drawn at random, enter the mask loss; null for all.
        boundary_weight: What pixels at the contour count more in the mask loss; 0 for no difference.
        class_loss_weight: Factor on the class loss.
        box_loss_weight: Factor on the box loss.
        mask_loss_weight: Factor on the mask loss.
        semantic_loss_weight: Factor on the auxiliary semantic loss.
        rescoring_loss_weight: Factor on the loss of the rescoring network.
        score_threshold: Detections must score more than this.
        second_threshold: Every class of a detection must, not only its best one.
        nms: `fast`, `cross_class` (Fast NMS of all classes together) or `ordinary`.
        nms_iou_threshold: NMS drops what overlaps a better box by more than this IoU.
        top_k: Candidates of a class that Fast NMS looks at.
        max_detections: Most detections of a film.
        mask_crop: Masks are cut at their box in pixels of the `film`, or of the `prototypes` and then enlarged.
        mask_interpolation: What is enlarged to the film: `logit` or `probability`.
        box_expansion: Share of its sides by which a mask may reach beyond its box on each side, in training too.
    """

    preset: Literal["radiograph", "original"] = "radiograph"
    preprocessing: Literal["radiograph", "original"] = "radiograph"
    # One literal and not a union, of which a wrong name would be told twice.
    backbone: Literal[BackboneName, "darknet53"] = "resnet50"
    backbone_weights: BackboneWeights = "none"
    frozen_batch_norm: bool = False
    trainable_layers: int = Field(5, ge=0, le=5)
    deformable_interval: int = Field(0, ge=0, le=8)
    image_size: int = Field(550, ge=64, le=4096)
    channels: int = Field(256, ge=8, le=1024)
    prototypes: int = Field(32, ge=1, le=256)
    prototype_convs: int = Field(3, ge=0, le=8)
    fine_prototypes: bool = False
    head_convs: int = Field(1, ge=0, le=8)
    mask_rescoring: bool = False
    anchor_sizes: tuple[Positive, Positive, Positive, Positive, Positive] = (0.07, 0.14, 0.28, 0.56, 1.0)
    anchor_scales: tuple[Positive, ...] = Field((1.0, math.sqrt(2.0)), min_length=1)
    aspect_ratios: tuple[Positive, ...] = Field((0.35, 1.0, 2.5), min_length=1)
    square_anchors: bool = False
    positive_iou: Fraction = 0.5
    negative_iou: Fraction = 0.4
    class_loss: Literal["ohem", "focal"] = "ohem"
    negatives_per_positive: Positive = 3.0
    mask_targets: MaskTargets = "soft"
    masks_per_film: int | None = Field(None, ge=1)
    boundary_weight: Weight = 0.0
    class_loss_weight: Weight = 1.0
    box_loss_weight: Weight = 1.5
    mask_loss_weight: Weight = 6.125
    semantic_loss_weight: Weight = 1.0
    rescoring_loss_weight: Weight = 25.0
    score_threshold: Fraction = 0.05
    second_threshold: bool = True
    nms: Nms = "fast"
    nms_iou_threshold: Fraction = 0.5
    top_k: int = Field(200, ge=1)
    max_detections: int = Field(100, ge=1)
    mask_crop: Literal["film", "prototype"] = "film"
    mask_interpolation: Literal["logit", "probability"] = "logit"
    box_expansion: float = Field(0.0, ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("preset") == "original":
            return {**_original(values), **values}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        if self.negative_iou > self.positive_iou:
            raise ValueError(
                f"negative_iou must not be above positive_iou, got {self.negative_iou} and {self.positive_iou}"
            )
        if self.backbone == "darknet53" and (self.deformable_interval or self.backbone_weights != "none"):
            raise ValueError("darknet53 has neither deformable convolutions nor weights to download")
        return self

    @property
    def film_tone(self) -> Literal["window", "stored"]:
        """How films are to be read for this network; see `read_film`."""
        return "window" if self.preprocessing == "radiograph" else "stored"


def _original(values: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of the original where they differ from ours, for its sizes 400, 550 and 700 and any other."""
    size = values.get("image_size", ORIGINAL_SIZE)
    # A size that is no number is refused with the other fields.
    size = size if isinstance(size, int) and size > 0 else ORIGINAL_SIZE
    return {
        "preprocessing": "original",
        "anchor_sizes": tuple(int(side / ORIGINAL_SIZE * size) / size for side in ORIGINAL_ANCHORS_PX),
        "anchor_scales": (1.0,),
        "aspect_ratios": (1.0, 0.5, 2.0),
        "square_anchors": True,
        "mask_targets": "binary",
        "masks_per_film": 300 if size >= 700 else 100,
        "second_threshold": False,
        # Its cross-class form has no other limit than `top_k`.
        "max_detections": values.get("top_k", 200) if values.get("nms") == "cross_class" else 100,
        "mask_crop": "prototype",
        "mask_interpolation": "probability",
    }


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
        anchors = len(options.anchor_scales) * len(options.aspect_ratios)
        head = PredictionHead(channels, anchors, classes, options.prototypes, options.head_convs)
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

    def _anchors(self, batch_size: tuple[int, int], device: torch.device) -> Tensor:
        options = self.options
        return anchor_boxes(
            batch_size,
            tuple((-(-batch_size[0] // stride), -(-batch_size[1] // stride)) for stride in STRIDES),
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
        return FilmTransform(options.image_size)
    # Darknet was trained on values 0..1.
    mean, std = ((0.0,) * 3, (1.0,) * 3) if options.backbone == "darknet53" else (ORIGINAL_MEAN, ORIGINAL_STD)
    return FilmTransform(options.image_size, mean=mean, std=std, stretch=True)


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
