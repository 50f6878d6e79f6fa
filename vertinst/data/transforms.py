"""Random changes to training films: synthetic metal, then torchvision's transforms on film and masks together.

Position, grey values, sharpness: what differs between films of one spine. No colours, which films do not have.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from vertinst.config import AugmentConfig
from vertinst.data.synthetic_metal import add_metal

__all__ = ["Augment", "RandomTone", "augment", "build_augment", "mask_boxes"]

Change = Callable[[tv_tensors.Image, tv_tensors.Mask], tuple[tv_tensors.Image, tv_tensors.Mask]]

# What is left of an instance that was moved out of the film teaches nothing below this share of its area.
MIN_AREA_LEFT = 0.1


@dataclass(frozen=True)
class Augment:
    """What is done to training films; made by `build_augment`.

    Attributes:
        metal: Probability of synthetic metal.
        classes: Names of the labels, from 1.
        change: All other changes, of a film (1, H, W) float 0..1 and masks (N, H, W).
    """

    metal: float
    classes: tuple[str, ...]
    change: Change


class RandomTone(v2.Transform):  # type: ignore[misc]
    """Random grey window, gamma and noise; masks pass unchanged.

    Args:
        gamma: Exponent exp(u), u uniform in -gamma..gamma.
        window: Black and white point each moved by up to this fraction of the grey range.
        noise: Standard deviation of the Gaussian noise, drawn from 0..noise.
    """

    def __init__(self, gamma: float, window: float, noise: float) -> None:
        super().__init__()
        self.gamma, self.window, self.noise = gamma, window, noise

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw what is done to one film."""
        gamma, black, white = ((torch.rand(3) * 2 - 1) * torch.tensor([self.gamma, self.window, self.window])).tolist()
        return {
            "gamma": math.exp(gamma),
            "black": black,
            "white": 1 + white,
            "noise": float(torch.rand(1)) * self.noise,
        }

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Apply it to the film (float 0..1)."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        black, white = params["black"], params["white"]
        pixels = ((inpt.as_subclass(Tensor) - black) / (white - black)).clamp(0, 1) ** params["gamma"]
        if params["noise"] > 0:
            pixels = (pixels + torch.randn_like(pixels) * params["noise"]).clamp(0, 1)
        return tv_tensors.wrap(pixels, like=inpt)


class RandomMove(v2.RandomAffine):  # type: ignore[misc]
    """torchvision's random rotation, scale and shift, carried out by OpenCV in a fraction of its time."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Move film (bilinear) or masks (nearest) about the middle; what comes from outside is 0."""
        height, width = inpt.shape[-2:]
        turn = params["scale"] * complex(
            math.cos(math.radians(params["angle"])), math.sin(math.radians(params["angle"]))
        )
        middle = complex((width - 1) / 2, (height - 1) / 2)
        shift = middle + complex(*params["translate"]) - turn * middle
        matrix = np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
        how = cv2.INTER_LINEAR if isinstance(inpt, tv_tensors.Image) else cv2.INTER_NEAREST
        planes = inpt.as_subclass(Tensor).numpy()
        moved = np.empty_like(planes)
        for plane, result in zip(planes, moved, strict=True):
            cv2.warpAffine(plane, matrix, (width, height), dst=result, flags=how)
        return tv_tensors.wrap(torch.from_numpy(moved), like=inpt)


class RandomBlur(v2.GaussianBlur):  # type: ignore[misc]
    """torchvision's random Gaussian blur of the film, by OpenCV."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Blur the film (1, H, W); masks pass unchanged."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        blurred = cv2.GaussianBlur(inpt[0].as_subclass(Tensor).numpy(), self.kernel_size, params["sigma"][0])
        return tv_tensors.wrap(torch.from_numpy(blurred)[None], like=inpt)


def build_augment(config: AugmentConfig, classes: tuple[str, ...]) -> Augment:
    """All changes that are switched on.

    Args:
        config: Settings.
        classes: Names of the labels, from 1 in this order: those of metal tell what of it is learnt.
    """
    parts: list[v2.Transform] = []
    if config.flip:
        parts.append(v2.RandomHorizontalFlip(config.flip))
    if config.rotation_deg or config.scale or config.shift:
        parts.append(
            RandomMove(
                degrees=config.rotation_deg,
                translate=(config.shift, config.shift),
                scale=(1 - config.scale, 1 + config.scale),
            )
        )
    if config.blur_px:
        # The lower end must be positive; at a twentieth of a pixel the kernel is the identity.
        kernel = 2 * math.ceil(2 * config.blur_px) + 1
        parts.append(RandomBlur(kernel, sigma=(min(0.05, config.blur_px), config.blur_px)))
    if config.gamma or config.window or config.noise:
        parts.append(RandomTone(config.gamma, config.window, config.noise))
    return Augment(config.metal, classes, v2.Compose(parts) if parts else _unchanged)


def _unchanged(film: tv_tensors.Image, masks: tv_tensors.Mask) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    return film, masks


def augment(
    film: Tensor, masks: Tensor, labels: Tensor, transform: Augment, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Change one film and its masks, drawing from `seed` alone and leaving torch's own generator as it was.

    Args:
        film: (1, H, W) float 0..1.
        masks: (N, H, W) bool.
        labels: (N,) int64 from 1.
        transform: From `build_augment`.
        seed: The same seed gives the same change, in any process.

    Returns:
        The film, the masks that are left or new (K, H, W) bool, and their labels (K,): instances of which less than
        a tenth of the area is left are dropped, those of synthetic metal added.
    """
    rng = np.random.default_rng(seed)
    if rng.random() < transform.metal:
        drawn = add_metal(film[0].numpy(), masks.numpy(), labels.numpy(), transform.classes, rng)
        film, masks, labels = torch.from_numpy(drawn[0])[None], torch.from_numpy(drawn[1]), torch.from_numpy(drawn[2])
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which seeds the GPUs' generators too.
        torch.default_generator.manual_seed(seed)
        changed, moved = transform.change(tv_tensors.Image(film), tv_tensors.Mask(masks.view(torch.uint8)))
    moved = moved.as_subclass(Tensor).view(torch.bool)
    before, after = _areas(masks), _areas(moved)
    kept = torch.from_numpy((after > 0) & (after >= MIN_AREA_LEFT * before))
    return changed.as_subclass(Tensor), moved[kept], labels[kept]


def _areas(masks: Tensor) -> npt.NDArray[np.int64]:
    # torch takes a hundred times as long to add up bools.
    return np.array([np.count_nonzero(mask) for mask in masks.numpy()], dtype=np.int64)


def mask_boxes(masks: Tensor) -> Tensor:
    """Tight boxes of masks.

    Args:
        masks: (N, H, W) bool, none of them empty; N = 0 is fine.

    Returns:
        (N, 4) float32 xyxy px, right and bottom exclusive.
    """
    found = np.array([cv2.boundingRect(mask) for mask in masks.view(torch.uint8).numpy()], np.float32).reshape(-1, 4)
    found[:, 2:] += found[:, :2]
    return torch.from_numpy(found)
