"""Mask R-CNN (He et al. 2017, arXiv 1703.06870) from torchvision's parts, computing what Detectron2 computes.

A feature pyramid feeds a network that proposes boxes; each proposal is pooled from the pyramid, gets a class and an
exact box, and each detection a mask. With `preset: detectron2` or `torchvision` the published weights fit and give
the same detections as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from vertinst.models import _mask_rcnn_heads as heads
from vertinst.models import _mask_rcnn_rpn as rpn
from vertinst.models._backbones import resnet, stage_channels
from vertinst.models._inputs import (
    FilmTransform,
    Target,
    check_images,
    check_outputs,
    check_targets,
    fit_longest,
    fit_shortest,
)
from vertinst.models._instances import to_instances
from vertinst.models._mask_rcnn_names import detectron2_files, recognise
from vertinst.models._mask_rcnn_options import Options
from vertinst.models._pasting import paste_roi_masks
from vertinst.structures import Instances

__all__ = ["MaskRCNN", "Options", "build", "detectron2_files", "recognise"]

LOSSES = ("loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg")


def build(options: Options, classes: tuple[str, ...]) -> MaskRCNN:
    """A Mask R-CNN for these classes, label 1 being the first of them.

    Raises:
        CheckpointError: `backbone_weights` is `imagenet` and the weights can neither be found nor downloaded.
    """
    return MaskRCNN(options, len(classes))


class MaskRCNN(nn.Module):
    """Mask R-CNN: losses in training, instances in evaluation.

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
        self.rpn = rpn.RPN(options)
        self.roi_heads = heads.RoIHeads(options, classes)

    def forward(self, images: list[Tensor], targets: list[Target] | None = None) -> dict[str, Tensor] | list[Instances]:
        """Losses in training, instances in evaluation.

        Args:
            images: Float tensors (3, H, W), 0..1, of any sizes.
            targets: Needed in training: dicts of `boxes` (N, 4) xyxy px, `labels` (N,) int64 in 1..C and `masks`
                (N, H, W) bool or uint8; N = 0 is fine.

        Returns:
            In training the weighted scalars `loss_classifier`, `loss_box_reg`, `loss_mask`, `loss_objectness` and
            `loss_rpn_box_reg`, float32; their sum is to be minimised. Else the `Instances` of each film in its own
            pixels, best score first.

        Raises:
            DataError: Films or targets are unusable (see `vertinst.models._inputs`).
            CheckpointError: In evaluation the network's outputs are not finite.
        """
        check_images(images)
        if not self.training:
            batch, _ = self.transform(images)
            films = zip(self.detect(batch.tensors, batch.image_sizes), batch.image_sizes, images, strict=True)
            return [_on_film(*found, inside, _size(image)) for found, inside, image in films]
        batch, resized = self.transform(images, check_targets(images, targets, self.classes))
        return self.losses(batch.tensors, batch.image_sizes, resized)

    def propose(
        self, batch: Tensor, sizes: Sequence[tuple[int, int]]
    ) -> tuple[list[Tensor], rpn.Outputs, tuple[Tensor, ...], list[tuple[Tensor, Tensor]]]:
        """The first stage.

        Args:
            batch: (B, 3, h, w).
            sizes: (h, w) of each film within it.

        Returns:
            The pyramid P2..P6, what the proposal network says, its anchors by level, and each film's proposals with
            their logits.
        """
        levels = list(self.backbone(batch).values())
        outputs = self.rpn(levels)
        options = self.options
        anchors = rpn.grid_anchors(
            _size(batch),
            tuple(_size(level) for level in levels),
            tuple(side * options.image_size for side in options.anchor_sizes),
            options.aspect_ratios,
            batch.device,
            rounded=options.conventions == "torchvision",
        )
        return levels, outputs, anchors, rpn.select_proposals(outputs, anchors, sizes, options, train=self.training)

    def detect(self, batch: Tensor, sizes: Sequence[tuple[int, int]]) -> list[tuple[heads.Found, Tensor]]:
        """Detections of each film inside the batch, with their masks as probabilities (N, m, m).

        Args:
            batch: (B, 3, h, w).
            sizes: (h, w) of each film within it.

        Raises:
            CheckpointError: Outputs are not finite.
        """
        levels, outputs, _, proposals = self.propose(batch, sizes)
        check_outputs(*outputs.logits, *outputs.deltas)
        boxes = [film for film, _ in proposals]
        logits, deltas = self.roi_heads.boxes(levels[:4], boxes)
        check_outputs(logits, deltas)
        counts = [len(film) for film in boxes]
        films = zip(torch.split(logits, counts), torch.split(deltas, counts), boxes, sizes, strict=True)
        found = [heads.detect(said, moved, own, size, self.options) for said, moved, own, size in films]
        masks = self.roi_heads.masks(levels[:4], [film.boxes for film in found], torch.cat([f.labels for f in found]))
        check_outputs(masks)
        return list(zip(found, torch.split(masks.sigmoid(), [len(film.labels) for film in found]), strict=True))

    def losses(self, batch: Tensor, sizes: Sequence[tuple[int, int]], targets: Sequence[Target]) -> dict[str, Tensor]:
        """The weighted losses of a batch.

        Args:
            batch: (B, 3, h, w).
            sizes: (h, w) of each film within it.
            targets: In px of the batch, masks (N, h, w) float 0..1, bool or uint8.
        """
        levels, outputs, anchors, proposals = self.propose(batch, sizes)
        truths = [target["boxes"] for target in targets]
        all_anchors = torch.cat(anchors)
        labels, boxes = zip(*(self.draw_anchors(all_anchors, truth) for truth in truths), strict=True)
        drawn = [
            self.draw(film, target["boxes"], target["labels"] - 1)
            for (film, _), target in zip(proposals, targets, strict=True)
        ]
        with torch.autocast(batch.device.type, enabled=False):
            rpn_parts = rpn.losses(outputs, anchors, torch.stack(labels), torch.stack(boxes), self.options)
        logits, deltas = self.roi_heads.boxes(levels[:4], [film.boxes for film in drawn])
        objects = [(film.labels < self.classes).nonzero()[:, 0] for film in drawn]
        wanted = [(film.boxes[of], film.labels[of], film.truth[of]) for film, of in zip(drawn, objects, strict=True)]
        masks = self.roi_heads.masks(levels[:4], [w[0] for w in wanted], torch.cat([w[1] for w in wanted]))
        with torch.autocast(batch.device.type, enabled=False):
            parts = heads.box_losses(logits, deltas, drawn, truths, self.options)
            shapes = [
                heads.mask_targets(target["masks"], box, truth, masks.shape[-1], self.options)
                for target, (box, _, truth) in zip(targets, wanted, strict=True)
            ]
            mask = heads.mask_loss(masks, torch.cat(shapes))
            return self._weighted(dict(zip(LOSSES, (*parts, mask, *rpn_parts), strict=True)))

    def draw_anchors(self, anchors: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Labels (A,) of the anchors of a film that were drawn for training, -1 for others, and their truths (A, 4)."""
        labels, truths = rpn.label_anchors(anchors, boxes)
        chosen = rpn.sample(labels, self.options.rpn_anchors_per_image, rpn.POSITIVE_SHARE, 0)
        drawn = torch.full_like(labels, -1)
        drawn[chosen] = labels[chosen]
        return drawn, truths

    def draw(self, proposals: Tensor, boxes: Tensor, labels: Tensor) -> heads.Drawn:
        """Proposals of a film that were drawn for training; see `draw_proposals`."""
        return heads.draw_proposals(proposals, boxes, labels, self.classes, self.options.rois_per_image)

    def _weighted(self, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        options = self.options
        rpn_weight = options.rpn_loss_weight
        weights = (options.class_loss_weight, options.box_loss_weight, options.mask_loss_weight, rpn_weight, rpn_weight)
        return {name: weight * parts[name] for name, weight in zip(LOSSES, weights, strict=True)}


def _on_film(found: heads.Found, masks: Tensor, inside: tuple[int, int], size: tuple[int, int]) -> Instances:
    """Detections in pixels of the film of (H, W), whose size inside the batch is `inside`."""
    height, width = size
    boxes = found.boxes * found.boxes.new_tensor([width / inside[1], height / inside[0]] * 2)
    boxes = boxes.clamp(min=boxes.new_zeros(4), max=boxes.new_tensor([width, height] * 2))
    return to_instances(boxes, found.labels + 1, found.scores, paste_roi_masks(masks, boxes, size), size)


def _transform(options: Options) -> FilmTransform:
    # All with torchvision's means and deviations: weights that were trained with others are turned as they are read.
    if options.preprocessing == "radiograph":
        return FilmTransform(partial(fit_longest, longest=options.image_size))
    torchvisions = options.preprocessing == "torchvision"
    size = partial(fit_shortest, shortest=options.image_size, longest=options.max_size, cut=torchvisions)
    return FilmTransform(size, smooth=not torchvisions, whole_greys=not torchvisions)


def _backbone(options: Options) -> BackboneWithFPN:
    body = resnet(
        options.backbone,
        options.backbone_weights,
        frozen_batch_norm=options.frozen_batch_norm,
        trainable_layers=options.trainable_layers,
        stride_in_1x1=options.stride_in_1x1,
        batch_norm_eps=options.batch_norm_eps,
    )
    stages = {f"layer{i}": str(i - 1) for i in range(1, 5)}
    norm = nn.BatchNorm2d if options.fpn_norm else None
    return BackboneWithFPN(body, stages, list(stage_channels(body)), options.channels, norm_layer=norm)


def _size(tensor: Tensor) -> tuple[int, int]:
    return tensor.shape[-2], tensor.shape[-1]
