"""Mask R-CNN (He et al. 2017, arXiv 1703.06870), assembled from torchvision's parts."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN as TorchvisionMaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from vertinst.models._backbones import BackboneName, BackboneWeights, resnet, stage_channels
from vertinst.models._inputs import FilmTransform, Target, check_images, check_outputs, check_targets
from vertinst.structures import Instances

__all__ = ["MaskRCNN", "Options", "build"]

# Side of the RoI features that torchvision pools for the box head.
BOX_POOL = 7

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Options(BaseModel, extra="forbid"):
    """Settings of Mask R-CNN. The defaults are torchvision's ResNet-50 network with anchors for vertebrae.

    A small and quick variant for trials: `backbone=resnet18, image_size=256, channels=64, box_head_width=256,
    rpn_proposals_train=200, rpn_proposals_test=200, rois_per_image=64`.

    Attributes:
        backbone: Network that extracts the features.
        backbone_weights: `imagenet` downloads torchvision's weights when the model is built.
        frozen_batch_norm: Constant batch norm in the backbone: for batches of one to three films, with weights.
        trainable_layers: Stages of the backbone that are trained, counted from its output.
        image_size: Longest side of the film inside the network, px; the aspect is kept.
        channels: Width of the feature pyramid, the region proposal network and the mask head.
        anchor_sizes: Side of the square anchor on P2..P6, as a fraction of `image_size`.
        aspect_ratios: Width over height. The outer ones serve rods and screws.
        rpn_proposals_train: Proposals kept per level before and per film after NMS, in training.
        rpn_proposals_test: The same in evaluation.
        rpn_nms_iou_threshold: Proposals that overlap a better one by more than this IoU are dropped.
        rpn_anchors_per_image: Anchors of a film that enter the proposal losses.
        rois_per_image: Proposals of a film that enter the losses of box and mask head.
        box_head_width: Width of the two fully connected layers of the box head.
        mask_head_convs: 3x3 convolutions of the mask head.
        rpn_loss_weight: Factor on the two losses of the proposal network.
        class_loss_weight: Factor on the class loss.
        box_loss_weight: Factor on the box loss.
        mask_loss_weight: Factor on the mask loss.
        score_threshold: Detections must score more than this.
        nms_iou_threshold: A detection that overlaps a better one of its class by more than this IoU is dropped.
        max_detections: Most detections of a film.
    """

    backbone: BackboneName = "resnet50"
    backbone_weights: BackboneWeights = "none"
    frozen_batch_norm: bool = False
    trainable_layers: int = Field(5, ge=0, le=5)
    image_size: int = Field(800, ge=64, le=4096)
    channels: int = Field(256, ge=8, le=1024)
    anchor_sizes: tuple[Positive, Positive, Positive, Positive, Positive] = (0.03, 0.06, 0.12, 0.24, 0.48)
    aspect_ratios: tuple[Positive, ...] = Field((0.35, 1.0, 2.5), min_length=1)
    rpn_proposals_train: int = Field(1000, ge=1)
    rpn_proposals_test: int = Field(1000, ge=1)
    rpn_nms_iou_threshold: Fraction = 0.7
    rpn_anchors_per_image: int = Field(256, ge=2)
    rois_per_image: int = Field(256, ge=4)
    box_head_width: int = Field(1024, ge=8, le=4096)
    mask_head_convs: int = Field(4, ge=1, le=8)
    rpn_loss_weight: Weight = 1.0
    class_loss_weight: Weight = 1.0
    box_loss_weight: Weight = 1.0
    mask_loss_weight: Weight = 1.0
    score_threshold: Fraction = 0.05
    nms_iou_threshold: Fraction = 0.5
    max_detections: int = Field(100, ge=1)


def build(options: Options, classes: tuple[str, ...]) -> MaskRCNN:
    """A Mask R-CNN for these classes, label 1 being the first of them.

    Raises:
        CheckpointError: `backbone_weights` is `imagenet` and the weights can neither be found nor downloaded.
    """
    return MaskRCNN(options, len(classes))


class MaskRCNN(TorchvisionMaskRCNN):  # type: ignore[misc]
    """torchvision's Mask R-CNN with our resizing, checks and loss weights.

    Args:
        options: Settings.
        classes: Number of classes, background left out.
    """

    def __init__(self, options: Options, classes: int) -> None:
        channels = options.channels
        sizes_px = tuple((size * options.image_size,) for size in options.anchor_sizes)
        # torchvision's ratios are height over width.
        ratios = tuple(1.0 / ratio for ratio in options.aspect_ratios)
        super().__init__(
            _backbone(options),
            rpn_anchor_generator=AnchorGenerator(sizes_px, (ratios,) * len(sizes_px)),
            rpn_pre_nms_top_n_train=options.rpn_proposals_train,
            rpn_pre_nms_top_n_test=options.rpn_proposals_test,
            rpn_post_nms_top_n_train=options.rpn_proposals_train,
            rpn_post_nms_top_n_test=options.rpn_proposals_test,
            rpn_nms_thresh=options.rpn_nms_iou_threshold,
            rpn_batch_size_per_image=options.rpn_anchors_per_image,
            box_head=TwoMLPHead(channels * BOX_POOL**2, options.box_head_width),
            box_predictor=FastRCNNPredictor(options.box_head_width, classes + 1),
            box_score_thresh=options.score_threshold,
            box_nms_thresh=options.nms_iou_threshold,
            box_detections_per_img=options.max_detections,
            box_batch_size_per_image=options.rois_per_image,
            mask_head=MaskRCNNHeads(channels, (channels,) * options.mask_head_convs, 1),
            mask_predictor=MaskRCNNPredictor(channels, channels, classes + 1),
        )
        self.options = options
        self.classes = classes
        self.transform = FilmTransform(options.image_size)
        for head in (self.rpn.head, self.roi_heads.box_predictor, self.roi_heads.mask_predictor):
            head.register_forward_hook(_check_head)

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> dict[str, Tensor] | list[Instances]:
        """Losses in training, detections in evaluation.

        Args:
            images: Float tensors (3, H, W), 0..1, of any sizes.
            targets: Needed in training: dicts of `boxes` (N, 4) xyxy px, `labels` (N,) int64 in 1..C and `masks`
                (N, H, W) bool or uint8; N = 0 is fine.

        Returns:
            In training the weighted scalars `loss_classifier`, `loss_box_reg`, `loss_mask`, `loss_objectness` and
            `loss_rpn_box_reg`; their sum is to be minimised. Else the `Instances` of each film in its own pixels,
            best score first; none where nothing was found.

        Raises:
            DataError: Films or targets are unusable (see `vertinst.models._inputs`).
            CheckpointError: In evaluation a head's outputs are not finite.
        """
        check_images(images)
        if not self.training:
            detections: list[Instances] = super().forward(images)
            return detections
        losses: dict[str, Tensor] = super().forward(images, check_targets(images, targets, self.classes))
        weights = self._loss_weights()
        return {name: loss * weights[name] for name, loss in losses.items()}

    def _loss_weights(self) -> dict[str, float]:
        options = self.options
        return {
            "loss_classifier": options.class_loss_weight,
            "loss_box_reg": options.box_loss_weight,
            "loss_mask": options.mask_loss_weight,
            "loss_objectness": options.rpn_loss_weight,
            "loss_rpn_box_reg": options.rpn_loss_weight,
        }


def _check_head(head: nn.Module, inputs: object, outputs: Tensor | tuple[Tensor | list[Tensor], ...]) -> None:
    # torchvision drops what is no number like any low score, and the film would come back empty.
    if not head.training:
        parts = (outputs,) if isinstance(outputs, Tensor) else outputs
        check_outputs(*(t for part in parts for t in (part if isinstance(part, list) else [part])))


def _backbone(options: Options) -> BackboneWithFPN:
    body = resnet(
        options.backbone,
        options.backbone_weights,
        frozen_batch_norm=options.frozen_batch_norm,
        trainable_layers=options.trainable_layers,
    )
    stages = {f"layer{i}": str(i - 1) for i in range(1, 5)}
    return BackboneWithFPN(body, stages, list(stage_channels(body)), options.channels)
