"""Which precision a network runs in: bf16 where the hardware gains from it, float32 elsewhere."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import nn

from vertinst.errors import ConfigError

__all__ = ["Precision", "choose_device", "choose_precision", "explain_precision", "lay_out"]

Precision: TypeAlias = Literal["32", "bf16"]

AMPERE = 8
"""CUDA compute capability from which bf16 has units of its own."""


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """The precision to compute in.

    Args:
        wanted: `auto`, `32` or `bf16`.
        device: Where the network runs.

    Returns:
        `32` or `bf16`; what was wanted, or for `auto` bf16 where `explain_precision` finds units for it.

    Raises:
        ConfigError: `wanted` is none of the three.
    """
    if wanted == "auto":
        return _look(device)[0]
    if wanted == "32":
        return "32"
    if wanted == "bf16":
        return "bf16"
    raise ConfigError(f"precision must be auto, 32 or bf16, got {wanted!r}", fix="Choose one of the three.")


def explain_precision(device: torch.device) -> str:
    """Why `auto` means what it means on a device, in words for the user."""
    return _look(device)[1]


def _look(device: torch.device) -> tuple[Precision, str]:
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major >= AMPERE:
            return "bf16", f"GPU of compute capability {major}.{minor} has bf16 units"
        return "32", f"GPU of compute capability {major}.{minor} has no bf16 units (8.0 and later have)"
    if device.type != "cpu":
        return "32", f"bf16 on {device.type} has not been tried"
    units = _cpu_units()
    if units:
        return "bf16", f"processor has {units}"
    return "32", "processor has neither AMX-BF16 nor AVX512-BF16, without which bf16 is slower than float32"


def _cpu_units() -> str | None:
    # Not torch.ops.mkldnn._is_mkldnn_bf16_supported(): it says yes from plain AVX512 on, where bf16 is emulated.
    # The two below ask the processor for the instructions themselves; they are private to torch, hence the guard.
    for name, units in (("_is_amx_tile_supported", "AMX"), ("_is_avx512_bf16_supported", "AVX512-BF16")):
        supported = getattr(torch.cpu, name, None)
        if supported is not None and supported():
            return units
    return None


def choose_device(wanted: str = "auto") -> torch.device:
    """The device to run on.

    Args:
        wanted: `auto` (a CUDA GPU where there is one, else the CPU), `cpu`, `cuda` or `cuda:1`.

    Raises:
        ConfigError: There is no such device here.
    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ConfigError(f"device must be auto, cpu or cuda, got {wanted!r}", fix="Choose one of these.") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device {wanted} is not there, {torch.cuda.device_count()} CUDA devices are",
            fix="Use --set device=cpu, or look at `vertinst doctor`.",
        )
    return device


def lay_out(model: nn.Module, precision: Precision, device: torch.device, *, training: bool = False) -> nn.Module:
    """Store the convolutions' weights channels-last where that is faster; results stay the same up to rounding.

    On processors prediction gains from it in float32 too. Training does with AVX-512 alone: with AVX2, gradients of
    two films of 550 px took half as long again channels-last, and a YOLACT's step 5 to 40 % longer. On GPUs it is
    done with bf16, whose units ask for it.

    Args:
        model: On its device.
        precision: Of its convolutions.
        device: Where it runs.
        training: Whether gradients will be computed.
    """
    slow = training and not torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    if precision != "bf16" and (device.type != "cpu" or slow):
        return model
    converted: nn.Module = model.to(memory_format=torch.channels_last)
    return converted
