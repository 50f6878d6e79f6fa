"""Datasets become VIA 2 projects that keep every vertex, attribute and file, and that read as the same data set."""

import json
import math
import re
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vertinst.cli import run
from vertinst.converters import coco, via
from vertinst.converters._classes import CLASS_NOTE
from vertinst.converters.via import write
from vertinst.errors import ConfigError, DataError
from vertinst.structures import rle
from vertinst.structures.conversion import ReadOptions
from vertinst.structures.dataset import CLASSES, Annotation, Dataset, ImageRecord

HEIGHT, WIDTH = 60, 80
SIZE = (HEIGHT, WIDTH)


def films(folder, *names):
    for name in names:
        path = folder / "films" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (WIDTH, HEIGHT)).save(path)
    return folder / "films"


def box(x=10, y=10, width=20, height=10):
    xs, ys = [x, x + width, x + width, x], [y, y, y + height, y + height]
    return {"name": "polygon", "all_points_x": xs, "all_points_y": ys}


def region(shape=None, **attributes):
    return {"shape_attributes": shape or box(), "region_attributes": attributes}


def mask(x=10, y=10, width=20, height=10):
    dense = np.zeros(SIZE, dtype=bool)
    dense[y : y + height, x : x + width] = True
    return rle.encode(dense)


def dataset(*annotations, definitions=None, **image):
    record = ImageRecord(1, image.pop("file_name", "a.png"), WIDTH, HEIGHT, annotations=annotations, **image)
    used = {a.category for a in annotations}
    return Dataset((*CLASSES, *sorted(used - set(CLASSES))), (record,), definitions or {})


def written(data, folder, **options):
    write(data, folder / "out.json", **options)
    return json.loads((folder / "out.json").read_text(encoding="utf-8"))


def attributes_of(project):
    return [r["region_attributes"] for e in project["_via_img_metadata"].values() for r in e["regions"]]


def again(data, folder, **options):
    """The data set that reading the written project gives."""
    write(data, folder / "out.json")
    names = [i.file_name for i in data.images]
    return via.read([folder / "out.json"], films(folder, *names), ReadOptions(**options))[0]


def facts(annotation):
    return annotation.category, annotation.level, annotation.mask["counts"], annotation.ignore, annotation.keypoints


def assert_same(first, second):
    assert [i.file_name for i in first.images] == [i.file_name for i in second.images]
    for one, two in zip(first.images, second.images, strict=True):
        assert [facts(a) for a in one.annotations] == [facts(a) for a in two.annotations]
        assert (one.patient, one.view) == (two.patient, two.view)
        assert (one.pixel_spacing_mm, one.pixel_spacing_source) == (two.pixel_spacing_mm, two.pixel_spacing_source)


def canonical(entries):
    """Films with their regions, whatever their order."""
    return {
        e["filename"]: (
            e["size"],
            e["file_attributes"],
            Counter(json.dumps(r, sort_keys=True) for r in e["regions"]),
        )
        for e in entries
    }


def reasons(skips):
    """Why regions were listed; their numbers may change."""
    return {re.sub(r"region \d+", "region", s.reason) for s in skips}


# Hypothesis draws VIA 2 projects ------------------------------------------------------------------------------------

NUMBERS = st.one_of(st.integers(-20, 90), st.floats(-20, 90, allow_nan=False).map(lambda v: round(v, 2)))
POSITIVE = st.one_of(st.integers(1, 40), st.floats(0.5, 40).map(lambda v: round(v, 2)))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
NAMES = st.text(st.characters(categories=["L", "Nd"], include_characters=" #,-äß椎"), min_size=1, max_size=6)


def columns(name, points):
    return {"name": name, "all_points_x": [x for x, _ in points], "all_points_y": [y for _, y in points]}


# Made once: making strategies anew for every example takes longer than what is tested.
ANGLES = st.floats(-3, 3).map(lambda v: round(v, 3))
PLACE = {"cx": NUMBERS, "cy": NUMBERS}
SHAPES = st.one_of(
    st.builds(
        columns,
        st.sampled_from(["polygon", "polyline"]),
        st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=7),
    ),
    st.fixed_dictionaries({"name": st.just("rect"), "x": NUMBERS, "y": NUMBERS, "width": NUMBERS, "height": POSITIVE}),
    st.fixed_dictionaries({"name": st.just("circle"), **PLACE, "r": POSITIVE}),
    st.fixed_dictionaries({"name": st.just("ellipse"), **PLACE, "rx": POSITIVE, "ry": POSITIVE, "theta": ANGLES}),
    st.fixed_dictionaries({"name": st.just("point"), **PLACE}),
)


DEFINITIONS = {
    "Objekte": {
        "type": "dropdown",
        "description": "",
        "options": {"1": "Lendenwirbel", "2": "Kreuzbein", "3": "Schraube", "4": "Dornfortsatz"},
        "default_options": {},
    },
    "level": {"type": "radio", "description": "", "options": {"a": "L5", "b": "Th12", "c": "?"}, "default_options": {}},
    "signs": {"type": "checkbox", "description": "", "options": {"x": "blurred"}, "default_options": {"x": True}},
    "note": {"type": "text", "description": "seen", "default_value": ""},
}


REGION_ATTRIBUTES = st.fixed_dictionaries(
    {"Objekte": st.sampled_from(["1", "2", "3", "4", "lumbar", "L4", ""])},
    optional={
        "level": st.sampled_from(["a", "b", "c", "L3", "", None]),
        "signs": st.dictionaries(st.sampled_from(["x", "y"]), st.booleans(), max_size=2),
        "note": st.one_of(TEXTS, st.none(), st.integers(-5, 5), st.floats(0, 1)),
        "instance": st.sampled_from(["1", "2", ""]),
        "ignore": st.sampled_from(["yes", "no", "1", ""]),
        "keypoint": st.sampled_from(["p", "q"]),
        "more": st.one_of(TEXTS, st.lists(TEXTS, max_size=2)),
    },
)
FILM_ATTRIBUTES = st.fixed_dictionaries(
    {},
    optional={
        "PatientID": TEXTS,
        "view": TEXTS,
        "pixel_spacing": st.sampled_from(["0.2", "0.2, 0.3", "wrong", ""]),
        "quality": st.none(),
    },
)
REGIONS = st.fixed_dictionaries({"shape_attributes": SHAPES, "region_attributes": REGION_ATTRIBUTES})
ENTRIES = st.fixed_dictionaries(
    {
        "filename": NAMES.map(lambda name: f"{name.strip()}x.png"),
        "size": st.one_of(st.integers(-1, 10**7), st.sampled_from(["-1", "12345"])),
        "regions": st.lists(REGIONS, max_size=6),
        "file_attributes": FILM_ATTRIBUTES,
    }
)


def as_project(found, screws):
    # So that a class can be found at all.
    found[0]["regions"].append(region(Objekte="1"))
    found[0]["regions"] += [region(box(y=30), Objekte="3")] * screws
    return {
        "_via_settings": {},
        "_via_img_metadata": {f"{e['filename']}{e['size']}": e for e in found},
        "_via_attributes": {"region": DEFINITIONS, "file": {}},
    }


PROJECTS = st.builds(
    as_project,
    st.lists(ENTRIES, min_size=1, max_size=3, unique_by=lambda entry: entry["filename"]),
    st.integers(0, 2),
)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(PROJECTS, st.booleans())
def test_via_to_dataset_to_via_keeps_every_vertex_attribute_and_file(drawn, with_lines):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "via.json").write_text(json.dumps(drawn))
        found = list(drawn["_via_img_metadata"].values())
        options = ReadOptions(class_attribute="Objekte", line_width_px=3.0 if with_lines else None)
        images = films(folder, *(e["filename"] for e in found))
        data, skips = via.read([folder / "via.json"], images, options)
        result = written(data, folder)
        assert canonical(result["_via_img_metadata"].values()) == canonical(found)
        assert result["_via_image_id_list"] == list(result["_via_img_metadata"])
        for attribute, definition in DEFINITIONS.items():
            assert result["_via_attributes"]["region"][attribute] == definition
        second, second_skips = via.read([folder / "out.json"], images, options)
        assert_same(data, second)
        assert reasons(skips) == reasons(second_skips)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(PROJECTS)
def test_via_to_coco_to_via_to_coco_keeps_masks(drawn):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "via.json").write_text(json.dumps(drawn))
        images = films(folder, *(e["filename"] for e in drawn["_via_img_metadata"].values()))
        options = ReadOptions(class_attribute="Objekte")
        data, _ = via.read([folder / "via.json"], images, options)
        coco.write(data, folder / "1.coco.json")
        write(coco.read(folder / "1.coco.json"), folder / "out.json")
        coco.write(via.read([folder / "out.json"], images, options)[0], folder / "2.coco.json")
        first, second = (coco.read(folder / f"{n}.coco.json") for n in (1, 2))
        assert_same(first, second)


def drawn_masks():
    bits = st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=7, max_size=7)
    return st.lists(bits, min_size=1, max_size=3)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn_masks(), st.sampled_from([1, 4]), st.data())
def test_masks_of_any_form_come_back(grids, scale, data):
    annotations = []
    for grid in grids:
        dense = np.zeros(SIZE, dtype=bool)
        small = np.kron(np.array(grid), np.ones((scale, scale), dtype=bool))
        small[0, 0] = True
        dense[5 : 5 + small.shape[0], 9 : 9 + small.shape[1]] = small
        category = data.draw(st.sampled_from(["lumbar", "cage"]))
        extra = {"instance": "1"} if data.draw(st.booleans()) else {}
        annotations.append(Annotation(category, rle.encode(dense), attributes={"score": "0.9", **extra}))
    with tempfile.TemporaryDirectory() as name:
        first = dataset(*annotations)
        assert_same(first, again(first, Path(name)))


# What is added, and what is not -------------------------------------------------------------------------------------


def test_project_has_what_via_asks_for(tmp_path):
    data = dataset(Annotation("lumbar", mask()), source={"filename": "a.png", "size": 512})
    project = written(data, tmp_path)
    assert list(project["_via_img_metadata"]) == project["_via_image_id_list"] == ["a.png512"]
    assert project["_via_data_format_version"] == "2.0.10"
    assert project["_via_settings"]["project"]["name"] == "out"
    entry = project["_via_img_metadata"]["a.png512"]
    assert (entry["filename"], entry["size"], entry["file_attributes"]) == ("a.png", 512, {})
    assert project["_via_attributes"]["region"]["class"] == {
        "type": "dropdown",
        "description": CLASS_NOTE,
        "options": {name: name for name in CLASSES},
        "default_options": {},
    }
    assert attributes_of(project) == [{"class": "lumbar"}]


def test_class_as_the_source_wrote_it_is_left_alone(tmp_path):
    project = written(dataset(Annotation("lumbar", mask(), attributes={"Objekte": "Lendenwirbel"})), tmp_path)
    assert attributes_of(project) == [{"Objekte": "Lendenwirbel"}]


def test_class_from_a_class_map_is_added_under_a_free_name(tmp_path):
    data = dataset(Annotation("lumbar", mask(), attributes={"class": "Knochen"}))
    assert attributes_of(written(data, tmp_path)) == [{"class": "Knochen", "vertinst_class": "lumbar"}]
    assert_same(data, again(data, tmp_path))


@pytest.mark.parametrize("options", [{}, {"class_attribute": "class"}])
def test_any_classes_come_back(tmp_path, options):
    data = dataset(*(Annotation(c, mask(y=y)) for c, y in (("disc", 5), ("lumbar", 20), ("Wirbel", 35))))
    assert_same(data, again(data, tmp_path, **options))
    assert again(again(data, tmp_path), tmp_path).categories == data.categories


def test_class_map_wins_over_our_classes(tmp_path):
    data = dataset(Annotation("disc", mask()), Annotation("lumbar", mask(y=30)))
    found = again(data, tmp_path, class_map={"disc": "cage"})
    assert [a.category for a in found.images[0].annotations] == ["cage", "lumbar"]
    assert_same(found, again(found, tmp_path))


def test_attribute_that_is_blank_here_and_there_is_completed(tmp_path):
    definition = {"type": "dropdown", "options": {"1": "LWK", "2": "Stab"}}
    data = dataset(
        Annotation("lumbar", mask(), attributes={"Objekte": "1"}),
        Annotation("rod", mask(y=25), attributes={"Objekte": ""}),
        Annotation("cage", mask(y=40)),
        definitions={"region": {"Objekte": definition}},
    )
    project = written(data, tmp_path)
    assert attributes_of(project) == [{"Objekte": "1"}, {"Objekte": "2"}, {"Objekte": "cage"}]
    assert project["_via_attributes"]["region"]["Objekte"]["options"] == {"1": "LWK", "2": "Stab", "cage": "cage"}
    assert_same(data, again(data, tmp_path))


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (Annotation("lumbar", mask(), attributes={"label": "L5"}, named_level="L5"), {"label": "L5"}),
        (Annotation("lumbar", mask(), named_level="L5"), {"class": "lumbar", "level": "L5"}),
        (Annotation("lumbar", mask(), attributes={"level": "Th12"}), {"level": "Th12"}),
        (Annotation("cage", mask(), attributes={"level": "L5"}), {"level": "L5", "class": "cage"}),
    ],
)
def test_level_is_added_only_where_nothing_names_it(tmp_path, annotation, expected):
    data = dataset(annotation)
    assert attributes_of(written(data, tmp_path)) == [expected]
    assert_same(data, again(data, tmp_path))


def test_ignore_is_kept(tmp_path):
    data = dataset(
        Annotation("lumbar", mask(), ignore=True),
        Annotation("cage", mask(y=30), ignore=True, attributes={"ignore": "ja"}),
    )
    assert [a["ignore"] for a in attributes_of(written(data, tmp_path))] == ["1", "ja"]
    assert_same(data, again(data, tmp_path))


def test_parts_share_an_instance_that_no_other_annotation_has(tmp_path):
    two = rle.union([mask(), mask(x=40)], SIZE)
    other = Annotation("lumbar", mask(y=40), attributes={"instance": "1"})
    clash = Annotation("lumbar", mask(y=50, height=5), attributes={"instance": "1"})
    data = dataset(Annotation("lumbar", two), other, clash)
    instances = [a["instance"] for a in attributes_of(written(data, tmp_path))]
    assert instances == ["2", "2", "1", "3"]
    assert_same(data, again(data, tmp_path))


def test_keypoints_without_a_point_become_points_of_their_instance(tmp_path):
    data = dataset(Annotation("lumbar", mask(), (box(),), keypoints={"p": (1.5, 2.0), "q": (3.0, 4.0)}, drawn=True))
    project = written(data, tmp_path)
    (entry,) = project["_via_img_metadata"].values()
    assert [r["shape_attributes"]["name"] for r in entry["regions"]] == ["polygon", "point", "point"]
    assert {r["region_attributes"]["instance"] for r in entry["regions"]} == {"1"}
    assert_same(data, again(data, tmp_path))


def test_mask_wins_over_an_outline_that_covers_more(tmp_path):
    data = dataset(Annotation("lumbar", mask(width=5), (box(),)))
    assert_same(data, again(data, tmp_path))


def test_what_the_outlines_leave_out_is_added(tmp_path):
    data = dataset(Annotation("lumbar", rle.union([mask(), mask(x=50)], SIZE), (box(),)))
    (entry,) = written(data, tmp_path)["_via_img_metadata"].values()
    assert entry["regions"][0]["shape_attributes"] == box()
    assert len(entry["regions"]) == 2
    assert_same(data, again(data, tmp_path))


def test_annotation_without_a_pixel_keeps_its_attributes(tmp_path):
    data = dataset(Annotation("lumbar", rle.empty(SIZE), attributes={"note": "seen"}))
    assert attributes_of(written(data, tmp_path))[0]["note"] == "seen"


def test_unread_regions_are_written_as_they_were(tmp_path):
    odd = region({"name": "polyline", "all_points_x": [1, 2], "all_points_y": [3, 4]}, note=None)
    project = written(dataset(unread=(odd,)), tmp_path)
    assert next(iter(project["_via_img_metadata"].values()))["regions"] == [odd]


def test_film_facts_become_attributes_where_none_says_them(tmp_path):
    data = dataset(
        patient="P7",
        view="ap",
        pixel_spacing_mm=(0.15, 0.2),
        pixel_spacing_source="PixelSpacing",
        attributes={"View": "ap", "kV": 70},
    )
    (entry,) = written(data, tmp_path)["_via_img_metadata"].values()
    assert entry["file_attributes"] == {
        "patient": "P7",
        "pixel_spacing_mm": "0.15, 0.2",
        "pixel_spacing_source": "PixelSpacing",
        "View": "ap",
        "kV": 70,
    }
    assert_same(data, again(data, tmp_path))


@pytest.mark.parametrize(
    ("source", "film_path", "expected"),
    [
        ("http://host/x/a.png", "", "http://host/x/a.png"),
        ("http://host/x/a.png", "films", "sub/a.png"),
        ("other.png", "", "sub/a.png"),
        (None, "", "sub/a.png"),
    ],
)
def test_names_are_those_by_which_via_finds_the_film(tmp_path, source, film_path, expected):
    data = dataset(file_name="sub/a.png", source={} if source is None else {"filename": source})
    project = written(data, tmp_path, film_path=film_path)
    assert [e["filename"] for e in project["_via_img_metadata"].values()] == [expected]
    assert project["_via_settings"]["core"]["default_filepath"] == (f"{film_path}/" if film_path else "")


def test_films_of_one_source_name_keep_their_own(tmp_path):
    records = tuple(
        ImageRecord(n, f"{folder}/a.png", WIDTH, HEIGHT, source={"filename": "a.png"})
        for n, folder in enumerate("xy", start=1)
    )
    project = written(Dataset(CLASSES, records), tmp_path)
    assert [e["filename"] for e in project["_via_img_metadata"].values()] == ["x/a.png", "y/a.png"]


def test_ids_are_unique_where_name_and_size_run_together(tmp_path):
    records = tuple(
        ImageRecord(n, name, WIDTH, HEIGHT, source={"filename": name, "size": size})
        for n, (name, size) in enumerate([("a1", 23), ("a", 123)], start=1)
    )
    project = written(Dataset(CLASSES, records), tmp_path)
    assert project["_via_image_id_list"] == list(project["_via_img_metadata"]) == ["a123", "a123_2"]


def test_attributes_without_definition_get_the_type_of_their_values(tmp_path):
    found = {"signs": {"x": True}, "note": "a", "grade": 3, "void": None}
    definitions = {"region": {"odd": None, "side": {"type": "radio", "options": {"l": "left"}}}, "file": {}}
    data = dataset(Annotation("lumbar", mask(), attributes=found), definitions=definitions, attributes={"kV": 70})
    section = written(data, tmp_path)["_via_attributes"]
    kinds = {name: d["type"] for name, d in section["region"].items()}
    assert kinds == {
        "odd": "text",
        "side": "radio",
        "signs": "checkbox",
        "note": "text",
        "grade": "text",
        "void": "text",
        "class": "dropdown",
    }
    assert section["region"]["signs"]["options"] == {"x": "x"}
    assert section["region"]["side"] == {"type": "radio", "options": {"l": "left"}, "default_options": {}}
    assert section["file"]["kV"]["type"] == "text"


def test_label_shown_is_text_everywhere(tmp_path):
    """VIA stops drawing at a label that is null or a number."""
    leveled = [Annotation("cage", mask(y=y), attributes={"level": v}) for y, v in ((5, "L5"), (30, "L4"))]
    shown = written(dataset(*leveled), tmp_path)["_via_settings"]["ui"]["image"]
    assert (shown["region_label"], shown["region_color"]) == ("level", "class")
    numbered = Annotation("cage", mask(), attributes={"level": 5})
    shown = written(dataset(numbered), tmp_path)["_via_settings"]["ui"]["image"]
    assert shown["region_label"] == "class"


def test_no_film_at_all(tmp_path):
    assert written(Dataset(CLASSES), tmp_path)["_via_image_id_list"] == []


def test_attribute_that_json_cannot_hold_is_refused(tmp_path):
    with pytest.raises(DataError, match="an attribute cannot be written as JSON"):
        write(dataset(attributes={"x": math.nan}), tmp_path / "out.json")


def test_strangers_data_of_any_form_is_written(tmp_path):
    """COCO files may hold anything under our names: shapes of lists, definitions of numbers, attributes of texts."""
    odd = {"name": "point", "cx": [1], "cy": {}}
    unread = ({"shape_attributes": 3, "region_attributes": "x"}, {})
    options = {"type": "text", "options": [1]}
    data = dataset(
        Annotation("lumbar", mask(), (odd,), {"class": {"a": [1]}}, keypoints={"p": (1.0, 2.0)}),
        definitions={"region": {"class": {"type": {}, "options": {"a": 3}}}, "file": {"view": options, "patient": 7}},
        unread=unread,
        attributes={"view": "ap"},
        source={"filename": 3, "size": [1]},
    )
    (entry,) = written(data, tmp_path)["_via_img_metadata"].values()
    assert (entry["filename"], entry["size"]) == ("a.png", -1)
    assert entry["regions"][-2:] == [{"shape_attributes": {}, "region_attributes": {}}] * 2


@pytest.mark.parametrize(
    "outline",
    [
        {"name": "polygon", "points": "1,2;3,4"},
        {"name": "polyline", "all_points_x": [1, 2, 3], "all_points_y": None},
        {"name": "circle", "cx": 5, "cy": 5, "r": -3},
        {"name": "ellipse", "cx": "5", "cy": "5", "rx": "-3", "ry": "2"},
    ],
)
def test_unread_shape_that_stops_via_is_kept_under_another_name(tmp_path, outline):
    data = dataset(Annotation("lumbar", mask()), unread=(region(outline, note="n"),))
    (skip,) = write(data, tmp_path / "out.json")
    assert (skip.image, skip.repaired) == ("a.png", True)
    assert outline["name"] in skip.reason
    again, _ = via.read([tmp_path / "out.json"], films(tmp_path, "a.png"))
    (kept,) = again.images[0].unread
    assert kept == region({**outline, "name": f"unreadable {outline['name']}"}, note="n")


def test_outline_that_cannot_be_drawn_gives_way_to_the_mask(tmp_path):
    data = dataset(Annotation("lumbar", mask(), ({"name": "polygon", "all_points_x": None},)))
    (skip,) = write(data, tmp_path / "out.json")
    assert (skip.region, skip.repaired) == (0, True)
    assert "does not belong to its mask" in skip.reason
    again, _ = via.read([tmp_path / "out.json"], films(tmp_path, "a.png"))
    assert again.images[0].annotations[0].mask == mask()


def disc(*spots, radius=20):
    rows, columns = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    dense = np.hypot(rows - 30, columns - 40) < radius
    for x, y in spots:
        dense[y, x] = True
    return rle.encode(dense)


def test_tolerance_makes_outlines_of_masks_fit_to_be_dragged(tmp_path):
    data = dataset(Annotation("lumbar", disc()), Annotation("rod", mask(), (box(),)))
    exact, _ = written(data, tmp_path)["_via_img_metadata"]["a.png-1"]["regions"]
    (skip,) = write(data, tmp_path / "out.json", tolerance_px=1)
    thin, drawn = json.loads((tmp_path / "out.json").read_text())["_via_img_metadata"]["a.png-1"]["regions"]
    counts = [len(r["shape_attributes"]["all_points_x"]) for r in (exact, thin)]
    assert counts[1] * 2 < counts[0]
    assert skip.reason == f"masks without outlines drawn with {counts[1]} points for {counts[0]}, moved by at most 1 px"
    assert drawn["shape_attributes"] == box()
    again, _ = via.read([tmp_path / "out.json"], films(tmp_path, "a.png"))
    assert rle.iou([disc()], [again.images[0].annotations[0].mask])[0, 0] > 0.9


def test_specks_are_left_out_and_listed_where_more_is_there(tmp_path):
    alone = Annotation("screw", disc((2, 2), radius=0))
    data = dataset(Annotation("cage", disc((2, 2), (70, 50))), alone)
    skips = write(data, tmp_path / "out.json", tolerance_px=1)
    assert [(s.region, s.repaired) for s in skips if "specks" in s.reason] == [(0, True)]
    again, _ = via.read([tmp_path / "out.json"], films(tmp_path, "a.png"))
    assert [len(a.outlines) for a in again.images[0].annotations] == [1, 1]
    assert again.images[0].annotations[1].mask == alone.mask


@pytest.mark.parametrize("tolerance", [-0.5, 1001, math.nan, math.inf])
def test_tolerance_out_of_range_is_refused(tmp_path, tolerance):
    with pytest.raises(ConfigError, match="tolerance must be from 0 to 1000 px"):
        write(dataset(), tmp_path / "out.json", tolerance_px=tolerance)
    assert not (tmp_path / "out.json").exists()


def test_the_command_takes_the_tolerance(tmp_path, capsys):
    coco.write(dataset(Annotation("lumbar", disc())), tmp_path / "coco.json")
    arguments = ["export", f"{tmp_path}/coco.json", "--format", "via", "--out"]
    assert run([*arguments, f"{tmp_path}/exact.json"]) == 0
    assert run([*arguments, f"{tmp_path}/thin.json", "--tolerance", "1"]) == 0
    assert (tmp_path / "thin.json").stat().st_size < (tmp_path / "exact.json").stat().st_size
    assert "moved by at most 1 px" in " ".join(capsys.readouterr().err.split())
    assert run([*arguments, f"{tmp_path}/none.json", "--tolerance", "-1"]) == 2
