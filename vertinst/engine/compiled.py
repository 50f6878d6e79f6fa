"""torch.compile for the part of a model that is the same program for every film."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch import nn

from vertinst.errors import ConfigError

__all__ = ["compile_network"]


def compile_network(model: nn.Module, name: str, device: torch.device) -> None:
    """Compile a model's network in place; what is looked up film by film around it stays as it is.

    The part is the method `network`, else the child `backbone`. It is compiled at its first call, and a second time,
    for any size, when a batch of another size comes. On a GPU the program runs as CUDA graphs.

    Args:
        model: In evaluation; its weights must not change any more.
        name: Of the model, for the message.
        device: Where it will run.

    Raises:
        ConfigError: The model has neither.
    """
    # On a processor constant weights are laid out once, as its convolutions like them.
    how: dict[str, Any] = {"options": {"freezing": True}} if device.type == "cpu" else {"mode": "reduce-overhead"}
    network, backbone = getattr(model, "network", None), getattr(model, "backbone", None)
    if isinstance(network, MethodType):
        setattr(model, "network", torch.compile(network, **how))  # noqa: B010
    elif isinstance(backbone, nn.Module):
        backbone.compile(**how)
    else:
        raise ConfigError(
            f"model {name} has neither a network nor a backbone to compile", fix="Predict without --compile."
        )
