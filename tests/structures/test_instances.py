import numpy as np
import pytest

from vertinst.errors import DataError
from vertinst.structures import Instances, rle


def square(left: int, side: int = 5, size: tuple[int, int] = (30, 40)):
    return rle.paste(np.ones((side, side), dtype=bool), 3, left, size)


def three() -> Instances:
    return Instances.from_masks((30, 40), [square(0), square(10), square(20)], [1, 2, 5], [0.9, 0.2, 0.6])


def test_boxes_are_those_of_the_masks():
    np.testing.assert_array_equal(three().boxes[1], [10, 3, 15, 8])


@pytest.mark.parametrize(
    ("index", "ids"),
    [
        (np.array([True, False, True]), [1, 5]),
        ([2, 0], [5, 1]),
        (np.array([1]), [2]),
        ([], []),
        (np.zeros(3, dtype=bool), []),
    ],
)
def test_indexing_filters_and_reorders_every_field(index, ids):
    kept = three()[index]
    assert kept.category_ids.tolist() == ids
    assert len(kept) == len(kept.masks) == len(kept.boxes) == len(kept.scores) == len(ids)


def test_empty_is_ordinary():
    nothing = Instances.empty((30, 40))
    assert len(nothing) == 0
    assert len(nothing[np.zeros(0, dtype=bool)]) == 0
    assert len(nothing[[]]) == 0
    assert Instances.empty((30, 40), scored=False).scores is None
    assert Instances.from_masks((30, 40), [], []).boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"boxes": np.zeros((2, 4), dtype=np.float32)}, r"boxes must have shape \(1, 4\), got \(2, 4\)"),
        ({"category_ids": np.array([0])}, "category_ids must start at 1, got 0"),
        ({"category_ids": np.array([1, 1])}, r"category_ids must have shape \(1,\)"),
        ({"scores": np.array([1.5], dtype=np.float32)}, r"scores must lie in 0\.\.1"),
        ({"scores": np.array([np.nan], dtype=np.float32)}, r"scores must lie in 0\.\.1"),
        ({"masks": (square(0, size=(31, 40)),)}, r"mask 0 must have size \(30, 40\), got \(31, 40\)"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    fields = {
        "image_size": (30, 40),
        "boxes": np.zeros((1, 4), dtype=np.float32),
        "masks": (square(0),),
        "category_ids": np.array([1]),
        "scores": None,
    }
    with pytest.raises(DataError, match=message):
        Instances(**(fields | changes))
