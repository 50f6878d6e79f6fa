"""Which module of Detectron2's Mask R-CNN is which of ours: the names that their tensors start with."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BLOCKS", "Structure", "body_modules", "modules"]

BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}
"""Blocks of each stage."""


@dataclass(frozen=True)
class Structure:
    """What of the options decides which tensors there are; see `Options` of Mask R-CNN.

    Attributes:
        channels: See there, as all others.
        fpn_norm: See there.
        rpn_convs: See there.
        box_head_convs: See there.
        box_head_width: See there.
        mask_head_convs: See there.
        head_norm: See there.
    """

    channels: int = 256
    fpn_norm: bool = False
    rpn_convs: int = 1
    box_head_convs: int = 0
    box_head_width: int = 1024
    mask_head_convs: int = 4
    head_norm: bool = False


def body_modules(backbone: str) -> dict[str, str]:
    """Detectron2's names of a ResNet's modules, and torchvision's."""
    names = {"stem.conv1": "conv1", "stem.conv1.norm": "bn1"}
    for stage, blocks in enumerate(BLOCKS[backbone], 1):
        for block in range(blocks):
            there, here = f"res{stage + 1}.{block}", f"layer{stage}.{block}"
            names |= {f"{there}.shortcut": f"{here}.downsample.0", f"{there}.shortcut.norm": f"{here}.downsample.1"}
            for conv in (1, 2, 3):
                names |= {f"{there}.conv{conv}": f"{here}.conv{conv}", f"{there}.conv{conv}.norm": f"{here}.bn{conv}"}
    return names


def modules(backbone: str, structure: Structure) -> dict[str, str]:
    """Detectron2's names of all modules that can have tensors, and ours."""
    rpn, heads = "proposal_generator.rpn_head", "roi_heads"
    body = body_modules(backbone)
    names = {f"backbone.bottom_up.{there}": f"backbone.body.{here}" for there, here in body.items()}
    for level in range(4):
        for there, here in (("lateral", "inner"), ("output", "layer")):
            names |= _with_norm(f"backbone.fpn_{there}{level + 2}", f"backbone.fpn.{here}_blocks.{level}")
    single = structure.rpn_convs == 1
    for conv in range(structure.rpn_convs):
        names[f"{rpn}.conv" if single else f"{rpn}.conv.conv{conv}"] = f"rpn.head.conv.{conv}.0"
    names |= {f"{rpn}.objectness_logits": "rpn.head.cls_logits", f"{rpn}.anchor_deltas": "rpn.head.bbox_pred"}
    convs = structure.box_head_convs
    for conv in range(convs):
        names |= _with_norm(f"{heads}.box_head.conv{conv + 1}", f"{heads}.box_head.{conv}")
    # Torchvision counts the layer that flattens too.
    layers = (convs + 1,) if convs else ("fc6", "fc7")
    names |= {f"{heads}.box_head.fc{i}": f"{heads}.box_head.{layer}" for i, layer in enumerate(layers, 1)}
    for conv in range(structure.mask_head_convs):
        names |= _with_norm(f"{heads}.mask_head.mask_fcn{conv + 1}", f"{heads}.mask_head.{conv}")
    predictors = {
        f"{heads}.box_predictor.{layer}": f"{heads}.box_predictor.{layer}" for layer in ("cls_score", "bbox_pred")
    }
    return {
        **names,
        **predictors,
        f"{heads}.mask_head.deconv": f"{heads}.mask_predictor.conv5_mask",
        f"{heads}.mask_head.predictor": f"{heads}.mask_predictor.mask_fcn_logits",
    }


def _with_norm(detectron2_name: str, own_name: str) -> dict[str, str]:
    """A convolution, and the norm inside it there, which comes after it here."""
    return {detectron2_name: f"{own_name}.0", f"{detectron2_name}.norm": f"{own_name}.1"}
