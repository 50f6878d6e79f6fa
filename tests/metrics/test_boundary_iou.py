import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vertinst.errors import DataError
from vertinst.metrics.boundary_iou import band_px, boundary_iou
from vertinst.structures import rle

masks = st.shared(st.tuples(st.integers(1, 12), st.integers(1, 12)), key="size").flatmap(lambda s: arrays(bool, s))
widths = st.sampled_from([0.001, 0.1, 0.2, 0.5, 3.0])


def box_mask(left, top, right, bottom, size=(60, 80)):
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return rle.encode(mask)


def plain_band(mask, distance):
    """The definition, pixel by pixel: some pixel of the square around it lies outside of the mask or the film."""
    padded = np.pad(mask, distance)
    band = np.zeros_like(mask)
    for row, column in np.argwhere(mask):
        band[row, column] = not padded[row : row + 2 * distance + 1, column : column + 2 * distance + 1].all()
    return band


@settings(max_examples=150, deadline=None)
@given(masks, masks, widths)
def test_is_the_iou_of_the_bands(truth, predicted, width):
    distance = max(1, round(width * math.hypot(*truth.shape)))
    a, b = plain_band(truth, distance), plain_band(predicted, distance)
    expected = (a & b).sum() / (a | b).sum() if (a | b).any() else None
    found = boundary_iou(rle.encode(truth), rle.encode(predicted), width=width)
    assert found == (None if expected is None else pytest.approx(expected))


@settings(max_examples=50, deadline=None)
@given(masks, masks)
def test_symmetric_within_0_and_1_and_1_for_equal_masks_alone(a, b):
    first, second = rle.encode(a), rle.encode(b)
    found = boundary_iou(first, second, width=0.1)
    assert found == boundary_iou(second, first, width=0.1)
    if found is not None:
        assert 0 <= found <= 1
        assert (found == 1) == (a == b).all()


def test_by_hand():
    # Diagonal 100, so 2 px: frames of 20 x 20 less 16 x 16, and of 20 x 22 less 16 x 18.
    truth, predicted = box_mask(10, 10, 30, 30), box_mask(10, 10, 30, 32)
    assert band_px((60, 80)) == 2
    shared = 2 * 20 + 2 * (2 * 18)
    assert boundary_iou(truth, predicted) == pytest.approx(shared / (144 + 152 - shared))
    assert rle.iou([truth], [predicted])[0, 0] > 0.9


def test_a_mask_thinner_than_the_band_gives_its_iou():
    truth, predicted = box_mask(10, 10, 30, 14), box_mask(12, 10, 30, 14)
    assert boundary_iou(truth, predicted) == pytest.approx(0.9) == rle.iou([truth], [predicted])[0, 0]


def test_the_films_edge_is_part_of_the_contour():
    cut, inside = box_mask(0, 0, 20, 20), box_mask(20, 20, 40, 40)
    for mask in (cut, inside):
        left, top, right, bottom = rle.box_xyxy(mask).astype(int).tolist()
        assert boundary_iou(mask, box_mask(left, top, right, bottom - 1)) == pytest.approx(
            boundary_iou(inside, box_mask(20, 20, 40, 39))
        )


def test_where_it_lies_on_the_film_does_not_matter():
    there = boundary_iou(box_mask(5, 5, 25, 25), box_mask(6, 7, 26, 27))
    assert there == boundary_iou(box_mask(45, 33, 65, 53), box_mask(46, 35, 66, 55))


def test_empty_masks():
    nothing, something = box_mask(0, 0, 0, 0), box_mask(0, 0, 5, 5)
    assert boundary_iou(nothing, nothing) is None
    assert boundary_iou(nothing, something) == boundary_iou(something, nothing) == 0


def test_far_apart_is_0():
    assert boundary_iou(box_mask(0, 0, 5, 5), box_mask(70, 50, 80, 60)) == 0


def test_other_sizes_are_refused():
    with pytest.raises(DataError, match=r"one size, got \[\(60, 80\), \(9, 9\)\]"):
        boundary_iou(box_mask(0, 0, 5, 5), box_mask(0, 0, 5, 5, size=(9, 9)))
