"""YOLACT's feature extractors: residual networks, with deformable convolutions on request, and Darknet-53.

Parameters have the names of the original implementation (github.com/dbolya/yolact), so that its checkpoints fit.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import deform_conv2d

from vertinst.models._backbones import BackboneName, BackboneWeights, hold_batch_norm, resnet, stage_channels

__all__ = ["Darknet53", "DeformableConv", "Features", "ResNet"]

DARKNET_BLOCKS = (1, 2, 8, 8, 4)
DARKNET_SLOPE = 0.1
POINTS = 9
# Stages that can be frozen: the stem goes with the first.
STAGES = 5


class Features(NamedTuple):
    """Features of a batch at growing strides."""

    stem: Tensor
    """(B, 64, h, w) at stride 2: the finest there is."""
    c3: Tensor
    """Stride 8."""
    c4: Tensor
    """Stride 16."""
    c5: Tensor
    """Stride 32."""


class DeformableConv(nn.Module):
    """A 3x3 convolution whose nine points move and are weighted by what it sees (DCNv2, arXiv 1811.11168).

    Starts as an ordinary convolution at half strength: no shift, every weight sigmoid(0) = 0.5.

    Args:
        conv: The 3x3 convolution it replaces; its weights are taken over.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.stride = conv.stride[0]
        self.weight = conv.weight
        self.bias = nn.Parameter(torch.zeros(conv.out_channels))
        # Two shifts (down, right) of each point, then its weight.
        self.conv_offset_mask = nn.Conv2d(conv.in_channels, 3 * POINTS, 3, self.stride, padding=1)
        nn.init.zeros_(self.conv_offset_mask.weight)
        nn.init.zeros_(self.conv_offset_mask.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """(B, c, h, w) to (B, c', h', w')."""
        shifts, weights = self.conv_offset_mask(features).float().split((2 * POINTS, POINTS), dim=1)
        # In float32 whatever the rest has: torchvision knows no bf16 on processors, and goes to float32 by itself on
        # GPUs, by autocast.
        result: Tensor = deform_conv2d(
            features.float(), shifts, self.weight, self.bias, self.stride, padding=1, mask=weights.sigmoid()
        )
        return result.to(features.dtype)


class ResNet(nn.Module):
    """A torchvision ResNet whose stages are called `layers.0` to `layers.3`.

    Args:
        name: Depth.
        weights: See `_backbones.resnet`.
        frozen_batch_norm: See `_backbones.resnet`.
        trainable_layers: See `_backbones.resnet`.
        deformable_interval: Of stages 2 to 4, each block whose number is a multiple of it has a deformable 3x3
            convolution; 0 for none. YOLACT++ has 1 with ResNet-50 and 3 with ResNet-101 (arXiv 1912.06218, 4.2).

    Attributes:
        channels: Width of the features at strides 8, 16 and 32.
    """

    def __init__(
        self,
        name: BackboneName,
        weights: BackboneWeights,
        *,
        frozen_batch_norm: bool,
        trainable_layers: int,
        deformable_interval: int,
    ) -> None:
        super().__init__()
        body = resnet(name, weights, frozen_batch_norm=frozen_batch_norm, trainable_layers=trainable_layers)
        self.channels = stage_channels(body)[1:]
        self.conv1, self.bn1, self.relu = (body.get_submodule(part) for part in ("conv1", "bn1", "relu"))
        self.maxpool = body.get_submodule("maxpool")
        self.layers = nn.ModuleList(body.get_submodule(f"layer{stage}") for stage in range(1, 5))
        if deformable_interval:
            for stage in list(self.layers)[1:]:
                _deform(stage, deformable_interval)

    def forward(self, films: Tensor) -> Features:
        """Features of (B, 3, h, w)."""
        stem = self.relu(self.bn1(self.conv1(films)))
        c2 = self.layers[0](self.maxpool(stem))
        c3 = self.layers[1](c2)
        c4 = self.layers[2](c3)
        return Features(stem, c3, c4, self.layers[3](c4))


def _deform(stage: nn.Module, interval: int) -> None:
    for number, block in enumerate(stage.children()):
        if number % interval == 0:
            conv = block.get_submodule("conv2")
            assert isinstance(conv, nn.Conv2d)
            deformable = DeformableConv(conv)
            deformable.conv_offset_mask.requires_grad_(conv.weight.requires_grad)
            deformable.bias.requires_grad_(conv.weight.requires_grad)
            block.conv2 = deformable


class Darknet53(nn.Module):
    """Darknet-53 (Redmon and Farhadi 2018, arXiv 1804.02767) with random weights.

    Args:
        frozen_batch_norm: Batch norm stays in evaluation mode and is not trained: for starting from weights.
        trainable_layers: Stages that are trained, counted from the output (0..5); batch norm of the others stays too.

    Attributes:
        channels: Width of the features at strides 8, 16 and 32.
    """

    channels = (256, 512, 1024)

    def __init__(self, *, frozen_batch_norm: bool, trainable_layers: int) -> None:
        super().__init__()
        widths = (32, 64, 128, 256, 512, 1024)
        self._preconv = _darknet_conv(3, widths[0], 3)
        self.layers = nn.ModuleList(
            nn.Sequential(_darknet_conv(before, width, 3, stride=2), *(_DarknetBlock(width) for _ in range(blocks)))
            for (before, width), blocks in zip(pairwise(widths), DARKNET_BLOCKS, strict=True)
        )
        frozen = list(self.layers)[: STAGES - trainable_layers]
        for stage in [self._preconv, *frozen] if frozen else []:
            stage.requires_grad_(False)
            hold_batch_norm(stage)
        if frozen_batch_norm:
            hold_batch_norm(self)

    def forward(self, films: Tensor) -> Features:
        """Features of (B, 3, h, w)."""
        stem = self.layers[0](self._preconv(films))
        c3 = self.layers[2](self.layers[1](stem))
        c4 = self.layers[3](c3)
        return Features(stem, c3, c4, self.layers[4](c4))


class _DarknetBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _darknet_conv(channels, channels // 2, 1)
        self.conv2 = _darknet_conv(channels // 2, channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        changed: Tensor = self.conv2(self.conv1(features))
        return changed + features


def _darknet_conv(before: int, after: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.LeakyReLU(DARKNET_SLOPE, inplace=True),
    )
