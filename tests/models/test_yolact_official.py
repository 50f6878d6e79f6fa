"""Official YOLACT files and the backbones they start from: recognised from tensors and file name alone."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor
from torchvision.models import _meta

from vertinst.errors import CheckpointError
from vertinst.models import yolact
from vertinst.models._coco_classes import COCO_CLASSES
from vertinst.models._yolact_official import PASCAL_CLASSES
from vertinst.models.yolact import Options

Tensors = dict[str, Tensor]


def official(classes: int = 80, **options: Any) -> Tensors:
    """Names and shapes of the original, without values."""
    with torch.device("meta"):
        model = yolact.build(Options(preset="original", **options), tuple(str(n) for n in range(classes)))
    return dict(model.state_dict())


PLUS = {"mask_rescoring": True, "square_anchors": False, "anchor_scales": tuple(2 ** (step / 3) for step in range(3))}
PASCAL = {"square_anchors": False, "anchor_sizes": tuple(side / 550 for side in (32, 64, 128, 256, 512))}
# The models of the original's README, as its settings describe them.
PUBLISHED: dict[str, dict[str, Any]] = {
    "yolact_base_54_800000.pth": {"backbone": "resnet101"},
    "yolact_resnet50_54_800000.pth": {"backbone": "resnet50"},
    "yolact_darknet53_54_800000.pth": {"backbone": "darknet53"},
    "yolact_im400_54_800000.pth": {"backbone": "resnet101", "image_size": 400},
    "yolact_im700_54_800000.pth": {"backbone": "resnet101", "image_size": 700},
    "yolact_plus_base_54_800000.pth": {"backbone": "resnet101", "deformable_interval": 3, **PLUS},
    "yolact_plus_resnet50_54_800000.pth": {"backbone": "resnet50", "deformable_interval": 1, **PLUS},
    "yolact_resnet50_pascal_120_80000.pth": {"backbone": "resnet50", "classes": 20, **PASCAL},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_model_is_recognised(name: str) -> None:
    wanted = {"classes": 80, **PUBLISHED[name]}
    tensors = official(**wanted)
    found = yolact.recognise(tensors, name)
    assert found is not None
    options, classes, weights = found
    expected = {key: value for key, value in wanted.items() if key != "classes"}
    assert Options(**options) == Options(preset="original", **expected)
    assert len(classes) == wanted["classes"]
    assert weights.keys() == tensors.keys()


def test_class_names_are_those_of_the_data_sets() -> None:
    coco = [name for name in _meta._COCO_CATEGORIES if name not in ("__background__", "N/A")]
    assert list(COCO_CLASSES) == coco
    assert list(PASCAL_CLASSES) == [name for name in _meta._VOC_CATEGORIES if name != "__background__"]


@pytest.mark.parametrize(
    ("count", "first", "last"),
    [
        (80, "person", "toothbrush"),
        (20, "aeroplane", "tvmonitor"),
        (1, "class 1", "class 1"),
        (5, "class 1", "class 5"),
    ],
)
def test_classes_are_named_by_their_number(count: int, first: str, last: str) -> None:
    found = yolact.recognise(official(count, backbone="resnet50"), "mine.pth")
    assert found is not None
    assert (len(found[1]), found[1][0], found[1][-1]) == (count, first, last)


@pytest.mark.parametrize(
    ("name", "size"), [("im99999_x.pth", 550), ("yolact_im10.pth", 550), ("yolact_im600_1_2.pth", 600)]
)
def test_the_size_comes_from_the_file_name_where_it_can_be_one(name: str, size: int) -> None:
    found = yolact.recognise(official(backbone="resnet50"), name)
    assert found is not None
    assert found[0]["image_size"] == size


def test_leftovers_of_old_versions_are_dropped() -> None:
    tensors = official(backbone="resnet50")
    old = {
        **{re.sub(r"^backbone\.layers\.0", "backbone.layer1", name): tensor for name, tensor in tensors.items()},
        "fpn.downsample_layers.2.weight": torch.zeros(1),
        "fpn.downsample_layers.10.bias": torch.zeros(1),
        **tensors,
    }
    found = yolact.recognise(old, "yolact_resnet50_54_800000.pth")
    assert found is not None
    assert found[2].keys() == tensors.keys()
    assert found[0]["backbone"] == "resnet50"


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}


def shaped(name: str, *shape: int) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {**tensors, name: torch.empty(shape, device="meta")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (shaped("prediction_layers.0.bbox_layer.weight", 20, 256, 3, 3), "3 or 9 anchors in a cell, got 5"),
        (shaped("prediction_layers.0.bbox_layer.weight", 20), "3 or 9 anchors in a cell, got 0"),
        (
            shaped("prediction_layers.0.conf_layer.weight", 10**9, 0, 3, 3),
            r"conf_layer.weight of shape \(.*got \(1000000000",
        ),
        (
            shaped("prediction_layers.0.mask_layer.weight", 95, 256, 3, 3),
            r"mask_layer.weight of shape \(93, 256, 3, 3\)",
        ),
        (shaped("prediction_layers.0.conf_layer.weight", 3, 256, 3, 3), "semantic_seg_conv.weight of shape|conf_layer"),
        (shaped("semantic_seg_conv.weight", 79, 256, 1, 1), r"semantic_seg_conv.weight of shape \(80, 256, 1, 1\)"),
        (shaped("proto_net.10.weight", 31, 256, 1, 1), "proto_net.10.weight of shape"),
        (shaped("fpn.lat_layers.0.weight"), "of shape"),
        (shaped("backbone.layers.2.6.conv1.weight", 1), "a backbone of resnet50, resnet101 or darknet53, got another"),
        (shaped("backbone.layers.1.1.conv2.conv_offset_mask.weight", 1), "deformable convolutions in regular blocks"),
    ],
)
def test_other_networks_of_the_original_are_refused(change: Callable[[Tensors], Tensors], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"mine.pth: a YOLACT of the original must have .*{message}"):
        yolact.recognise(change(official(backbone="resnet50")), "mine.pth")


def test_foreign_networks_are_not_recognised() -> None:
    assert yolact.recognise({}, "yolact_base_54_800000.pth") is None
    assert yolact.recognise({"weight": torch.zeros(2)}, "resnet50-19c8e357.pth") is None
    with torch.device("meta"):
        others = [torchvision.models.resnet152(), torchvision.models.vgg11(), torchvision.models.mobilenet_v3_small()]
    assert [yolact.recognise(other.state_dict(), "resnet50.pth") for other in others] == [None] * 3
    headless = without("prediction_layers.0.bbox_layer.weight")(official(backbone="resnet50"))
    assert yolact.recognise(headless, "yolact_resnet50.pth") is None


@pytest.mark.parametrize("depth", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_imagenet_backbones_fit_whole(depth: str) -> None:
    with torch.device("meta"):
        body = getattr(torchvision.models, depth)()
        model = yolact.build(Options(backbone=depth, channels=8), ("a",))
    found = yolact.recognise(body.state_dict(), f"{depth}-0000.pth")
    assert found is not None
    options, classes, weights = found
    assert (options, classes) == ({"preset": "original", "backbone": depth}, ())
    wanted = {n: t.shape for n, t in model.state_dict().items() if n.startswith("backbone.")}
    assert {n: t.shape for n, t in weights.items() if not n.startswith("fc.")} == wanted


def test_darknet_and_backbones_with_the_names_of_the_original_fit_whole() -> None:
    for backbone in ("darknet53", "resnet50"):
        wanted = {n: t for n, t in official(backbone=backbone).items() if n.startswith("backbone.")}
        found = yolact.recognise({n.removeprefix("backbone."): t for n, t in wanted.items()}, f"{backbone}.pth")
        assert found is not None
        assert found[0]["backbone"] == backbone
        assert found[2].keys() == wanted.keys()
