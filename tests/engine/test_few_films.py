"""What few films ask for: films without any object, frozen stages, a backbone that moves slower; in both models."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vertinst import plugins
from vertinst.config import OptimConfig, load_config, model_options
from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.checkpoint import Description
from vertinst.engine.optim import build_optimizer, in_backbone, set_lr
from vertinst.engine.train import train
from vertinst.structures import Annotation, Dataset, ImageRecord, rle

pytestmark = pytest.mark.usefixtures("narrow")

SMALL = {
    "yolact": {"backbone": "resnet18", "image_size": 64, "channels": 16, "prototypes": 8},
    "yolact focal": {
        "backbone": "resnet18", "image_size": 64, "channels": 16, "prototypes": 8, "class_loss": "focal",
    },
    "mask_rcnn": {"backbone": "resnet18", "image_size": 64, "channels": 16, "box_head_width": 32, "mask_head_convs": 1},
}  # fmt: skip


def small(name: str, **options: object) -> nn.Module:
    plugin = plugins.load("models", name.split()[0])
    torch.manual_seed(0)
    model: nn.Module = plugin.build(plugin.Options(**SMALL[name], **options), ("lumbar", "sacral"))
    return model.train()


def empty(size: tuple[int, int] = (64, 48)) -> dict[str, Tensor]:
    return {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, *size, dtype=torch.uint8),
    }


def with_object(size: tuple[int, int] = (64, 48)) -> dict[str, Tensor]:
    masks = torch.zeros(1, *size, dtype=torch.uint8)
    masks[0, 20:36, 10:34] = 1
    return {"boxes": torch.tensor([[10.0, 20.0, 34.0, 36.0]]), "labels": torch.tensor([1]), "masks": masks}


def films(count: int = 2) -> list[Tensor]:
    return [torch.rand(1, 64, 48, generator=torch.Generator().manual_seed(i)).expand(3, -1, -1) for i in range(count)]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, targets: list[dict[str, Tensor]]) -> float:
    torch.manual_seed(1)
    losses = model(films(), targets)
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    total = sum(losses.values())
    optimizer.zero_grad()
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    optimizer.step()
    return total.item()


@pytest.mark.parametrize("name", SMALL)
def test_a_batch_of_films_without_objects_teaches_background(name: str) -> None:
    model = small(name)
    optimizer = build_optimizer(model, OptimConfig(lr=0.003))
    first = step(model, optimizer, [empty(), empty()])
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if in_backbone(n))
    for _ in range(6):
        last = step(model, optimizer, [empty(), empty()])
    assert 0 <= last < 0.7 * first


@pytest.mark.parametrize("name", SMALL)
def test_a_film_with_and_one_without_objects_train_together(name: str) -> None:
    model = small(name)
    optimizer = build_optimizer(model, OptimConfig(lr=0.001))
    # Every parameter that is there has something to learn from it.
    step(model, optimizer, [with_object(), empty()])
    still = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or p.grad.abs().sum() == 0)]
    assert len(still) < 0.1 * len(list(model.parameters()))


def test_a_run_on_empty_films_alone_ends_with_finite_weights(tmp_path: Path) -> None:
    records = []
    for number in (1, 2, 3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.random.default_rng(number).integers(0, 255, (64, 48), np.uint8))
        records.append(ImageRecord(number, f"{number}.png", 48, 64))
    data = Dataset(("lumbar", "sacral"), tuple(records))
    settings = [f"model.{key}={value}" for key, value in SMALL["yolact"].items()]
    settings += ["schedule.epochs=1", "schedule.batch_size=2", "device=cpu", "classes=[lumbar, sacral]"]
    settings += ["optim.ema_decay=0.9", "data.workers=0", "precision=32"]
    train(load_config("yolact_lumbar", settings), data, data, tmp_path, tmp_path / "run")
    weights = checkpoints.read(tmp_path / "run").weights
    assert all(torch.isfinite(t).all() for t in weights.values())
    # 150 MB, and pytest keeps the folders of several sessions.
    (tmp_path / "run" / "last.safetensors").unlink()


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_frozen_stages_stay_and_the_others_learn(name: str) -> None:
    model = small(name, trainable_layers=2)
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen
    assert all(in_backbone(n) for n in frozen)
    learning = {n: p.clone() for n, p in model.named_parameters() if p.requires_grad and in_backbone(n)}
    optimizer = build_optimizer(model, OptimConfig(lr=0.01, weight_decay=0.1))
    step(model, optimizer, [with_object(), empty()])
    now = dict(model.named_parameters())
    assert all(torch.equal(now[n], before) for n, before in frozen.items())
    assert sum(not torch.equal(now[n], before) for n, before in learning.items()) > 0.9 * len(learning)


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_the_backbones_own_learning_rate_reaches_the_backbone_and_nothing_else(name: str) -> None:
    model = small(name)
    before = {n: p.clone() for n, p in model.named_parameters()}
    optimizer = build_optimizer(model, OptimConfig(lr=0.01, backbone_lr_factor=0.0))
    set_lr(optimizer, 1.0)
    step(model, optimizer, [with_object(), empty()])
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert not any(in_backbone(n) for n in moved)
    others = {n for n in before if not in_backbone(n)}
    assert len(moved) > 0.9 * len(others)
    assert any("fpn" in n for n in moved)


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_the_factor_of_the_backbones_rate_leaves_out_the_pyramid_and_the_heads(name: str) -> None:
    model = small(name)
    optimizer = build_optimizer(model, OptimConfig(lr=0.01, backbone_lr_factor=0.1))
    set_lr(optimizer, 0.5)
    names = {id(p): n for n, p in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == set(names.values())
    slow = {n for n, rate in rates.items() if rate == pytest.approx(0.0005)}
    assert {n for n, rate in rates.items() if rate == pytest.approx(0.005)} == rates.keys() - slow
    body = "backbone.body." if name == "mask_rcnn" else "backbone."
    assert slow == {n for n in rates if n.startswith(body)}
    assert any("fpn" in n for n in rates.keys() - slow)


def drawn(folder: Path) -> Dataset:
    """Four films of one bright box each; one box is sacral."""
    records = []
    for number in range(1, 5):
        pixels = np.random.default_rng(number).integers(0, 60, (64, 48), np.uint8)
        mask = np.zeros((64, 48), dtype=bool)
        mask[20 + number : 40, 10:34] = True
        cv2.imwrite(str(folder / f"{number}.png"), pixels + 150 * mask.astype(np.uint8))
        found = (Annotation("sacral" if number == 1 else "lumbar", rle.encode(mask)),)
        records.append(ImageRecord(number, f"{number}.png", 48, 64, annotations=found))
    return Dataset(("lumbar", "sacral"), tuple(records))


@pytest.mark.parametrize("name", ["yolact", "mask_rcnn"])
def test_fine_tuning_with_everything_that_few_films_ask_for(name: str, tmp_path: Path) -> None:
    data = drawn(tmp_path)
    settings = [f"model.{key}={value}" for key, value in SMALL[name].items()]
    settings += ["schedule.batch_size=2", "device=cpu", "classes=[lumbar, sacral]", "data.workers=0", "precision=32"]
    packaged = f"{name}_lumbar"
    first, second = tmp_path / "first.safetensors", tmp_path / "second"
    start = load_config(packaged, settings)
    described = Description(name, model_options(start).model_dump(mode="json"), start.classes, {}, 1, {}, {})
    torch.manual_seed(0)
    start_weights = plugins.load("models", name).build(model_options(start), start.classes).state_dict()
    checkpoints.save(first, start_weights, described)
    settings += [f"init.weights={first}", "model.trainable_layers=2", "optim.backbone_lr_factor=0.1"]
    settings += [
        "optim.name=sgd",
        "data.repeat_threshold=1",
        "schedule.epochs=9",
        "schedule.patience=1",
        "postprocess.score_threshold=1",
    ]
    said: list[str] = []
    train(load_config(packaged, settings), data, data, tmp_path, second, noted=said.append)
    assert "with sacral (in 1 of 4) 2 times" in said[0]
    with (second / "curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Nothing is found at that threshold: no epoch is better than the first, and patience ends the run after one more.
    assert [row["step"] for row in rows] == ["3", "6"]
    assert all(row["val_score"] for row in rows)
    assert checkpoints.read(second / "best.safetensors").description.epoch == 1
    before, after = checkpoints.read(first).weights, checkpoints.read(second).weights
    frozen = [n for n in after if in_backbone(n) and ("layer1" in n or "layers.0" in n)]
    assert frozen
    assert all(torch.equal(before[n], after[n]) for n in frozen)
    assert any(not torch.equal(before[n], after[n]) for n in after)
    # Large, and pytest keeps the folders of several sessions.
    (second / "last.safetensors").unlink()
