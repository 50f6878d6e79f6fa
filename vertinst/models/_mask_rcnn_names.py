"""What kind of Mask R-CNN a state dict of Detectron2, Caffe2 or torchvision is, and its tensors by our names.

Ours takes films in RGB less torchvision's means over its deviations; Detectron2's and Caffe2's weights expect BGR and
divide by nothing, so that the first convolution is turned and scaled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from vertinst.errors import CheckpointError
from vertinst.models._coco_classes import coco_names
from vertinst.models._detectron2_names import BLOCKS, Structure, body_modules, modules
from vertinst.models._mask_rcnn_detectron2 import GREYS_DEVIATION, detectron2_files

__all__ = ["detectron2_files", "recognise"]

Found = tuple[dict[str, Any], tuple[str, ...], dict[str, Tensor]]

RPN, HEADS, BOTTOM_UP = "proposal_generator.rpn_head.", "roi_heads.", "backbone.bottom_up."
# Constants that older versions of Detectron2 saved with the weights.
CONSTANTS = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.")
# What only other networks of Detectron2 have in their names.
OTHERS = {
    r"roi_heads\.box_(head|predictor)\.\d": "a Cascade R-CNN",
    r"sem_seg_head\.": "a network of panoptic segmentation",
    r"roi_heads\.keypoint_head\.": "a network of keypoints",
    r"roi_heads\.(mask_head\.)?(coarse|point)_head\.|roi_heads\.mask_head\.\w+_head\.": "a PointRend",
    r"roi_heads\.res5\.|backbone\.(stem|res\d)\.": "a network without feature pyramid (C4 or DC5)",
    r".*\.conv2_offset\.": "a network with deformable convolutions",
}
# COCO's numbers of categories go to 90, ten of which have no class; torchvision keeps their places.
COCO_ROWS = 91
COCO_GAPS = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
ANCHORS = 3
# LVIS has 1203. Tensors without columns can have any number of rows in a file of few bytes.
MAX_CLASSES = 10_000
V1, V2 = Structure(), Structure(fpn_norm=True, rpn_convs=2, box_head_convs=4, head_norm=True)
FIRST = "backbone.body.conv1.weight"


def recognise(tensors: Mapping[str, Tensor], file_name: str) -> Found | None:
    """Options, classes and weights of a state dict of others.

    Read are Detectron2's Mask R-CNN with a ResNet and FPN, torchvision's `maskrcnn_resnet50_fpn` (by its old and new
    names) and `_v2`, and ResNets alone: Caffe2's (`conv1_w`), Detectron2's (`stem.conv1.weight`) and torchvision's
    (`conv1.weight`).

    Some things no tensor shows. Detectron2's and Caffe2's networks of 50 and more layers are taken to have their
    stride in the 1x1 convolutions and grey values that are not divided, as all published ones; ResNets alone by
    Detectron2's names to be torchvision's, renamed; torchvision's constant batch norm to have an epsilon of 0.

    Args:
        tensors: By name.
        file_name: For messages.

    Returns:
        `Options` that differ from the preset's defaults or that a training must share; names of the classes, COCO's
        for 80, else `class 1`, `class 2` ..., none for a backbone alone; and the weights by our names, the background
        last and without a box or a mask. None for any other network.

    Raises:
        CheckpointError: It is one of Detectron2's or torchvision's detectors, but not one that this model can be.
    """
    if f"{RPN}objectness_logits.weight" in tensors:
        return _detectron2(tensors, file_name)
    if {"rpn.head.cls_logits.weight", f"{HEADS}box_predictor.cls_score.weight"} <= tensors.keys():
        return _torchvision(tensors, file_name)
    if {"conv1_w", "res2_0_branch2a_w"} <= tensors.keys():
        return _caffe2(tensors, file_name)
    return _resnet(tensors)


def _detectron2(tensors: Mapping[str, Tensor], file_name: str) -> Found:
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(CONSTANTS)}
    for pattern, kind in OTHERS.items():
        if any(re.match(pattern, name) for name in tensors):
            raise _unreadable("a Mask R-CNN", kind, file_name)
    body = {n.removeprefix(BOTTOM_UP): t for n, t in tensors.items() if n.startswith(BOTTOM_UP)}
    backbone = _backbone(body, "res{}.{}", 2)
    if backbone is None:
        raise _unreadable("a ResNet of 18, 34, 50 or 101 layers", "another backbone", file_name)
    structure = _structure_of_detectron2(tensors, file_name)
    table = modules(backbone, structure)
    weights: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if module not in table:
            raise _unreadable("a Mask R-CNN", f"a network with {ascii(name)[1:-1][:80]}", file_name)
        weights[f"{table[module]}.{leaf}"] = tensor
    _check_norms(weights, file_name)
    scores, boxes, masks = _outputs(weights, file_name)
    if (boxes, masks) != (4 * (scores - 1), scores - 1):
        raise _unreadable(f"boxes and masks for each of {scores - 1} classes", "another number", file_name)
    weights = _complete(weights)
    return (
        _options_of_detectron2(backbone, weights) | _changes(structure, V1),
        coco_names(scores - 1),
        _from_bgr(weights),
    )


def _options_of_detectron2(backbone: str, weights: Mapping[str, Tensor]) -> dict[str, Any]:
    counted = any(n.startswith("backbone.body.") and n.endswith("num_batches_tracked") for n in weights)
    return {
        "preset": "detectron2",
        "backbone": backbone,
        "stride_in_1x1": backbone not in ("resnet18", "resnet34"),
        "frozen_batch_norm": not counted,
    }


def _structure_of_detectron2(tensors: Mapping[str, Tensor], file_name: str) -> Structure:
    head = f"{HEADS}mask_head."
    if f"{head}predictor.weight" not in tensors:
        raise _unreadable("a Mask R-CNN", "a network without masks", file_name)
    box_norm, mask_norm = f"{HEADS}box_head.conv1.norm.weight" in tensors, f"{head}mask_fcn1.norm.weight" in tensors
    convs = _count(tensors, f"{HEADS}box_head.conv{{}}.weight", 1)
    if convs and box_norm != mask_norm:
        raise _unreadable("norms in both heads or in none", "them in one", file_name)
    return Structure(
        channels=_rows(tensors, "backbone.fpn_lateral2.weight", file_name),
        fpn_norm="backbone.fpn_lateral2.norm.weight" in tensors,
        rpn_convs=_count(tensors, f"{RPN}conv.conv{{}}.weight", 0) or 1,
        box_head_convs=convs,
        box_head_width=_rows(tensors, f"{HEADS}box_head.fc1.weight", file_name),
        mask_head_convs=_count(tensors, f"{head}mask_fcn{{}}.weight", 1),
        head_norm=mask_norm,
    )


def _torchvision(tensors: Mapping[str, Tensor], file_name: str) -> Found:
    weights = {_new_name(name): tensor for name, tensor in tensors.items()}
    body = {n.removeprefix("backbone.body."): t for n, t in weights.items() if n.startswith("backbone.body.")}
    backbone = _backbone(body, "layer{}.{}", 1)
    if backbone is None or f"{HEADS}mask_predictor.mask_fcn_logits.weight" not in weights:
        raise _unreadable("a Mask R-CNN with a ResNet", "another detector", file_name)
    structure = _structure_of_torchvision(weights, file_name)
    scores, boxes, masks = _outputs(weights, file_name)
    if (boxes, masks) != (4 * scores, scores):
        raise _unreadable(f"boxes and masks for each of {scores} classes", "another number", file_name)
    v2 = structure.fpn_norm
    options: dict[str, Any] = {
        "preset": "torchvision_v2" if v2 else "torchvision",
        "backbone": backbone,
        "stride_in_1x1": False,
    }
    if not v2 and any(name.endswith("num_batches_tracked") for name in body):
        options |= {"frozen_batch_norm": False, "batch_norm_eps": 1e-5}
    kept = [row for row in range(1, scores) if scores != COCO_ROWS or row not in COCO_GAPS]
    options |= _changes(structure, V1) | (_changes(structure, V2) if v2 else {})
    return options, coco_names(len(kept)), _without_background(weights, kept)


def _new_name(name: str) -> str:
    """Torchvision's present name for one of before version 0.13."""
    name = re.sub(r"^rpn\.head\.conv\.(?=weight|bias)", "rpn.head.conv.0.0.", name)
    name = re.sub(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(?=weight|bias)", r"\1.0.", name)
    return re.sub(
        r"^roi_heads\.mask_head\.mask_fcn([1-9])\.", lambda m: f"roi_heads.mask_head.{int(m[1]) - 1}.0.", name
    )


def _structure_of_torchvision(weights: Mapping[str, Tensor], file_name: str) -> Structure:
    convs = _count(weights, f"{HEADS}box_head.{{}}.0.weight", 0)
    return Structure(
        channels=_rows(weights, "backbone.fpn.inner_blocks.0.0.weight", file_name),
        fpn_norm="backbone.fpn.inner_blocks.0.1.weight" in weights,
        rpn_convs=_count(weights, "rpn.head.conv.{}.0.weight", 0),
        box_head_convs=convs,
        box_head_width=_rows(weights, f"{HEADS}box_head.{convs + 1 if convs else 'fc6'}.weight", file_name),
        mask_head_convs=_count(weights, f"{HEADS}mask_head.{{}}.0.weight", 0),
        head_norm=f"{HEADS}mask_head.0.1.weight" in weights,
    )


def _without_background(weights: dict[str, Tensor], kept: list[int]) -> dict[str, Tensor]:
    """Rows of the classes that are kept, in their order; of scores also the background's, the first, as the last."""
    rows = torch.tensor(kept, dtype=torch.int64)
    boxes = (4 * rows[:, None] + torch.arange(4)).flatten()
    layers = {
        f"{HEADS}box_predictor.cls_score": torch.cat([rows, rows.new_zeros(1)]),
        f"{HEADS}box_predictor.bbox_pred": boxes,
        f"{HEADS}mask_predictor.mask_fcn_logits": rows,
    }
    return {n: t[layers[n.rpartition(".")[0]]] if n.rpartition(".")[0] in layers else t for n, t in weights.items()}


def _caffe2(tensors: Mapping[str, Tensor], file_name: str) -> Found:
    body = {_of_caffe2(name): tensor for name, tensor in tensors.items()}
    backbone = _backbone(body, "layer{}.{}", 1)
    if backbone is None or any(name.startswith(("rpn_", "conv_rpn", "fpn_")) for name in tensors):
        raise _unreadable("a ResNet of 50 or 101 layers alone", "another network", file_name)
    weights = _complete(_in_body(body))
    return _options_of_detectron2(backbone, weights), (), _from_bgr(weights)


def _of_caffe2(name: str) -> str:
    """Torchvision's name; others as they are."""
    leaf = {"w": "weight", "s": "weight", "b": "bias"}
    if stem := re.fullmatch(r"(res_)?conv1_(bn_)?([wsb])", name):
        return f"{'bn1' if stem[2] else 'conv1'}.{leaf[stem[3]]}"
    block = re.fullmatch(r"res([2-5])_(\d{1,2})_branch(1|2[abc])_(bn_)?([wsb])", name)
    if block is None:
        return name
    stage, number, branch, norm, kind = block.groups()
    layer = (
        f"downsample.{int(bool(norm))}" if branch == "1" else f"{'bn' if norm else 'conv'}{'abc'.index(branch[1]) + 1}"
    )
    return f"layer{int(stage) - 1}.{int(number)}.{layer}.{leaf[kind]}"


def _resnet(tensors: Mapping[str, Tensor]) -> Found | None:
    renamed = "stem.conv1.weight" in tensors
    backbone = _backbone(tensors, "res{}.{}", 2) if renamed else _backbone(tensors, "layer{}.{}", 1)
    if backbone is None or not (renamed or "conv1.weight" in tensors):
        return None
    table = body_modules(backbone) if renamed else {}
    body = {}
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        body[f"{table.get(module, module)}.{leaf}"] = tensor
    return {"backbone": backbone, "stride_in_1x1": False}, (), _in_body(body)


def _in_body(body: Mapping[str, Tensor]) -> dict[str, Tensor]:
    own = re.compile(r"(conv1|bn1|layer[1-4])\.")
    return {f"backbone.body.{name}" if own.match(name) else name: tensor for name, tensor in body.items()}


def _backbone(body: Mapping[str, Tensor], block: str, first: int) -> str | None:
    """The ResNet that has these blocks; None for others, such as those with groups of channels."""
    blocks = tuple(_count(body, f"{block.format(stage, '{}')}.conv1.weight", 0) for stage in range(first, first + 4))
    prefix = block.format(first, 0)
    middle = body.get(f"{prefix}.conv2.weight", torch.empty(0))
    deep = f"{prefix}.conv3.weight" in body
    if middle.dim() != 4 or middle.shape[0] != middle.shape[1]:
        return None
    return next((n for n, b in BLOCKS.items() if b == blocks and deep == (n in ("resnet50", "resnet101"))), None)


def _count(tensors: Mapping[str, Tensor], name: str, first: int) -> int:
    """How many of the numbered tensors there are in a row."""
    number = first
    while name.format(number) in tensors:
        number += 1
    return number - first


def _rows(tensors: Mapping[str, Tensor], name: str, file_name: str) -> int:
    if name not in tensors or not tensors[name].dim():
        raise _unreadable(name, "a network without it", file_name)
    return tensors[name].shape[0]


def _outputs(weights: Mapping[str, Tensor], file_name: str) -> tuple[int, int, int]:
    """Rows for scores, background included, for boxes and for masks; weights and biases must agree."""
    names = ("rpn.head.cls_logits", f"{HEADS}box_predictor.cls_score", f"{HEADS}box_predictor.bbox_pred")
    rows = [_rows(weights, f"{n}.weight", file_name) for n in (*names, f"{HEADS}mask_predictor.mask_fcn_logits")]
    biases = [_rows(weights, f"{n}.bias", file_name) for n in (*names, f"{HEADS}mask_predictor.mask_fcn_logits")]
    if rows != biases or rows[0] != ANCHORS or rows[1] < 2:
        raise _unreadable(f"{ANCHORS} anchors in a cell and at least one class", "others", file_name)
    if rows[1] > MAX_CLASSES:
        raise _unreadable(f"at most {MAX_CLASSES} classes", f"{rows[1] - 1}", file_name)
    return rows[1], rows[2], rows[3]


def _changes(found: Structure, preset: Structure) -> dict[str, Any]:
    usual = asdict(preset)
    return {name: value for name, value in asdict(found).items() if value != usual[name]}


def _check_norms(weights: Mapping[str, Tensor], file_name: str) -> None:
    """Refuse group norm, which has no statistics: every norm in the pyramid and the heads needs them."""
    for name in weights:
        layer, _, leaf = name.rpartition(".")
        beyond = re.search(r"(_blocks|_head)\.\d\.1$", layer)
        if beyond and leaf == "weight" and f"{layer}.running_var" not in weights:
            raise _unreadable("batch norm", "group norm", file_name)


def _complete(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The backbone's norms with statistics, where the file has only factors and shifts that they were worked into."""
    missing: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        layer, _, leaf = name.rpartition(".")
        if leaf == "weight" and re.search(r"\.(bn\d|downsample\.1)$", layer) and f"{layer}.running_var" not in weights:
            # Detectron2 adds its epsilon to this 1 too.
            missing |= {
                f"{layer}.running_mean": torch.zeros_like(tensor),
                f"{layer}.running_var": torch.ones_like(tensor),
            }
    return weights | missing


def _from_bgr(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The first convolution for RGB that was divided by torchvision's deviations."""
    first = weights.get(FIRST)
    if first is None or first.dim() != 4 or first.shape[1] != len(GREYS_DEVIATION):
        return weights
    scale = torch.tensor(GREYS_DEVIATION, dtype=torch.float64)[:, None, None]
    return {**weights, FIRST: (first.flip(1).double() * scale).to(first.dtype)}


def _unreadable(wanted: str, got: str, file_name: str) -> CheckpointError:
    return CheckpointError(
        f"weights must be of {wanted}, got {got}",
        where=file_name,
        fix="The model mask_rcnn is Mask R-CNN with a ResNet and feature pyramid. Other networks of Detectron2 are "
        "trained with the model detectron2.",
    )
