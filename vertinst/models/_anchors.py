"""Anchor boxes over a feature pyramid, and boxes written relative to them."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

__all__ = ["anchor_boxes", "decode_boxes", "encode_boxes"]

# Liu et al. 2016 (SSD) call these the variances of centre and size: they bring both to about unit spread.
CENTRE_VARIANCE = 0.1
SIZE_VARIANCE = 0.2
# Sizes grow by at most this factor, so that an untrained network does not overflow exp().
MAX_GROWTH = 1000.0 / 16


@lru_cache(maxsize=32)
def anchor_boxes(
    image_size: tuple[int, int],
    feature_sizes: tuple[tuple[int, int], ...],
    sizes_px: tuple[float, ...],
    scales: tuple[float, ...],
    aspect_ratios: tuple[float, ...],
    device: torch.device,
    *,
    square: bool = False,
) -> Tensor:
    """Anchors of all levels, cached for each shape of input.

    Args:
        image_size: (H, W) of the padded batch in px.
        feature_sizes: (h, w) of each level's feature map.
        sizes_px: Side of the square anchor of each level in px.
        scales: Factors on the side; each gives one more set of anchors.
        aspect_ratios: Width over height; the area stays that of the square.
        device: Where the result lies.
        square: Anchors are as high as they are wide, whatever the ratio: what YOLACT's published weights were
            trained with.

    Returns:
        (A, 4) float32 xyxy px: level by level, row by row, then column, scale and ratio. Anchors may reach
        beyond the image. Shared between calls: not to be written to.
    """
    # A tensor cached inside inference mode could never be used in training afterwards.
    with torch.inference_mode(mode=False):
        levels = [
            _level(image_size, feature_size, _shapes(size_px, scales, aspect_ratios, square))
            for feature_size, size_px in zip(feature_sizes, sizes_px, strict=True)
        ]
        return torch.cat(levels).to(device)


def _shapes(size_px: float, scales: tuple[float, ...], aspect_ratios: tuple[float, ...], square: bool) -> Tensor:
    """(K, 2) width and height in px."""
    widths = [(size_px * scale * math.sqrt(ratio), ratio) for scale, ratio in product(scales, aspect_ratios)]
    return torch.tensor([(width, width if square else width / ratio) for width, ratio in widths])


def _level(image_size: tuple[int, int], feature_size: tuple[int, int], shapes: Tensor) -> Tensor:
    rows, columns = ((torch.arange(n) + 0.5) * (side / n) for n, side in zip(feature_size, image_size, strict=True))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    centres = torch.stack((x, y), dim=-1)[:, :, None]
    return torch.cat((centres - shapes / 2, centres + shapes / 2), dim=-1).reshape(-1, 4)


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes relative to anchors (Liu et al. 2016, arXiv 1512.02325, equation 2, with SSD's variances).

    Args:
        boxes: (N, 4) float xyxy px with positive sides.
        anchors: (N, 4) float xyxy px with positive sides.

    Returns:
        (N, 4): ((x - xa) / wa, (y - ya) / ha) / 0.1 of the centres, then (log(w / wa), log(h / ha)) / 0.2.
    """
    centres, sides = _centres_and_sides(boxes)
    anchor_centres, anchor_sides = _centres_and_sides(anchors)
    shift = (centres - anchor_centres) / anchor_sides / CENTRE_VARIANCE
    growth = torch.log(sides / anchor_sides) / SIZE_VARIANCE
    return torch.cat((shift, growth), dim=-1)


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """The inverse of `encode_boxes`; growth beyond 62.5 times the anchor is cut off.

    Args:
        deltas: (N, 4) as `encode_boxes` gives them.
        anchors: (N, 4) float xyxy px.

    Returns:
        (N, 4) xyxy px, not clipped to any image.
    """
    anchor_centres, anchor_sides = _centres_and_sides(anchors)
    centres = anchor_centres + deltas[:, :2] * CENTRE_VARIANCE * anchor_sides
    sides = anchor_sides * torch.exp((deltas[:, 2:] * SIZE_VARIANCE).clamp(max=math.log(MAX_GROWTH)))
    return torch.cat((centres - sides / 2, centres + sides / 2), dim=-1)


def _centres_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
