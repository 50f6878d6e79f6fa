import numpy as np
import pytest
from shapely import Polygon

from vertinst.data import phantom_changes as changes
from vertinst.data.phantom import PhantomStyle, draw_patient
from vertinst.data.phantom_solids import body_slices
from vertinst.errors import DataError

ANATOMIES = [draw_patient(seed, 1, PhantomStyle()).anatomy for seed in range(6)]


def heights_of_discs(anatomy, without=()):
    levels = changes.column(anatomy)[1:]
    return {level: changes.disc_heights(anatomy, level) for level in levels if level not in without}


def heights_of_bodies(anatomy, without=()):
    return {k: changes.heights(v) for k, v in anatomy.vertebrae.items() if k not in without}


def assert_same(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value == pytest.approx(expected[name], abs=tolerance)


def test_slip_is_counted_along_the_endplate_below_and_positive_towards_the_front():
    lower = np.array([[40.0, 10.0], [0.0, 10.0], [0.0, 40.0], [40.0, 40.0]])
    upper = np.array([[50.0, -30.0], [10.0, -30.0], [10.0, 0.0], [50.0, 0.0]])
    assert changes.slip_percent(upper, lower) == pytest.approx(25)
    assert changes.slip_percent(upper * (-1, 1), lower * (-1, 1)) == pytest.approx(25)
    turn = np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    assert changes.slip_percent(upper @ turn.T, lower @ turn.T) == pytest.approx(25)
    assert changes.slip_percent(upper - (20, 0), lower) == pytest.approx(-25)


@pytest.mark.parametrize("anatomy", ANATOMIES[:3])
def test_a_slip_moves_everything_above_and_nothing_else(anatomy):
    after = changes.slip(anatomy, "L4", 30.0)
    assert changes.slip_of(after, "L4") == pytest.approx(30, abs=1e-9)
    assert_same(heights_of_discs(after), heights_of_discs(anatomy), 1e-9)
    for level in ("L5", "S1", "S2"):
        assert after.vertebrae[level] is anatomy.vertebrae[level]
    for level in ("L3", "T12", "T9"):
        assert changes.slip_of(after, level) == pytest.approx(changes.slip_of(anatomy, level))
    depth = np.linalg.norm(np.subtract(*changes.corners(anatomy.vertebrae["L5"])[:2]))
    way = after.vertebrae["T9"].frame.origin - anatomy.vertebrae["T9"].frame.origin
    assert np.linalg.norm(way) == pytest.approx((30 - changes.slip_of(anatomy, "L4")) / 100 * depth)


@pytest.mark.parametrize("anatomy", ANATOMIES[:3])
@pytest.mark.parametrize("factor", [0.3, 0.7])
def test_a_narrowed_disc_keeps_its_share_of_height_and_the_slip(anatomy, factor):
    after = changes.narrow(anatomy, "L3", factor)
    for left, was in zip(changes.disc_heights(after, "L3"), changes.disc_heights(anatomy, "L3"), strict=True):
        assert left == pytest.approx(factor * was, abs=0.25)
    assert_same(heights_of_discs(after, ["L3"]), heights_of_discs(anatomy, ["L3"]), 1e-9)
    assert_same(heights_of_bodies(after), heights_of_bodies(anatomy), 1e-9)
    assert changes.slip_of(after, "L3") == pytest.approx(changes.slip_of(anatomy, "L3"), abs=0.01)


@pytest.mark.parametrize("anatomy", ANATOMIES)
@pytest.mark.parametrize(
    ("kind", "left"),
    [("wedge", (0.6, 0.8, 1.0)), ("biconcave", (1.0, 0.6, 1.0)), ("crush", (0.6, 0.6, 0.6))],
)
def test_a_fracture_takes_the_height_that_names_it(anatomy, kind, left):
    after = changes.fracture(anatomy, "L2", kind, 0.4)
    was, now = (changes.heights(a.vertebrae["L2"]) for a in (anatomy, after))
    for part, share in zip(("anterior", "middle", "posterior"), left, strict=True):
        assert now[part] == pytest.approx(share * was[part], abs=0.9)
    assert now[changes.FRACTURES[kind]] == pytest.approx(0.6 * was[changes.FRACTURES[kind]], abs=0.5)
    # What stood on it stands on it as before; its inferior endplate and all below have not moved.
    assert_same(heights_of_discs(after), heights_of_discs(anatomy), 0.3)
    assert_same(heights_of_bodies(after, ["L2"]), heights_of_bodies(anatomy, ["L2"]), 1e-9)
    np.testing.assert_allclose(
        changes.corners(after.vertebrae["L2"])[2:], changes.corners(anatomy.vertebrae["L2"])[2:], atol=0.6
    )
    assert after.vertebrae["L3"] is anatomy.vertebrae["L3"]


def test_a_wedge_bends_the_spine_forward_by_its_angle():
    anatomy = ANATOMIES[0]
    after = changes.fracture(anatomy, "L1", "wedge", 0.4)
    lost = anatomy.vertebrae["L1"].shape.wedge_deg - after.vertebrae["L1"].shape.wedge_deg
    assert lost > 10
    assert after.vertebrae["T12"].tilt_deg - anatomy.vertebrae["T12"].tilt_deg == pytest.approx(lost, abs=0.1)
    assert after.vertebrae["T9"].frame.origin[0] > anatomy.vertebrae["T9"].frame.origin[0] + 10


def test_the_highest_vertebra_may_break():
    after = changes.fracture(ANATOMIES[0], "T9", "crush", 0.3)
    assert changes.heights(after.vertebrae["T9"])["middle"] < changes.heights(ANATOMIES[0].vertebrae["T9"])["middle"]


def test_a_biconcave_body_is_hollow_in_the_silhouette_and_a_bowl_is_not():
    anatomy = ANATOMIES[1]
    after = changes.fracture(anatomy, "L3", "biconcave", 0.4)
    thickness = []
    for vertebra in (anatomy.vertebrae["L3"], after.vertebrae["L3"]):
        outlines = [Polygon(outline) for outline in body_slices(vertebra.shape, 15)[..., :2]]
        middle = [
            np.abs(np.array(o.exterior.coords)[np.abs(np.array(o.exterior.coords)[:, 0]) < 3, 1]) for o in outlines
        ]
        thickness.append(2 * np.median([values.max() for values in middle]))
        assert all(outline.is_valid for outline in outlines)
    assert thickness[1] == pytest.approx(thickness[0] - sum(after.vertebrae["L3"].shape.collapse_mm), abs=2.5)


def test_an_unknown_fracture_is_refused():
    with pytest.raises(DataError, match="kind must be one of wedge, biconcave, crush, got split"):
        changes.fracture(ANATOMIES[0], "L1", "split", 0.3)
