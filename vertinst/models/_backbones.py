"""Residual networks from torchvision as backbones of the detectors."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model_weights
from torchvision.models import resnet as torchvision_resnet
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

    Names and values of its tensors are torchvision's. In its blocks batch norm that is constant, of frozen stages too,
    costs nothing: the convolution before it takes its factor and its offset.

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
    norm = partial(_FrozenBatchNorm2d if frozen_batch_norm else nn.BatchNorm2d, eps=batch_norm_eps)
    block, blocks = ARCHITECTURES[name]
    body: nn.Module = torchvision_resnet.ResNet(block, blocks, norm_layer=norm)
    if weights == "imagenet":
        _load_imagenet(body, name)
    for module in body.modules() if stride_in_1x1 else ():
        if isinstance(module, _Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, module.conv1.stride
    _freeze(body, trainable_layers)
    return body


def stage_channels(body: nn.Module) -> tuple[int, int, int, int]:
    """Channels after `layer1`..`layer4` (strides 4, 8, 16, 32) of a ResNet made by `resnet`."""
    last = body.get_submodule("fc").in_features
    if not isinstance(last, int):
        raise TypeError(f"in_features must be an int, got {type(last)}")
    return last // 8, last // 4, last // 2, last


def _load_imagenet(body: nn.Module, name: BackboneName) -> None:
    chosen = get_model_weights(name)["IMAGENET1K_V1"]
    try:
        body.load_state_dict(chosen.get_state_dict(check_hash=True))
    # URLError: no network. RuntimeError: the hash of the downloaded file is wrong. OSError: disk or cache folder.
    except (URLError, OSError, RuntimeError) as error:
        raise CheckpointError(
            f"ImageNet weights of {name} must be in torch's cache or be downloadable, got: {error}",
            where=chosen.url,
            fix="Download that file elsewhere into ~/.cache/torch/hub/checkpoints (or $TORCH_HOME/hub/checkpoints), "
            "or set backbone_weights to none.",
        ) from error


class _FrozenBatchNorm2d(FrozenBatchNorm2d):  # type: ignore[misc]
    """torchvision's in one pass, and in the features' own type, where no gradient asks for what it has computed."""

    def forward(self, features: Tensor) -> Tensor:
        if torch.is_grad_enabled() and features.requires_grad:
            factor, offset = (part[:, None, None].to(features.dtype) for part in _factor_and_offset(self))
            # Keeps nothing of the features for the backward pass, as F.batch_norm would.
            return features * factor + offset
        return F.batch_norm(features, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class _StillBatchNorm2d(nn.BatchNorm2d):
    """Batch norm that stays in evaluation mode, whatever the network around it does."""

    def train(self, mode: bool = True) -> _StillBatchNorm2d:
        return super().train(False)


def _factor_and_offset(norm: FrozenBatchNorm2d | _StillBatchNorm2d) -> tuple[Tensor, Tensor]:
    # Not kept for the next time: loading weights and averaging them change these in place.
    weight, bias, mean, variance = (getattr(norm, name) for name in ("weight", "bias", "running_mean", "running_var"))
    factor = weight * (variance + norm.eps).rsqrt()
    return factor, bias - mean * factor


def _normalised(conv: nn.Module, norm: nn.Module, features: Tensor) -> Tensor:
    """A convolution and the batch norm after it; as one, where batch norm is constant."""
    # What prediction has folded, and YOLACT's deformable convolutions, are other classes.
    if type(conv) is not nn.Conv2d or not isinstance(norm, FrozenBatchNorm2d | _StillBatchNorm2d):
        result: Tensor = norm(conv(features))
        return result
    factor, offset = _factor_and_offset(norm)
    weight = conv.weight * factor[:, None, None, None]
    return F.conv2d(features, weight, offset, conv.stride, conv.padding, conv.dilation, conv.groups)


class _BasicBlock(torchvision_resnet.BasicBlock):  # type: ignore[misc]
    """torchvision's, with `_normalised`."""

    def forward(self, features: Tensor) -> Tensor:
        inner = self.relu(_normalised(self.conv1, self.bn1, features))
        return _add(self, _normalised(self.conv2, self.bn2, inner), features)


class _Bottleneck(torchvision_resnet.Bottleneck):  # type: ignore[misc]
    """torchvision's, with `_normalised`."""

    def forward(self, features: Tensor) -> Tensor:
        inner = self.relu(_normalised(self.conv1, self.bn1, features))
        inner = self.relu(_normalised(self.conv2, self.bn2, inner))
        return _add(self, _normalised(self.conv3, self.bn3, inner), features)


def _add(block: _BasicBlock | _Bottleneck, result: Tensor, features: Tensor) -> Tensor:
    shortcut = features
    if block.downsample is not None:
        conv, norm = block.downsample
        shortcut = _normalised(conv, norm, features)
    total: Tensor = block.relu(result.add_(shortcut))
    return total


ARCHITECTURES: dict[BackboneName, tuple[type[_BasicBlock | _Bottleneck], list[int]]] = {
    "resnet18": (_BasicBlock, [2, 2, 2, 2]),
    "resnet34": (_BasicBlock, [3, 4, 6, 3]),
    "resnet50": (_Bottleneck, [3, 4, 6, 3]),
    "resnet101": (_Bottleneck, [3, 4, 23, 3]),
}


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
