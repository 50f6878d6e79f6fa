"""What kind of YOLACT a state dict of the original implementation is, from its tensors (github.com/dbolya/yolact).

Such files hold tensors alone: no settings and no names of classes. Backbone, anchors and classes follow from names and
shapes; the size of the image, which does not, from the file's name (`yolact_im700_54_800000.pth`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vertinst.errors import CheckpointError
from vertinst.models._coco_classes import coco_names

__all__ = ["PASCAL_CLASSES", "recognise"]

_PASCAL = (
    "aeroplane,bicycle,bird,boat,bottle,bus,car,cat,chair,cow,diningtable,dog,horse,motorbike,person,pottedplant,"
    "sheep,sofa,train,tvmonitor"
)
PASCAL_CLASSES = tuple(_PASCAL.split(","))

HEAD = "prediction_layers.0."
BOXES, SCORES, COEFFICIENTS = (f"{HEAD}{layer}_layer.weight" for layer in ("bbox", "conf", "mask"))
PROTOTYPES, LATERAL, SEMANTIC = "proto_net.10.weight", "fpn.lat_layers.0.weight", "semantic_seg_conv.weight"
RESCORING = "maskiou_net.maskiou_net.10.weight"

DEFAULT_SIZE = 550
SIZES = range(64, 4097)
PASCAL_ANCHORS_PX = (32, 64, 128, 256, 512)
# Blocks of each stage, and which convolution only blocks of this kind have.
BACKBONES = {
    ("conv3", (3, 4, 6, 3)): "resnet50",
    ("conv3", (3, 4, 23, 3)): "resnet101",
    ("", (2, 2, 2, 2)): "resnet18",
    ("", (3, 4, 6, 3)): "resnet34",
    ("_preconv", (1, 2, 8, 8, 4)): "darknet53",
}
# Stage and block in the name of a block's first convolution.
BLOCK = re.compile(r"layers\.(\d{1,2})\.(\d{1,2})\.conv1\.")
SMALL_HEAD, LARGE_HEAD = 3, 9


def recognise(
    tensors: Mapping[str, Tensor], file_name: str
) -> tuple[dict[str, Any], tuple[str, ...], dict[str, Tensor]] | None:
    """Options, classes and weights of a state dict of the original, or of an ImageNet backbone that it starts from.

    Args:
        tensors: By name.
        file_name: The original's names say the image's size (`yolact_im400_...`; else 550) and whether the anchors
            are those for Pascal (`..._pascal_...`, or 20 classes).

    Returns:
        `Options` that differ from the model's own defaults; names of the classes, COCO's for 80 and Pascal's for 20,
        else `class 1`, `class 2` ...; and the weights by our names. No classes for a backbone alone: torchvision's
        ResNets (`layer1.0.conv1.weight`) and Darknet-53 (`layers.0.0.0.weight`). None for any other network.

    Raises:
        CheckpointError: It is a YOLACT, but one that differs from all that were published.
    """
    if {BOXES, SCORES, COEFFICIENTS, PROTOTYPES, LATERAL} <= tensors.keys():
        return _whole(tensors, file_name)
    return _backbone_alone(tensors)


def _whole(tensors: Mapping[str, Tensor], file_name: str) -> tuple[dict[str, Any], tuple[str, ...], dict[str, Tensor]]:
    weights = {name: tensor for name, tensor in tensors.items() if not _outdated(name)}
    body = {n.removeprefix("backbone."): t for n, t in weights.items() if n.startswith("backbone.")}
    backbone = _backbone(body)
    if backbone not in ("resnet50", "resnet101", "darknet53"):
        raise _unpublished("a backbone of resnet50, resnet101 or darknet53", "another", file_name)
    anchors, classes, prototypes, channels = _sizes(weights, file_name)
    pascal = "pascal" in file_name.lower() or classes == len(PASCAL_CLASSES)
    options: dict[str, Any] = {
        "preset": "original",
        "backbone": backbone,
        "deformable_interval": _deformable_interval(body, file_name),
        "image_size": _image_size(file_name),
        "channels": channels,
        "prototypes": prototypes,
        "mask_rescoring": RESCORING in weights,
    }
    if anchors == LARGE_HEAD:
        options |= {"anchor_scales": tuple(2 ** (step / 3) for step in range(3)), "square_anchors": False}
    elif pascal:
        sides = tuple(side / DEFAULT_SIZE for side in PASCAL_ANCHORS_PX)
        options |= {"anchor_sizes": sides, "square_anchors": False}
    return options, _names(classes), weights


def _outdated(name: str) -> bool:
    """Whether the tensor is a leftover of versions before 1.0: stages held twice, levels above P7."""
    level = re.match(r"fpn\.downsample_layers\.(\d+)\.", name)
    return bool(re.match(r"backbone\.layer(?!s)", name) or (level and int(level[1][:3]) >= 2))


def _sizes(weights: Mapping[str, Tensor], file_name: str) -> tuple[int, int, int, int]:
    """Anchors of a cell, classes without background, prototypes and width, all tensors that show them agreeing."""
    outputs = [weights[name].shape[0] if weights[name].dim() == 4 else 0 for name in (BOXES, SCORES, COEFFICIENTS)]
    anchors = outputs[0] // 4
    if anchors not in (SMALL_HEAD, LARGE_HEAD):
        raise _unpublished("3 or 9 anchors in a cell", str(anchors), file_name)
    classes, prototypes = outputs[1] // anchors - 1, outputs[2] // anchors
    channels = weights[LATERAL].shape[0] if weights[LATERAL].dim() else 0
    shapes = {
        BOXES: (anchors * 4, channels, 3, 3),
        SCORES: (anchors * (classes + 1), channels, 3, 3),
        COEFFICIENTS: (anchors * prototypes, channels, 3, 3),
        PROTOTYPES: (prototypes, channels, 1, 1),
        SEMANTIC: (classes, channels, 1, 1),
        RESCORING: (classes, 128, 1, 1),
    }
    for name, shape in shapes.items():
        # The network is built by these numbers: none may be larger than what the file holds.
        if name in weights and (weights[name].shape != shape or weights[name].numel() == 0):
            raise _unpublished(f"{name} of shape {shape}", str(tuple(weights[name].shape)), file_name)
    return anchors, classes, prototypes, channels


def _image_size(file_name: str) -> int:
    found = re.search(r"im(\d{2,4})(?!\d)", file_name)
    return int(found[1]) if found and int(found[1]) in SIZES else DEFAULT_SIZE


def _names(classes: int) -> tuple[str, ...]:
    return PASCAL_CLASSES if classes == len(PASCAL_CLASSES) else coco_names(classes)


def _blocks(body: Mapping[str, Tensor], layer: str = "") -> list[set[int]]:
    """Numbers of the blocks of each stage, or of those that have `layer`."""
    found: dict[int, set[int]] = {}
    for name in body:
        block = BLOCK.match(name)
        if block and (not layer or f"layers.{int(block[1])}.{int(block[2])}.{layer}" in body):
            found.setdefault(int(block[1]), set()).add(int(block[2]))
    return [found.get(stage, set()) for stage in range(max(found, default=-1) + 1)]


def _backbone(body: Mapping[str, Tensor]) -> str | None:
    kind = next((k for k in ("_preconv", "conv3") if any(k in name.split(".") for name in body)), "")
    return BACKBONES.get((kind, tuple(map(len, _blocks(body)))))


def _deformable_interval(body: Mapping[str, Tensor], file_name: str) -> int:
    """Every so many blocks of stages 2 to 4 have a deformable convolution; 0 for none."""
    found = _blocks(body, "conv2.conv_offset_mask.weight")
    if not found:
        return 0
    stages = _blocks(body)
    for interval in range(1, max(map(len, stages)) + 1):
        wanted = [set(), *({n for n in stage if n % interval == 0} for stage in stages[1:])]
        if found == wanted:
            return interval
    raise _unpublished("deformable convolutions in regular blocks of stages 2 to 4", "others", file_name)


def _backbone_alone(
    tensors: Mapping[str, Tensor],
) -> tuple[dict[str, Any], tuple[str, ...], dict[str, Tensor]] | None:
    # Torchvision counts stages from 1, the original from 0.
    body = {re.sub(r"^layer([1-9])\.", lambda m: f"layers.{int(m[1]) - 1}.", n): t for n, t in tensors.items()}
    backbone = _backbone(body)
    stem = "_preconv.0.weight" if backbone == "darknet53" else "conv1.weight"
    if backbone is None or stem not in body:
        return None
    own = ("conv1.", "bn1.", "layers.", "_preconv.")
    weights = {f"backbone.{n}" if n.startswith(own) else n: t for n, t in body.items()}
    return {"preset": "original", "backbone": backbone}, (), weights


def _unpublished(wanted: str, got: str, file_name: str) -> CheckpointError:
    return CheckpointError(
        f"a YOLACT of the original must have {wanted}, got {got}",
        where=file_name,
        fix="Only networks with the settings of the published ones are read; train this one anew.",
    )
