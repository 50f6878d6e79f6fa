import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vertinst.postprocess.chain import along, centroid_xy, centroids_xy, extent_along, spacings_px, spine_axis
from vertinst.structures import rle

masks = st.tuples(st.integers(1, 7), st.integers(1, 7)).flatmap(lambda shape: arrays(bool, shape))


@settings(max_examples=80, deadline=None)
@given(masks)
def test_centroid_on_runs_is_that_of_the_pixels(mask):
    rows, columns = np.nonzero(mask)
    centroid = centroid_xy(rle.encode(mask))
    if mask.any():
        np.testing.assert_allclose(centroid, [columns.mean() + 0.5, rows.mean() + 0.5])
    else:
        assert np.isnan(centroid).all()


def test_nothing_has_default_axis_and_no_spacing():
    assert centroids_xy([]).shape == (0, 2)
    np.testing.assert_array_equal(spine_axis(np.zeros((0, 2))), [0, 1])
    np.testing.assert_array_equal(spine_axis(np.full((3, 2), 4.0)), [0, 1])
    assert spacings_px(np.zeros((0, 2))).shape == (0,)
    assert spacings_px(np.zeros((1, 2))).shape == (0,)


@pytest.mark.parametrize("angle_deg", [0, 37, 90, 120])
def test_axis_of_a_straight_chain(angle_deg):
    direction = np.array([np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))])
    axis = spine_axis(np.arange(5)[:, None] * 10 * direction)
    assert abs(axis @ direction) == pytest.approx(1)


def test_one_detection_far_off_does_not_turn_the_axis():
    chain = np.stack([np.zeros(7), np.arange(7) * 60.0], axis=1)
    near = spine_axis(np.vstack([chain, [100, 180]]))
    far = spine_axis(np.vstack([chain, [5000, 180]]))
    assert abs(near[1]) > 0.9
    assert abs(far[1]) > 0.9


def test_positions_and_extent():
    mask = np.zeros((10, 10), dtype=bool)
    mask[2:5, 3:9] = True
    low, high = extent_along(rle.encode(mask), np.array([1.0, 0.0]))
    assert low == pytest.approx(3, abs=0.3)
    assert high == pytest.approx(9, abs=0.3)
    np.testing.assert_array_equal(along(np.array([[1.0, 2.0]]), np.array([0.0, 1.0])), [2])
