"""Drawn films: bright blocks, discs and bars on a dark ground, with exact masks."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from vertinst.structures import Instances, rle

Film = tuple[Tensor, dict[str, Tensor]]


@pytest.fixture
def draw() -> Callable[..., Film]:
    """`draw(height, width, empty=False)`: a film of two blocks (label 1), a disc (2) and a bar (3)."""

    def film(height: int = 128, width: int = 96, *, empty: bool = False) -> Film:
        y, x = np.mgrid[:height, :width]
        h, w = height / 128, width / 96
        masks = np.stack(
            [
                (abs(y - 30 * h) < 8 * h) & (abs(x - 40 * w) < 14 * w),
                (abs(y - 50 * h) < 8 * h) & (abs(x - 44 * w) < 14 * w),
                ((y - 90 * h) / h) ** 2 + ((x - 40 * w) / w) ** 2 < 15**2,
                (abs(y - 60 * h) < 40 * h) & (abs(x - 80 * w) < 3 * w),
            ]
        )
        labels = np.array([1, 1, 2, 3])
        pixels = 0.2 + np.tensordot(np.array([0.3, 0.3, 0.5, 0.75]), masks, 1).clip(0, 0.8)
        if empty:
            masks, labels, pixels = masks[:0], labels[:0], np.full_like(pixels, 0.2)
        image = torch.tensor(pixels, dtype=torch.float32).expand(3, -1, -1).clone()
        boxes = [[m.any(0).argmax(), m.any(1).argmax(), *_ends(m)] for m in masks]
        target = {
            "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.from_numpy(labels),
            "masks": torch.from_numpy(masks),
        }
        return image, target

    return film


def _ends(mask: np.ndarray) -> tuple[int, int]:
    rows, columns = np.nonzero(mask)
    return int(columns.max()) + 1, int(rows.max()) + 1


@pytest.fixture
def check_contract() -> Callable[[Instances, Tensor, int], None]:
    """`check(found, image, classes)`: what a model in evaluation found on `image` is well formed."""

    def check(found: Instances, image: Tensor, classes: int) -> None:
        height, width = image.shape[-2:]
        assert found.image_size == (height, width)
        assert found.boxes.dtype == np.float32
        assert (found.boxes >= 0).all()
        assert (found.boxes <= np.array([width, height, width, height])).all()
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
        assert found.category_ids.dtype == np.int64
        assert (found.category_ids <= classes).all()
        assert found.scores is not None
        assert found.scores.dtype == np.float32
        assert (np.diff(found.scores) <= 0).all()
        assert (found.scores > 0).all()
        assert (rle.areas(found.masks) > 0).all()

    return check
