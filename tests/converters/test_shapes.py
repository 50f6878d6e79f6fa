"""Shapes of VIA become masks; what cannot is refused with its reason."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from vertinst.converters import via
from vertinst.converters._draw import check_line_width, draw
from vertinst.converters._shapes import RegionFault, place, trace
from vertinst.errors import ConfigError
from vertinst.structures import rle
from vertinst.structures.conversion import ReadOptions

SIZE = (60, 80)


def line(xs, ys):
    return {"name": "polyline", "all_points_x": xs, "all_points_y": ys}


def polygon(xs, ys):
    return {"name": "polygon", "all_points_x": xs, "all_points_y": ys}


@pytest.mark.parametrize(
    ("xs", "ys", "box"), [([10, 50], [20, 20], [10, 17, 50, 23]), ([30, 30], [5, 9], [27, 5, 33, 9])]
)
def test_a_line_is_as_wide_as_asked_and_ends_flat(xs, ys, box):
    mask, repairs = draw(line(xs, ys), SIZE, 6)
    assert repairs == ()
    assert rle.box_xyxy(mask).tolist() == box
    assert rle.area(mask) == (box[2] - box[0]) * (box[3] - box[1])


def test_a_bend_is_round():
    mask = rle.decode(draw(line([10, 40, 40], [20, 20, 50]), SIZE, 10)[0])
    assert mask[21, 12]
    assert mask[48, 38]
    assert mask[17, 41]
    # The outer corner of a mitre, which the round bend leaves out.
    assert not mask[15, 44]


def test_a_line_drawn_to_its_start_is_a_ring_not_a_disc():
    mask = rle.decode(draw(line([10, 50, 50, 10, 10], [10, 10, 50, 50, 10]), SIZE, 4)[0])
    assert mask[10, 30]
    assert not mask[30, 30]


def test_a_line_that_crosses_itself_is_filled_once():
    mask, repairs = draw(line([10, 50, 50, 10], [10, 50, 10, 50]), SIZE, 4)
    assert rle.decode(mask)[30, 30]
    assert repairs == ()


def test_a_line_partly_outside_is_cut_off_and_reported():
    mask, repairs = draw(line([-20, 20], [30, 30]), SIZE, 4)
    assert rle.box_xyxy(mask).tolist() == [0, 28, 20, 32]
    assert repairs == ("lies partly outside of the film: cut off at its edge",)


@pytest.mark.parametrize(
    ("shape", "width", "reason"),
    [
        (line([1, 9], [1, 9]), None, "an open line has no area: give --line-width"),
        (line([5, 5, 5], [7, 7, 7]), 3, "at least two different points"),
        (line([5], [7]), 3, "at least two different points"),
        (line([], []), 3, "at least two different points"),
        (line([1, 2], [1]), 3, "as many x as y, got 2 and 1"),
        (line([1, "2"], [1, 2]), 3, "all_points_x must be numbers"),
        (line([1, float("nan")], [1, 2]), 3, "all_points_x must be finite"),
        (line([1, 1e9], [1, 2]), 3, "coordinates must be finite and at most 100000 px"),
        ({"name": "polyline"}, 3, "all_points_x must be numbers"),
        (line([100, 200], [10, 10]), 3, "wholly outside of the film"),
        (line([10, 10.01], [10.1, 10.1]), 0.01, "covers no pixel of the film"),
        (line(list(range(1_001)), [1] * 1_001), 3, "line must have at most 1000 points, got 1001"),
        (line([-90_000, 90_000] * 30, list(range(60))), 3, "outline must be at most 2000000 px long"),
    ],
)
def test_unusable_lines_are_refused(shape, width, reason):
    with pytest.raises(RegionFault, match=reason):
        draw(shape, SIZE, width)


def star(points, turns):
    angles = np.arange(points) * 2 * np.pi * turns / points
    return (40 + 25 * np.cos(angles)).tolist(), (30 + 25 * np.sin(angles)).tolist()


def test_a_few_crossings_are_untangled_and_a_web_of_them_is_filled_as_drawn():
    few, found = draw(polygon(*star(15, 7)), SIZE)
    assert "kept as 46 valid parts" in found[0]
    web, found = draw(polygon(*star(301, 150)), SIZE)
    assert found == ("outline crosses itself in too many places to be untangled: filled as drawn",)
    assert rle.area(few) > 0
    assert rle.area(web) > 0
    with pytest.raises(RegionFault, match="line crosses itself in too many places"):
        draw(line(*star(301, 150)), SIZE, 1)


@pytest.mark.parametrize("points", [200, 5000])
def test_an_outline_traced_twice_is_the_outline(points):
    xs, ys = star(points, 1)
    mask, repairs = draw(polygon(xs + xs, ys + ys), SIZE)
    assert repairs == ("outline crosses or touches itself: kept as 1 valid part",)
    assert mask == draw(polygon(xs, ys), SIZE)[0]


@pytest.mark.parametrize("width", [0, -1, float("nan"), float("inf"), 10_001])
def test_impossible_line_widths_are_refused(tmp_path, width):
    with pytest.raises(ConfigError, match=r"line width must be above 0 and at most 10000 px"):
        check_line_width(width)
    path = tmp_path / "via.json"
    path.write_text('{"a": {"filename": "a.png", "regions": []}}')
    with pytest.raises(ConfigError, match="line width"):
        via.read([path], tmp_path, ReadOptions(line_width_px=width))


@pytest.mark.parametrize("width", [None, 0.5, 10_000])
def test_possible_line_widths(width):
    check_line_width(width)


coordinates = st.integers(5, 55)
bent = st.lists(st.tuples(coordinates, coordinates), min_size=2, max_size=6, unique=True)


@settings(max_examples=60, deadline=None)
@given(points=bent, width=st.floats(3, 12))
def test_the_mask_of_a_line_is_what_lies_within_half_its_width(points, width):
    xs, ys = (list(c) for c in zip(*points, strict=True))
    mask = rle.decode(draw(line(xs, ys), SIZE, width)[0])
    y, x = np.nonzero(mask)
    distance = shapely.distance(shapely.LineString(points), shapely.points(x + 0.5, y + 0.5))
    assert distance.max() <= width / 2 + 1
    # Away from the ends, which are cut flat, all that is near belongs to it.
    grid_y, grid_x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    near = shapely.distance(shapely.LineString(points), shapely.points(grid_x, grid_y)) < width / 2 - 1
    ends = shapely.distance(shapely.MultiPoint([points[0], points[-1]]), shapely.points(grid_x, grid_y)) > width / 2 + 1
    assert mask[near & ends].all()


quarters = st.integers(-160, 280).map(lambda n: n / 4)


@settings(max_examples=100, deadline=None)
@given(x=quarters, y=quarters, width=quarters, height=quarters)
def test_a_rectangle_is_the_same_from_whichever_corner(x, y, width, height):
    shape = {"name": "rect", "x": x, "y": y, "width": width, "height": height}
    other = {"name": "rect", "x": x + width, "y": y + height, "width": -width, "height": -height}
    try:
        mask, repairs = draw(shape, SIZE)
    except RegionFault as fault:
        with pytest.raises(RegionFault, match=str(fault).split(",")[0]):
            draw(other, SIZE)
        return
    twin, twin_repairs = draw(other, SIZE)
    assert mask == twin
    assert any("negative size" in r for r in repairs + twin_repairs)


def test_negative_and_fractional_coordinates():
    mask, repairs = draw(polygon([-10.5, 20.25, 20.25, -10.5], [-3.5, -3.5, 10.75, 10.75]), SIZE)
    assert rle.area(mask) == pytest.approx(20.25 * 10.75, abs=20)
    assert repairs == ("lies partly outside of the film: cut off at its edge",)


def test_repeated_points_within_an_outline_change_nothing():
    plain, _ = draw(polygon([10, 30, 30, 10], [10, 10, 30, 30]), SIZE)
    mask, repairs = draw(polygon([10, 10, 30, 30, 30, 10], [10, 10, 10, 30, 30, 30]), SIZE)
    assert (mask, repairs) == (plain, ())


def test_crossing_and_leaving_the_film_are_both_reported():
    _, repairs = draw(polygon([-10, 30, 30, -10], [10, 30, 10, 30]), SIZE)
    assert [r.split(" ")[0] for r in repairs] == ["lies", "outline"]


@pytest.mark.parametrize(("x", "y"), [(3, 4), (3.5, -4), (1000, 0)])
def test_points_keep_their_place_wherever_it_is(x, y):
    assert place({"name": "point", "cx": x, "cy": y}) == (x, y)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ({}, "cx, cy must be numbers"),
        ({"cx": 1}, "cx, cy must be numbers"),
        ({"cx": "1", "cy": 2}, "cx, cy must be numbers"),
        ({"cx": True, "cy": 2}, "cx, cy must be numbers"),
        ({"cx": [1], "cy": 2}, "cx, cy must be numbers"),
        ({"cx": float("nan"), "cy": 2}, "cx, cy must be finite"),
        ({"cx": 10**400, "cy": 2}, "cx, cy must be finite"),
        ({"cx": 1e7, "cy": 2}, "at most 100000 px"),
    ],
)
def test_points_without_a_place_are_refused(shape, reason):
    with pytest.raises(RegionFault, match=reason):
        place(shape)


def test_a_line_encloses_nothing_to_trace():
    with pytest.raises(RegionFault, match="must be polygon, rect, circle or ellipse, got 'polyline'"):
        trace(line([1, 2, 3], [1, 2, 1]))
    with pytest.raises(RegionFault, match="has no shape"):
        trace({})


@settings(max_examples=60, deadline=None)
@given(rx=st.floats(2, 20), ry=st.floats(2, 20), theta=st.floats(-10, 10), cx=st.floats(25, 55), cy=st.floats(22, 38))
def test_area_of_an_ellipse(rx, ry, theta, cx, cy):
    points = trace({"name": "ellipse", "cx": cx, "cy": cy, "rx": rx, "ry": ry, "theta": theta})
    assert shapely.Polygon(points).area == pytest.approx(np.pi * rx * ry, rel=0.03)


@settings(max_examples=60, deadline=None)
@given(
    centre=st.tuples(st.floats(-20, 100), st.floats(-20, 80)),
    radii=st.lists(st.floats(5, 60), min_size=3, max_size=9),
)
def test_the_mask_of_an_outline_is_what_of_it_lies_on_the_film(centre, radii):
    angles = np.arange(len(radii)) * 2 * np.pi / len(radii)
    xs, ys = centre[0] + np.array(radii) * np.cos(angles), centre[1] + np.array(radii) * np.sin(angles)
    outline = shapely.Polygon(np.stack([xs, ys], axis=1))
    try:
        mask = rle.decode(draw(polygon(xs.tolist(), ys.tolist()), SIZE)[0])
    except RegionFault:
        mask = np.zeros(SIZE, dtype=bool)
    middles = shapely.points(*np.meshgrid(np.arange(SIZE[1]) + 0.5, np.arange(SIZE[0]) + 0.5))
    # The rasteriser rounds: pixels that the edge runs through may fall on either side.
    assert not (shapely.contains(outline.buffer(-1), middles) & ~mask).any()
    assert not (mask & ~shapely.contains(outline.buffer(1), middles)).any()
