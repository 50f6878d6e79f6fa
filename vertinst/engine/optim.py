"""The optimiser, and the learning rate at each step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vertinst.config import OptimConfig, ScheduleConfig
from vertinst.errors import CheckpointError

__all__ = ["build_optimizer", "in_backbone", "lr_factor", "optimizer_tensors", "restore_optimizer", "set_lr"]

COSINE_FLOOR = 0.01
STEPS = (2 / 3, 8 / 9)
# Devices on which torch computes a whole step of AdamW in one kernel.
FUSED = ("cpu", "cuda")


def build_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW or SGD over all trainable parameters, in groups by weight decay and learning rate.

    Args:
        model: Already on its device.
        config: Settings.
    """
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (in_backbone(name), parameter.dim() >= 2)
            groups.setdefault(key, []).append(parameter)
    parts = [
        {
            "params": parameters,
            "base_lr": config.lr * (config.backbone_lr_factor if backbone else 1.0),
            "weight_decay": config.weight_decay if decayed else 0.0,
        }
        for (backbone, decayed), parameters in groups.items()
    ]
    device = next((parameter.device.type for group in groups.values() for parameter in group), "cpu")
    if config.name == "sgd":
        nesterov = config.momentum > 0
        # On processors the fused kernel is no faster than the plain one, AdamW's twice as fast.
        fused = device == "cuda"
        return torch.optim.SGD(parts, lr=config.lr, momentum=config.momentum, nesterov=nesterov, fused=fused)
    fused = device in FUSED
    return torch.optim.AdamW(parts, lr=config.lr, betas=(config.momentum, 0.999), fused=fused)


def in_backbone(name: str) -> bool:
    """Whether a parameter of this name belongs to the network that extracts the features.

    That is `backbone.*` but for a feature pyramid below it (`backbone.fpn.*` in torchvision, `backbone.fpn_*` in
    Detectron2), or `body.*`.
    """
    first, second, *_ = *name.split("."), ""
    return first == "body" or (first == "backbone" and second.partition("_")[0] != "fpn")


def lr_factor(schedule: ScheduleConfig, epochs_done: float, time_share: float = 0.0) -> float:
    """What the learning rate is multiplied with.

    Args:
        schedule: Length, warm-up and decay.
        epochs_done: Epochs before this step, with fraction.
        time_share: Share of `minutes` that is used up, 0..1.

    Returns:
        In 0..1. Warm-up rises linearly and reaches 1 at its end; the decay runs over the whole length.
    """
    warm = min(1.0, epochs_done / schedule.warmup_epochs) if schedule.warmup_epochs > 0 else 1.0
    share = min(1.0, max(epochs_done / schedule.epochs, time_share))
    if schedule.decay == "cosine":
        return warm * (COSINE_FLOOR + (1 - COSINE_FLOOR) * 0.5 * (1 + math.cos(math.pi * share)))
    if schedule.decay == "step":
        return float(warm * 0.1 ** sum(share >= step for step in STEPS))
    return warm


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to its base rate times `factor`."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimiser's memory as named tensors: `<parameter>/<name>`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}/{name}": value
        for index, values in state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave.

    Raises:
        CheckpointError: The state is of another optimiser or model.
    """
    state: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        number, _, name = key.partition("/")
        state.setdefault(int(number), {})[name] = value
    parameters: list[nn.Parameter] = [p for group in optimizer.param_groups for p in group["params"]]
    fits = all(
        index < len(parameters) and (value.dim() == 0 or value.shape == parameters[index].shape)
        for index, values in state.items()
        for value in values.values()
    )
    if not fits:
        raise CheckpointError("training state does not fit the model", fix="Start again with --overwrite.")
    for index, values in state.items():
        # In the memory layout of the parameter, so that a resumed run is as fast as it was.
        like = parameters[index]
        values.update({n: torch.empty_like(like).copy_(v) for n, v in values.items() if v.shape == like.shape})
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
