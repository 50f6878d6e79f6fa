"""VIA 3 image projects give what the same annotations of VIA 2 give."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vertinst.converters import via
from vertinst.converters._via3_shapes import as_shape
from vertinst.converters._via_files import read_entries
from vertinst.errors import DataError
from vertinst.structures import rle
from vertinst.structures.conversion import ReadOptions

TEXT, CHECKBOX, RADIO, SELECT, IMAGE = 1, 2, 3, 4, 5
REGION, FILE = "FILE1_Z0_XY1", "FILE1_Z0_XY0"


def attribute(name, kind=TEXT, anchor=REGION, options=None, default=""):
    return {
        "aname": name,
        "anchor_id": anchor,
        "type": kind,
        "desc": f"about {name}",
        "options": options or {},
        "default_option_id": default,
    }


def file(fid, name, kind=2, loc=1, src=None):
    return {"fid": fid, "fname": name, "type": kind, "loc": loc, "src": name if src is None else src}


def region(vid, xy, av=None, z=()):
    return {"vid": vid, "flg": 0, "z": list(z), "xy": xy, "av": av or {}}


def project(files=None, metadata=(), attributes=None, views=None, **extra):
    files = {"1": file(1, "a.png")} if files is None else files
    return {
        "project": {"pid": "__VIA_PROJECT_ID__", "data_format_version": "3.1.1", "vid_list": list(files)},
        "config": {"file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}}, "ui": {}},
        "attribute": {"1": attribute("label")} if attributes is None else attributes,
        "file": files,
        "view": {vid: {"fid_list": [int(vid)]} for vid in files} if views is None else views,
        "metadata": {f"1_{n:08}": m for n, m in enumerate(metadata)},
        **extra,
    }


def save(folder, content, name="via3.json"):
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def entries(folder, content):
    return read_entries(save(folder, content))


def one(folder, content):
    (entry,), skips = entries(folder, content)
    assert skips == []
    return entry


@pytest.mark.parametrize(
    ("xy", "shape"),
    [
        ([1, 5, 6.5], {"name": "point", "cx": 5, "cy": 6.5}),
        ([2, 1, 2, 3, 4], {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}),
        ([3, 1, 2, 3], {"name": "circle", "cx": 1, "cy": 2, "r": 3}),
        ([4, 1, 2, 3, 4], {"name": "ellipse", "cx": 1, "cy": 2, "rx": 3, "ry": 4}),
        ([5, 1, 2, 3, 4], {"name": "polyline", "all_points_x": [1, 3], "all_points_y": [2, 4]}),
        ([6, 1, 2, 3, 4, 5, 6], {"name": "polyline", "all_points_x": [1, 3, 5], "all_points_y": [2, 4, 6]}),
        ([7, 1, 2, 3, 4, 5, 6], {"name": "polygon", "all_points_x": [1, 3, 5], "all_points_y": [2, 4, 6]}),
        (
            [8, 5, 1, 9, 4, 5, 8, 2, 4],
            {
                "name": "rect",
                "x": 2,
                "y": 1,
                "width": 7,
                "height": 7,
                "all_points_x": [5, 9, 5, 2],
                "all_points_y": [1, 4, 8, 4],
            },
        ),
    ],
)
def test_shapes(xy, shape):
    assert as_shape(xy) == shape


@settings(max_examples=60, deadline=None)
@given(
    center=st.tuples(st.floats(-100, 100), st.floats(-100, 100)),
    radius=st.floats(1, 100),
    start=st.floats(0, 6),
    steps=st.tuples(st.floats(0.5, 2), st.floats(0.5, 2)),
)
def test_a_circle_goes_through_its_three_points(center, radius, start, steps):
    angles = [start, start + steps[0], start + steps[0] + steps[1]]
    points = [f(a) * radius + c for a in angles for f, c in ((math.cos, center[0]), (math.sin, center[1]))]
    shape = as_shape([9, *points])
    assert (shape["cx"], shape["cy"]) == pytest.approx(center, abs=1e-6)
    assert shape["r"] == pytest.approx(radius, rel=1e-6)
    assert shape["all_points_x"] == points[::2]


@pytest.mark.parametrize(
    ("xy", "reason"),
    [
        ([2, 1, 2, 3], "x, y, width, height must be numbers"),
        ([2, 1, 2, 3, 4, 5], "x, y, width, height must be numbers"),
        ([3, 1, 2, "3"], "cx, cy, r must be numbers"),
        ([7, 1, 2, 3, 4, 5], "as many x as y, got 3 and 2"),
        ([7, 1, 2, None, 4, 5, 6], "all_points_x must be numbers"),
        ([8], "x, y, width, height must be numbers"),
        ([8, 1, 2, 3], "x, y, width, height must be numbers"),
        ([8, 10**400, 2, 3, 4], "x, y, width, height must be numbers"),
        ([9, 1, 1, 2, 2, 3, 3], "cx, cy, r must be numbers"),
        ([9, 1, 1, 1, 1, 1, 1], "cx, cy, r must be numbers"),
        ([9, 1, 2, 3], "cx, cy, r must be numbers"),
        ([10, 1, 2], "got 'VIA 3 shape 10'"),
        (["7", 1, 2], "got 'VIA 3 shape None'"),
        ([True, 1, 2], "got 'VIA 3 shape None'"),
        ("711", "got 'VIA 3 shape None'"),
        ({"a": 1}, "got 'VIA 3 shape None'"),
    ],
)
def test_what_is_no_shape_is_left_out_and_kept_for_export(tmp_path, xy, reason):
    Image.new("L", (80, 60)).save(tmp_path / "a.png")
    good = region("1", [2, 1, 2, 30, 4], {"1": "rod"})
    path = save(tmp_path, project(metadata=[good, region("1", xy, {"1": "rod"})]))
    dataset, (skip,) = via.read([path], tmp_path)
    assert (skip.region, skip.repaired) == (1, False)
    assert reason in skip.reason
    assert len(dataset.images[0].unread) == 1


def test_attributes_by_name_options_by_id(tmp_path):
    attributes = {
        "1": attribute("class", SELECT, options={"0": "Lendenwirbel", "1": "Schraube"}, default="1"),
        "2": attribute("ignore", RADIO, options={"0": "no", "1": "yes"}),
        "3": attribute("findings", CHECKBOX, options={"a": "blurred", "b": "cut off"}, default="a,b"),
        "4": attribute("patient", TEXT, FILE),
        "9": attribute("note"),
    }
    metadata = [
        region("1", [2, 1, 2, 30, 4], {"1": "0", "2": "0", "3": "a,b", "9": "n", "17": "deleted"}),
        region("1", [2, 40, 2, 30, 4], {"1": "1", "2": "1", "3": ""}),
        region("1", [], {"4": "P7"}),
    ]
    Image.new("L", (80, 60)).save(tmp_path / "a.png")
    dataset, skips = via.read([save(tmp_path, project(metadata=metadata, attributes=attributes))], tmp_path)
    assert skips == ()
    (image,) = dataset.images
    bone, metal = image.annotations
    assert (bone.category, bone.ignore, metal.category, metal.ignore) == ("lumbar", False, "screw", True)
    expected = {"class": "0", "ignore": "0", "findings": {"a": True, "b": True}, "note": "n", "17": "deleted"}
    assert bone.attributes == expected
    assert metal.attributes["findings"] == {}
    assert (image.patient, image.attributes) == ("P7", {"patient": "P7"})
    defined = dataset.attribute_definitions
    assert defined["region"]["class"] == {
        "type": "dropdown",
        "description": "about class",
        "options": {"0": "Lendenwirbel", "1": "Schraube"},
        "default_options": {"1": True},
    }
    assert [d["type"] for d in defined["region"].values()] == ["dropdown", "radio", "checkbox", "text"]
    assert defined["region"]["findings"]["default_options"] == {"a": True, "b": True}
    assert defined["file"] == {"patient": {"type": "text", "description": "about patient"}}


def test_two_attributes_of_one_name_stay_apart(tmp_path):
    attributes = {"1": attribute("label"), "2": attribute("label"), "3": attribute("label", anchor=FILE)}
    metadata = [region("1", [2, 1, 2, 3, 4], {"1": "rod", "2": "x"}), region("1", [], {"3": "film"})]
    entry = one(tmp_path, project(metadata=metadata, attributes=attributes))
    assert entry.regions[0].attributes == {"label": "rod", "label (2)": "x"}
    assert entry.attributes == {"label": "film"}


def test_films_in_the_order_of_the_views(tmp_path):
    files = {str(n): file(n, f"{n}.png") for n in (1, 2, 3, 4)}
    content = project(files, views={"a": {"fid_list": [3]}, "b": {"fid_list": ["1"]}, "c": {"fid_list": [2]}})
    content["project"]["vid_list"] = ["b", "a", "gone"]
    found, skips = entries(tmp_path, content)
    assert [e.name for e in found] == ["1.png", "3.png", "2.png", "4.png"]
    assert skips == []


def test_the_list_of_views_where_older_versions_had_it(tmp_path):
    files = {str(n): file(n, f"{n}.png") for n in (1, 2)}
    content = project(files, vid_list=["2", "1"])
    del content["project"]["vid_list"]
    assert [e.name for e in entries(tmp_path, content)[0]] == ["2.png", "1.png"]


def test_regions_of_two_views_of_a_film_are_together(tmp_path):
    views = {"1": {"fid_list": [1]}, "2": {"fid_list": [1]}}
    metadata = [region("1", [2, 1, 2, 3, 4]), region("2", [2, 5, 2, 3, 4])]
    assert [r.number for r in one(tmp_path, project(metadata=metadata, views=views)).regions] == [0, 1]


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (region("1", [], z=[1.5, 7]), "is a segment in time, not a region"),
        (region("1", [2, 1, 2, 3, 4], z=[1.5]), "is a segment in time, not a region"),
        (region("2", [2, 1, 2, 3, 4]), "belongs to 2 files together"),
        (region("3", [], {"1": "x"}), "belongs to a file that is no image"),
        (region("7", [2, 1, 2, 3, 4]), "belongs to no file"),
        (region(None, [2, 1, 2, 3, 4]), "belongs to no file"),
        ([2, 1, 2, 3, 4], "is no region"),
    ],
)
def test_what_is_no_region_of_a_film_is_listed(tmp_path, metadata, reason):
    files = {"1": file(1, "a.png"), "2": file(2, "b.png"), "3": file(3, "film.mp4", kind=4)}
    views = {"1": {"fid_list": [1]}, "2": {"fid_list": [1, 2]}, "3": {"fid_list": [3]}}
    found, (video, skip) = entries(tmp_path, project(files, [metadata], views=views))
    assert [e.regions for e in found] == [(), ()]
    assert (video.image, video.reason) == ("film.mp4", "is a video: left out")
    assert (skip.repaired, skip.region) == (False, None)
    assert reason in skip.reason


def test_an_attribute_of_regions_on_a_film_keeps_its_name(tmp_path):
    attributes = {"1": attribute("patient"), "2": attribute("patient", anchor=FILE)}
    assert one(tmp_path, project(metadata=[region("1", [], {"1": "P1"})], attributes=attributes)).attributes == {
        "patient": "P1"
    }
    both = [region("1", [], {"2": "P2", "1": "P1"})]
    assert one(tmp_path, project(metadata=both, attributes=attributes)).attributes == {
        "patient": "P2",
        "patient (1)": "P1",
    }


def test_a_film_attribute_given_twice_is_reported(tmp_path):
    metadata = [region("1", [], {"1": "x"}), region("1", [], {"1": "y"})]
    (entry,), (skip,) = entries(tmp_path, project(metadata=metadata))
    assert (entry.attributes, skip.repaired) == ({"label": "y"}, True)
    assert "has an attribute twice" in skip.reason


@pytest.mark.parametrize("kind", [4, 8, 99, "2", None])
def test_a_project_without_images_is_refused(tmp_path, kind):
    with pytest.raises(DataError, match="is a VIA 3 project without images\nOnly images can be read"):
        entries(tmp_path, project({"1": file(1, "a.mp4", kind=kind)}))


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("a.png", "a.png", "a.png"),
        ("a.png", "", "a.png"),
        ("a.png", "sub/a.png", "sub/a.png"),
        ("a.png", "sub\\a.png", "sub\\a.png"),
        ("a.png", "https://server/x/a.png", "a.png"),
        ("Ä #1.png", "https://server/x/320px-%C3%84.png", "Ä #1.png"),
        ("a.png", "/home/x/a.png", "a.png"),
        ("a.png", "C:\\x\\a.png", "a.png"),
        ("a.png", "file:///home/x/a.png", "a.png"),
        ("a.png", "../../a.png", "a.png"),
        ("a.png", "data:image/png;base64,AAAA", "a.png"),
        ("", "sub/a.png", "sub/a.png"),
        ("a.png", None, "a.png"),
    ],
)
def test_names_of_films(tmp_path, name, source, expected):
    raw = {"fid": 1, "fname": name, "type": 2, "loc": 1, "src": source}
    entry = one(tmp_path, project({"1": raw}))
    assert entry.name == expected
    assert entry.source["filename"] == (name or source)
    assert "base64" not in str(entry.source)


@pytest.mark.parametrize("name", [None, 3, "", " ", ["a.png"]])
def test_films_without_a_name_are_listed(tmp_path, name):
    content = project({"1": file(1, "a.png"), "2": {"fname": name, "type": 2, "src": None}})
    found, (skip,) = entries(tmp_path, content)
    assert len(found) == 1
    assert (skip.image, skip.reason) == ("2", "entry has no file name: left out")


@pytest.mark.parametrize("key", ["attribute", "file", "view", "metadata", "project", "config"])
@pytest.mark.parametrize("hostile", [None, 3, "x", [], [1], {"1": 3}, {"1": {}}, {"1": None}])
def test_broken_sections_do_no_harm(tmp_path, key, hostile):
    content = project(metadata=[region("1", [2, 1, 2, 3, 4], {"1": "rod"})])
    content[key] = hostile
    found, skips = entries(tmp_path, content)
    assert len(found) + len(skips) >= int(key not in ("file", "metadata"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.floats() | st.sampled_from(["1", "2", "a.png", "XY1", ""]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["1", "2", "fid_list", "options", "aname"]), inner, max_size=3)
    ),
    max_leaves=4,
)
hostile_attributes = st.dictionaries(
    st.sampled_from(["1", "2"]),
    st.fixed_dictionaries(dict.fromkeys(("aname", "anchor_id", "type", "options", "default_option_id"), json_values)),
)
numbers = st.lists(json_values, max_size=7)


@settings(max_examples=30, deadline=None)
@given(
    metadata=st.lists(
        st.fixed_dictionaries({"vid": json_values, "z": json_values, "xy": numbers, "av": json_values}), max_size=3
    ),
    attributes=hostile_attributes,
)
def test_every_record_is_a_region_a_films_attribute_or_listed(tmp_path_factory, metadata, attributes):
    content = project(metadata=metadata, attributes=attributes)
    ((entry,), skips) = entries(tmp_path_factory.mktemp("via3"), content)
    of_film = sum(1 for m in metadata if str(m["vid"]) == "1" and not m["z"] and not m["xy"])
    twice = sum(1 for s in skips if s.repaired)
    assert len(entry.regions) + of_film + len(skips) - twice == len(metadata)


def test_the_same_as_via_2(tmp_path):
    """One film in both generations: the same masks, classes and attributes."""
    Image.new("L", (80, 60)).save(tmp_path / "a.png")
    new = project(
        metadata=[region("1", [7, 5, 5, 30, 5, 30, 30], {"1": "rod"}), region("1", [4, 40, 30, 9, 5], {"1": "cage"})]
    )
    shapes = [
        {"name": "polygon", "all_points_x": [5, 30, 30], "all_points_y": [5, 5, 30]},
        {"name": "ellipse", "cx": 40, "cy": 30, "rx": 9, "ry": 5},
    ]
    regions = [
        {"shape_attributes": s, "region_attributes": {"label": label}}
        for s, label in zip(shapes, ("rod", "cage"), strict=True)
    ]
    old = {"a.png5": {"filename": "a.png", "size": 5, "regions": regions, "file_attributes": {}}}
    datasets = [via.read([save(tmp_path, c, f"{n}.json")], tmp_path)[0] for n, c in enumerate((new, old))]
    first, second = (d.images[0].annotations for d in datasets)
    assert [(a.category, a.mask, a.outlines, a.attributes) for a in first] == [
        (a.category, a.mask, a.outlines, a.attributes) for a in second
    ]


def test_merged_with_via_2(tmp_path):
    Image.new("L", (80, 60)).save(tmp_path / "a.png")
    new = save(tmp_path, project(metadata=[region("1", [5, 5, 5, 30, 5], {"1": "rod"})]))
    found = {"shape_attributes": {"name": "rect", "x": 1, "y": 1, "width": 9, "height": 9}}
    old = save(
        tmp_path, {"a": {"filename": "a.png", "regions": [{**found, "region_attributes": {"label": "cage"}}]}}, "2"
    )
    dataset, skips = via.read([new, old], tmp_path, ReadOptions(line_width_px=4))
    assert skips == ()
    line, cage = dataset.images[0].annotations
    assert rle.box_xyxy(line.mask).tolist() == [5, 3, 30, 7]
    assert (line.category, cage.category) == ("rod", "cage")


REAL = Path(__file__).parents[3] / "shared" / "data" / "via" / "ox-vgg_via"


@pytest.mark.skipif(not REAL.is_dir(), reason="VIA's own files are not in this checkout")
def test_vias_own_image_project():
    (swan, death), skips = read_entries(REAL / "via3_debug_project_4.json")
    assert skips == []
    assert (swan.name, death.name) == ("adutta_swan.jpg", "wikimedia_death_of_socrates.jpg")
    (found,) = swan.regions
    assert found.shape == {"name": "rect", "x": 104.553, "y": 119.393, "width": 319.056, "height": 154.469}
    assert found.attributes == {"name": "0"}
    assert swan.attributes == {"Caption": "A white swan in Geneva lake."}
    assert swan.options.region == {"name": {"0": "Swan", "1": "Human", "2": "Unknown"}}
