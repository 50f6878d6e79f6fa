from dataclasses import replace

import numpy as np
import pytest

from vertinst.postprocess import endplates
from vertinst.postprocess.endplates import hollow_middles
from vertinst.postprocess.morphometry import cobb, measure
from vertinst.structures import Orientation, Scale, Spine, Vertebra, rle
from vertinst.structures.spine import are_neighbours

SIZE = (500, 400)
RIGHT = Orientation(np.array([0.0, -1]), np.array([1.0, 0]))
LEVELS = ("S1", "L5", "L4", "L3", "L2", "L1")
TILTS = (40.0, 25.0, 12.0, 4.0, -4.0, -10.0)


def corners_of(place, tilt, *, x=200.0, facing=1, front=32.0):
    angle = np.radians(tilt)
    shape = np.array([[22.0, 16 - front], [-22, -16], [-22, 16], [22, 16]])
    turned = shape @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return turned * (facing, 1) + (x, 440 - 70 * place)


@pytest.fixture
def spine(monkeypatch):
    """Makes spines whose corners are known: those of the outlines that their masks were drawn from."""
    known = {}

    def find(mask, orientation, *, sacral=False, count=16, seed=0):
        corners = known.get(mask["counts"])
        noise = np.random.default_rng(seed).normal(0, 0.5, (count, 4, 2))
        return None if corners is None else (corners, corners + noise)

    monkeypatch.setattr(endplates, "corners_with_samples", find)

    def make(all_corners, levels=LEVELS, *, orientation=RIGHT, **kwargs):
        vertebrae = []
        for level, corners in zip(levels, all_corners, strict=True):
            mask = rle.polygons_to_rle([corners], SIZE)
            known[mask["counts"]] = corners
            category = "sacral" if level.startswith("S") else "lumbar"
            vertebrae.append(Vertebra(level, category, 0.9, rle.box_xyxy(mask), mask))
        return Spine(SIZE, tuple(vertebrae), orientation=orientation, **kwargs)

    return make


def all_corners(**kwargs):
    return [corners_of(i, tilt, **kwargs) for i, tilt in enumerate(TILTS)]


def test_known_spine_facing_right_and_left(spine):
    right = measure(spine(all_corners()))
    left = measure(spine(all_corners(facing=-1), orientation=Orientation(RIGHT.up, -RIGHT.anterior)))
    for found in (right, left):
        assert found.values["lordosis_L1_S1_deg"].value == pytest.approx(50)
        assert found.values["lordosis_L4_S1_deg"].value == pytest.approx(28)
        assert found.values["sacral_slope_deg"].value == pytest.approx(40)
        assert [disc.name for disc in found.discs] == ["L5/S1", "L4/5", "L3/4", "L2/3", "L1/2"]
        assert found.discs[0].values["segment_deg"].value == pytest.approx(15)
        assert found.vertebrae[1].body.values["wedge_deg"].value == pytest.approx(0, abs=1e-9)
        assert found.flags == ()
    for one, other in zip(right.discs, left.discs, strict=True):
        assert one.values["slip_percent"].value == pytest.approx(other.values["slip_percent"].value)
        assert one.values["height_anterior_px"].value == pytest.approx(other.values["height_anterior_px"].value)


def test_every_value_has_its_uncertainty(spine):
    found = measure(spine(all_corners()))
    for values in (found.values, *(d.values for d in found.discs), *(v.body.values for v in found.vertebrae)):
        assert all(measure_.sd > 0 for measure_ in values.values())
    # Corners move by 0.5 px each: an endplate of 44 px turns by 0.92 degrees, two of them by 1.3.
    assert 0.8 < found.values["lordosis_L1_S1_deg"].sd < 1.9
    np.testing.assert_allclose(found.vertebrae[1].body.corners_sd_px, 0.7, atol=0.25)
    once = measure(spine(all_corners()), samples=0)
    assert once.values["lordosis_L1_S1_deg"] == (pytest.approx(50), None)
    assert once.vertebrae[0].body.corners_sd_px.tolist() == [0, 0, 0, 0]


def test_sacral_parts_have_no_heights(spine):
    found = measure(spine(all_corners()))
    assert set(found.vertebrae[0].body.values) == {"depth_superior_px", "tilt_deg"}
    assert found.vertebrae[0].body.grades == {}
    levels = ("S2", "S1", "L5", "L4", "L3", "L2")
    assert measure(spine(all_corners(), levels)).discs[0].name == "L5/S1"


def test_millimetres_only_with_a_scale(spine):
    plain = measure(spine(all_corners()))
    scaled = measure(spine(all_corners(), scale=Scale(0.2, 0.2, "stated")))
    assert not any("_mm" in name for v in plain.vertebrae for name in v.body.values)
    body = scaled.vertebrae[2].body.values
    assert body["height_posterior_mm"].value == pytest.approx(32 * 0.2)
    assert body["height_posterior_mm"].sd == pytest.approx(body["height_posterior_px"].sd * 0.2)
    disc = scaled.discs[1].values
    assert disc["height_anterior_mm"].value == pytest.approx(disc["height_anterior_px"].value * 0.2)


def test_pixels_that_are_not_square(spine):
    squeezed = [corners * (0.5, 1) for corners in all_corners()]
    found = measure(spine(squeezed, scale=Scale(0.2, 0.4, "stated")))
    assert found.values["lordosis_L1_S1_deg"].value == pytest.approx(50)
    assert found.vertebrae[3].body.values["depth_superior_mm"].value == pytest.approx(44 * 0.2)
    np.testing.assert_array_equal(found.vertebrae[3].body.corners_px, squeezed[3])


def test_missing_levels_are_not_bridged(spine):
    corners = all_corners()
    found = measure(spine([corners[i] for i in (1, 2, 4, 5)], ("L5", "L4", "L2", "L1")))
    assert [disc.name for disc in found.discs] == ["L4/5", "L1/2"]
    assert found.values == {}
    assert "crush_ratio" in found.vertebrae[0].body.values


def test_sixth_lumbar_and_relative_levels(spine):
    found = measure(spine(all_corners()[:4], ("S1", "L6", "L5", "L4")))
    assert [disc.name for disc in found.discs] == ["L6/S1", "L5/6", "L4/5"]
    found = measure(spine(all_corners()[1:4], ("+1", "+2", "+4")))
    assert [(disc.lower, disc.upper) for disc in found.discs] == [("+1", "+2")]


@pytest.mark.parametrize(
    ("lower", "upper", "expected"),
    [
        ("L5", "L4", True),
        ("L4", "L5", False),
        ("S1", "L5", True),
        ("S1", "L6", True),
        ("L6", "L5", True),
        ("L1", "T13", True),
        ("T13", "T12", True),
        ("T13", "T11", False),
        ("+1", "+2", True),
        ("+9", "+10", True),
        ("+2", "+1", False),
        ("S1", "+1", False),
    ],
)
def test_neighbours(lower, upper, expected):
    assert are_neighbours(lower, upper) is expected


def test_grades_of_a_fracture_and_a_slip(spine):
    corners = all_corners()
    corners[3] = corners_of(3, TILTS[3], front=22)
    corners[4:] = [np.add(c, (24, 0)) for c in corners[4:]]
    found = measure(spine(corners))
    assert found.vertebrae[3].body.values["wedge_ratio"].value == pytest.approx(22 / 32)
    assert [v.body.grades["genant_grade"] for v in found.vertebrae[1:]] == [0, 0, 2, 0, 0]
    assert found.discs[3].values["slip_percent"].value > 25
    assert found.discs[3].grades == {"meyerding_grade": 2}


def test_a_crushed_body_is_compared_with_its_neighbours(spine):
    corners = all_corners()
    corners[3] = (corners[3] - corners[3].mean(axis=0)) * (1, 0.55) + corners[3].mean(axis=0)
    found = measure(spine(corners))
    assert found.vertebrae[3].body.values["crush_ratio"].value == pytest.approx(0.55, abs=0.02)
    assert found.vertebrae[3].body.grades["genant_grade"] == 3
    assert found.vertebrae[2].body.values["crush_ratio"].value > 1.2


def test_values_that_hang_on_cut_corners_are_left_out(spine):
    # All fronts but that of L5 lie on the film's right edge.
    x = [SIZE[1] - 23.0, 200.0, *[SIZE[1] - 23.0] * 4]
    found = measure(spine([corners_of(i, 0, x=x[i]) for i in range(6)]))
    body = found.vertebrae[3].body
    np.testing.assert_array_equal(body.corners_px, corners_of(3, 0, x=x[3]))
    assert set(body.values) == {"height_posterior_px", "crush_ratio"}
    assert "tilt_deg" in found.vertebrae[1].body.values
    assert [(disc.name, set(disc.values)) for disc in found.discs] == [("L4/5", {"slip_percent"})]
    assert found.values == {}


def test_a_body_without_corners_is_passed_over(spine):
    made = spine(all_corners())
    lost = rle.encode(np.eye(*SIZE, dtype=bool))
    vertebrae = list(made.vertebrae)
    vertebrae[2] = replace(vertebrae[2], mask=lost)
    found = measure(replace(made, vertebrae=tuple(vertebrae)))
    assert found.vertebrae[2].body is None
    assert [disc.name for disc in found.discs] == ["L5/S1", "L2/3", "L1/2"]
    assert "lordosis_L1_S1_deg" in found.values


def test_largest_cobb_angle_on_antero_posterior_films(spine):
    tilts = (0.0, 14.0, 9.0, 0.0, -16.0, -3.0)
    corners = [corners_of(i, t) for i, t in enumerate(tilts)]
    found = measure(spine(corners, view="ap"))
    assert found.values["cobb_max_deg"].value == pytest.approx(30)
    assert found.values["cobb_L2_L5_deg"] == found.values["cobb_max_deg"]
    assert set(found.values) == {"cobb_max_deg", "cobb_L2_L5_deg"}
    assert "slip_percent" not in found.discs[0].values
    assert found.vertebrae[1].body.grades == {}
    # Heights are false there: rays run along the tilted endplates.
    seen = {*found.discs[0].values, *found.vertebrae[1].body.values}
    assert seen == {"depth_superior_px", "depth_inferior_px", "wedge_deg", "tilt_deg", "segment_deg"}
    mirrored = measure(spine([c * (-1, 1) + (SIZE[1], 0) for c in corners], view="ap"))
    assert mirrored.values["cobb_max_deg"].value == pytest.approx(30)


def test_cobb_between_any_two_levels(spine):
    made = spine(all_corners())
    assert cobb(made, "L1", "L4").value == pytest.approx(22)
    assert cobb(made, "L1", "L4").sd > 0
    assert cobb(made, "L1", "L4", samples=0).sd is None
    assert cobb(made, "T12", "L4") is None
    assert cobb(replace(made, orientation=None), "L1", "L4") is None


def test_side_unsure_is_said_once(spine):
    unsure = Orientation(RIGHT.up, RIGHT.anterior, sure=False)
    found = measure(spine(all_corners(), orientation=unsure, flags=("no_sacrum",)))
    assert found.flags == ("no_sacrum", "side_unsure")
    assert measure(found).flags == found.flags
    assert measure(replace(found, flags=(), view="ap")).flags == ()


def test_nothing_and_one(spine):
    nothing = measure(Spine(SIZE))
    assert (nothing.vertebrae, nothing.discs, nothing.values) == ((), (), {})
    for view, name, size in (("lateral", "height_posterior_px", 32), ("ap", "depth_superior_px", 44)):
        one = measure(spine(all_corners()[2:3], ("L4",), view=view))
        assert one.vertebrae[0].body.values[name].value == pytest.approx(size)
        assert "crush_ratio" not in one.vertebrae[0].body.values
        assert one.discs == ()
        assert one.values == {}


def drawn(hollow_px):
    """A body of 60 x 50 px whose endplates sink in like parabolas; below 0 they bulge."""
    mask = np.zeros((120, 120), dtype=bool)
    columns = np.arange(30, 90)
    dips = np.round(hollow_px * (1 - ((columns - 59.5) / 30) ** 2)).astype(int)
    for column, dip in zip(columns, dips, strict=True):
        mask[40 + dip : 90 - dip, column] = True
    return mask


def test_hollow_endplates_are_measured_on_the_mask():
    corners = np.array([[90.0, 40], [30, 40], [30, 90], [90, 90]])
    mask = drawn(8)
    np.testing.assert_allclose(hollow_middles(rle.encode(mask), corners), [[60, 48], [60, 82]], atol=1)
    mask[62:68, 55:65] = False
    np.testing.assert_allclose(hollow_middles(rle.encode(mask), corners), [[60, 48], [60, 82]], atol=1)


def test_waves_make_no_endplate_hollow():
    corners = np.array([[90.0, 40], [30, 40], [30, 90], [90, 90]])
    ends = [hollow_middles(rle.encode(drawn(1)), corners), hollow_middles(rle.encode(drawn(8)), corners)]
    np.testing.assert_allclose(ends, [[[60, 40], [60, 90]], [[60, 48], [60, 82]]], atol=1)
    assert ends[0][0, 1] < 40.3


@pytest.mark.parametrize("mask", [drawn(0), drawn(-6), np.ones((120, 120), dtype=bool)])
def test_flat_and_bulging_endplates_are_not_hollow(mask):
    corners = np.array([[90.0, 40], [30, 40], [30, 90], [90, 90]])
    np.testing.assert_allclose(hollow_middles(rle.encode(mask), corners), [[60, 40], [60, 90]], atol=0.1)


@pytest.mark.parametrize("turn", [0, 1, 2, 3])
def test_from_masks_alone(turn):
    """With the corners that are found, on a film lying any way."""
    matrix = np.linalg.matrix_power(np.array([[0, 1], [-1, 0]]), turn)
    vertebrae = []
    for level, corners in zip(LEVELS, all_corners(), strict=True):
        points = (corners - (200, 250)) @ matrix + (250, 250)
        mask = rle.polygons_to_rle([points], (500, 500))
        vertebrae.append(Vertebra(level, "sacral" if level == "S1" else "lumbar", 0.9, rle.box_xyxy(mask), mask))
    frame = Orientation(RIGHT.up @ matrix, RIGHT.anterior @ matrix)
    found = measure(Spine((500, 500), tuple(vertebrae), orientation=frame))
    assert found.values["lordosis_L1_S1_deg"].value == pytest.approx(50, abs=2.5)
    assert found.values["sacral_slope_deg"].value == pytest.approx(40, abs=2.5)
    assert found.vertebrae[2].body.values["height_posterior_px"].value == pytest.approx(32, abs=2)
