"""Instances of one image: truth and prediction alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vertinst.errors import DataError
from vertinst.structures import rle as rle_masks
from vertinst.structures.rle import Rle

__all__ = ["Instances"]


@dataclass(frozen=True, eq=False)
class Instances:
    """Instances of one image, N of them; N = 0 is ordinary.

    Attributes:
        image_size: (height, width) px.
        boxes: (N, 4) float32 xyxy px.
        masks: N RLE masks of the image's size, of any number of parts and holes.
        category_ids: (N,) int64, from 1 in the order of the categories' names.
        scores: (N,) float32 in 0..1, or None for truth.

    Raises:
        DataError: Lengths differ, a shape or a mask's size is wrong, an id is below 1, a score outside 0..1.
    """

    image_size: tuple[int, int]
    boxes: npt.NDArray[np.float32]
    masks: tuple[Rle, ...]
    category_ids: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        count = len(self.masks)
        shapes: dict[str, tuple[npt.NDArray[Any], tuple[int, ...]]] = {
            "boxes": (self.boxes, (count, 4)),
            "category_ids": (self.category_ids, (count,)),
        }
        if self.scores is not None:
            shapes["scores"] = (self.scores, (count,))
        for name, (array, expected) in shapes.items():
            if array.shape != expected:
                raise DataError(f"{name} must have shape {expected}, got {array.shape}", fix="Give one per mask.")
        if count and self.category_ids.min() < 1:
            raise DataError(f"category_ids must start at 1, got {self.category_ids.min()}", fix="Add 1 to the ids.")
        if self.scores is not None and count and not (self.scores.min() >= 0 and self.scores.max() <= 1):
            raise DataError("scores must lie in 0..1", fix="Give probabilities.")
        for index, mask in enumerate(self.masks):
            if tuple(mask["size"]) != tuple(self.image_size):
                raise DataError(
                    f"mask {index} must have size {self.image_size}, got {tuple(mask['size'])}",
                    fix="Check that the masks belong to this image.",
                )

    @classmethod
    def empty(cls, image_size: tuple[int, int], *, scored: bool = True) -> Instances:
        """No instance in an image of (height, width); `scored` false for truth."""
        scores = np.zeros(0, dtype=np.float32) if scored else None
        return cls(image_size, np.zeros((0, 4), dtype=np.float32), (), np.zeros(0, dtype=np.int64), scores)

    @classmethod
    def from_masks(
        cls,
        image_size: tuple[int, int],
        masks: Sequence[Rle],
        category_ids: Sequence[int],
        scores: Sequence[float] | None = None,
    ) -> Instances:
        """Instances with the tight boxes of their masks."""
        boxes = np.stack([rle_masks.box_xyxy(m) for m in masks]) if masks else np.zeros((0, 4), dtype=np.float32)
        return cls(
            image_size,
            boxes,
            tuple(masks),
            np.asarray(category_ids, dtype=np.int64).reshape(-1),
            None if scores is None else np.asarray(scores, dtype=np.float32).reshape(-1),
        )

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: npt.NDArray[np.bool_] | npt.NDArray[np.integer] | Sequence[int]) -> Instances:
        """Filter or reorder: `instances[instances.scores > 0.5]`.

        Args:
            index: (N,) bool, or positions (K,) int in any order; an empty sequence gives no instance.
        """
        selector = np.asarray(index)
        if selector.size == 0 and selector.dtype != np.bool_:
            selector = selector.astype(np.int64)
        positions = np.arange(len(self))[selector].reshape(-1)
        return Instances(
            self.image_size,
            self.boxes[positions],
            tuple(self.masks[i] for i in positions),
            self.category_ids[positions],
            None if self.scores is None else self.scores[positions],
        )
