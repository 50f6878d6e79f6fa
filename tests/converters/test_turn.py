"""Shapes turned with their film cover what the turned mask covers."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from vertinst.converters import via
from vertinst.converters._draw import draw
from vertinst.converters._shapes import RegionFault, trace
from vertinst.converters._source import Region
from vertinst.converters._turn import turn, turn_mask, turn_regions
from vertinst.data.radiograph import TURNS, read_film
from vertinst.structures import rle
from vertinst.structures.conversion import ReadOptions

HEIGHT, WIDTH = 30, 44
STORED = (HEIGHT, WIDTH)

orientations = st.sampled_from(range(1, 9))
places = st.integers(0, 44)
anywhere = st.integers(-20, 70)


def shape(name, **fields):
    return st.fixed_dictionaries({"name": st.just(name), **fields})


rects = shape("rect", x=anywhere, y=anywhere, width=st.integers(-30, 30), height=st.integers(-30, 30))
polygons = st.lists(st.tuples(anywhere, anywhere), min_size=3, max_size=8).map(
    lambda p: {"name": "polygon", "all_points_x": [x for x, _ in p], "all_points_y": [y for _, y in p]}
)
radii = st.floats(1, 30)
circles = shape("circle", cx=anywhere, cy=anywhere, r=radii)
ellipses = shape("ellipse", cx=anywhere, cy=anywhere, rx=radii, ry=radii, theta=st.floats(-4, 4)) | shape(
    "ellipse", cx=anywhere, cy=anywhere, rx=radii, ry=radii
)


def upright_size(orientation):
    return STORED[::-1] if TURNS[orientation][0] % 2 else STORED


def mask_of(found, image_size):
    try:
        return rle.decode(draw(found, image_size)[0])
    except RegionFault:
        return np.zeros(image_size, bool)


def turned_pixels(mask, orientation):
    quarters, mirrored = TURNS[orientation]
    turned = np.rot90(mask, quarters)
    return turned[:, ::-1] if mirrored else turned


@settings(max_examples=150, deadline=None)
@given(found=rects, orientation=orientations)
@example({"name": "rect", "x": 3, "y": 4, "width": -2, "height": 9}, 6)
def test_a_turned_rectangle_covers_the_same_pixels(found, orientation):
    turned = turn(found, orientation, STORED)
    expected = turned_pixels(mask_of(found, STORED), orientation)
    assert (mask_of(turned, upright_size(orientation)) == expected).all()
    assert sorted(map(abs, (turned["width"], turned["height"]))) == sorted(map(abs, (found["width"], found["height"])))


@settings(max_examples=150, deadline=None)
@given(found=polygons, orientation=orientations)
def test_a_turned_polygon_has_the_same_vertices_in_their_order(found, orientation):
    turned = turn(found, orientation, STORED)
    quarters, mirrored = TURNS[orientation]
    for x, y, new_x, new_y in zip(
        found["all_points_x"],
        found["all_points_y"],
        turned["all_points_x"],
        turned["all_points_y"],
        strict=True,
    ):
        px, py, width, height = x, y, WIDTH, HEIGHT
        for _ in range(quarters):
            px, py, width, height = py, width - px, height, width
        assert (new_x, new_y) == (width - px if mirrored else px, py)
        assert type(new_x) is int


@settings(max_examples=60, deadline=None)
@given(found=polygons | circles | ellipses, orientation=orientations)
def test_turning_the_shape_is_turning_the_mask_but_for_its_edge(found, orientation):
    turned = mask_of(turn(found, orientation, STORED), upright_size(orientation))
    expected = turned_pixels(mask_of(found, STORED), orientation)
    # The rasteriser is not the same in all directions along an edge, by a pixel at most.
    differing = np.argwhere(turned != expected)
    shallow = [
        len(np.unique(expected[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2])) == 2
        or len(np.unique(turned[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2])) == 2
        for y, x in differing
    ]
    assert all(shallow)
    assert len(differing) <= 0.12 * max(expected.sum(), turned.sum()) + 40


@settings(max_examples=100, deadline=None)
@given(found=ellipses, orientation=orientations)
def test_a_turned_ellipse_is_the_ellipse_turned(found, orientation):
    points = trace(found)
    corners = {"name": "polygon", "all_points_x": points[:, 0].tolist(), "all_points_y": points[:, 1].tolist()}
    expected = turn(corners, orientation, STORED)
    turned = turn(found, orientation, STORED)
    assert ("theta" in turned) == ("theta" in found)
    theta = turned.get("theta", 0)
    x = np.array(expected["all_points_x"]) - turned["cx"]
    y = np.array(expected["all_points_y"]) - turned["cy"]
    along, across = x * np.cos(theta) + y * np.sin(theta), y * np.cos(theta) - x * np.sin(theta)
    assert (along / turned["rx"]) ** 2 + (across / turned["ry"]) ** 2 == pytest.approx(np.ones(len(x)), abs=1e-6)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_and_lines(orientation):
    line = {"name": "polyline", "all_points_x": [0, 44, 7.5], "all_points_y": [0, 30, 3]}
    corner = {"name": "point", "cx": 7.5, "cy": 3}
    turned_line, turned_point = turn(line, orientation, STORED), turn(corner, orientation, STORED)
    assert (turned_line["all_points_x"][2], turned_line["all_points_y"][2]) == (turned_point["cx"], turned_point["cy"])
    height, width = upright_size(orientation)
    assert {*turned_line["all_points_x"][:2]} == {0, width}
    assert {*turned_line["all_points_y"][:2]} == {0, height}


def test_upright_is_left_as_it_is():
    found = {"name": "ellipse", "cx": 1, "cy": 2, "rx": 3, "ry": 4, "theta": 0.5, "note": "x"}
    assert turn(found, 1, STORED) == found


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"name": "polygon"},
        {"name": "polygon", "all_points_x": "12", "all_points_y": [1, 2]},
        {"name": "polygon", "all_points_x": [1, None], "all_points_y": [1, 2]},
        {"name": "rect", "x": 1, "y": 2, "width": "3", "height": 4},
        {"name": "rect", "x": [1], "y": 2, "width": 3, "height": 4},
        {"name": "point", "cx": 10**400, "cy": 1},
        {"name": "circle", "cx": True, "cy": 1, "r": 2},
    ],
)
@pytest.mark.parametrize("orientation", [3, 6])
def test_what_is_no_number_is_left_alone(found, orientation):
    assert turn(found, orientation, STORED) == found


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_turn_with_the_film(orientation):
    mask = np.random.default_rng(0).random(STORED) > 0.5
    region = Region(0, {}, {}, mask=rle.encode(mask))
    (turned,) = turn_regions([region], orientation, STORED)
    assert (rle.decode(turned.mask) == turned_pixels(mask, orientation)).all()
    assert turn_mask(region.mask, orientation) == turned.mask


def test_masks_of_another_size_are_left_alone():
    region = Region(0, {}, {}, mask=rle.empty((5, 5)))
    assert turn_regions([region], 6, STORED)[0].mask == region.mask


@pytest.mark.parametrize("orientation", range(1, 9))
def test_regions_lie_on_what_they_were_drawn_on(tmp_path, orientation):
    """A bright block on the stored film, annotated there, is found where the upright film shows it."""
    stored = np.zeros(STORED, np.uint8)
    stored[4:12, 20:41] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    path = tmp_path / "via.json"
    path.write_text(
        '{"a": {"filename": "a.png", "size": 1, "regions": [{"shape_attributes": {"name": "rect", "x": 20, "y": 4,'
        ' "width": 21, "height": 8}, "region_attributes": {"label": "cage"}}]}}'
    )
    dataset, skips = via.read([path], tmp_path, ReadOptions(ignore_exif=True))
    (image,) = dataset.images
    (annotation,) = image.annotations
    assert (rle.decode(annotation.mask) == (read_film(tmp_path / "a.png").pixels > 0.5)).all()
    assert [(s.region, s.repaired) for s in skips] == ([(None, True)] if orientation != 1 else [])
    assert all(f"EXIF orientation is {orientation}" in s.reason for s in skips)


def test_obeyed_exif_leaves_regions_alone(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "a.png", exif=exif)
    path = tmp_path / "via.json"
    found = '{"shape_attributes": {"name": "rect", "x": 2, "y": 4, "width": 5, "height": 8}, "region_attributes": %s}'
    path.write_text('{"a": {"filename": "a.png", "size": 1, "regions": [' + found % '{"label": "cage"}' + "]}}")
    dataset, skips = via.read([path], tmp_path)
    assert skips == ()
    assert rle.box_xyxy(dataset.images[0].annotations[0].mask).tolist() == [2, 4, 7, 12]
