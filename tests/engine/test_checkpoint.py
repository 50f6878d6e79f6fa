"""Checkpoints: what goes in comes out, foreign and broken files are refused, and no code in them is run."""

import json
import os
import pickle
import resource
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from vertinst import plugins
from vertinst.config import Config
from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.checkpoint import Description
from vertinst.engine.start import check_classes
from vertinst.errors import CheckpointError, VertinstError
from vertinst.version import __version__

CLASSES = ("lumbar", "sacral")


@pytest.fixture
def model(tiny: Callable[..., Config]) -> torch.nn.Module:
    plugin = plugins.load("models", "tiny")
    torch.manual_seed(0)
    return plugin.build(plugin.Options(width=8), CLASSES)


def described(**changes: object) -> Description:
    values = {"model": "tiny", "options": {"width": 8}, "classes": CLASSES, "config": {"seed": 3}, "epoch": 7}
    return Description(**{**values, **changes})


def test_what_goes_in_comes_out(model: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    state = {"0/step": torch.tensor(3.0)}
    checkpoints.save(path, model.state_dict(), described(metrics={"val_score": 0.5}), state=state)
    found = checkpoints.read(path, state=True)
    assert found.description.classes == CLASSES
    assert found.description.epoch == 7
    assert found.description.metrics == {"val_score": 0.5}
    assert found.description.config == {"seed": 3}
    assert found.description.versions["vertinst"] == __version__
    assert found.state == state
    assert checkpoints.read(path).state == {}
    rebuilt = checkpoints.build_model(found)
    assert not rebuilt.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(rebuilt.state_dict()[name], tensor)
        assert rebuilt.state_dict()[name].dtype == tensor.dtype


def test_weights_can_be_read_by_whom_the_umask_lets(model: torch.nn.Module, tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    checkpoints.save(tmp_path / "weights.safetensors", model.state_dict(), described())
    assert (tmp_path / "weights.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_channels_last_weights_can_be_saved(model: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    checkpoints.save(path, model.to(memory_format=torch.channels_last).state_dict(), described())
    torch.testing.assert_close(checkpoints.read(path).weights, dict(model.state_dict()))


def test_half_is_smaller_and_close(model: torch.nn.Module, tmp_path: Path) -> None:
    full, half = tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    checkpoints.save(full, model.state_dict(), described())
    checkpoints.save(half, model.state_dict(), described(), half=True)
    assert half.stat().st_size < 0.7 * full.stat().st_size
    rebuilt = checkpoints.build_model(checkpoints.read(half)).state_dict()
    for name, tensor in model.state_dict().items():
        assert rebuilt[name].dtype == tensor.dtype
        torch.testing.assert_close(rebuilt[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_run_folder_stands_for_its_best_or_else_its_last(model: torch.nn.Module, tmp_path: Path) -> None:
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported/model.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"must be of a training run, got an exported model(.|\n)*exported from"):
        checkpoints.find_weights(tmp_path / "exported")
    with pytest.raises(CheckpointError, match=r"neither best\.safetensors nor last\.safetensors"):
        checkpoints.read(tmp_path)
    for name, epoch in (("last.safetensors", 2), ("best.safetensors", 1)):
        checkpoints.save(tmp_path / name, model.state_dict(), described(epoch=epoch))
        assert checkpoints.read(tmp_path).description.epoch == epoch
    with pytest.raises(CheckpointError, match="no such weights file"):
        checkpoints.read(tmp_path / "missing.safetensors")


class Attack:
    """Runs code when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int, name: str) -> None:
    path = tmp_path / name
    attack = Attack(tmp_path / "hacked")
    path.write_bytes(pickle.dumps(attack, protocol=protocol))
    with pytest.raises(CheckpointError, match=r"asks for \w+\.mkdir, which is code and was not run|has protocol 4"):
        checkpoints.read(path)
    for zipped in (True, False):
        torch.save(
            {"weight": torch.zeros(2), "x": attack},
            path,
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=zipped,
        )
        with pytest.raises(
            CheckpointError, match=r"asks for \w+\.mkdir, which is code(.|\n)*state dict|has protocol 4"
        ):
            checkpoints.read(path)
    assert not (tmp_path / "hacked").exists()


def test_broken_and_foreign_files_are_refused(model: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    checkpoints.save(path, model.state_dict(), described())
    content = path.read_bytes()
    for cut, message in (
        (len(content) - 1, "broken or cut short"),
        (100, "cut short"),
        (5, "another kind of file"),
        (0, "an empty file"),
    ):
        path.write_bytes(content[:cut])
        with pytest.raises(CheckpointError, match=message):
            checkpoints.read(path)
    path.write_bytes(b"\xff" * 7 + b"\x7f{" + b"x" * 100)
    with pytest.raises(CheckpointError, match="another kind of file"):
        checkpoints.read(path)
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="was not written by vertinst"):
        checkpoints.read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "description in the weights file is damaged"),
        ("{}", "damaged"),
        (json.dumps({"format_version": 99}), "format must be at most 1, got 99(.|\n)*newer vertinst"),
        (json.dumps({"format_version": 1, "classes": ["a"], "surprise": 1}), "damaged"),
        (json.dumps({"format_version": 1, "classes": 5}), "damaged"),
        ("[]", "damaged"),
    ],
)
def test_damaged_descriptions_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(2)}, path, metadata={"vertinst": text})
    with pytest.raises(CheckpointError, match=message):
        checkpoints.read(path)


def test_models_and_options_that_are_not_there_are_refused(model: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    for changes in ({"model": "yolo"}, {"options": {"depth": 3}}, {"options": {"width": "wide"}}):
        checkpoints.save(path, model.state_dict(), described(**changes))
        with pytest.raises(CheckpointError, match=r"has no model '(yolo|tiny)' with the checkpoint's options"):
            checkpoints.build_model(checkpoints.read(path))


def test_weights_that_do_not_fit_are_named(model: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    checkpoints.save(path, model.state_dict(), described(options={"width": 4}))
    with pytest.raises(CheckpointError, match=r"body\.0\.weight must be \(4, 3, 5, 5\), got \(8, 3, 5, 5\).*more"):
        checkpoints.build_model(checkpoints.read(path))
    weights = dict(model.state_dict())
    weights["extra"] = weights.pop("head.3.bias")
    checkpoints.save(path, weights, described())
    with pytest.raises(CheckpointError, match=r"head\.3\.bias is missing; extra is not part of the model"):
        checkpoints.build_model(checkpoints.read(path))
    assert checkpoints.load_weights(model, checkpoints.read(path), strict=False).anew == ("head.3.bias",)


def test_nothing_that_fits_is_an_error_even_when_not_strict(model: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    checkpoints.save(path, {"other": torch.zeros(3)}, described())
    with pytest.raises(CheckpointError, match="do not fit"):
        checkpoints.load_weights(model, checkpoints.read(path), strict=False)


@pytest.mark.parametrize("classes", [("lumbar",), ("sacral", "lumbar"), ("lumbar", "sacral", "rod")])
def test_other_classes_are_refused_by_name(model: torch.nn.Module, tmp_path: Path, classes: tuple[str, ...]) -> None:
    checkpoints.save(tmp_path / "weights.safetensors", model.state_dict(), described())
    found = checkpoints.read(tmp_path / "weights.safetensors")
    check_classes(found, CLASSES)
    with pytest.raises(CheckpointError, match=f"for the classes {', '.join(classes)}, got lumbar, sacral"):
        check_classes(found, classes)


def test_a_full_disk_leaves_the_old_file(model: torch.nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    checkpoints.save(path, model.state_dict(), described())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(VertinstError, match=r"weights\.safetensors: cannot be written(.|\n)*Free space"):
            checkpoints.save(path, {"big": torch.zeros(100_000)}, described())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "big" not in checkpoints.read(path).weights
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_pretrained_backbones_are_not_fetched_when_a_checkpoint_is_loaded(tmp_path: Path) -> None:
    plugin = plugins.load("models", "yolact")
    options = {"backbone": "resnet18", "channels": 8, "prototypes": 4, "image_size": 64}
    model = plugin.build(plugin.Options(**options), CLASSES)
    path = tmp_path / "weights.safetensors"
    pretrained = described(model="yolact", options={**options, "backbone_weights": "imagenet"})
    checkpoints.save(path, model.state_dict(), pretrained, half=True)
    assert checkpoints.build_model(checkpoints.read(path)) is not None
