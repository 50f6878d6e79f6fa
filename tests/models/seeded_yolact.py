"""Weights, films, truths and head outputs made from a seed: the same numbers for the original YOLACT and for ours.

All of it comes from `numpy.random.RandomState`, whose streams are frozen, so that fixtures need not hold any input.
Used by `test_yolact_against_original.py` and by `benchmarks/yolact_original.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Arrays = dict[str, NDArray[Any]]

# Variance of max(x, 0) for a standard normal x: (1 - 1 / pi) / 2.
RELU_VARIANCE = 0.3408
# Factors on the standard deviation that a layer's output would have; the first ending that fits counts.
GAINS = {
    "bn3.weight": 0.3,
    "downsample.1.weight": 0.8,
    "conv2.1.weight": 0.3,
    "conv_offset_mask.weight": 0.5,
    "bbox_layer.weight": 0.6,
    "conf_layer.weight": 1.6,
    "mask_layer.weight": 0.8,
    "maskiou_net.maskiou_net.0.weight": 2.0,
}


def _stream(seed: int, name: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(f"{seed} {name}".encode()))


def weights(shapes: Mapping[str, tuple[int, ...]], classes: int, seed: int = 0) -> dict[str, Tensor]:
    """A tensor for each name of the original's parameters and buffers, so that activations stay of order one.

    Every filter sums to zero, so that the mean of what it sees, which ReLUs make large, does not drown its structure.
    """
    return {name: torch.from_numpy(_tensor(name, shape, classes, seed)) for name, shape in shapes.items()}


def _tensor(name: str, shape: tuple[int, ...], classes: int, seed: int) -> NDArray[Any]:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    uniform = _stream(seed, name).random_sample(shape) * 2 - 1
    gain = next((factor for ending, factor in GAINS.items() if name.endswith(ending)), 1.0)
    if name.endswith("running_var"):
        values = np.exp(0.2 * uniform)
    elif len(shape) == 4:
        uniform -= uniform.mean(axis=(1, 2, 3), keepdims=True)
        values = gain * uniform * np.sqrt(3 / RELU_VARIANCE / np.prod(shape[1:]))
    elif name.endswith("weight"):
        values = gain * (1 + 0.2 * uniform)
    else:
        values = 0.2 * uniform
    if name.endswith("conf_layer.bias"):
        values.reshape(-1, classes + 1)[:, 0] += 1.0
    return values.astype(np.float32)


def film(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A grey film (H, W) with structure from coarse to fine."""
    draw = _stream(seed, f"film {height} {width}")
    values = np.zeros((height, width))
    for cells, contrast in ((4, 60.0), (9, 50.0), (23, 40.0)):
        values += contrast * _enlarge(draw.random_sample((cells, cells)) * 2 - 1, height, width)
    values += 25 * (draw.random_sample((height, width)) * 2 - 1)
    return np.clip(values + 115, 0, 255).astype(np.uint8)


def _enlarge(grid: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    rows, columns = (np.linspace(0, n - 1, size) for n, size in zip(grid.shape, (height, width), strict=True))
    steps = np.arange(grid.shape[0])
    tall = np.stack([np.interp(rows, steps, column) for column in grid.T], axis=1)
    return np.stack([np.interp(columns, np.arange(grid.shape[1]), row) for row in tall])


def batch(films: int, size: int, seed: int = 0) -> Tensor:
    """(films, 3, size, size) float32 of about unit spread, each channel its own film."""
    pixels = np.stack([[film(size, size, seed + 3 * i + channel) for channel in range(3)] for i in range(films)])
    return torch.from_numpy(((pixels - 115.0) / 45.0).astype(np.float32))


def truth(size: int, classes: int, objects: int, seed: int = 0) -> dict[str, Tensor]:
    """Ellipses: `boxes` (N, 4) xyxy px, tight; `labels` (N,) from 1; `masks` (N, size, size) bool."""
    draw = _stream(seed, f"truth {size} {objects}")
    y, x = np.mgrid[:size, :size] + 0.5
    masks = []
    for _ in range(objects):
        cy, cx = size * (0.2 + 0.6 * draw.random_sample(2))
        ry, rx = size * (0.05 + 0.13 * draw.random_sample(2))
        masks.append(((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1)
    boxes = [
        [m.any(0).argmax(), m.any(1).argmax(), size - m.any(0)[::-1].argmax(), size - m.any(1)[::-1].argmax()]
        for m in masks
    ]
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32),
        "labels": torch.from_numpy(draw.randint(1, classes + 1, objects)),
        "masks": torch.from_numpy(np.stack(masks)),
    }


def crafted_heads(priors: Tensor, classes: int, prototypes: int, side: int, seed: int = 0) -> dict[str, Tensor]:
    """Head outputs (one film) on which the kinds of NMS, `top_k` and the cap on detections all give other answers.

    Anchors take jittered copies of a crowd of boxes, most with the class of their box, some with another one.

    Args:
        priors: (A, 4) centre and size as fractions of the film.
        classes: Without background.
        prototypes: How many.
        side: Of the prototypes, px.
        seed: Of all numbers.

    Returns:
        `loc` (1, A, 4), `conf` (1, A, C + 1) logits, `mask` (1, A, k) in -1..1, `proto` (1, k, side, side) >= 0.
    """
    draw = _stream(seed, "heads")
    anchors = priors.double().numpy()
    crowd = np.concatenate((draw.random_sample((70, 2)), 0.08 + 0.25 * draw.random_sample((70, 2))), axis=1)
    crowd_class = draw.randint(1, classes + 1, 70)
    distance = np.abs(anchors[:, None, :2] - crowd[None, :, :2]).sum(-1) + 0.15 * draw.random_sample((len(anchors), 70))
    chosen = distance.argmin(axis=1)
    boxes = crowd[chosen] + crowd[chosen][:, [2, 3, 2, 3]] * 0.22 * (draw.random_sample((len(anchors), 4)) * 2 - 1)
    loc = np.concatenate(
        ((boxes[:, :2] - anchors[:, :2]) / anchors[:, 2:] / 0.1, np.log(boxes[:, 2:] / anchors[:, 2:]) / 0.2), axis=1
    )
    logits = draw.random_sample((len(anchors), classes + 1)) * 2 - 1
    logits[:, 0] += 2.2
    labels = np.where(draw.random_sample(len(anchors)) < 0.75, crowd_class[chosen], draw.randint(1, classes + 1, len(chosen)))
    logits[np.arange(len(anchors)), labels] += 6 * draw.random_sample(len(anchors))
    grids = [_enlarge(draw.random_sample((7, 7)) * 2 - 0.8, side, side) for _ in range(prototypes)]
    coefficients = np.tanh(draw.random_sample((len(anchors), prototypes)) * 4 - 2)
    arrays = {"loc": loc, "conf": logits, "mask": coefficients, "proto": np.maximum(np.stack(grids), 0)}
    return {name: torch.from_numpy(values.astype(np.float32))[None] for name, values in arrays.items()}
