"""Drawn films: bright blocks, discs and bars on a dark ground, with exact masks."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

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
def check_contract() -> Callable[[dict[str, Tensor], Tensor, int], None]:
    """`check(result, image, classes)`: the result obeys torchvision's detection contract."""

    def check(result: dict[str, Tensor], image: Tensor, classes: int) -> None:
        height, width = image.shape[-2:]
        boxes, labels, scores, masks = (result[key] for key in ("boxes", "labels", "scores", "masks"))
        count = len(scores)
        assert boxes.shape == (count, 4)
        assert boxes.dtype == torch.float32
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([width, height, width, height])).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert labels.dtype == torch.int64
        assert ((labels >= 1) & (labels <= classes)).all()
        assert (scores.diff() <= 0).all()
        assert ((scores > 0) & (scores <= 1)).all()
        assert masks.shape == (count, 1, height, width)
        assert masks.dtype == torch.float32
        assert ((masks >= 0) & (masks <= 1)).all()

    return check
