"""Weights of others, from the file to predictions and to the start of a training."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

import vertinst
from vertinst import plugins
from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.checkpoint import Checkpoint, Description
from vertinst.engine.start import check_start, remarks, start_from
from vertinst.errors import CheckpointError
from vertinst.models import mask_rcnn, yolact
from vertinst.models.yolact import Options

SMALL = {"image_size": 64, "channels": 8, "prototypes": 4}
OURS = ("lumbar", "sacral", "cage")


@pytest.fixture(scope="module")
def original() -> yolact.Yolact:
    """A narrow network with the names, layers and settings of the original, for two classes."""
    torch.manual_seed(0)
    return yolact.build(Options(preset="original", backbone="resnet50", **SMALL), ("class 1", "class 2")).eval()


@pytest.fixture(scope="module")
def weights(original: yolact.Yolact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its file, as the original would have named and saved it in 2019."""
    path = tmp_path_factory.mktemp("weights") / "yolact_im64_54_800000.pth"
    torch.save(original.state_dict(), path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("backbone") / "resnet18-5c106cde.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


def start(path: Path, *, strict: bool = True, model: str = "yolact", **options: Any) -> Any:
    """The network that a training for our classes starts from, and what it took."""
    plugin = plugins.load("models", model)
    chosen = plugin.Options(**options)
    network = plugin.build(chosen, OURS)
    return network, start_from(network, checkpoints.read(path, model=model), model, chosen, OURS, strict=strict)


def test_a_file_of_the_original_predicts_what_its_network_does(original: yolact.Yolact, weights: Path) -> None:
    noted: list[str] = []
    predictor = vertinst.load_model(weights, precision="32", device="cpu", noted=noted.append)
    assert predictor.classes == ("class 1", "class 2")
    assert predictor.provenance()["weights"] == "yolact_im64_54_800000.pth"
    (sentence,) = noted
    for fact in ("yolact_im64_54_800000.pth", "backbone resnet50", "image_size 64", "2 classes, class 1 to class 2"):
        assert fact in sentence
    film = np.random.default_rng(0).random((80, 60), dtype=np.float32)
    (found,) = predictor.predict([film])
    with torch.inference_mode():
        (wanted,) = original([torch.from_numpy(film).expand(3, -1, -1)])
    assert len(found) == len(wanted) > 0
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-3)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)


def test_a_training_for_other_classes_takes_all_that_fits(original: yolact.Yolact, weights: Path) -> None:
    network, taken = start(weights, **SMALL)
    parts = {part.name: part for part in taken.parts()}
    for name in ("backbone", "fpn", "proto_net"):
        assert parts[name].taken > 0
        assert (parts[name].anew, parts[name].skipped) == (0, 0)
    assert parts["prediction_layers"].taken == 2
    assert set(taken.anew) == {
        f"{layer}.{kind}"
        for layer in (*(f"prediction_layers.0.{head}_layer" for head in ("bbox", "conf", "mask")), "semantic_seg_conv")
        for kind in ("weight", "bias")
    }
    for part in ("backbone", "fpn", "proto_net"):
        ours, theirs = (getattr(model, part).state_dict() for model in (network, original))
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_with_the_original_s_anchors_boxes_and_coefficients_are_taken_too(weights: Path) -> None:
    _, taken = start(weights, preset="original", **SMALL)
    layers = ("prediction_layers.0.conf_layer", "semantic_seg_conv")
    assert set(taken.anew) == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


def test_another_backbone_is_refused_unless_what_fits_is_asked_for(weights: Path) -> None:
    with pytest.raises(CheckpointError, match=r"backbone resnet101, got resnet50(.|\n)*--set model\.backbone=resnet50"):
        start(weights, backbone="resnet101", **SMALL)
    _, taken = start(weights, strict=False, backbone="resnet101", **SMALL)
    assert any(name.startswith("backbone.") for name in taken.anew)


def test_deformable_weights_ask_for_deformable_convolutions(weights: Path) -> None:
    found = checkpoints.read(weights)
    found.description.options["deformable_interval"] = 1  # type: ignore[index]
    options = Options(**SMALL)
    with pytest.raises(CheckpointError, match=r"deformable_interval 0, got 1(.|\n)*model\.deformable_interval=1"):
        start_from(yolact.build(options, OURS), found, "yolact", options, OURS, strict=True)
    # Ordinary weights are a start for deformable convolutions, whose shifts begin at none.
    _, taken = start(weights, deformable_interval=1, **SMALL)
    assert all("conv2" in name for name in taken.anew if name.startswith("backbone."))


def test_another_model_is_refused(weights: Path) -> None:
    with pytest.raises(CheckpointError, match=r"of the model mask_rcnn, got yolact(.|\n)*--set model\.name=yolact"):
        start(weights, model="mask_rcnn", backbone="resnet18")


def test_own_weights_of_another_model_are_refused_as_such() -> None:
    demo = checkpoints.read("demo")
    with pytest.raises(CheckpointError, match=r"of the model mask_rcnn, got yolact(.|\n)*--set model\.name=yolact"):
        check_start(demo, "mask_rcnn", Options(), demo.description.classes, strict=True)


def test_a_backbone_alone_starts_a_training_and_predicts_nothing(backbone: Path) -> None:
    network, taken = start(backbone, backbone="resnet18", **SMALL)
    assert not any(name.startswith("backbone.") for name in taken.anew)
    assert [(part.name, part.skipped) for part in taken.parts() if part.skipped] == [("fc", 2)]
    stored = torch.load(backbone, weights_only=True)["layer4.1.conv2.weight"]
    assert torch.equal(network.state_dict()["backbone.layers.3.1.conv2.weight"], stored)
    with pytest.raises(CheckpointError, match=r"got a backbone alone \(resnet18\)(.|\n)*init\.weights="):
        vertinst.load_model(backbone)


def test_networks_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(2), "a\nb": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(
        CheckpointError, match=r"of a network that is known here, got 2 tensors such as conv\.weight, a\\nb"
    ):
        checkpoints.read(tmp_path / "other.pth")


def test_options_out_of_range_are_refused(tmp_path: Path) -> None:
    description = Description("yolact", {"prototypes": 300}, ("a",), versions={})
    with pytest.raises(
        CheckpointError, match=r"no model 'yolact' with the checkpoint's options(.|\n)*Take other weights"
    ):
        checkpoints.build_model(Checkpoint(tmp_path / "x.pth", description, {}, {}, foreign=True))


def test_a_network_with_a_part_missing_is_refused(weights: Path, tmp_path: Path) -> None:
    tensors = torch.load(weights, weights_only=True)
    del tensors["fpn.pred_layers.1.bias"]
    path = tmp_path / weights.name
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in tensors.items()}}, path)
    with pytest.raises(CheckpointError, match=r"do not fit the model: fpn\.pred_layers\.1\.bias is missing"):
        vertinst.load_model(path)


def of_others(preset: str, classes: int = 3, **options: Any) -> Checkpoint:
    """A checkpoint without tensors, as recognised from a file of Detectron2 or torchvision."""
    names = tuple(f"class {i + 1}" for i in range(classes))
    return Checkpoint(
        Path("theirs.pth"), Description("mask_rcnn", {"preset": preset, **options}, names), {}, {}, foreign=True
    )


def test_all_that_a_training_must_share_with_weights_of_others_is_said_at_once() -> None:
    # As mask_rcnn_R_50_FPN_3x is recognised: its norms have no statistics from which learning could go on.
    theirs = of_others("detectron2", backbone="resnet50", stride_in_1x1=True, frozen_batch_norm=True)
    with pytest.raises(
        CheckpointError,
        match=r"have stride_in_1x1 False, got True; frozen_batch_norm False, got True(.|\n)*"
        r"--set model\.stride_in_1x1=True --set model\.frozen_batch_norm=True",
    ):
        check_start(theirs, "mask_rcnn", mask_rcnn.Options(), OURS, strict=True)
    check_start(theirs, "mask_rcnn", mask_rcnn.Options(preset="detectron2"), OURS, strict=True)
    check_start(theirs, "mask_rcnn", mask_rcnn.Options(), OURS, strict=False)
    # Norms that were learnt can be held.
    learnt = of_others("detectron2", frozen_batch_norm=False)
    check_start(learnt, "mask_rcnn", mask_rcnn.Options(frozen_batch_norm=True), OURS, strict=True)


def test_torchvision_s_stride_is_asked_for(tmp_path: Path) -> None:
    with torch.device("meta"):
        network = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    state = {name: torch.zeros(()).expand(tensor.shape) for name, tensor in network.state_dict().items()}
    options, classes, _ = mask_rcnn.recognise(state, "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")
    theirs = Checkpoint(tmp_path, Description("mask_rcnn", options, classes), {}, {}, foreign=True)
    with pytest.raises(CheckpointError, match=r"stride_in_1x1 True, got False(.|\n)*model\.stride_in_1x1=False"):
        check_start(theirs, "mask_rcnn", mask_rcnn.Options(preset="detectron2"), OURS, strict=True)


def test_convolutions_are_not_taken_without_their_norms() -> None:
    # As maskrcnn_resnet50_fpn_v2 is recognised.
    theirs = of_others("torchvision_v2", fpn_norm=True, rpn_convs=2, box_head_convs=4, head_norm=True)
    wanted = "fpn_norm False, got True; rpn_convs 1, got 2; head_norm False, got True"
    with pytest.raises(CheckpointError, match=wanted):
        check_start(theirs, "mask_rcnn", mask_rcnn.Options(), OURS, strict=True)
    check_start(theirs, "mask_rcnn", mask_rcnn.Options(preset="torchvision_v2"), OURS, strict=True)


def test_what_else_differs_is_told() -> None:
    assert remarks(of_others("detectron2", classes=80), mask_rcnn.Options(), OURS) == []
    (order,) = remarks(of_others("detectron2"), mask_rcnn.Options(), OURS)
    assert "in this order: class 1 for lumbar, class 2 for sacral, class 3 for cage." in order
    (rules,) = remarks(of_others("torchvision", classes=80), mask_rcnn.Options(), OURS)
    assert "conventions of torchvision, not of detectron2" in rules
    assert "--set model.conventions=torchvision" in rules
    assert remarks(of_others("torchvision", classes=80), mask_rcnn.Options(preset="torchvision"), OURS) == []
    alone = Checkpoint(Path("R-50.pkl"), Description("mask_rcnn", {"preset": "detectron2"}, ()), {}, {}, foreign=True)
    assert remarks(alone, mask_rcnn.Options(conventions="torchvision"), OURS) == []
