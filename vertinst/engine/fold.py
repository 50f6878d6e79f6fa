"""Batch norm as part of the convolutions before it: one pass over the features less for each."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

__all__ = ["fold_batch_norm"]

NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


def fold_batch_norm(model: nn.Module) -> int:
    """Multiply the running statistics of batch norms into the convolutions before them, in place.

    In evaluation batch norm is a factor and a summand for each channel, which a convolution's weights and bias can
    take over; outputs change by rounding alone. The model is of no use for training afterwards: its weights, and the
    names of them, are no longer those that were trained.

    Pairs are found by their names, `conv<x>` and `bn<x>` of one module, and by neighbourhood in an `nn.Sequential`.
    Batch norms of other places stay as they are.

    Args:
        model: In evaluation.

    Returns:
        Number of batch norms that went.
    """
    return sum(_fold_children(parent) for parent in model.modules())


def _fold_children(parent: nn.Module) -> int:
    children = dict(parent.named_children())
    names = list(children)
    if isinstance(parent, nn.Sequential):
        candidates = list(pairwise(names))
    else:
        candidates = [(name, name.replace("conv", "bn", 1)) for name in names if name.startswith("conv")]
    folded = 0
    for before, after in candidates:
        conv, norm = children[before], children.get(after)
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d) and _is_whole(norm):
            _fold(conv, norm)
            setattr(parent, after, nn.Identity())
            folded += 1
    return folded


def _is_whole(norm: nn.Module) -> bool:
    return all(getattr(norm, name) is not None for name in NORM_TENSORS)


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d | FrozenBatchNorm2d) -> None:
    # In double precision: the only rounding is that of the results.
    weight, bias, mean, variance = (_double(getattr(norm, name)) for name in NORM_TENSORS)
    factor = weight * torch.rsqrt(variance + norm.eps)
    offset = -mean if conv.bias is None else _double(conv.bias) - mean
    conv.weight.copy_(_double(conv.weight) * factor[:, None, None, None])
    conv.bias = nn.Parameter((offset * factor + bias).to(conv.weight), requires_grad=False)


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().double()
