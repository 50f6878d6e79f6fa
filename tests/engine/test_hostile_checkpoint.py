"""Checkpoints with a description that is not to be trusted: one message, and no memory for what it asks for."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.checkpoint import Description
from vertinst.errors import CheckpointError
from vertinst.models import yolact

OPTIONS = {"backbone": "resnet18", "image_size": 64, "channels": 8, "prototypes": 4}
CLASSES = ("a", "b")


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    return yolact.build(yolact.Options.model_validate(OPTIONS), CLASSES).state_dict()


def refuse(path: Path, match: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 500_000_000, before[1]))
    try:
        with pytest.raises(CheckpointError, match=match) as caught:
            checkpoints.build_model(checkpoints.read(path))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert caught.value.where == path
    assert caught.value.fix


@pytest.mark.parametrize(
    ("model", "options", "classes"),
    [
        ("yolact", {**OPTIONS, "channels": 1024, "head_convs": 8}, 5000),
        ("yolact", {**OPTIONS, "anchor_scales": [1.0] * 20_000, "aspect_ratios": [1.0] * 20_000}, 2),
        ("mask_rcnn", {}, 100_000),
    ],
)
def test_networks_larger_than_the_file_are_not_built(
    model: str, options: dict[str, Any], classes: int, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    checkpoints.save(path, weights, Description(model, options, tuple(map(str, range(classes)))))
    refuse(path, "weights do not fit the model: .* and [0-9]+ more")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.bool, torch.int64])
def test_weights_that_are_no_real_numbers_are_refused(
    dtype: torch.dtype, weights: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "w.safetensors"
    checkpoints.save(path, {n: t.to(dtype) for n, t in weights.items()}, Description("yolact", OPTIONS, CLASSES))
    refuse(path, r"weights must be float32 for backbone\.conv1\.weight, got " + str(dtype).removeprefix("torch."))


def test_names_in_messages_are_plain(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    checkpoints.save(path, {**weights, "\x1b[2J\n": torch.zeros(1)}, Description("yolact", OPTIONS, CLASSES))
    refuse(path, r"\\x1b\[2J\\n is not part of the model")


@pytest.mark.parametrize(
    "text",
    [
        "null",
        "[" * 200_000,
        '{"a":' * 200_000,
        '{"format_version":' + "1" * 6000 + "}",
        *(
            json.dumps({"model": "yolact", "options": OPTIONS, "classes": ["a"], "format_version": 1} | change)
            for change in (
                {"options": [1]},
                {"versions": [1]},
                {"model": 5},
                {"epoch": "x"},
                {"config": 3},
                {"\x1b[2J": 1},
                {"classes": 7},
            )
        ),
    ],
    ids=lambda text: text[:20] + text[-40:],
)
def test_damaged_descriptions_are_one_message(text: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.zeros(1)}, path, metadata={"vertinst": text})
    refuse(path, r"description in the weights file is damaged \([ -~]{1,120}\)")
