"""YOLACT's own parts: feature pyramid, prototypes, prediction head and mask-IoU network (arXiv 1904.02689, 1912.06218).

Parameters have the names of the original implementation (github.com/dbolya/yolact), so that its checkpoints fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["FPN", "FineProtoNet", "MaskIoUNet", "PredictionHead", "proto_net", "xavier"]

# Softmax mass of all classes together in an untrained network: most anchors are background.
FOREGROUND_PRIOR = 0.05
# Five unpadded convolutions of stride 2 leave nothing of a smaller mask.
SMALLEST_RESCORED = 63


class FPN(nn.Module):
    """Feature pyramid P3..P7: bilinear on the way down, P6 and P7 by strided convolutions (arXiv 1904.02689, 5).

    Args:
        widths: Channels of C3, C4 and C5.
        channels: Channels of every level.
    """

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        # From the coarsest to the finest, as the original stores them.
        self.lat_layers = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in reversed(widths))
        self.pred_layers = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in widths)
        self.downsample_layers = nn.ModuleList(nn.Conv2d(channels, channels, 3, stride=2, padding=1) for _ in range(2))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """C3, C4, C5 to P3, P4, P5, P6, P7."""
        merged: list[Tensor] = []
        for lateral, level in zip(self.lat_layers, reversed(features), strict=True):
            side = lateral(level)
            if merged:
                side = side + F.interpolate(merged[-1], size=side.shape[-2:], mode="bilinear", align_corners=False)
            merged.append(side)
        levels = [F.relu(predict(level)) for predict, level in zip(self.pred_layers, merged, strict=True)][::-1]
        for downsample in self.downsample_layers:
            levels.append(downsample(levels[-1]))
        return levels


def proto_net(channels: int, prototypes: int, convs: int) -> nn.Sequential:
    """Layers from P3 to prototype masks of twice its size, before their ReLU (section 3.1 of the paper).

    Args:
        channels: Of P3 and inside.
        prototypes: Number of masks.
        convs: 3x3 convolutions before the doubling.
    """
    layers: list[nn.Module] = []
    for _ in range(convs):
        layers += _conv3x3(channels)
    # The original has a ReLU after the doubling, which changes nothing: its place is kept for the sake of names.
    layers += [nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False), nn.Identity()]
    return nn.Sequential(*layers, *_conv3x3(channels), nn.Conv2d(channels, prototypes, 1))


class FineProtoNet(nn.Module):
    """Doubles the prototypes' size once more and adds what the stem sees of contours.

    Its last layer starts at zero: prototypes that were learnt before start as they are, interpolated.

    Args:
        channels: Of the prototype branch.
        stem: Channels of the backbone's features at stride 2.
        prototypes: Number of masks.
        width: Channels inside: few, for there are many pixels.
    """

    def __init__(self, channels: int, stem: int, prototypes: int, width: int = 48) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, width, 1)
        self.lateral = nn.Conv2d(stem, width, 1)
        self.refine = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, prototypes, 1)

    def start_as_interpolation(self) -> None:
        """Zero the last layer."""
        nn.init.zeros_(self.last.weight)

    def forward(self, prototypes: Tensor, features: Tensor, stem: Tensor) -> Tensor:
        """Prototypes (B, k, h, w) and features (B, c, h, w) at stride 4, stem at stride 2, to (B, k, h', w')."""
        size = stem.shape[-2:]
        coarse = F.interpolate(self.reduce(features), size=size, mode="bilinear", align_corners=False)
        detail: Tensor = self.last(F.relu(self.refine(F.relu(coarse + self.lateral(stem)))))
        return F.interpolate(prototypes, size=size, mode="bilinear", align_corners=False) + detail


class PredictionHead(nn.Module):
    """Boxes, classes and coefficients of one level; the same weights serve all levels (figure 4 of the paper).

    Args:
        channels: Of the pyramid.
        anchors: Anchors of a cell.
        classes: Without background.
        prototypes: Number of prototype masks.
        convs: 3x3 convolutions that the three outputs share.
    """

    def __init__(self, channels: int, anchors: int, classes: int, prototypes: int, convs: int) -> None:
        super().__init__()
        self.widths = (4, classes + 1, prototypes)
        self.upfeature = nn.Sequential(*(layer for _ in range(convs) for layer in _conv3x3(channels)))
        self.bbox_layer, self.conf_layer, self.mask_layer = (
            nn.Conv2d(channels, anchors * width, 3, padding=1) for width in self.widths
        )

    def start_as_background(self) -> None:
        """Small score weights and a bias towards background: the first steps are then calm (arXiv 1708.02002, 4.1)."""
        classes = self.widths[1] - 1
        bias = torch.zeros(self.conf_layer.out_channels // self.widths[1], self.widths[1])
        bias[:, 0] = math.log(classes * (1 - FOREGROUND_PRIOR) / FOREGROUND_PRIOR)
        with torch.no_grad():
            nn.init.normal_(self.conf_layer.weight, std=0.01)
            self.conf_layer.bias.copy_(bias.flatten())  # type: ignore[union-attr]

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features (B, c, h, w) to deltas (B, h * w * anchors, 4), logits (..., C + 1), coefficients (..., k)."""
        features = self.upfeature(features)
        outputs = self.bbox_layer(features), self.conf_layer(features), torch.tanh(self.mask_layer(features))
        deltas, logits, coefficients = (
            output.permute(0, 2, 3, 1).reshape(output.shape[0], -1, width)
            for output, width in zip(outputs, self.widths, strict=True)
        )
        return deltas, logits, coefficients


class MaskIoUNet(nn.Module):
    """Guesses each mask's IoU with the truth from the mask alone (YOLACT++, arXiv 1912.06218, section 4.1).

    Args:
        classes: Without background.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (1, 8, 16, 32, 64, 128)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 3, stride=2), nn.ReLU(inplace=True)]
        self.maskiou_net = nn.Sequential(*layers, nn.Conv2d(widths[-1], classes, 1), nn.ReLU(inplace=True))

    def forward(self, masks: Tensor, labels: Tensor) -> Tensor:
        """IoU of each mask as its class.

        Args:
            masks: (N, h, w) 0..1 at the prototypes' resolution, zero outside of the boxes; smaller ones than 63 px
                are padded with zeros.
            labels: (N,) int64 from 1.

        Returns:
            (N,) at least 0.
        """
        right, below = (max(SMALLEST_RESCORED - side, 0) for side in (masks.shape[2], masks.shape[1]))
        each_class = self.maskiou_net(F.pad(masks, (0, right, 0, below))[:, None]).amax(dim=(2, 3))
        chosen: Tensor = each_class.gather(1, labels[:, None] - 1)[:, 0]
        return chosen


def xavier(module: nn.Module) -> None:
    """Glorot's uniform start for convolutions, zero bias."""
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _conv3x3(channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)]
