"""Settings of Mask R-CNN, and those of Detectron2's and torchvision's published networks among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from vertinst.models._backbones import BackboneName, BackboneWeights

__all__ = ["Conventions", "Options", "Preprocessing"]

Conventions = Literal["detectron2", "torchvision"]
Preprocessing = Literal["radiograph", "detectron2", "torchvision"]

# Sides of the square anchors on P2..P6 that all published networks use, whatever the size of the image.
ANCHORS_PX = (32, 64, 128, 256, 512)
PUBLISHED_SIZE, PUBLISHED_MAX_SIZE = 800, 1333
# Options come with strangers' weights too: time grows with the square of the candidates, memory with the proposals.
MOST_CANDIDATES, MOST_PROPOSALS = 20_000, 10_000

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Options(BaseModel, extra="forbid"):
    """Settings of Mask R-CNN. The defaults are Detectron2's ResNet-50 network with the preprocessing for radiographs.

    A small and quick variant for trials: `backbone=resnet18, image_size=256, channels=64, box_head_width=256,
    rpn_proposals_train=200, rpn_proposals_test=200, rois_per_image=64`.

    Attributes:
        preset: `radiograph`: the defaults below. `detectron2`, `torchvision`, `torchvision_v2`: for everything that is
            not set those of Detectron2's `mask_rcnn_R_50_FPN` and torchvision's `maskrcnn_resnet50_fpn` and `_v2`.
        conventions: How what is not learnt is computed. `detectron2`: anchors that are not rounded, aligned RoIAlign
            with as many samples as a bin needs, L1 losses of boxes. `torchvision`: whole-numbered anchors, RoIAlign
            half a pixel off with four samples a bin, smooth L1 losses.
        preprocessing: `radiograph`: the film's percentile window, reduced to `image_size` on its longest side.
            `detectron2`: grey values as stored, the shortest side `image_size`, whole grey values. `torchvision`: as
            stored, the shortest side, bilinear samples alone.
        backbone: Network that extracts the features.
        backbone_weights: `imagenet` downloads torchvision's weights when the model is built.
        frozen_batch_norm: Constant batch norm in the backbone: for batches of one to three films, with weights.
        batch_norm_eps: Added to the variance in the backbone's batch norm.
        stride_in_1x1: Blocks that halve the resolution do so in their first convolution, as Detectron2's published
            weights want it, and not in the 3x3 one; resnet50 and resnet101 alone.
        trainable_layers: Stages of the backbone that are trained, counted from its output; all below are frozen.
        image_size: Longest side of the film inside the network, px; with the preprocessing of Detectron2 or
            torchvision the shortest side.
        max_size: There the longest side is at most this.
        channels: Width of the feature pyramid, the region proposal network and the mask head.
        fpn_norm: Batch norm in the feature pyramid.
        rpn_convs: 3x3 convolutions of the region proposal network.
        anchor_sizes: Side of the square anchor on P2..P6, as a fraction of `image_size`.
        aspect_ratios: Width over height of the anchors.
        rpn_candidates_train: Proposals of each level that enter NMS, in training.
        rpn_candidates_test: The same in evaluation.
        rpn_proposals_train: Proposals of a film that are kept after it, in training.
        rpn_proposals_test: The same in evaluation.
        rpn_nms_iou_threshold: Proposals that overlap a better one by more than this IoU are dropped.
        rpn_anchors_per_image: Anchors of a film that enter the proposal losses.
        rois_per_image: Proposals of a film that enter the losses of box and mask head.
        box_head_convs: 3x3 convolutions of the box head; with some it has one fully connected layer, else two.
        box_head_width: Width of the fully connected layers of the box head.
        mask_head_convs: 3x3 convolutions of the mask head.
        head_norm: Batch norm after the convolutions of box and mask head.
        rpn_loss_weight: Factor on the two losses of the proposal network.
        class_loss_weight: Factor on the class loss.
        box_loss_weight: Factor on the box loss.
        mask_loss_weight: Factor on the mask loss.
        score_threshold: Detections must score more than this.
        nms_iou_threshold: A detection that overlaps a better one of its class by more than this IoU is dropped.
        max_detections: Most detections of a film.
    """

    preset: Literal["radiograph", "detectron2", "torchvision", "torchvision_v2"] = "radiograph"
    conventions: Conventions = "detectron2"
    preprocessing: Preprocessing = "radiograph"
    backbone: BackboneName = "resnet50"
    backbone_weights: BackboneWeights = "none"
    frozen_batch_norm: bool = False
    batch_norm_eps: Weight = 1e-5
    stride_in_1x1: bool = False
    trainable_layers: int = Field(5, ge=0, le=5)
    image_size: int = Field(PUBLISHED_SIZE, ge=64, le=4096)
    max_size: int = Field(PUBLISHED_MAX_SIZE, ge=64, le=8192)
    channels: int = Field(256, ge=8, le=1024)
    fpn_norm: bool = False
    rpn_convs: int = Field(1, ge=1, le=4)
    anchor_sizes: tuple[Positive, Positive, Positive, Positive, Positive] = (0.04, 0.08, 0.16, 0.32, 0.64)
    aspect_ratios: tuple[Positive, ...] = Field((2.0, 1.0, 0.5), min_length=1, max_length=16)
    rpn_candidates_train: int = Field(2000, ge=1, le=MOST_CANDIDATES)
    rpn_candidates_test: int = Field(1000, ge=1, le=MOST_CANDIDATES)
    rpn_proposals_train: int = Field(1000, ge=1, le=MOST_PROPOSALS)
    rpn_proposals_test: int = Field(1000, ge=1, le=MOST_PROPOSALS)
    rpn_nms_iou_threshold: Fraction = 0.7
    rpn_anchors_per_image: int = Field(256, ge=2, le=MOST_PROPOSALS)
    rois_per_image: int = Field(256, ge=4, le=MOST_PROPOSALS)
    box_head_convs: int = Field(0, ge=0, le=8)
    box_head_width: int = Field(1024, ge=8, le=4096)
    mask_head_convs: int = Field(4, ge=1, le=8)
    head_norm: bool = False
    rpn_loss_weight: Weight = 1.0
    class_loss_weight: Weight = 1.0
    box_loss_weight: Weight = 1.0
    mask_loss_weight: Weight = 1.0
    score_threshold: Fraction = 0.05
    nms_iou_threshold: Fraction = 0.5
    max_detections: int = Field(100, ge=1, le=MOST_PROPOSALS)

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, values: Any) -> Any:
        preset = values.get("preset") if isinstance(values, Mapping) else None
        # Others, lists too, are refused with the other fields.
        if isinstance(preset, str) and preset in PRESETS:
            return {**PRESETS[preset], **_anchors(values), **values}
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        if self.stride_in_1x1 and self.backbone in ("resnet18", "resnet34"):
            raise ValueError(f"stride_in_1x1 must be false for {self.backbone}, which has no 1x1 convolutions in front")
        if self.preprocessing != "radiograph" and self.max_size < self.image_size:
            raise ValueError(f"max_size must be at least image_size, got {self.max_size} and {self.image_size}")
        return self

    @property
    def film_tone(self) -> Literal["window", "stored"]:
        """How films are to be read for this network; see `read_film`."""
        return "window" if self.preprocessing == "radiograph" else "stored"

    @property
    def longest_side_px(self) -> int:
        """The longest side that a film can have inside the network."""
        return self.image_size if self.preprocessing == "radiograph" else self.max_size


# Where the published networks differ from our defaults.
PRESETS: dict[str, dict[str, Any]] = {
    "detectron2": {
        "preprocessing": "detectron2",
        "frozen_batch_norm": True,
        "stride_in_1x1": True,
        "trainable_layers": 3,
        "rois_per_image": 512,
    },
    "torchvision": {
        "conventions": "torchvision",
        "preprocessing": "torchvision",
        "frozen_batch_norm": True,
        "batch_norm_eps": 0.0,
        "trainable_layers": 3,
        "rpn_proposals_train": 2000,
        "rois_per_image": 512,
    },
    "torchvision_v2": {
        "conventions": "torchvision",
        "preprocessing": "torchvision",
        "trainable_layers": 3,
        "fpn_norm": True,
        "rpn_convs": 2,
        "rpn_proposals_train": 2000,
        "rois_per_image": 512,
        "box_head_convs": 4,
        "head_norm": True,
    },
}


def _anchors(values: Mapping[str, Any]) -> dict[str, Any]:
    """The published anchors, which do not follow the size of the image."""
    size = values.get("image_size", PUBLISHED_SIZE)
    # A size that is no number is refused with the other fields.
    return {"anchor_sizes": tuple(side / size for side in ANCHORS_PX)} if isinstance(size, int) and size > 0 else {}
