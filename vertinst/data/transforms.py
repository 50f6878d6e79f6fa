"""Random changes to training films: torchvision's transforms on film and masks together, boxes made anew from masks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from vertinst.config import AugmentConfig

__all__ = ["Augment", "RandomTone", "augment", "build_augment", "mask_boxes"]

Augment = Callable[[tv_tensors.Image, tv_tensors.Mask], tuple[tv_tensors.Image, tv_tensors.Mask]]

# What is left of an instance that was moved out of the film teaches nothing below this share of its area.
MIN_AREA_LEFT = 0.1


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


class RandomBlur(v2.GaussianBlur):  # type: ignore[misc]
    """Random Gaussian blur that leaves films alone which are narrower than its kernel can be mirrored into."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Blur the film; masks pass unchanged."""
        narrow = min(inpt.shape[-2:]) <= max(self.kernel_size) // 2
        return inpt if narrow else super().transform(inpt, params)


def build_augment(config: AugmentConfig) -> Augment:
    """All changes that are switched on, as one transform of (film (1, H, W) float 0..1, masks (N, H, W))."""
    parts: list[v2.Transform] = []
    if config.flip:
        parts.append(v2.RandomHorizontalFlip(config.flip))
    if config.rotation_deg or config.scale or config.shift:
        parts.append(
            v2.RandomAffine(
                degrees=config.rotation_deg,
                translate=(config.shift, config.shift),
                scale=(1 - config.scale, 1 + config.scale),
                interpolation=v2.InterpolationMode.BILINEAR,
            )
        )
    if config.blur_px:
        # The lower end must be positive; at a twentieth of a pixel the kernel is the identity.
        kernel = 2 * math.ceil(2 * config.blur_px) + 1
        parts.append(RandomBlur(kernel, sigma=(min(0.05, config.blur_px), config.blur_px)))
    if config.gamma or config.window or config.noise:
        parts.append(RandomTone(config.gamma, config.window, config.noise))
    transform: Augment = v2.Compose(parts) if parts else _unchanged
    return transform


def _unchanged(film: tv_tensors.Image, masks: tv_tensors.Mask) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
    return film, masks


def augment(film: Tensor, masks: Tensor, transform: Augment, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Change one film and its masks, drawing from `seed` alone and leaving torch's own generator as it was.

    Args:
        film: (1, H, W) float 0..1.
        masks: (N, H, W) bool.
        transform: From `build_augment`.
        seed: The same seed gives the same change, in any process.

    Returns:
        The film, the masks that are left (K, H, W) bool, and their indices (K,) among the N: instances of which
        less than a tenth of the area is left are dropped.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        changed, moved = transform(tv_tensors.Image(film), tv_tensors.Mask(masks.to(torch.uint8)))
    moved = moved.as_subclass(Tensor).bool()
    before, after = masks.flatten(1).sum(1), moved.flatten(1).sum(1)
    kept = ((after > 0) & (after >= MIN_AREA_LEFT * before)).nonzero()[:, 0]
    return changed.as_subclass(Tensor), moved[kept], kept


def mask_boxes(masks: Tensor) -> Tensor:
    """Tight boxes of masks.

    Args:
        masks: (N, H, W) bool, none of them empty; N = 0 is fine.

    Returns:
        (N, 4) float32 xyxy px, right and bottom exclusive.
    """
    sides = []
    for hit in (masks.any(dim=1), masks.any(dim=2)):
        length = hit.shape[1]
        first = hit.to(torch.uint8).argmax(dim=1)
        sides += [first, length - hit.flip(1).to(torch.uint8).argmax(dim=1)]
    left, right, top, bottom = sides
    return torch.stack((left, top, right, bottom), dim=1).to(torch.float32)
