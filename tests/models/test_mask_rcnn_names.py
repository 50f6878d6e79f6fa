"""Whose weights a Mask R-CNN's are, which tensor is which, and the way back to Detectron2."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models.detection import maskrcnn_resnet50_fpn, maskrcnn_resnet50_fpn_v2

from vertinst.errors import CheckpointError
from vertinst.models._coco_classes import COCO_CLASSES
from vertinst.models._detectron2_names import Structure, modules
from vertinst.models._mask_rcnn_names import recognise

# Names and shapes of Detectron2's mask_rcnn_R_50_FPN_3x, written by Detectron2 itself.
SHAPES: dict[str, list[int]] = json.loads((Path(__file__).parent / "fixtures/detectron2_r50_fpn.json").read_text())
DEVIATIONS = torch.tensor([58.395, 57.12, 57.375])
HEADS = "roi_heads.box_predictor."


def shown(shapes: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors of these shapes that take no memory."""
    return {name: torch.zeros(()).expand(list(shape)) for name, shape in shapes.items()}


def detectron2() -> dict[str, Tensor]:
    return shown(SHAPES)


def of_torchvision(build: Callable[..., Any], classes: int = 91) -> dict[str, Tensor]:
    with torch.device("meta"):
        state = build(weights=None, weights_backbone=None, num_classes=classes).state_dict()
    return shown({name: tensor.shape for name, tensor in state.items()})


def test_detectron2_s_network_is_recognised() -> None:
    found = recognise(detectron2(), "model_final_f10217.pkl")
    assert found is not None
    options, classes, weights = found
    assert options == {
        "preset": "detectron2",
        "backbone": "resnet50",
        "stride_in_1x1": True,
        "frozen_batch_norm": True,
    }
    assert classes == COCO_CLASSES
    assert len(weights) == len(SHAPES)
    assert {n: tuple(weights[n].shape) for n in weights if n.startswith(("rpn", "roi_heads"))} == {
        "rpn.head.conv.0.0.weight": (256, 256, 3, 3),
        "rpn.head.conv.0.0.bias": (256,),
        "rpn.head.cls_logits.weight": (3, 256, 1, 1),
        "rpn.head.cls_logits.bias": (3,),
        "rpn.head.bbox_pred.weight": (12, 256, 1, 1),
        "rpn.head.bbox_pred.bias": (12,),
        "roi_heads.box_head.fc6.weight": (1024, 12544),
        "roi_heads.box_head.fc6.bias": (1024,),
        "roi_heads.box_head.fc7.weight": (1024, 1024),
        "roi_heads.box_head.fc7.bias": (1024,),
        "roi_heads.box_predictor.cls_score.weight": (81, 1024),
        "roi_heads.box_predictor.cls_score.bias": (81,),
        "roi_heads.box_predictor.bbox_pred.weight": (320, 1024),
        "roi_heads.box_predictor.bbox_pred.bias": (320,),
        **{f"roi_heads.mask_head.{i}.0.weight": (256, 256, 3, 3) for i in range(4)},
        **{f"roi_heads.mask_head.{i}.0.bias": (256,) for i in range(4)},
        "roi_heads.mask_predictor.conv5_mask.weight": (256, 256, 2, 2),
        "roi_heads.mask_predictor.conv5_mask.bias": (256,),
        "roi_heads.mask_predictor.mask_fcn_logits.weight": (80, 256, 1, 1),
        "roi_heads.mask_predictor.mask_fcn_logits.bias": (80,),
    }
    torchvisions = set(of_torchvision(maskrcnn_resnet50_fpn))
    assert {name for name in weights if name.startswith("backbone.")} == {
        name for name in torchvisions if name.startswith("backbone.") and not name.endswith("num_batches_tracked")
    }


def test_the_first_convolution_is_turned_from_blue_first_and_scaled() -> None:
    tensors = detectron2()
    theirs = torch.randn(64, 3, 7, 7, generator=torch.Generator().manual_seed(0))
    tensors["backbone.bottom_up.stem.conv1.weight"] = theirs
    found = recognise(tensors, "x.pkl")
    assert found is not None
    film = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(1))
    mean, deviation = torch.tensor([0.485, 0.456, 0.406])[:, None, None], DEVIATIONS[:, None, None] / 255
    ours = torch.conv2d((film - mean) / deviation, found[2]["backbone.body.conv1.weight"], padding=3)
    blue_first = film.flip(1) * 255 - torch.tensor([103.53, 116.28, 123.675])[:, None, None]
    torch.testing.assert_close(ours, torch.conv2d(blue_first, theirs, padding=3), rtol=1e-4, atol=1e-2)


def test_constants_of_older_versions_are_left_away_and_changed_sizes_are_found() -> None:
    tensors = detectron2()
    constants = {
        "pixel_mean": torch.zeros(3, 1, 1),
        "pixel_std": torch.zeros(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
    }
    found = recognise({**tensors, **constants}, "x.pkl")
    assert found is not None
    assert len(found[2]) == len(tensors)
    small = {n: t for n, t in tensors.items() if ".mask_fcn4." not in n}
    for layer, rows in (("cls_score", 4), ("bbox_pred", 12)):
        small[f"{HEADS}{layer}.weight"], small[f"{HEADS}{layer}.bias"] = torch.zeros(rows, 512), torch.zeros(rows)
    small["roi_heads.mask_head.predictor.weight"] = torch.zeros(3, 64, 1, 1)
    small["roi_heads.mask_head.predictor.bias"] = torch.zeros(3)
    small["backbone.fpn_lateral2.weight"] = torch.zeros(64, 256, 1, 1)
    small["roi_heads.box_head.fc1.weight"] = torch.zeros(512, 64 * 49)
    small["backbone.bottom_up.res3.0.conv1.norm.num_batches_tracked"] = torch.zeros(())
    found = recognise(small, "mine.pth")
    assert found is not None
    assert found[0] == {
        "preset": "detectron2",
        "backbone": "resnet50",
        "stride_in_1x1": True,
        "frozen_batch_norm": False,
        "channels": 64,
        "box_head_width": 512,
        "mask_head_convs": 3,
    }
    assert found[1] == ("class 1", "class 2", "class 3")


def test_norms_and_more_convolutions_are_found() -> None:
    structure = Structure(fpn_norm=True, rpn_convs=2, box_head_convs=4, head_norm=True)
    kinds = ("weight", "bias", "running_mean", "running_var")
    shapes: dict[str, list[int]] = {n: s for n, s in SHAPES.items() if not re.search(r"rpn_head\.conv\.|\.fc2\.", n)}
    for theirs in modules("resnet50", structure):
        if f"{theirs}.weight" not in shapes:
            leaves = kinds if theirs.endswith(".norm") else ("weight", "bias")
            shapes |= {f"{theirs}.{leaf}": [256] for leaf in leaves if ".shortcut" not in theirs}
    found = recognise(shown(shapes), "syncbn.pkl")
    assert found is not None
    wanted = {"fpn_norm": True, "rpn_convs": 2, "box_head_convs": 4, "head_norm": True}
    assert found[0].items() >= wanted.items()
    assert {"roi_heads.box_head.5.weight", "roi_heads.box_head.3.1.running_var", "rpn.head.conv.1.0.bias"} <= set(
        found[2]
    )
    group = {n: s for n, s in shapes.items() if "fpn_lateral3.norm.running" not in n}
    with pytest.raises(CheckpointError, match="must be of batch norm, got group norm"):
        recognise(shown(group), "gn.pkl")


@pytest.mark.parametrize("network", [detectron2, partial(of_torchvision, maskrcnn_resnet50_fpn)])
def test_rows_without_columns_are_no_classes(network: Callable[[], dict[str, Tensor]]) -> None:
    # A billion rows of no columns are a file of no bytes; their names alone would take all memory.
    layers = ("cls_score", "bbox_pred", "mask_head.predictor", "mask_fcn_logits")
    tensors = network()
    outputs = [n for n in tensors if n.startswith("roi_heads.") and n.rpartition(".")[0].endswith(layers)]
    assert len(outputs) == 6
    shapes = dict.fromkeys(outputs, (10**9, 0))
    with pytest.raises(CheckpointError, match="must be of at most 10000 classes, got 999999999"):
        recognise({**tensors, **shown(shapes)}, "model.pkl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"roi_heads.box_head.0.fc1.weight": [2, 2]}, "got a Cascade R-CNN"),
        ({"sem_seg_head.p2.0.weight": [2]}, "panoptic segmentation"),
        ({"roi_heads.keypoint_head.conv_fcn1.weight": [2]}, "keypoints"),
        ({"roi_heads.mask_head.point_head.fc1.weight": [2]}, "PointRend"),
        ({"roi_heads.res5.0.conv1.weight": [2]}, r"\(C4 or DC5\)"),
        ({"backbone.bottom_up.res3.0.conv2_offset.weight": [2]}, "deformable convolutions"),
        ({"backbone.bottom_up.res2.0.conv2.weight": [256, 8, 3, 3]}, "got another backbone"),
        ({"backbone.bottom_up.res5.3.conv1.weight": [2]}, "got another backbone"),
        ({"roi_heads.mask_head.predictor.weight": None}, "a network without masks"),
        (
            {"roi_heads.box_predictor.bbox_pred.weight": [4, 1024], "roi_heads.box_predictor.bbox_pred.bias": [4]},
            "each of",
        ),
        ({"proposal_generator.rpn_head.objectness_logits.weight": [15, 256, 1, 1]}, "must be of 3 anchors in a cell"),
        ({"roi_heads.box_predictor.cls_score.weight": []}, "without it"),
        ({"something.weight": [2]}, r"a network with something\.weight(.|\n)*model detectron2"),
    ],
)
def test_other_networks_of_detectron2_are_refused(change: dict[str, Any], message: str) -> None:
    shapes = {name: shape for name, shape in {**SHAPES, **change}.items() if shape is not None}
    with pytest.raises(CheckpointError, match=message):
        recognise(shown(shapes), "other.pkl")


OLD = {
    r"^rpn\.head\.conv\.0\.0\.": "rpn.head.conv.",
    r"^(backbone\.fpn\.\w+_blocks\.\d)\.0\.": r"\1.",
    r"^roi_heads\.mask_head\.(\d)\.0\.": lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}.",
}


def old_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """As the published file of `maskrcnn_resnet50_fpn` names them."""
    for pattern, name in OLD.items():
        tensors = {re.sub(pattern, name, n): t for n, t in tensors.items()}
    return tensors


@pytest.mark.parametrize("old", [True, False])
def test_torchvision_s_first_network_is_recognised(old: bool) -> None:
    tensors = of_torchvision(maskrcnn_resnet50_fpn)
    tensors = {n: t for n, t in tensors.items() if not n.endswith("num_batches_tracked")}
    named = old_names(tensors) if old else tensors
    assert ("roi_heads.mask_head.mask_fcn1.weight" in named) == old
    found = recognise(named, "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")
    assert found is not None
    assert found[0] == {"preset": "torchvision", "backbone": "resnet50", "stride_in_1x1": False}
    assert found[1] == COCO_CLASSES
    assert set(found[2]) == set(tensors)


def test_torchvision_s_second_network_is_recognised() -> None:
    tensors = of_torchvision(maskrcnn_resnet50_fpn_v2)
    found = recognise(tensors, "maskrcnn_resnet50_fpn_v2_coco-73cbd019.pth")
    assert found is not None
    assert found[0] == {
        "preset": "torchvision_v2",
        "backbone": "resnet50",
        "stride_in_1x1": False,
        "fpn_norm": True,
        "rpn_convs": 2,
        "box_head_convs": 4,
        "head_norm": True,
    }
    assert found[1] == COCO_CLASSES
    assert set(found[2]) == set(tensors)


def test_torchvision_s_rows_are_put_into_the_order_of_the_classes() -> None:
    tensors = of_torchvision(maskrcnn_resnet50_fpn)
    rows = torch.arange(91.0)
    tensors[f"{HEADS}cls_score.bias"] = rows
    tensors[f"{HEADS}bbox_pred.bias"] = rows.repeat_interleave(4) + torch.arange(4.0).repeat(91) / 4
    tensors["roi_heads.mask_predictor.mask_fcn_logits.bias"] = rows
    found = recognise(tensors, "x.pth")
    assert found is not None
    names = torchvision.models.detection.MaskRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    kept = [row for row, name in enumerate(names) if name not in ("__background__", "N/A")]
    assert tuple(names[row] for row in kept) == COCO_CLASSES
    assert found[2][f"{HEADS}cls_score.bias"].tolist() == [*kept, 0]
    assert found[2][f"{HEADS}bbox_pred.bias"].tolist() == [row + part / 4 for row in kept for part in range(4)]
    assert found[2]["roi_heads.mask_predictor.mask_fcn_logits.bias"].tolist() == kept


def test_torchvision_s_networks_for_own_classes_keep_all_rows() -> None:
    tensors = of_torchvision(maskrcnn_resnet50_fpn, classes=6)
    tensors[f"{HEADS}cls_score.bias"] = torch.arange(6.0)
    found = recognise(tensors, "mine.pth")
    assert found is not None
    assert found[0] == {
        "preset": "torchvision",
        "backbone": "resnet50",
        "stride_in_1x1": False,
        "frozen_batch_norm": False,
        "batch_norm_eps": 1e-5,
    }
    assert found[1] == tuple(f"class {i}" for i in range(1, 6))
    assert found[2][f"{HEADS}cls_score.bias"].tolist() == [1, 2, 3, 4, 5, 0]
    for name in ("mask_predictor.mask_fcn_logits", "box_predictor.bbox_pred"):
        changed = {**tensors, f"roi_heads.{name}.weight": torch.zeros(5, 256), f"roi_heads.{name}.bias": torch.zeros(5)}
        with pytest.raises(CheckpointError, match="boxes and masks for each of 6 classes"):
            recognise(changed, "x.pth")


def test_other_detectors_of_torchvision_are_refused() -> None:
    tensors = of_torchvision(torchvision.models.detection.fasterrcnn_resnet50_fpn)
    with pytest.raises(CheckpointError, match="got another detector"):
        recognise(tensors, "fasterrcnn.pth")


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_torchvision_s_resnets_start_a_training(depth: int) -> None:
    with torch.device("meta"):
        state = torchvision.models.get_model(f"resnet{depth}").state_dict()
    found = recognise(state, f"resnet{depth}.pth")
    assert found is not None
    assert found[:2] == ({"backbone": f"resnet{depth}", "stride_in_1x1": False}, ())
    assert set(found[2]) == {n if n.startswith("fc.") else f"backbone.body.{n}" for n in state}
    renamed = {_detectron2_name(name): tensor for name, tensor in state.items()}
    again = recognise(renamed, f"R-{depth}.pkl")
    assert again is not None
    assert again[:2] == found[:2]
    assert {n for n in again[2] if n.startswith("backbone.")} == {n for n in found[2] if n.startswith("backbone.")}


def _detectron2_name(name: str) -> str:
    """As Detectron2's converter of torchvision's files renames them."""
    name = name if "layer" in name else f"stem.{name}"
    name = re.sub(r"layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
    name = re.sub(r"bn(\d)", r"conv\1.norm", name)
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def caffe2() -> dict[str, Tensor]:
    """A ResNet-50 by Caffe2's names."""
    with torch.device("meta"):
        state = torchvision.models.resnet50().state_dict()
    named = {}
    for name, tensor in state.items():
        layer, _, leaf = name.rpartition(".")
        if leaf not in ("weight", "bias") or name.startswith("fc"):
            continue
        norm = bool(re.search(r"bn\d|downsample\.1", layer))
        stem = re.sub(r"layer(\d)\.(\d+)\.", lambda m: f"res{int(m[1]) + 1}_{m[2]}_", layer)
        stem = re.sub(r"downsample\.\d", "branch1", stem)
        stem = re.sub(r"(?<=_)(conv|bn)([123])", lambda m: f"branch2{'abc'[int(m[2]) - 1]}", stem)
        stem = "res_conv1" if stem == "bn1" else stem
        suffix = {"weight": "_bn_s", "bias": "_bn_b"}[leaf] if norm else "_w"
        named[stem + suffix] = (
            torch.rand(tuple(tensor.shape)[:1]).reshape(-1, *(1 for _ in tensor.shape[1:])).expand(tuple(tensor.shape))
        )
    return {**named, "fc1000_w": torch.zeros(2, 2), "fc1000_b": torch.zeros(2)}


def test_caffe2_s_backbones_start_a_training() -> None:
    tensors = caffe2()
    assert {"conv1_w", "res_conv1_bn_s", "res2_0_branch2a_w", "res5_2_branch2c_bn_b", "res3_0_branch1_w"} <= set(
        tensors
    )
    found = recognise(tensors, "R-50.pkl")
    assert found is not None
    options, classes, weights = found
    assert classes == ()
    assert options == {
        "preset": "detectron2",
        "backbone": "resnet50",
        "stride_in_1x1": True,
        "frozen_batch_norm": True,
    }
    with torch.device("meta"):
        state = torchvision.models.resnet50().state_dict()
    wanted = {f"backbone.body.{n}" for n in state if not n.startswith("fc.") and "batches" not in n}
    assert set(weights) == wanted | {"fc1000_w", "fc1000_b"}
    body = "backbone.body.layer2.0"
    assert torch.equal(weights[f"{body}.conv1.weight"], tensors["res3_0_branch2a_w"])
    assert torch.equal(weights[f"{body}.downsample.1.bias"], tensors["res3_0_branch1_bn_b"])
    assert torch.equal(weights[f"{body}.bn1.running_mean"], torch.zeros(128))
    assert torch.equal(weights[f"{body}.bn1.running_var"], torch.ones(128))
    first = tensors["conv1_w"].flip(1) * DEVIATIONS[:, None, None]
    torch.testing.assert_close(weights["backbone.body.conv1.weight"], first)
    with pytest.raises(CheckpointError, match="got another network"):
        recognise({**tensors, "rpn_cls_logits_fpn2_w": torch.zeros(1)}, "model_final.pkl")


def test_other_files_are_none_of_these() -> None:
    assert recognise({}, "x.pth") is None
    assert recognise({"weight": torch.zeros(2)}, "x.pth") is None
    with torch.device("meta"):
        assert recognise(torchvision.models.resnext50_32x4d().state_dict(), "x.pth") is None
