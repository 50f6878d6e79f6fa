import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vertinst.errors import DataError
from vertinst.metrics.hausdorff import hausdorff_px
from vertinst.structures import rle

masks = st.shared(st.tuples(st.integers(1, 14), st.integers(1, 14)), key="size").flatmap(lambda s: arrays(bool, s))
percentiles = st.sampled_from([50.0, 95.0, 100.0])


def box_mask(left, top, right, bottom, size=(60, 80)):
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return rle.encode(mask)


def contour(mask):
    """(N, 2) row and column of the pixels that have one of four neighbours outside."""
    points = []
    for row, column in np.argwhere(mask):
        around = [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]
        within = [0 <= r < mask.shape[0] and 0 <= c < mask.shape[1] and mask[r, c] for r, c in around]
        if not all(within):
            points.append((row, column))
    return np.array(points, dtype=float)


def both_directions(truth, predicted):
    """All distances from each contour to the other, by comparing every pixel with every other."""
    a, b = contour(truth), contour(predicted)
    apart = np.linalg.norm(a[:, None] - b[None], axis=2)
    return apart.min(axis=1), apart.min(axis=0)


@settings(max_examples=200, deadline=None)
@given(masks, masks, percentiles)
def test_agrees_with_all_pairs(truth, predicted, percentile):
    assume(truth.any() and predicted.any())
    there, back = both_directions(truth, predicted)
    expected = max(np.percentile(there, percentile), np.percentile(back, percentile))
    found = hausdorff_px(rle.encode(truth), rle.encode(predicted), percentile=percentile)
    assert found == pytest.approx(expected, abs=1e-5)


@settings(max_examples=50, deadline=None)
@given(masks, masks)
def test_symmetric_and_0_for_equal_masks(a, b):
    assume(a.any() and b.any())
    first, second = rle.encode(a), rle.encode(b)
    assert hausdorff_px(first, second) == hausdorff_px(second, first)
    assert hausdorff_px(first, first) == 0
    assert (hausdorff_px(first, second, percentile=100) == 0) == (a == b).all()


@pytest.mark.parametrize("step", [(3, 0), (0, -4), (3, 4)])
def test_a_shift_is_its_length_at_100_per_cent(step):
    x, y = step
    shifted = box_mask(20 + x, 20 + y, 40 + x, 35 + y)
    assert hausdorff_px(box_mask(20, 20, 40, 35), shifted, percentile=100) == pytest.approx(np.hypot(x, y))


def test_a_short_spike_is_beyond_the_percentile():
    mask = rle.decode(box_mask(20, 20, 50, 50))
    mask[5:20, 35] = True
    assert hausdorff_px(box_mask(20, 20, 50, 50), rle.encode(mask), percentile=100) == 15
    # Spikes are 15 of about 130 pixels of the contour.
    assert 8 < hausdorff_px(box_mask(20, 20, 50, 50), rle.encode(mask)) < 10


def test_the_films_edge_is_part_of_the_contour():
    # Cut by the film on the left: the columns 0 of both are contour, and 4 px shorter on the right is 4 px.
    assert hausdorff_px(box_mask(0, 10, 20, 40), box_mask(0, 10, 16, 40)) == 4
    assert hausdorff_px(box_mask(60, 10, 80, 60), box_mask(60, 10, 80, 60)) == 0


def test_holes_have_contours():
    mask = rle.decode(box_mask(10, 10, 50, 50))
    mask[28:32, 28:32] = False
    assert hausdorff_px(box_mask(10, 10, 50, 50), rle.encode(mask), percentile=100) == 17


def test_a_small_part_far_away_counts_for_what_it_is_of_its_own_contour():
    truth, predicted = box_mask(5, 5, 55, 55), rle.decode(box_mask(5, 5, 55, 55))
    predicted[25:28, 65:68] = True
    there, back = both_directions(rle.decode(truth), predicted)
    # 8 of 204 pixels: within 95 %, and 8 of 400 in both contours together.
    assert hausdorff_px(truth, rle.encode(predicted)) == max(np.percentile(there, 95), np.percentile(back, 95)) == 0
    small = box_mask(65, 25, 68, 28)
    assert hausdorff_px(small, rle.encode(predicted)) > 50


def test_large_films_cost_no_more_than_their_masks():
    size = (20_000, 20_000)
    truth, predicted = (rle.paste(np.ones((n, 50), bool), 19_000, 19_000, size) for n in (60, 63))
    assert hausdorff_px(truth, predicted) == 3


def test_empty_masks_have_no_distance():
    nothing, something = box_mask(0, 0, 0, 0), box_mask(0, 0, 5, 5)
    assert hausdorff_px(nothing, nothing) is None
    assert hausdorff_px(nothing, something) is None
    assert hausdorff_px(something, nothing) is None


def test_other_sizes_are_refused():
    with pytest.raises(DataError, match=r"one size, got \[\(60, 80\), \(9, 9\)\]"):
        hausdorff_px(box_mask(0, 0, 5, 5), box_mask(0, 0, 5, 5, size=(9, 9)))
