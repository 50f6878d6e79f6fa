"""Residual networks from torchvision as backbones of the detectors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal
from urllib.error import URLError

from torch import nn
from torchvision.models import get_model, get_model_weights
from torchvision.ops import FrozenBatchNorm2d

from vertinst.errors import CheckpointError

__all__ = ["BackboneName", "BackboneWeights", "hold_batch_norm", "resnet", "stage_channels"]

BackboneName = Literal["resnet18", "resnet34", "resnet50", "resnet101"]
BackboneWeights = Literal["none", "imagenet"]

# From the output backwards: the order in which stages are thawed.
STAGES = ("layer4", "layer3", "layer2", "layer1", "conv1")


def resnet(
    name: BackboneName,
    weights: BackboneWeights = "none",
    *,
    frozen_batch_norm: bool = False,
    trainable_layers: int = 5,
    stride_in_1x1: bool = False,
    batch_norm_eps: float = 1e-5,
) -> nn.Module:
    """A torchvision ResNet, classifier included, ready for feature extraction.

    Args:
        name: Depth of the network.
        weights: `imagenet` takes torchvision's weights, downloaded unless they are in torch's cache; `none`
            starts from random numbers.
        frozen_batch_norm: Batch norm with constant statistics and scale. Meant for starting from weights with
            batches of one to three films; from random numbers it leaves the network without any normalisation.
        trainable_layers: How many of the five stages are trained, counted from the output (0..5).
        stride_in_1x1: Bottleneck blocks that halve the resolution do so in their first convolution, as in the
            networks of Detectron2's model zoo, and not in the second.
        batch_norm_eps: Added to the variance in batch norm.

    Returns:
        The network. Frozen stages have `requires_grad` switched off, and their batch norm keeps its statistics.

    Raises:
        CheckpointError: The weights could not be downloaded or are damaged.
    """
    norm = partial(FrozenBatchNorm2d if frozen_batch_norm else nn.BatchNorm2d, eps=batch_norm_eps)
    chosen = get_model_weights(name)["IMAGENET1K_V1"] if weights == "imagenet" else None
    try:
        body: nn.Module = get_model(name, weights=chosen, norm_layer=norm)
    # URLError: no network. RuntimeError: the hash of the downloaded file is wrong. OSError: disk or cache folder.
    except (URLError, OSError, RuntimeError) as error:
        if chosen is None:
            raise
        raise CheckpointError(
            f"ImageNet weights of {name} must be in torch's cache or be downloadable, got: {error}",
            where=chosen.url,
            fix="Download that file elsewhere into ~/.cache/torch/hub/checkpoints (or $TORCH_HOME/hub/checkpoints), "
            "or set backbone_weights to none.",
        ) from error
    if stride_in_1x1:
        for stage in ("layer2", "layer3", "layer4"):
            block: Any = body.get_submodule(f"{stage}.0")
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    _freeze(body, trainable_layers)
    return body


def stage_channels(body: nn.Module) -> tuple[int, int, int, int]:
    """Channels after `layer1`..`layer4` (strides 4, 8, 16, 32) of a ResNet made by `resnet`."""
    last = body.get_submodule("fc").in_features
    if not isinstance(last, int):
        raise TypeError(f"in_features must be an int, got {type(last)}")
    return last // 8, last // 4, last // 2, last


class _StillBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that stays in evaluation mode, whatever the network around it does."""

    def train(self, mode: bool = True) -> _StillBatchNorm2d:
        return super().train(False)


def hold_batch_norm(network: nn.Module, is_held: Callable[[str], bool] = lambda name: True) -> None:
    """Make batch norms constant for good, in place; the names and values of their tensors stay.

    Args:
        network: Where they are.
        is_held: Asked by the name of each.
    """
    for name, norm in list(network.named_modules()):
        if isinstance(norm, nn.BatchNorm2d) and is_held(name):
            still = _StillBatchNorm2d(norm.num_features, norm.eps, norm.momentum)
            still.load_state_dict(norm.state_dict())
            network.set_submodule(name, still.requires_grad_(False).eval())


def _freeze(body: nn.Module, trainable_layers: int) -> None:
    thawed = STAGES[:trainable_layers] + (("bn1",) if trainable_layers == len(STAGES) else ())
    for name, parameter in body.named_parameters():
        parameter.requires_grad_(name.startswith(thawed))
    # Else the statistics of a stage that is frozen would go on moving.
    hold_batch_norm(body, lambda name: not name.startswith(thawed))
