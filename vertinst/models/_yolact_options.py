"""Settings of YOLACT, and those of the original implementation (github.com/dbolya/yolact) among them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from vertinst.models._backbones import BackboneName, BackboneWeights
from vertinst.models._yolact_detection import Nms
from vertinst.models._yolact_losses import MaskTargets

__all__ = ["Options"]

# Side of the square anchors that the original uses at 550 px, and the size they are meant for.
ORIGINAL_SIZE = 550
ORIGINAL_ANCHORS_PX = (24, 48, 96, 192, 384)

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
