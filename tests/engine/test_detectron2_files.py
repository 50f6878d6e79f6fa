"""Files for Detectron2, without it: what stands in them; what it makes of them is tested where it is installed."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from vertinst.cli import run
from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.checkpoint import Description
from vertinst.engine.detectron2_files import CONFIG, WEIGHTS, write_detectron2
from vertinst.errors import CheckpointError, ConfigError, OutputExistsError, VertinstError
from vertinst.models import mask_rcnn

SMALL = {"backbone": "resnet18", "image_size": 128, "channels": 16, "box_head_width": 32}
CLASSES = ("L1\n!!python/name:os.system", "L2")
FIRST = "backbone.body.conv1.weight"


def saved(folder: Path, **changes: Any) -> Path:
    """A checkpoint of random numbers."""
    options = mask_rcnn.Options.model_validate({**SMALL, **changes})
    torch.manual_seed(0)
    weights = mask_rcnn.build(options, CLASSES).state_dict()
    weights = {n: torch.rand_like(t) + 0.5 if n.endswith("running_var") else t for n, t in weights.items()}
    checkpoints.save(
        folder / "best.safetensors", weights, Description("mask_rcnn", options.model_dump(mode="json"), CLASSES)
    )
    return folder / "best.safetensors"


@pytest.mark.parametrize(
    "changes",
    [
        {"frozen_batch_norm": True},
        {"fpn_norm": True, "rpn_convs": 2, "box_head_convs": 2, "head_norm": True},
    ],
)
def test_what_is_written_is_recognised_again(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = saved(tmp_path, **changes)
    weights = checkpoints.read(path).weights
    found = checkpoints.read(write_detectron2(checkpoints.read(path), tmp_path / "out") / WEIGHTS)
    kept = {n for n in weights if not n.startswith("backbone.body.fc.")}
    counts = {n for n in kept if n.endswith("num_batches_tracked")}
    assert kept - counts <= set(found.weights) <= kept
    torch.testing.assert_close(found.weights[FIRST], weights[FIRST])
    assert all(torch.equal(t, weights[n]) for n, t in found.weights.items() if n != FIRST)
    same = ("backbone", "channels", "box_head_width", "fpn_norm", "rpn_convs", "box_head_convs", "head_norm")
    options = mask_rcnn.Options.model_validate(found.description.options)
    wanted = mask_rcnn.Options.model_validate({**SMALL, **changes})
    assert {n: getattr(options, n) for n in same} == {n: getattr(wanted, n) for n in same}


def test_the_first_convolution_is_for_blue_first_and_undivided_greys(tmp_path: Path) -> None:
    path = saved(tmp_path)
    ours = checkpoints.read(path).weights[FIRST]
    state = torch.load(write_detectron2(checkpoints.read(path), tmp_path / "out") / WEIGHTS, weights_only=True)
    theirs = state["model"]["backbone.bottom_up.stem.conv1.weight"]
    for channel, deviation in enumerate((58.395, 57.12, 57.375)):
        torch.testing.assert_close(theirs[:, 2 - channel], ours[:, channel] / deviation)


def test_an_epsilon_that_is_not_detectron2s_goes_into_the_variance(tmp_path: Path) -> None:
    path = saved(tmp_path, batch_norm_eps=0.5)
    state = torch.load(write_detectron2(checkpoints.read(path), tmp_path / "out") / WEIGHTS, weights_only=True)
    theirs = state["model"]["backbone.bottom_up.stem.conv1.norm.running_var"]
    torch.testing.assert_close(theirs, checkpoints.read(path).weights["backbone.body.bn1.running_var"] + 0.5 - 1e-5)


def test_the_config_says_what_the_network_computes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, aspect_ratios=(4.0, 1.0, 0.5), trainable_layers=3, max_detections=7, score_threshold=0.3)
    assert run(["export-model", "--format", "detectron2", "--weights", str(path), "--out", str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [CONFIG, WEIGHTS]
    text = (tmp_path / "out" / CONFIG).read_text("utf-8")
    assert str(tmp_path) not in text
    # Detectron2 reads it with a loader that runs tags: classes stay in their comments.
    assert all(line.startswith("# class ") for line in text.splitlines() if "python" in line)
    config = yaml.safe_load(text)
    model = config["MODEL"]
    assert config["INPUT"]["FORMAT"] == "BGR"
    assert config["TEST"]["DETECTIONS_PER_IMAGE"] == 7
    assert model["WEIGHTS"] == WEIGHTS
    assert (model["PIXEL_MEAN"], model["PIXEL_STD"]) == ([103.53, 116.28, 123.675], [1.0, 1.0, 1.0])
    assert model["ANCHOR_GENERATOR"]["ASPECT_RATIOS"] == [[0.25, 1.0, 2.0]]
    sides = [side for (side,) in model["ANCHOR_GENERATOR"]["SIZES"]]
    assert sides == pytest.approx([128 * share for share in (0.04, 0.08, 0.16, 0.32, 0.64)])
    assert model["BACKBONE"]["FREEZE_AT"] == 2
    assert (model["RESNETS"]["DEPTH"], model["RESNETS"]["RES2_OUT_CHANNELS"]) == (18, 64)
    assert (model["ROI_HEADS"]["NUM_CLASSES"], model["ROI_HEADS"]["SCORE_THRESH_TEST"]) == (2, 0.3)


def test_what_cannot_be_written_is_one_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = checkpoints.read(saved(tmp_path))
    with pytest.raises(ConfigError, match="model yolact cannot be exported to Detectron2"):
        write_detectron2(checkpoints.read("demo"), tmp_path / "out")
    (tmp_path / "torchvision").mkdir()
    with pytest.raises(ConfigError, match="conventions must be detectron2"):
        write_detectron2(checkpoints.read(saved(tmp_path / "torchvision", conventions="torchvision")), tmp_path / "out")
    short = {n: t for n, t in checkpoint.weights.items() if n != FIRST}
    with pytest.raises(CheckpointError, match="weights do not fit the model"):
        write_detectron2(checkpoints.Checkpoint(checkpoint.path, checkpoint.description, short, {}), tmp_path / "out")
    assert not (tmp_path / "out").exists()

    def full(content: object, path: Path) -> None:
        path.write_bytes(b"PK")
        raise RuntimeError("unexpected pos 2 vs 1")

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(VertinstError, match="cannot be written: unexpected pos"):
            write_detectron2(checkpoint, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    write_detectron2(checkpoint, tmp_path / "out")
    with pytest.raises(OutputExistsError, match="out"):
        write_detectron2(checkpoint, tmp_path / "out")
