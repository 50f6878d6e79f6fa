"""The one form of every model's answer: best first, clipped, nothing empty."""

import numpy as np
import pytest
import torch

from vertinst.errors import DataError
from vertinst.models._instances import to_instances
from vertinst.structures import rle

SIZE = (40, 32)


def square(top: int, left: int, side: int = 5) -> rle.Rle:
    return rle.paste(np.ones((side, side), dtype=bool), top, left, SIZE)


def test_best_first_clipped_and_empty_masks_dropped() -> None:
    boxes = torch.tensor([[8.0, 10, 16, 20], [8, 10, 16, 20], [-3, 10, 1e4, 99], [0, 0, 5, 5]])
    masks = [square(10, 8), rle.empty(SIZE), square(20, 2), square(0, 0)]
    found = to_instances(boxes, torch.tensor([1, 1, 2, 3]), torch.tensor([0.6, 0.95, 1.0001, 0.6]), masks, SIZE)
    assert found.scores is not None
    assert found.scores.tolist() == pytest.approx([1.0, 0.6, 0.6])
    assert found.scores.dtype == found.boxes.dtype == np.float32
    assert found.category_ids.tolist() == [2, 1, 3]
    assert found.category_ids.dtype == np.int64
    assert found.boxes.tolist() == [[0, 10, 32, 40], [8, 10, 16, 20], [0, 0, 5, 5]]
    assert found.masks == (masks[2], masks[0], masks[3])


def test_none_found_and_low_precision_are_ordinary() -> None:
    nothing = to_instances(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0), [], SIZE)
    assert len(nothing) == 0
    assert nothing.image_size == SIZE
    half = torch.tensor([[1.0, 2.0, 3.0, 4.0]], dtype=torch.bfloat16, requires_grad=True)
    found = to_instances(half, torch.tensor([2]), torch.tensor([0.5], dtype=torch.bfloat16), [square(0, 0)], SIZE)
    assert found.boxes.tolist() == [[1, 2, 3, 4]]


def test_masks_of_another_film_are_refused() -> None:
    with pytest.raises(DataError, match=r"mask 0 must have size \(40, 32\), got \(9, 9\)"):
        to_instances(torch.zeros(1, 4), torch.ones(1).long(), torch.ones(1), [rle.empty((9, 9))], SIZE)
