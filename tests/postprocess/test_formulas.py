import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vertinst.data.phantom_changes import slip_percent as slip_of_phantoms
from vertinst.data.phantom_truth import lordosis_deg as lordosis_of_phantoms
from vertinst.postprocess.formulas import (
    body_values,
    cobb_deg,
    disc_heights_px,
    disc_values,
    genant_grade,
    lordosis_deg,
    meyerding_grade,
    side_of,
    slip_percent,
    tilt_deg,
)
from vertinst.structures import Orientation

SQUARE = np.array([[20.0, -15], [-20, -15], [-20, 15], [20, 15]])
UPRIGHT = Orientation(np.array([0.0, -1]), np.array([1.0, 0]))


def turned(points, angle_deg):
    """Points turned so that the anterior end comes down by so many degrees on a film facing right."""
    angle = np.radians(angle_deg)
    return points @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])


def middles(corners):
    return (corners[..., 0, :] + corners[..., 1, :]) / 2, (corners[..., 2, :] + corners[..., 3, :]) / 2


shapes = st.lists(st.floats(-4, 4), min_size=16, max_size=16).map(
    lambda v: np.stack([SQUARE + np.array([3, -40]), turned(SQUARE, 15)]) + np.reshape(v, (2, 4, 2))
)


def all_values(pair, side):
    upper, lower = pair
    values = disc_values(upper, lower, middles(upper)[1], middles(lower)[0], side)
    return {f"disc_{k}": v for k, v in values.items()} | body_values(upper, *middles(upper), side)


@settings(max_examples=30, deadline=None)
@given(shapes, st.floats(-180, 180), st.floats(0.2, 5))
def test_values_do_not_depend_on_how_the_film_lies_and_lengths_scale(pair, turn, scale):
    before = all_values(pair, 1)
    after = all_values(turned(pair, turn) * scale + (300, 80), 1)
    for name, value in before.items():
        assert after[name] == pytest.approx(value * (scale if name.endswith("_px") else 1), abs=1e-6), name


@settings(max_examples=30, deadline=None)
@given(shapes)
def test_a_mirrored_film_gives_the_same(pair):
    before, after = all_values(pair, 1), all_values(pair * (-1, 1), -1)
    for name, value in before.items():
        assert after[name] == pytest.approx(value, abs=1e-9), name


@settings(max_examples=30, deadline=None)
@given(shapes, st.sampled_from([1, -1]))
def test_definitions_are_those_of_the_phantoms(pair, facing):
    upper, lower = pair * (facing, 1)
    assert lordosis_deg(upper, lower, facing) == pytest.approx(lordosis_of_phantoms(upper, lower))
    assert slip_percent(upper, lower) == pytest.approx(slip_of_phantoms(upper, lower))


@pytest.mark.parametrize("angle", [-30.0, 0.0, 42.0])
def test_known_angles(angle):
    lower = turned(SQUARE, angle)
    assert lordosis_deg(SQUARE, lower, 1) == pytest.approx(angle)
    assert cobb_deg(SQUARE, lower) == pytest.approx(abs(angle))
    assert tilt_deg(lower, UPRIGHT) == pytest.approx(angle)
    left = Orientation(UPRIGHT.up, -UPRIGHT.anterior)
    assert tilt_deg(lower * (-1, 1), left) == pytest.approx(angle)


@pytest.mark.parametrize("quarters", range(4))
def test_slope_is_that_of_the_film_with_the_head_up(quarters):
    corners = turned(turned(SQUARE, 35), 90 * quarters)
    frame = Orientation(*(turned(v, 90 * quarters + 12) for v in (UPRIGHT.up, UPRIGHT.anterior)))
    assert tilt_deg(corners, frame) == pytest.approx(35)
    assert side_of(frame) == 1


def test_known_disc():
    upper, lower = SQUARE + np.array([6, -42]), SQUARE
    np.testing.assert_allclose(disc_heights_px(upper, lower, middles(upper)[1], middles(lower)[0], 1), [12, 12, 12])
    values = all_values((upper, lower), 1)
    assert values["disc_height_ratio"] == pytest.approx(12 / 40)
    assert values["disc_slip_percent"] == pytest.approx(15)
    assert values["disc_wedge_deg"] == 0
    # 10 degrees open to the front: perpendicular to the bisector both ends lie as far as their sines say.
    lower = turned(SQUARE + np.array([0, 15]), 10) + np.array([0, 10])
    upper = SQUARE - (0, 15)
    heights = disc_heights_px(upper, lower, middles(upper)[1], middles(lower)[0], 1)
    assert heights[1] == pytest.approx(10 * np.cos(np.radians(5)))
    assert heights[0] - heights[2] == pytest.approx(80 * np.sin(np.radians(5)))


def test_overlapping_bodies_have_a_height_below_zero():
    upper = SQUARE + np.array([0, -28])
    np.testing.assert_allclose(disc_heights_px(upper, SQUARE, middles(upper)[1], middles(SQUARE)[0], 1), [-2, -2, -2])


def test_known_body():
    wedge = np.array([[20.0, -9], [-20, -15], [-20, 15], [20, 9]])
    values = body_values(wedge, np.array([0, -10.5]), np.array([0, 10.5]), 1)
    assert values["height_anterior_px"] == 18
    assert values["height_posterior_px"] == 30
    assert values["wedge_ratio"] == pytest.approx(0.6)
    assert values["biconcave_ratio"] == pytest.approx(0.7)
    assert values["wedge_deg"] == pytest.approx(-2 * np.degrees(np.arctan2(6, 40)))
    assert values["depth_superior_px"] == pytest.approx(np.hypot(40, 6))


def test_unknown_corners_leave_only_what_does_not_depend_on_them():
    corners = SQUARE.copy()
    corners[3] = np.nan
    values = body_values(corners, *middles(corners), 1)
    known = {name for name, value in values.items() if np.isfinite(value)}
    assert known == {"height_posterior_px", "depth_superior_px"}


@settings(max_examples=30, deadline=None)
@given(shapes)
def test_many_at_once_are_one_by_one(pair):
    many = np.stack([pair, pair * 2, pair + 1])
    upper, lower = many[:, 0], many[:, 1]
    together = disc_values(upper, lower, middles(upper)[1], middles(lower)[0], 1)
    for place in range(3):
        alone = all_values(many[place], 1)
        for name, value in together.items():
            assert value[place] == pytest.approx(alone[f"disc_{name}"])


@pytest.mark.parametrize(("loss", "grade"), [(-0.1, 0), (0.19, 0), (0.2, 1), (0.25, 1), (0.26, 2), (0.4, 2), (0.41, 3)])
def test_genant(loss, grade):
    assert genant_grade(loss) == grade


@pytest.mark.parametrize(
    ("slip", "grade"), [(0, 0), (8, 0), (8.1, 1), (-12, 1), (25, 1), (26, 2), (51, 3), (76, 4), (100, 4), (101, 5)]
)
def test_meyerding(slip, grade):
    assert meyerding_grade(slip) == grade
