"""What both detectors do with films and targets: check them, resize them, put them into one batch, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from vertinst.errors import CheckpointError, DataError

__all__ = [
    "FilmTransform",
    "Target",
    "check_images",
    "check_outputs",
    "check_targets",
    "fit_longest",
    "fit_shortest",
    "fit_square",
]

Target = dict[str, Tensor]
Size: TypeAlias = tuple[int, int]

# ImageNet's statistics in the order RGB, as torchvision's weights expect them.
IMAGE_MEAN = [0.485, 0.456, 0.406]
IMAGE_STD = [0.229, 0.224, 0.225]


class FilmTransform(GeneralizedRCNNTransform):  # type: ignore[misc]
    """Resize, normalise and pad to multiples of 32, right and below.

    Differs from its parent in how it resizes: with antialiasing, because films are several times larger than the
    network's input and thin metal would otherwise flicker; and masks become the covered fraction of each pixel,
    float32 0..1, instead of losing their borders to the nearest neighbour, while those that have the size already stay
    as they are, at a quarter of the memory. Grey films that were made three channels by
    `expand` are resized once, not three times.

    Args:
        size: From (H, W) of a film to its size inside the network, in px; see `fit_longest`, `fit_shortest`,
            `fit_square`. The scale of height and width may differ.
        mean: Subtracted from red, green and blue.
        std: Red, green and blue are divided by it.
        smooth: With antialiasing; else bilinear samples alone.
        whole_greys: Resize as Pillow does 8-bit images: to whole 255ths, rounded after each of its two directions.
        divisible: Sides of a batch are padded to multiples of it.
    """

    def __init__(
        self,
        size: Callable[[Size], Size],
        *,
        mean: Sequence[float] = IMAGE_MEAN,
        std: Sequence[float] = IMAGE_STD,
        smooth: bool = True,
        whole_greys: bool = False,
        divisible: int = 32,
    ) -> None:
        # The parent's own sizes are never asked for.
        super().__init__(1, 1, list(mean), list(std), size_divisible=divisible)
        self.size = size
        self.smooth = smooth
        self.whole_greys = whole_greys

    def normalize(self, image: Tensor) -> Tensor:
        """Leave it: films have many times the pixels of the network's input, so `resize` normalises what it gives."""
        return image

    def resize(self, image: Tensor, target: Target | None = None) -> tuple[Tensor, Target | None]:
        """Resize one film `(3, H, W)` and, where given, its `boxes` and `masks`; normalise the film."""
        height, width = image.shape[-2:]
        size = self.size((height, width))
        one = _planes(image)
        resized = _as_pillow(one, size) if self.whole_greys else _resample(one[None], size, smooth=self.smooth)[0]
        image = super().normalize(resized.expand(3, -1, -1))
        if target is None:
            return image, None
        scale = target["boxes"].new_tensor([size[1] / width, size[0] / height] * 2)
        masks = target["masks"]
        if tuple(masks.shape[1:]) != size:
            masks = _resample(masks.to(image.dtype)[:, None], size, smooth=self.smooth)[:, 0]
        return image, {**target, "boxes": target["boxes"] * scale, "masks": masks}


def fit_longest(size: Size, longest: int) -> Size:
    """(H, W) with the aspect kept and the longest side as given."""
    scale = longest / max(size)
    return max(round(size[0] * scale), 1), max(round(size[1] * scale), 1)


def fit_shortest(size: Size, shortest: int, longest: int, *, cut: bool = False) -> Size:
    """(H, W) with the aspect kept and the shortest side as given, or the longest side where it would be longer.

    Args:
        size: (H, W).
        shortest: Wanted, px.
        longest: Allowed, px.
        cut: Cut fractions of pixels off, as torchvision does; else round halves up, as Detectron2 does.
    """
    if cut:
        scale = min(shortest / min(size), longest / max(size))
        return max(int(size[0] * scale), 1), max(int(size[1] * scale), 1)
    # In Detectron2's two steps: in one, films of a few sizes would be rounded the other way.
    scale = shortest / min(size)
    height, width = (shortest, size[1] * scale) if size[0] < size[1] else (size[0] * scale, shortest)
    again = min(longest / max(height, width), 1.0)
    return max(int(height * again + 0.5), 1), max(int(width * again + 0.5), 1)


def fit_square(size: Size, side: int) -> Size:
    """A square, whatever the aspect."""
    return side, side


def check_images(images: Sequence[Tensor]) -> None:
    """Refuse films that no detector can use.

    Args:
        images: Float tensors `(3, H, W)`, 0..1.

    Raises:
        DataError: A tensor has another shape or type, no pixels, or values that are not finite.
    """
    for index, image in enumerate(images):
        where = f"film {index} of the batch"
        if image.dim() != 3 or image.shape[0] != 3 or not image.is_floating_point() or image.numel() == 0:
            raise DataError(f"must be float of shape (3, H, W), got {image.dtype} {tuple(image.shape)}", where=where)
        # One sum is enough to find NaN and infinity, and costs a fraction of testing every pixel.
        if not torch.isfinite(_planes(image).sum(dtype=torch.float32)):
            raise DataError(
                "pixels must be finite numbers, got NaN or infinity",
                where=where,
                fix="Look at the film's file: a window of zero width or a damaged float TIFF gives such pixels.",
            )


def check_outputs(*outputs: Tensor) -> None:
    """Refuse what a network gives if it is no number: a film would seem to be without any vertebra.

    Raises:
        CheckpointError: A value is NaN or infinite.
    """
    if not all(torch.isfinite(output.sum(dtype=torch.float32)) for output in outputs):
        raise CheckpointError(
            "the network's outputs must be finite, got NaN or infinity",
            fix="The weights are damaged or training diverged: take an earlier checkpoint.",
        )


def check_targets(images: Sequence[Tensor], targets: Sequence[Target] | None, classes: int) -> list[Target]:
    """Refuse targets from which nothing sensible can be learnt.

    Args:
        images: The films of the batch.
        targets: One dict a film: `boxes` (N, 4) float xyxy px, `labels` (N,) int64 in 1..classes, `masks`
            (N, H, W) bool or uint8 of the film's size. N = 0 is fine.
        classes: Number of classes, background left out.

    Returns:
        The targets.

    Raises:
        DataError: Targets are missing, shapes do not fit, a label is unknown, or a box has no width, no height
            or a coordinate that is not finite.
    """
    if targets is None or len(targets) != len(images):
        got = "none" if targets is None else str(len(targets))
        raise DataError(f"training needs one target for each of the {len(images)} films, got {got}")
    for index, (image, target) in enumerate(zip(images, targets, strict=True)):
        _check_target(target, tuple(image.shape[-2:]), classes, f"film {index} of the batch")
    return list(targets)


def _check_target(target: Target, image_size: tuple[int, ...], classes: int, where: str) -> None:
    boxes, labels, masks = target["boxes"], target["labels"], target["masks"]
    count = labels.shape[0]
    if boxes.shape != (count, 4) or masks.shape != (count, *image_size):
        raise DataError(
            f"{count} labels need boxes ({count}, 4) and masks {(count, *image_size)}, "
            f"got {tuple(boxes.shape)} and {tuple(masks.shape)}",
            where=where,
        )
    if ((labels < 1) | (labels > classes)).any():
        raise DataError(f"labels must lie in 1..{classes}, got {sorted(set(labels.tolist()))}", where=where)
    sides = boxes[:, 2:] - boxes[:, :2]
    usable = torch.isfinite(boxes).all(dim=1) & (sides > 0).all(dim=1)
    if not usable.all():
        region = int((~usable).nonzero()[0])
        raise DataError(
            f"boxes must have x1 < x2 and y1 < y2, got {boxes[region].tolist()}",
            where=f"{where}, region {region}",
            fix="Correct or delete the region in the annotation.",
        )


def _planes(image: Tensor) -> Tensor:
    """(1, H, W) of a film whose three channels are one in memory, (3, H, W) of any other."""
    return image[:1] if image.stride(0) == 0 else image


def _resample(pixels: Tensor, size: tuple[int, int], *, smooth: bool) -> Tensor:
    if tuple(pixels.shape[-2:]) == size:
        return pixels
    if pixels.shape[0] == 0:
        return pixels.new_zeros((0, pixels.shape[1], *size))
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False, antialias=smooth)


def _as_pillow(planes: Tensor, size: Size) -> Tensor:
    """Planes (C, H, W) in 0..1, resized. Without Pillow's own rounding a fifth of the grey values are off by one."""
    greys = (planes * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    if greys.shape[1:] != size:
        # Pillow counts width before height.
        across = [Image.fromarray(grey).resize(size[::-1], Image.Resampling.BILINEAR) for grey in greys]
        greys = np.stack([np.asarray(grey) for grey in across])
    return torch.from_numpy(greys).to(planes) / 255
