import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vertinst.postprocess.chain import centroids_xy
from vertinst.postprocess.orientation import anterior_votes, find_orientation, frames, local, tangents
from vertinst.structures import Implant, Orientation, rle

SIZE = (400, 400)
RIGHT = np.array([1.0, 0.0])
TOP = np.array([0.0, -1.0])
# Tilt of S1 and L5 to L1 on an upright film, degrees by which the front end lies lower; facing right.
TILTS = (38.0, 24.0, 10.0, 2.0, -4.0, -8.0)


def standing(tilts=TILTS, spacing=50.0, start=(180.0, 330.0)):
    """Centres of a chain in which each vertebra follows along the mean of its own tilt and the one below."""
    points, place = [np.array(start)], np.array(start)
    for lower, upper in itertools.pairwise(tilts):
        lean = np.radians((lower + upper) / 2)
        place = place + spacing * np.array([np.sin(lean), -np.cos(lean)])
        points.append(place)
    return np.array(points)


def body(centre, tilt, *, depth=44.0, height=34.0, process=0.0, facing=1, front=None):
    """Outline of one body; `process` is the length of a thin part behind it, `front` its height there."""
    front = height if front is None else front
    corners = np.array([[depth, -front], [-depth, -height], [-depth, height], [depth, front]]) / 2
    if process:
        tail = np.array([[-depth / 2, -5], [-depth / 2 - process, -5], [-depth / 2 - process, 5], [-depth / 2, 5]])
        corners = np.concatenate([corners[:2], tail, corners[2:]])
    angle = np.radians(tilt)
    turned = corners @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return turned * (facing, 1) + centre


def on_film(outlines, turn=0.0, mirrored=False):
    """Masks of outlines, turned about the film's middle, and mirrored."""
    angle = np.radians(turn)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = [(outline - 200) * (-1 if mirrored else 1, 1) @ matrix.T + 200 for outline in outlines]
    return [rle.polygons_to_rle([p], SIZE) for p in points], matrix


def spine(first=0, **kwargs):
    centres = standing()
    outlines = [body(c, t, **kwargs) for c, t in zip(centres, TILTS, strict=True)][first:]
    return outlines, np.array([True, *[False] * 5])[first:]


@settings(max_examples=25, deadline=None)
@given(st.floats(-180, 180), st.booleans())
def test_front_is_found_whichever_way_the_film_lies(turn, mirrored):
    outlines, sacral = spine()
    masks, matrix = on_film(outlines, turn, mirrored)
    found = find_orientation(centroids_xy(masks), masks, sacral, [], "lateral")
    assert found.sure
    assert found.up @ matrix @ TOP > 0.95
    assert found.anterior @ matrix @ (RIGHT * (-1 if mirrored else 1)) > 0.95
    assert abs(found.up @ found.anterior) < 1e-12
    assert np.linalg.norm(found.up) == pytest.approx(1)


@pytest.mark.parametrize("mirrored", [False, True])
def test_lordosis_alone_tells_front_from_back(mirrored):
    masks, _ = on_film(spine(first=1)[0], mirrored=mirrored)
    found = find_orientation(centroids_xy(masks), masks, np.zeros(5, dtype=bool), [], "lateral")
    assert found.sure
    assert found.anterior[0] * (-1 if mirrored else 1) > 0.95


@pytest.mark.parametrize("turn", [0, 90, 180])
def test_antero_posterior_takes_the_right_of_the_head(turn):
    masks, matrix = on_film(spine()[0], turn)
    found = find_orientation(centroids_xy(masks), masks, spine()[1], [], "ap")
    assert found.sure
    assert found.anterior @ matrix @ RIGHT > 0.95


def straight(process=0.0, facing=1):
    centres = np.array([[200.0, 330 - 60 * n] for n in range(4)])
    masks, _ = on_film([body(c, 0, process=process, facing=facing) for c in centres])
    return masks, np.zeros(4, dtype=bool)


def test_a_straight_chain_tells_nothing():
    masks, sacral = straight()
    found = find_orientation(centroids_xy(masks), masks, sacral, [], "lateral")
    assert not found.sure
    np.testing.assert_allclose(found.up, TOP, atol=0.02)
    np.testing.assert_allclose(found.anterior, RIGHT, atol=0.02)


@pytest.mark.parametrize("facing", [1, -1])
def test_spinous_processes_and_metal_lie_behind(facing):
    masks, sacral = straight(process=50.0, facing=facing)
    found = find_orientation(centroids_xy(masks), masks, sacral, [], "lateral")
    assert found.sure
    assert found.anterior[0] == pytest.approx(facing, abs=0.01)
    masks, sacral = straight()
    rod = rle.polygons_to_rle([np.array([[200, 150], [208, 150], [208, 340], [200, 340]]) - (40 * facing, 0)], SIZE)
    metal = [Implant("rod", 1.0, rle.box_xyxy(rod), rod)]
    found = find_orientation(centroids_xy(masks), masks, sacral, metal, "lateral")
    assert found.sure
    assert found.anterior[0] == pytest.approx(facing, abs=0.01)
    cage = [Implant("cage", 1.0, rle.box_xyxy(rod), rod)]
    assert anterior_votes(TOP, centroids_xy(masks), masks, sacral, cage)["metal"] == 0


def test_bodies_higher_in_front_are_one_vote_of_many():
    centres = np.array([[200.0, 330 - 60 * n] for n in range(3)])
    masks, _ = on_film([body(c, 0, front=42) for c in centres])
    votes = anterior_votes(TOP, centroids_xy(masks), masks, np.array([True, False, False]), [])
    assert 0.3 < votes["wedge"] <= 0.8


def test_nothing_has_no_orientation():
    assert find_orientation(np.zeros((0, 2)), [], np.zeros(0, dtype=bool), [], "lateral") is None


@pytest.mark.parametrize("turn", [0, 30, -30])
def test_one_body_lies_along_its_short_axis(turn):
    masks, matrix = on_film([body(np.array([200.0, 200.0]), 0)], turn)
    found = find_orientation(centroids_xy(masks), masks, np.array([False]), [], "lateral")
    assert not found.sure
    assert found.up @ matrix @ TOP > 0.999


def test_one_sacrum_lies_along_its_long_axis_and_a_square_along_the_film():
    masks, matrix = on_film([body(np.array([200.0, 200.0]), 0, depth=40, height=100)], 25)
    assert find_orientation(centroids_xy(masks), masks, np.array([True]), [], "lateral").up @ matrix @ TOP > 0.999
    dot = np.zeros(SIZE, dtype=bool)
    dot[100, 100] = True
    masks = [rle.encode(dot)]
    assert find_orientation(centroids_xy(masks), masks, np.array([True]), [], "lateral").up.tolist() == TOP.tolist()
    dot[90:110, 92:111] = True
    masks = [rle.encode(dot)]
    assert find_orientation(centroids_xy(masks), masks, np.array([True]), [], "lateral").up @ TOP > 0.99


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_sacrum_leans_forward_on_an_upright_film_but_that_is_not_sure(mirrored):
    masks, _ = on_film(spine()[0][:2], mirrored=mirrored)
    found = find_orientation(centroids_xy(masks), masks, np.array([True, False]), [], "lateral")
    assert not found.sure
    assert found.anterior[0] * (-1 if mirrored else 1) > 0.8


@pytest.mark.parametrize("mirrored", [False, True])
def test_frames_follow_the_curve(mirrored):
    masks, _ = on_film(spine()[0], mirrored=mirrored)
    centres = centroids_xy(masks)
    whole = find_orientation(centres, masks, spine()[1], [], "lateral")
    found = frames(whole, centres)
    tilts = [np.degrees(np.arctan2(f.anterior[1], abs(f.anterior[0]))) for f in found]
    np.testing.assert_allclose(tilts, TILTS, atol=4)
    for index, frame in enumerate(found):
        assert frame.sure
        assert frame.anterior @ whole.anterior > 0
        np.testing.assert_array_equal(local(whole, centres, index).up, frame.up)


def test_tangents_of_few_and_of_equal_points():
    np.testing.assert_array_equal(tangents(np.zeros((1, 2)), TOP), [TOP])
    np.testing.assert_allclose(tangents(np.array([[0.0, 0], [10, 0]]), TOP), [RIGHT, RIGHT], atol=1e-12)
    np.testing.assert_allclose(tangents(np.zeros((3, 2)), TOP), [TOP] * 3)
    assert frames(Orientation(TOP, RIGHT), np.zeros((0, 2))) == ()


def test_equal_centres_still_have_an_orientation():
    masks, _ = on_film([body(np.array([200.0, 200.0]), 0)] * 2)
    assert find_orientation(centroids_xy(masks), masks, np.array([False, False]), [], "lateral").up @ TOP > 0.99
