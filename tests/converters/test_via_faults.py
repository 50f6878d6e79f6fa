"""Faults of files end in one clear message, faults of regions in a list; nothing in a traceback."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vertinst.converters import via
from vertinst.errors import DataError
from vertinst.structures import rle
from vertinst.structures.conversion import ReadOptions

SIZE = (40, 50)


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    Image.new("L", (SIZE[1], SIZE[0])).save(folder / "a.png")
    return folder


def polygon(xs, ys):
    return {"name": "polygon", "all_points_x": xs, "all_points_y": ys}


GOOD = {"shape_attributes": polygon([1, 9, 9], [1, 1, 9]), "region_attributes": {"label": "rod"}}


def read(films, *regions, **options):
    path = films.parent / "via.json"
    path.write_text(json.dumps({"a.png1": {"filename": "a.png", "size": -1, "regions": list(regions)}}))
    return via.read([path], films, ReadOptions(**options))


def read_shape(films, shape):
    """Annotation of a region of this shape, None if skipped, and the reasons listed."""
    found = {"shape_attributes": shape, "region_attributes": {"label": "screw"}}
    dataset, skips = read(films, GOOD, found)
    annotations = [a for a in dataset.images[0].annotations if a.category == "screw"]
    assert all((s.image, s.region) == ("a.png", 1) for s in skips)
    assert all(s.repaired == bool(annotations) for s in skips)
    return (annotations[0] if annotations else None), [s.reason for s in skips]


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (polygon([1, 2], [1, 2]), "at least three different points, got 2"),
        (polygon([], []), "at least three different points, got 0"),
        (polygon([5, 5, 5, 5], [5, 5, 5, 5]), "at least three different points, got 1"),
        (polygon([1, 20, 1, 1], [1, 20, 1, 1]), "at least three different points, got 2"),
        (polygon([1, 5, 9], [1, 5, 9]), "encloses no area"),
        (polygon([5] * 30, [5] * 30), "encloses no area"),
        (polygon([5.1, 5.2, 5.1], [5.1, 5.1, 5.2]), "covers no pixel"),
        (polygon([1, 2, 3], [1, 2]), "as many x as y, got 3 and 2"),
        (polygon([1, "2", 3], [1, 2, 3]), "all_points_x must be numbers"),
        (polygon([1, None, 3], [1, 2, 3]), "all_points_x must be numbers"),
        (polygon([1, True, 3], [1, 2, 3]), "all_points_x must be numbers"),
        (polygon("123", [1, 2, 3]), "all_points_x must be numbers"),
        (polygon([1, float("nan"), 3], [1, 2, 3]), "all_points_x must be finite"),
        (polygon([1, float("inf"), 3], [1, 2, 3]), "all_points_x must be finite"),
        (polygon([1, 10**400, 3], [1, 2, 3]), "all_points_x must be finite"),
        (polygon([1, 1e7, 3], [1, 2, 3]), "at most 100000 px"),
        (polygon([-90000, 90000] * 100, list(range(200))), "outline must be at most 2000000 px long"),
        ({"name": "polygon"}, "all_points_x must be numbers"),
        (polygon([100, 120, 110], [10, 10, 20]), "wholly outside of the film"),
        (polygon([-9, -1, -1], [10, 10, 20]), "wholly outside of the film"),
        ({"name": "rect", "x": 1, "y": 1, "width": 0, "height": 5}, "rectangle must have an area"),
        ({"name": "rect", "x": 1, "y": 1, "width": 5}, "must be numbers"),
        ({"name": "circle", "cx": 9, "cy": 9, "r": 0}, "radius must be positive"),
        ({"name": "circle", "cx": 9, "cy": 9, "r": 1e12}, "radius must be positive and at most"),
        ({"name": "ellipse", "cx": 9, "cy": 9, "rx": 5, "ry": -2}, "radius must be positive"),
        ({"name": "ellipse", "cx": 9, "cy": 9, "rx": 5, "ry": 2, "theta": "x"}, "must be numbers"),
        ({"name": "point", "cx": 9, "cy": 9}, "point of no instance"),
        ({"name": "polyline", "all_points_x": [1, 5, 9], "all_points_y": [1, 9, 1]}, "give --line-width"),
        ({"name": "star"}, "got 'star'"),
        ({"name": ["polygon"]}, "shape must be polygon"),
        ({}, "has no shape"),
    ],
)
def test_unusable_regions_are_skipped_with_their_reason(films, shape, reason):
    annotation, reasons = read_shape(films, shape)
    assert annotation is None
    assert len(reasons) == 1
    assert reason in reasons[0]


@pytest.mark.parametrize("raw", [None, 3, [], {}, {"shape_attributes": None}])
def test_things_that_are_no_region(films, raw):
    dataset, (skip,) = read(films, GOOD, raw)
    assert len(dataset.images[0].annotations) == 1
    assert (skip.region, skip.reason) == (1, "has no shape")


@pytest.mark.parametrize("raw", ["", 3, True])
def test_regions_that_are_no_list(films, raw):
    path = films.parent / "via.json"
    path.write_text(json.dumps({"a.png1": {"filename": "a.png", "regions": raw}}))
    dataset, (skip,) = via.read([path], films)
    assert (len(dataset), skip.region, skip.repaired) == (1, None, False)
    assert "regions must be a list" in skip.reason


def test_region_partly_outside_is_cut_off_and_its_outline_kept(films):
    shape = polygon([-10, 10, 10, -10], [5, 5, 15, 15])
    annotation, reasons = read_shape(films, shape)
    assert rle.box_xyxy(annotation.mask).tolist() == [0, 5, 10, 15]
    assert annotation.outlines == (shape,)
    assert reasons == ["lies partly outside of the film: cut off at its edge"]


def test_region_that_touches_the_edge_is_not_outside(films):
    annotation, reasons = read_shape(films, polygon([0, 50, 50, 0], [0, 0, 40, 40]))
    assert rle.area(annotation.mask) == SIZE[0] * SIZE[1]
    assert reasons == []


def test_bow_tie_keeps_both_halves(films):
    annotation, reasons = read_shape(films, polygon([10, 30, 30, 10], [10, 30, 10, 30]))
    mask = rle.decode(annotation.mask)
    assert mask[20, 12]
    assert mask[20, 27]
    assert not mask[12, 20]
    assert reasons == ["outline crosses or touches itself: kept as 2 valid parts"]


def test_outline_drawn_around_a_hole_keeps_the_hole(films):
    # A frame as annotators draw it: outside, a cut to the inside, around it, and back.
    annotation, reasons = read_shape(
        films, polygon([5, 35, 35, 5, 5, 15, 15, 25, 25, 15, 5], [5, 5, 35, 35, 5, 15, 25, 25, 15, 15, 5])
    )
    mask = rle.decode(annotation.mask)
    assert not mask[20, 20]
    assert mask[10, 20]
    assert mask[30, 20]
    assert "kept as 1 valid part" in reasons[0]


def test_spike_is_cut(films):
    annotation, _ = read_shape(films, polygon([10, 20, 20, 20, 10], [10, 10, 35, 20, 20]))
    assert rle.area(annotation.mask) == pytest.approx(100, abs=1)


def test_rectangle_of_negative_size_is_taken_from_its_other_corner(films):
    annotation, reasons = read_shape(films, {"name": "rect", "x": 20, "y": 20, "width": -10, "height": -5})
    assert rle.box_xyxy(annotation.mask).tolist() == [10, 15, 20, 20]
    assert "negative size" in reasons[0]


def test_many_vertices(films):
    angles = np.linspace(0, 2 * np.pi, 100_000, endpoint=False)
    xs, ys = (25 + 15 * np.cos(angles)).tolist(), (20 + 15 * np.sin(angles)).tolist()
    annotation, reasons = read_shape(films, polygon(xs, ys))
    assert reasons == []
    assert rle.area(annotation.mask) == pytest.approx(np.pi * 15**2, rel=0.03)


def test_many_tangled_vertices_do_not_hang(films):
    rng = np.random.default_rng(0)
    xs, ys = rng.uniform(1, 39, (2, 30_000))
    annotation, reasons = read_shape(films, polygon(xs.tolist(), ys.tolist()))
    assert annotation is not None
    assert "filled as drawn" in reasons[0]


def test_what_json_cannot_hold_is_made_writable(films):
    found = {**GOOD, "region_attributes": {"label": "rod", "grade": float("nan"), "note": "\ud800"}}
    found["shape_attributes"] = {**GOOD["shape_attributes"], "extra": [float("inf")]}
    dataset, _ = read(films, found)
    (annotation,) = dataset.images[0].annotations
    assert annotation.attributes == {"label": "rod", "grade": "nan", "note": "?"}
    assert annotation.outlines[0]["extra"] == ["inf"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not valid JSON"),
        ('{"a": ', "is not valid JSON"),
        ("[1]", "must be a VIA file"),
        ('"text"', "must be a VIA file"),
        ('{"x": 1}', "holds no VIA annotations"),
        ('{"images": [], "annotations": [], "categories": []}', "is a COCO file"),
        ('{"project": {}, "config": {}, "attribute": {}, "file": {}, "view": {}}', "no film in any of the files"),
        ('{"region": {}, "file": {}}', "attribute definitions, no films"),
        ("{}", "no film in any of the files"),
        ('{"_via_img_metadata": {}, "_via_settings": {}}', "no film in any of the files"),
    ],
)
def test_unusable_files(films, text, message):
    path = films.parent / "via.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        via.read([path], films)
    assert error.value.fix


def test_no_files_at_all(films):
    with pytest.raises(DataError, match="no film in any of the files"):
        via.read([], films)


def test_missing_file(films):
    with pytest.raises(DataError, match="no such file"):
        via.read([films / "none.json"], films)


def test_missing_image_folder(films):
    with pytest.raises(DataError, match="must be the folder of the films"):
        read(films / "none")


def test_missing_films_are_counted_and_named(films):
    path = films.parent / "via.json"
    path.write_text(json.dumps({str(n): {"filename": f"f{n}.png", "regions": []} for n in range(14)}))
    with pytest.raises(DataError, match=r"14 of 14 films are not there: f0.png.*f9.png and 4 more\n.*--images"):
        via.read([path], films)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n"])
def test_unreadable_film(films, content):
    (films / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: is not an image that can be read"):
        read(films, GOOD)


@pytest.mark.parametrize("name", [None, 3, "", " "])
def test_entry_without_a_name(films, name):
    path = films.parent / "via.json"
    entries = {"k": {"filename": name, "regions": [GOOD, GOOD]}, "a": {"filename": "a.png", "regions": [GOOD]}}
    path.write_text(json.dumps({"_via_img_metadata": entries}))
    dataset, (skip,) = via.read([path], films)
    assert len(dataset) == 1
    assert (skip.image, skip.reason) == ("k", "entry has no file name: left out with 2 regions")


def text_of(entries):
    """JSON with the keys of `entries`, pairs of key and value, as often as they stand there."""
    return "{" + ", ".join(f"{json.dumps(key)}: {value}" for key, value in entries) + "}"


def at(x):
    return {"shape_attributes": polygon([x, x + 8, x + 8], [1, 1, 9]), "region_attributes": {"label": "rod"}}


def film_of(*regions):
    return json.dumps({"filename": "a.png", "size": 1, "regions": list(regions)})


@pytest.mark.parametrize("kind", ["export", "project"])
def test_films_under_one_key_are_all_read(films, kind):
    path = films.parent / "via.json"
    text = text_of([("a.png1", film_of(at(1), at(11))), ("a.png1", film_of(at(11), at(21))), ("a.png1", film_of())])
    whole = text_of([("_via_img_metadata", text), ("_via_attributes", "{}"), ("_via_image_id_list", '["a.png1"]')])
    path.write_text(text if kind == "export" else whole)
    dataset, skips = via.read([path], films)
    assert [a.outlines[0]["all_points_x"][0] for a in dataset.images[0].annotations] == [1, 11, 21]
    assert [(s.image, s.reason) for s in skips if s.region is None] == [
        ("a.png", "stands in the file more than once: all its entries are read"),
    ] * 2


def test_regions_under_one_number_are_all_read(films):
    path = films.parent / "via.json"
    regions = text_of([("0", json.dumps(at(1))), ("0", json.dumps(at(11)))])
    path.write_text(text_of([("a.png1", text_of([("filename", '"a.png"'), ("regions", regions)]))]))
    dataset, (skip,) = via.read([path], films)
    assert len(dataset.images[0].annotations) == 2
    assert skip.repaired
    assert skip.reason == "1 regions have the number of another of their film: all are read"


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (text_of([("_via_img_metadata", "{}"), ("_via_img_metadata", "{}")]), "_via_img_metadata"),
        (text_of([("a", text_of([("filename", '"a.png"'), ("regions", "[]"), ("regions", "[]")]))]), "regions"),
        (film_of(GOOD).replace('"label"', '"label": "cage", "label"'), "label"),
        ('{"a": [1, {"x": 1, "x": 2}]}', "x"),
    ],
)
def test_other_keys_that_stand_twice_are_refused(films, text, key):
    path = films.parent / "via.json"
    path.write_text(text)
    with pytest.raises(DataError, match=f"key '{key}' stands twice in one object"):
        via.read([path], films)


def test_what_is_not_of_via_is_named(films):
    path = films.parent / "via.json"
    regions = [{**GOOD, "id": 5, "colour": "red"}, {**at(11), "region_attributes": "rod"}, {"shape_attributes": [1]}]
    entry = {
        "filename": "a.png",
        "regions": regions,
        "file_attributes": ["x"],
        "reader": "Dr. X",
        "base64_img_data": "",
    }
    path.write_text(json.dumps({"a.png1": entry}))
    dataset, skips = via.read([path], films)
    assert len(dataset.images[0].annotations) == 1
    assert [(s.region, s.reason) for s in skips if s.repaired] == [
        (None, "file_attributes must be an object: taken as empty"),
        (None, "has keys that are not VIA's, not taken over: reader"),
        (0, "has keys that are not VIA's, not taken over: colour, id"),
        (1, "region_attributes must be an object: taken as empty"),
        (2, "shape_attributes must be an object: taken as empty"),
    ]
    assert [s.region for s in skips if not s.repaired] == [1, 2]
    assert not any("Dr. X" in s.reason for s in skips)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-200, 200) | st.floats(-200, 200) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
shapes = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["polygon", "rect", "circle", "ellipse", "point", "polyline"]) | json_values,
        **{key: st.lists(st.integers(-10, 60) | st.floats(), max_size=8) for key in ("all_points_x", "all_points_y")},
        **{
            key: st.floats() | st.integers(-99, 99) | json_values
            for key in ("x", "y", "width", "height", "cx", "cy", "r", "rx", "ry", "theta")
        },
    },
)


@settings(max_examples=80, deadline=None)
@given(drawn=st.lists(st.tuples(shapes, json_values), max_size=5), width=st.none() | st.floats(0.5, 20))
def test_every_region_is_either_an_annotation_or_listed(tmp_path_factory, drawn, width):
    folder = tmp_path_factory.mktemp("via") / "films"
    folder.mkdir()
    Image.new("L", (SIZE[1], SIZE[0])).save(folder / "a.png")
    regions = [{"shape_attributes": s, "region_attributes": {"label": "rod", "other": v}} for s, v in drawn]
    dataset, skips = read(folder, GOOD, *regions, line_width_px=width)
    lost = {s.region for s in skips if not s.repaired}
    assert len(dataset.images[0].annotations) + len(lost) == 1 + len(regions)
    assert len(dataset.images[0].unread) == len(lost)
    assert all(rle.area(a.mask) > 0 for a in dataset.images[0].annotations)
