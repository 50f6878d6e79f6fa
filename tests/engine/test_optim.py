"""Optimiser groups, learning rate, and the optimiser's memory as tensors."""

import pytest
import torch
from torch import nn

from vertinst.config import OptimConfig, ScheduleConfig
from vertinst.engine.optim import build_optimizer, in_backbone, lr_factor, optimizer_tensors, restore_optimizer, set_lr
from vertinst.errors import CheckpointError


class Net(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width))
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        return self.head(self.body(x))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.linspace(-1, 1, 24).reshape(8, 3)).pow(2).sum().backward()
    optimizer.step()


def test_groups_by_decay_and_backbone() -> None:
    optimizer = build_optimizer(Net(), OptimConfig(lr=0.1, weight_decay=0.01, backbone_lr_factor=0.5))
    found = {(g["base_lr"], g["weight_decay"]): [tuple(p.shape) for p in g["params"]] for g in optimizer.param_groups}
    assert found == {
        (0.05, 0.01): [(4, 3)],
        (0.05, 0.0): [(4,), (4,), (4,)],
        (0.1, 0.01): [(2, 4)],
        (0.1, 0.0): [(2,)],
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("body.layer1.0.conv1.weight", True),
        ("backbone.layers.0.0.conv1.weight", True),
        ("backbone._preconv.0.weight", True),
        ("backbone.body.layer1.0.conv1.weight", True),
        ("backbone.fpn.inner_blocks.0.0.weight", False),
        ("backbone.bottom_up.res2.0.conv1.weight", True),
        ("backbone.fpn_lateral2.weight", False),
        ("fpn.lat_layers.0.weight", False),
        ("prediction_layers.0.bbox_layer.weight", False),
        ("head.body.weight", False),
        ("backbone_like.weight", False),
        ("weight", False),
    ],
)
def test_what_belongs_to_the_backbone(name: str, expected: bool) -> None:
    assert in_backbone(name) is expected


def test_frozen_parameters_are_left_out() -> None:
    model = Net()
    model.body.requires_grad_(False)
    assert sum(len(g["params"]) for g in build_optimizer(model, OptimConfig()).param_groups) == 2


def test_set_lr_scales_every_group() -> None:
    optimizer = build_optimizer(Net(), OptimConfig(name="sgd", lr=0.2, backbone_lr_factor=0.5))
    set_lr(optimizer, 0.1)
    assert sorted({round(g["lr"], 6) for g in optimizer.param_groups}) == [0.01, 0.02]


@pytest.mark.parametrize(
    ("decay", "epochs_done", "expected"),
    [
        ("none", 0, 0),
        ("none", 1, 0.5),
        ("none", 2, 1),
        ("none", 90, 1),
        ("cosine", 45, 0.505),
        ("cosine", 90, 0.01),
        ("step", 59.9, 1),
        ("step", 60, 0.1),
        ("step", 80, 0.01),
    ],
)
def test_learning_rate(decay: str, epochs_done: float, expected: float) -> None:
    schedule = ScheduleConfig.model_validate({"epochs": 90, "warmup_epochs": 2, "decay": decay})
    assert lr_factor(schedule, epochs_done) == pytest.approx(expected, abs=1e-9)


def test_the_decay_follows_the_clock_where_that_is_further_on() -> None:
    schedule = ScheduleConfig(epochs=90, warmup_epochs=0, minutes=5)
    assert lr_factor(schedule, 10, time_share=0.5) == lr_factor(schedule, 45)
    assert lr_factor(schedule, 60, time_share=0.5) == lr_factor(schedule, 60)
    assert lr_factor(schedule, 60, time_share=3) == pytest.approx(0.01)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_restored_memory_goes_on_as_if_nothing_had_happened(name: str) -> None:
    config = OptimConfig.model_validate({"name": name, "lr": 0.01})
    torch.manual_seed(0)
    model = Net()
    optimizer = build_optimizer(model, config)
    step(model, optimizer)
    twin = Net()
    twin.load_state_dict(model.state_dict())
    restored = build_optimizer(twin, config)
    restore_optimizer(restored, {k: v.clone() for k, v in optimizer_tensors(optimizer).items()})
    step(model, optimizer)
    step(twin, restored)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_memory_of_another_model_is_refused() -> None:
    model = Net()
    optimizer = build_optimizer(model, OptimConfig())
    step(model, optimizer)
    with pytest.raises(CheckpointError, match="training state does not fit the model"):
        restore_optimizer(build_optimizer(Net(width=5), OptimConfig()), optimizer_tensors(optimizer))
