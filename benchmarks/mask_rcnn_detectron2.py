"""Detectron2's Mask R-CNN on a CPU with the seed's weights, and all that it computes on the way.

Needs Detectron2, built from its public source (see `benchmarks/README.md`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from detectron2 import model_zoo
from detectron2.config import get_cfg
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.layers import paste_masks_in_image
from detectron2.modeling import build_model, sampling
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.modeling.proposal_generator import rpn
from detectron2.modeling.roi_heads import mask_head, roi_heads
from detectron2.structures import BitMasks, Boxes, Instances, boxes, masks
from detectron2.utils.events import EventStorage
from numpy.typing import NDArray
from torch import Tensor

TESTS = Path(__file__).resolve().parents[1] / "tests" / "models"
sys.path.append(str(TESTS))

import seeded_mask_rcnn as seeded  # noqa: E402

__all__ = ["Film", "config", "evaluate", "network", "paste_masks_in_image", "resized", "seeded", "train", "use_double"]

Film = NDArray[np.uint8]


def config(case: seeded.Case) -> Any:
    """The zoo's configuration for 3x training, changed to what the case says."""
    cfg = get_cfg()
    depth = case.depth if case.depth >= 50 else 50
    cfg.merge_from_file(model_zoo.get_config_file(f"COCO-InstanceSegmentation/mask_rcnn_R_{depth}_FPN_3x.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.RESNETS.DEPTH = case.depth
    if case.depth < 50:
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = case.classes
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = case.channels
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = case.box_width
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = case.mask_convs
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[size] for size in case.anchors_px]
    cfg.MODEL.RPN.PRE_NMS_TOPK_TRAIN, cfg.MODEL.RPN.POST_NMS_TOPK_TRAIN = case.proposals_train
    cfg.MODEL.RPN.PRE_NMS_TOPK_TEST, cfg.MODEL.RPN.POST_NMS_TOPK_TEST = case.proposals_test
    cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = case.rois
    cfg.TEST.DETECTIONS_PER_IMAGE = case.most
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = case.shortest, case.longest
    return cfg


def network(case: seeded.Case) -> Any:
    """Detectron2's `GeneralizedRCNN` with the seed's weights, in evaluation."""
    net = build_model(config(case))
    net.load_state_dict(seeded.weights(case), strict=True)
    return net.eval()


def resized(case: seeded.Case, film: Film) -> Tensor:
    """What `DefaultPredictor` gives to its network: (3, h, w) float32 0..255, blue, green and red."""
    resize = ResizeShortestEdge([case.shortest] * 2, case.longest)
    pixels = np.ascontiguousarray(film[:, :, ::-1])
    return torch.from_numpy(resize.get_transform(pixels).apply_image(pixels).astype(np.float32).transpose(2, 0, 1))


@torch.no_grad()
def evaluate(net: Any, image: Tensor, size: tuple[int, int]) -> dict[str, Tensor]:
    """All stages on one film, given as `resized` gives it, whose own (H, W) is `size`.

    Returns:
        `p2` to `p6`; `proposals` (N, 4) px of the network's input and their `objectness`, best first; on the film
        `box`, `score`, `class` (from 0), `mask` bool, and `roi_mask` (N, 28, 28) probabilities, which `mask` came from.
    """
    images = net.preprocess_image([{"image": image.to(net.pixel_mean.dtype)}])
    features = net.backbone(images.tensor)
    proposals, _ = net.proposal_generator(images, features, None)
    raw, _ = net.roi_heads(images, features, proposals, None)
    found = detector_postprocess(_copy(raw[0]), *size)
    kept = _copy(raw[0])
    kept.pred_boxes.scale(size[1] / kept.image_size[1], size[0] / kept.image_size[0])
    return {
        **features,
        "input": images.tensor,
        "proposals": proposals[0].proposal_boxes.tensor,
        "objectness": proposals[0].objectness_logits,
        "box": found.pred_boxes.tensor,
        "score": found.scores,
        "class": found.pred_classes,
        "mask": found.pred_masks,
        "roi_mask": raw[0].pred_masks[:, 0],
    }


def _copy(found: Instances) -> Instances:
    copy = Instances(found.image_size, **found.get_fields())
    copy.pred_boxes = found.pred_boxes.clone()
    return copy


def train(net: Any, films: list[Film], targets: list[dict[str, Tensor]]) -> SimpleNamespace:
    """One forward pass in training, with `seeded.sample` in place of random sampling.

    Returns:
        `losses` under Detectron2's names; `anchor_labels` (films, A): 1, 0, or -1 where not sampled; for each film
        `boxes` (n, 4) and `labels` (n,) (background last) of the boxes that were sampled; `matched` (n, 4).
    """
    found = SimpleNamespace(anchor_labels=[], boxes=[], labels=[], matched=[])
    dtype = net.pixel_mean.dtype
    batch = []
    for film, target in zip(films, targets, strict=True):
        truth = Instances(film.shape[:2])
        truth.gt_boxes = Boxes(target["boxes"].to(dtype))
        truth.gt_classes = target["labels"] - 1
        truth.gt_masks = BitMasks(target["masks"])
        pixels = torch.from_numpy(np.ascontiguousarray(film[:, :, ::-1].transpose(2, 0, 1))).to(dtype)
        batch.append({"image": pixels, "instances": truth})
    heads, generator = net.roi_heads, net.proposal_generator
    label_anchors, label_proposals = generator.label_and_sample_anchors, heads.label_and_sample_proposals

    def anchors(*given: Any) -> Any:
        labels, matched = label_anchors(*given)
        found.anchor_labels = torch.stack(labels)
        return labels, matched

    def proposals(*given: Any) -> Any:
        sampled = label_proposals(*given)
        found.boxes = [one.proposal_boxes.tensor for one in sampled]
        found.labels = [one.gt_classes for one in sampled]
        found.matched = [one.gt_boxes.tensor if one.has("gt_boxes") else None for one in sampled]
        return sampled

    generator.label_and_sample_anchors, heads.label_and_sample_proposals = anchors, proposals
    try:
        with _even_sampling(), EventStorage():
            net.train()
            found.losses = net(batch)
    finally:
        del generator.label_and_sample_anchors, heads.label_and_sample_proposals
        net.eval()
    return found


@contextmanager
def _even_sampling() -> Iterator[None]:
    places = (rpn, roi_heads)
    for place in places:
        place.subsample_labels = seeded.sample
    try:
        yield
    finally:
        for place in places:
            place.subsample_labels = sampling.subsample_labels


class _Double:
    """torch, whose float32 is float64."""

    float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def use_double() -> None:
    """Let Detectron2 compute in double precision for the rest of the process, also where it asks for single."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign, assignment]
    for module in (boxes, masks, rpn, mask_head):
        module.torch = _Double()
