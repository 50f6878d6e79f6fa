"""A trained Mask R-CNN as Detectron2 has it: a config that its DefaultPredictor runs, and tensors by its names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
import yaml
from torch import Tensor

from vertinst.errors import ConfigError
from vertinst.models._detectron2_names import Structure, modules
from vertinst.models._mask_rcnn_options import Options

__all__ = ["GREYS_DEVIATION", "detectron2_files"]

# Torchvision's means and deviations of red, green and blue, for grey values of 0 to 255.
GREYS_MEAN = (123.675, 116.28, 103.53)
GREYS_DEVIATION = (58.395, 57.12, 57.375)
FIRST = "backbone.body.conv1.weight"
# Fixed in Detectron2's norms.
EPSILON = 1e-5
DEPTHS = {"resnet18": 18, "resnet34": 34, "resnet50": 50, "resnet101": 101}


def detectron2_files(
    options: Options, classes: tuple[str, ...], weights: Mapping[str, Tensor]
) -> tuple[str, dict[str, Tensor]]:
    """What Detectron2 needs to run a trained network.

    The first convolution is turned and scaled back to what Detectron2's own weights expect (BGR, divided by nothing),
    so that a file made from one of Detectron2's has its tensors again, those of that layer to their last bit.

    Args:
        options: All of them.
        classes: Names of the labels; the config has them as comments, in the order of `pred_classes`.
        weights: The model's state dict.

    Returns:
        The text of a `config.yaml` for `get_cfg().merge_from_file`, and the state dict.

    Raises:
        ConfigError: The network computes something that Detectron2 cannot.
    """
    if options.conventions != "detectron2":
        raise ConfigError(
            "conventions must be detectron2 to run there, got torchvision: its anchors are whole-numbered",
            fix="Train with --set model.conventions=detectron2 from these weights, then export that.",
        )
    structure = Structure(**{name: getattr(options, name) for name in Structure.__dataclass_fields__})
    named = "".join(f"# class {index}: {json.dumps(name)}\n" for index, name in enumerate(classes))
    text = named + str(yaml.safe_dump(_config(options, structure, len(classes)), sort_keys=False))
    return text, _tensors(options, structure, weights)


def _tensors(options: Options, structure: Structure, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    names = {own: detectron2s for detectron2s, own in modules(options.backbone, structure).items()}
    tensors: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        module, _, leaf = name.rpartition(".")
        # Detectron2's constant norms count no batches.
        if leaf == "num_batches_tracked" and options.frozen_batch_norm and module.startswith("backbone.body."):
            continue
        # Left out: the classifier of ImageNet that torchvision's ResNets carry.
        if module in names:
            tensors[f"{names[module]}.{leaf}"] = _value(name, tensor.detach().cpu(), options)
    return tensors


def _freeze_at(options: Options) -> int:
    return 5 - options.trainable_layers


def _value(name: str, tensor: Tensor, options: Options) -> Tensor:
    if name == FIRST:
        scale = torch.tensor(GREYS_DEVIATION, dtype=torch.float64)[:, None, None]
        return (tensor.double() / scale).flip(1).to(tensor.dtype)
    difference = options.batch_norm_eps - EPSILON
    if difference and name.startswith("backbone.body.") and name.endswith("running_var"):
        return (tensor.double() + difference).to(tensor.dtype)
    return tensor.clone(memory_format=torch.contiguous_format)


def _config(options: Options, structure: Structure, classes: int) -> dict[str, Any]:
    """Every setting that the network's outputs depend on, and the numbers drawn in training."""
    return {
        "VERSION": 2,
        "INPUT": {
            "FORMAT": "BGR",
            "MIN_SIZE_TEST": options.image_size,
            "MAX_SIZE_TEST": options.longest_side_px,
            "MIN_SIZE_TRAIN": [options.image_size],
            "MAX_SIZE_TRAIN": options.longest_side_px,
        },
        "DATASETS": {"TRAIN": [], "TEST": []},
        "TEST": {"DETECTIONS_PER_IMAGE": options.max_detections},
        "MODEL": {
            "META_ARCHITECTURE": "GeneralizedRCNN",
            # Without any Detectron2 would start from random numbers and not say so.
            "WEIGHTS": "model_final.pth",
            "MASK_ON": True,
            "PIXEL_MEAN": list(reversed(GREYS_MEAN)),
            "PIXEL_STD": [1.0, 1.0, 1.0],
            **_backbone(options, structure),
            **_proposals(options),
            **_heads(options, structure, classes),
        },
    }


def _backbone(options: Options, structure: Structure) -> dict[str, Any]:
    stages = ["res2", "res3", "res4", "res5"]
    shallow = options.backbone in ("resnet18", "resnet34")
    return {
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": _freeze_at(options)},
        "RESNETS": {
            "DEPTH": DEPTHS[options.backbone],
            "OUT_FEATURES": stages,
            "NORM": "FrozenBN" if options.frozen_batch_norm else "BN",
            "STRIDE_IN_1X1": options.stride_in_1x1,
            "RES2_OUT_CHANNELS": 64 if shallow else 256,
        },
        "FPN": {
            "IN_FEATURES": stages,
            "OUT_CHANNELS": structure.channels,
            "NORM": "BN" if structure.fpn_norm else "",
        },
    }


def _proposals(options: Options) -> dict[str, Any]:
    return {
        "ANCHOR_GENERATOR": {
            "SIZES": [[side * options.image_size] for side in options.anchor_sizes],
            # Height over width there.
            "ASPECT_RATIOS": [[1.0 / ratio for ratio in options.aspect_ratios]],
        },
        "RPN": {
            "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
            "CONV_DIMS": [-1] * options.rpn_convs,
            "PRE_NMS_TOPK_TRAIN": options.rpn_candidates_train,
            "PRE_NMS_TOPK_TEST": options.rpn_candidates_test,
            "POST_NMS_TOPK_TRAIN": options.rpn_proposals_train,
            "POST_NMS_TOPK_TEST": options.rpn_proposals_test,
            "NMS_THRESH": options.rpn_nms_iou_threshold,
            "BATCH_SIZE_PER_IMAGE": options.rpn_anchors_per_image,
        },
    }


def _heads(options: Options, structure: Structure, classes: int) -> dict[str, Any]:
    norm = "BN" if structure.head_norm else ""
    return {
        "ROI_HEADS": {
            "NAME": "StandardROIHeads",
            "IN_FEATURES": ["p2", "p3", "p4", "p5"],
            "NUM_CLASSES": classes,
            "BATCH_SIZE_PER_IMAGE": options.rois_per_image,
            "SCORE_THRESH_TEST": options.score_threshold,
            "NMS_THRESH_TEST": options.nms_iou_threshold,
        },
        "ROI_BOX_HEAD": {
            "NAME": "FastRCNNConvFCHead",
            "NUM_CONV": structure.box_head_convs,
            "CONV_DIM": structure.channels,
            "NUM_FC": 1 if structure.box_head_convs else 2,
            "FC_DIM": structure.box_head_width,
            "NORM": norm,
            "POOLER_RESOLUTION": 7,
            "POOLER_SAMPLING_RATIO": 0,
            "POOLER_TYPE": "ROIAlignV2",
        },
        "ROI_MASK_HEAD": {
            "NAME": "MaskRCNNConvUpsampleHead",
            "NUM_CONV": structure.mask_head_convs,
            "CONV_DIM": structure.channels,
            "NORM": norm,
            "POOLER_RESOLUTION": 14,
            "POOLER_SAMPLING_RATIO": 0,
            "POOLER_TYPE": "ROIAlignV2",
        },
    }
