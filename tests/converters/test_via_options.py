"""What the user asks for when VIA files are read: instances, patients, lines; and files whose options disagree."""

import json

import pytest
from PIL import Image

from vertinst.converters import via
from vertinst.converters._definitions import unite_definitions
from vertinst.converters._source import Entry, Options, Region
from vertinst.errors import ConfigError, DataError
from vertinst.structures import rle
from vertinst.structures.conversion import ReadOptions

HEIGHT, WIDTH = 60, 80


def rect(x=10):
    return {"name": "rect", "x": x, "y": 10, "width": 20, "height": 10}


def region(shape=None, **attributes):
    return {"shape_attributes": shape or rect(), "region_attributes": attributes}


def entry(regions, name="a.png", **attributes):
    return {"filename": name, "size": 10, "regions": regions, "file_attributes": attributes}


def definition(options, kind="dropdown"):
    return {"type": kind, "description": "", "options": options, "default_options": {}}


TEXT = {"type": "text", "description": ""}


def save(folder, *entries, name="via.json", region_attributes=None, film_attributes=None):
    films = {f"{e['filename']}{number}": e for number, e in enumerate(entries)}
    for e in entries:
        path = folder / "films" / e["filename"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (WIDTH, HEIGHT)).save(path)
    content = {
        "_via_settings": {},
        "_via_img_metadata": films,
        "_via_attributes": {"region": region_attributes or {}, "file": film_attributes or {}},
    }
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def read(folder, *paths, **options):
    return via.read(list(paths), folder / "films", ReadOptions(**options))


def test_open_lines_get_the_width_asked_for(tmp_path):
    shape = {"name": "polyline", "all_points_x": [10, 50], "all_points_y": [20, 20]}
    path = save(tmp_path, entry([region(shape, label="rod"), region(label="cage")]))
    dataset, skips = read(tmp_path, path, line_width_px=6)
    assert skips == ()
    rod = dataset.images[0].annotations[0]
    assert rle.box_xyxy(rod.mask).tolist() == [10, 17, 50, 23]
    assert (rod.outlines, rod.drawn) == ((shape,), False)


def test_open_lines_without_a_width_are_left_out_listed_and_kept_for_export(tmp_path):
    shape = {"name": "polyline", "all_points_x": [10, 50], "all_points_y": [20, 20]}
    found = region(shape, label="rod")
    dataset, (skip,) = read(tmp_path, save(tmp_path, entry([found, region(label="cage")])))
    assert (skip.region, skip.repaired) == (0, False)
    assert skip.reason == "an open line has no area: give --line-width"
    assert dataset.images[0].unread == (found,)


def test_parts_by_an_attribute_of_the_users_choice(tmp_path):
    parts = [region(label="lumbar", Wirbel="3"), region(rect(40), label="lumbar", Wirbel=3)]
    path = save(tmp_path, entry([*parts, region(rect(50), label="lumbar", instance="3")]))
    first, second = read(tmp_path, path, instance_attribute="Wirbel")[0].images[0].annotations
    assert (len(first.outlines), len(second.outlines)) == (2, 1)
    assert len(read(tmp_path, path)[0].images[0].annotations) == 3


def test_instance_attribute_that_no_region_has(tmp_path):
    path = save(tmp_path, entry([region(label="rod", part="1")]))
    message = r"no region has the attribute 'Teil'; attributes found: label, part\n.*--instance-attribute"
    with pytest.raises(DataError, match=message):
        read(tmp_path, path, instance_attribute="Teil")


def test_instance_attribute_without_any_region_is_fine(tmp_path):
    dataset, _ = read(tmp_path, save(tmp_path, entry([])), instance_attribute="Teil")
    assert len(dataset) == 1


@pytest.mark.parametrize("asked", ["case", "Case", "CASE_", "c a-se"])
def test_patient_by_attribute(tmp_path, asked):
    films = [entry([], "a.png", Case=7, patient="no"), entry([], "b.png", patient="no"), entry([], "c.png", Case=" ")]
    dataset, skips = read(tmp_path, save(tmp_path, *films), patient_attribute=asked)
    assert [i.patient for i in dataset.images] == ["7", None, None]
    assert skips == ()


def test_patient_by_the_label_of_an_option(tmp_path):
    attributes = {"case": definition({"0": "P7"})}
    path = save(tmp_path, entry([], case="0"), film_attributes=attributes)
    assert read(tmp_path, path, patient_attribute="case")[0].images[0].patient == "P7"


def test_patient_attribute_that_no_film_has(tmp_path):
    path = save(tmp_path, entry([], patient="Meier", view="ap"))
    message = r"no film has the attribute 'case'; attributes of films found: patient, view\n.*--patient-attribute"
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, path, patient_attribute="case")
    assert "Meier" not in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "patients"),
    [
        (r"^([^_]+)_", ["P1", "P1", "sub/P2"]),
        (r"P\d", ["P1", "P1", "P2"]),
        (r"(?:^|/)(P\d)_(\w+)", ["P1", "P1", "P2"]),
        (r"(P)(?=2)|P1", [None, None, "P"]),
        (r"P1|(x)?", [None, None, None]),
    ],
)
def test_patient_by_file_name(tmp_path, pattern, patients):
    films = [entry([], name, patient="no") for name in ("P1_ap.png", "P1_lat.png", "sub/P2_ap.png")]
    dataset, skips = read(tmp_path, save(tmp_path, *films), patient_regex=pattern, patient_attribute="unknown")
    assert [i.patient for i in dataset.images] == patients
    assert len(skips) == (None in patients)


def test_films_that_the_pattern_does_not_match_are_listed_once(tmp_path):
    films = [entry([], name) for name in ("P1_ap.png", "x.png", "y.png", "z.png")]
    dataset, (skip,) = read(tmp_path, save(tmp_path, *films), patient_regex=r"^(P\d)_")
    assert [i.patient for i in dataset.images] == ["P1", None, None, None]
    assert (skip.image, skip.region, skip.repaired) == ("x.png", None, True)
    assert "this film and 2 more has no patient" in skip.reason


def test_the_pattern_sees_the_name_in_the_folder(tmp_path):
    path = save(tmp_path, entry([], "P1/a.png"))
    path.write_text(path.read_text().replace("P1/a.png", "a.png"))
    assert read(tmp_path, path, patient_regex="^([^/]+)/")[0].images[0].patient == "P1"


@pytest.mark.parametrize("pattern", ["(", "[a", "*", "(?P<x"])
def test_a_broken_pattern_is_refused(tmp_path, pattern):
    with pytest.raises(ConfigError, match=r"patient pattern must be a regular expression, got .*\n.*--patient-regex"):
        read(tmp_path, save(tmp_path, entry([])), patient_regex=pattern)


def two_files(folder, first, second, value_one, value_two):
    """A film in each of two files, the attribute `label` defined in both, and what was read."""
    paths = [
        save(folder, entry([region(label=value)], name), name=f"{name}.json", region_attributes={"label": definition})
        for name, definition, value in (("a.png", first, value_one), ("b.png", second, value_two))
    ]
    dataset, skips = read(folder, *paths)
    values = [i.annotations[0].attributes["label"] for i in dataset.images]
    classes = [i.annotations[0].category for i in dataset.images]
    return classes, values, dataset.attribute_definitions["region"]["label"].get("options"), skips


def test_options_that_agree_are_joined(tmp_path):
    one, two = definition({"0": "rod", "1": "cage"}), definition({"1": "cage ", "2": "screw"})
    classes, values, options, skips = two_files(tmp_path, one, two, "0", "2")
    assert (classes, values, skips) == (["rod", "screw"], ["0", "2"], ())
    assert options == {"0": "rod", "1": "cage", "2": "screw"}


@pytest.mark.parametrize("chosen", ["0", 0, {"0": True}, {"0": True, "1": False}])
def test_ids_that_mean_something_else_are_rewritten_to_those_of_the_first_file(tmp_path, chosen):
    one, two = definition({"0": "rod", "1": "cage"}), definition({"0": "cage", "1": "rod"})
    classes, values, options, (skip,) = two_files(tmp_path, one, two, "0", chosen)
    assert classes == ["rod", "cage"]
    expected = {"1": True, "0": False} if isinstance(chosen, dict) and len(chosen) == 2 else None
    assert values[1] == (expected or ({"1": True} if isinstance(chosen, dict) else "1"))
    assert options == {"0": "rod", "1": "cage"}
    assert (skip.file, skip.region, skip.repaired) == (str(tmp_path / "b.png.json"), None, True)
    assert "option ids of attribute 'label' mean something else" in skip.reason
    assert "in 1 regions" in skip.reason


def test_a_label_that_the_first_file_has_not_becomes_an_id(tmp_path):
    one, two = definition({"0": "rod"}), definition({"0": "screw"})
    classes, values, options, skips = two_files(tmp_path, one, two, "0", "0")
    assert (classes, values, len(skips)) == (["rod", "screw"], ["0", "screw"], 1)
    assert options == {"0": "rod", "screw": "screw"}


def test_a_label_that_is_an_id_already_gets_another(tmp_path):
    one, two = definition({"0": "rod", "screw": "cage"}), definition({"0": "screw"})
    classes, values, options, _ = two_files(tmp_path, one, two, "0", "0")
    assert (classes, values) == (["rod", "screw"], ["0", "screw 2"])
    assert options == {"0": "rod", "screw": "cage", "screw 2": "screw"}


def test_options_behind_a_text_become_texts(tmp_path):
    classes, values, options, (skip,) = two_files(tmp_path, TEXT, definition({"0": "screw"}), "rod", "0")
    assert (classes, values, options) == (["rod", "screw"], ["rod", "screw"], None)
    assert skip.repaired


def test_a_text_behind_options_stays(tmp_path):
    classes, values, options, skips = two_files(tmp_path, definition({"0": "rod"}), TEXT, "0", "screw")
    assert (classes, values, skips) == (["rod", "screw"], ["0", "screw"], ())
    assert options == {"0": "rod"}


def test_options_that_no_region_uses_are_not_listed(tmp_path):
    one, two = definition({"0": "rod", "1": "cage"}), definition({"0": "rod", "1": "screw"})
    _, values, options, skips = two_files(tmp_path, one, two, "0", "0")
    assert (values, skips) == (["0", "0"], ())
    assert options == {"0": "rod", "1": "cage", "screw": "screw"}


def test_options_of_films_are_rewritten_too(tmp_path):
    paths = [
        save(
            tmp_path, entry([], name, view="0"), name=f"{name}.json", film_attributes={"view": definition({"0": label})}
        )
        for name, label in (("a.png", "ap"), ("b.png", "lateral"))
    ]
    dataset, (skip,) = read(tmp_path, *paths)
    assert [i.view for i in dataset.images] == ["ap", "lateral"]
    assert dataset.images[1].attributes == {"view": "lateral"}
    assert "in 1 films" in skip.reason


@pytest.mark.parametrize("first", [True, False])
def test_ids_of_an_export_are_read_as_the_project_defines_them(tmp_path, first):
    defined = save(
        tmp_path, entry([region(label="0")]), region_attributes={"label": definition({"0": "rod", "1": "cage"})}
    )
    export = tmp_path / "export.json"
    found = [region(label="1"), region(rect(40), label={"0": True}), region(rect(50), label="screw"), region(rect(55))]
    export.write_text(json.dumps({"b": entry(found, "b.png")}))
    save(tmp_path, entry([], "b.png"), name="films.json")
    paths = [defined, export] if first else [export, defined]
    dataset, skips = read(tmp_path, *paths)
    films = {i.file_name: i for i in dataset.images}
    assert [a.category for a in films["b.png"].annotations] == ["cage", "rod", "screw"]
    assert [a.attributes["label"] for a in films["b.png"].annotations] == ["1", {"0": True}, "screw"]
    reasons = [s.reason for s in skips if s.file == str(export) and s.repaired]
    assert reasons == [
        "option ids of attribute 'label' are not explained in this file: read as another file defines them in 2 regions"
    ]


def test_three_files(tmp_path):
    labels = [{"0": "rod"}, {"0": "cage"}, {"0": "cage", "cage": "screw"}]
    options = [Options(region={"x": o}, definitions={"region": {"x": definition(o)}}) for o in labels]
    entries = [
        Entry(str(n), f"{n}.png", {}, (Region(0, rect(), {"x": "0"}), Region(1, rect(), {"x": "cage"})), o)
        for n, o in enumerate(options)
    ]
    united, definitions, skips = unite_definitions(entries)
    values = [[r.attributes["x"] for r in e.regions] for e in united]
    assert values == [["0", "cage"], ["cage", "cage"], ["cage", "screw"]]
    assert [e.options.region["x"].get(v[0]) for e, v in zip(united, values, strict=True)] == ["rod", "cage", "cage"]
    assert definitions["region"]["x"]["options"] == {"0": "rod", "cage": "cage", "screw": "screw"}
    assert [s.file for s in skips] == ["1", "2"]


def test_regions_that_are_the_same_after_rewriting_count_once(tmp_path):
    one, two = definition({"0": "rod", "1": "cage"}), definition({"0": "cage", "1": "rod"})
    paths = [
        save(
            tmp_path,
            entry([region(label=value), region(rect(40), label=value)][:count]),
            name=n,
            region_attributes={"label": d},
        )
        for n, d, value, count in (("1.json", one, "0", 1), ("2.json", two, "1", 2))
    ]
    dataset, skips = read(tmp_path, *paths)
    assert dataset.counts()["rod"] == 2
    assert any("the same as region 0" in s.reason for s in skips)


def test_film_attributes_that_differ_between_files_are_listed_by_name_only(tmp_path):
    paths = [
        save(tmp_path, entry([region(rect(x), label="rod")], reader=r), name=f"{x}.json")
        for x, r in ((5, "Meier"), (40, "Huber"))
    ]
    dataset, (skip,) = read(tmp_path, *paths)
    assert dataset.images[0].attributes == {"reader": "Meier"}
    assert "film attribute reader differs" in skip.reason
    assert "Huber" not in skip.reason


@pytest.mark.parametrize(
    ("extra", "hint"),
    [
        ({"fileref": "http://x/a.png"}, "gives addresses of films"),
        ({"base64_img_data": "AAAA"}, "holds pixels itself"),
        ({"fileref": "", "base64_img_data": ""}, None),
        ({"fileref": None, "base64_img_data": 3}, None),
    ],
)
def test_a_missing_film_that_via_1_has_elsewhere(tmp_path, extra, hint):
    (tmp_path / "films").mkdir()
    path = tmp_path / "via.json"
    path.write_text(json.dumps({"a": {**entry({}), **extra}}))
    with pytest.raises(DataError, match=r"1 of 1 films are not there: a\.png") as caught:
        read(tmp_path, path)
    assert "--images" in str(caught.value)
    assert (hint or "annotation file") in str(caught.value) if hint else "annotation file" not in str(caught.value)


def test_pixels_of_via_1_are_not_kept(tmp_path):
    path = save(tmp_path, entry({}))
    path.write_text(json.dumps({"a": {**entry({}), "fileref": "", "base64_img_data": "AAAA"}}))
    (image,) = read(tmp_path, path)[0].images
    assert image.source == {"filename": "a.png", "size": 10, "fileref": ""}


@pytest.mark.parametrize("size", [-1, "-1", "10", 10, None, {}, 1.5])
def test_sizes_in_bytes_are_kept_as_they_are_and_not_needed(tmp_path, size):
    path = save(tmp_path, {**entry([region(label="rod")]), "size": size})
    dataset, skips = read(tmp_path, path)
    assert (dataset.images[0].source["size"], skips) == (size, ())


def test_an_absent_size(tmp_path):
    path = save(tmp_path, {k: v for k, v in entry([region(label="rod")]).items() if k != "size"})
    assert read(tmp_path, path)[0].images[0].source == {"filename": "a.png"}


@pytest.mark.parametrize(
    "name", ["a b.png", "a#1.png", "椎骨.png", "ä, ö.png", "a%20b.png", "sub folder/a.png", "a.b.png"]
)
def test_unusual_names(tmp_path, name):
    dataset, _ = read(tmp_path, save(tmp_path, entry([], name)))
    assert dataset.images[0].file_name == name


@pytest.mark.parametrize(
    ("value", "category", "level"),
    [
        ("5. LWK", "lumbar", "L5"),
        ("1. Lendenwirbelkörper", "lumbar", "L1"),
        ("12. BWK", "lumbar", "T12"),
        ("2. Sakralwirbel", "sacral", "S2"),
        ("Wirbelkörper_L3", "lumbar", "L3"),
        ("L4 vertebra", "lumbar", "L4"),
        ("LumbarVertebra", "lumbar", None),
        ("Os sacrum", "sacral", None),
        ("PedicleScrew", "screw", None),
        ("Pedikel-Schraube", "screw", None),
        ("TLIF-Cage", "cage", None),
        ("Längsträger", "rod", None),
    ],
)
def test_more_names(tmp_path, value, category, level):
    (annotation,) = read(tmp_path, save(tmp_path, entry([region(label=value)])))[0].images[0].annotations
    assert (annotation.category, annotation.level) == (category, level)


@pytest.mark.parametrize("value", ["lumbar 5", "Lendenwirbel 5", "11. BWK", "screw 1", "Wirbel T11", "vertebra 3"])
def test_names_that_may_mean_something_else_are_not_guessed(tmp_path, value):
    path = save(tmp_path, entry([region(label="rod"), region(rect(40), label="rod"), region(rect(50), label=value)]))
    _, (skip,) = read(tmp_path, path)
    assert skip.reason == f"unknown class {value!r}"


def test_points_of_an_instance_and_points_without_a_place(tmp_path):
    found = [
        region(label="lumbar", instance="1"),
        region({"name": "point", "cx": 3.5, "cy": 4}, instance="1", keypoint="corner"),
        region({"name": "point", "cx": 300, "cy": 4}, instance="1"),
        region({"name": "point", "cx": "3", "cy": 4}, instance="1"),
        region({"name": "point", "cx": 3, "cy": 4}),
    ]
    dataset, skips = read(tmp_path, save(tmp_path, entry(found)))
    (annotation,) = dataset.images[0].annotations
    assert sorted(annotation.keypoints.values()) == [(3.5, 4), (300, 4)]
    assert annotation.keypoints["corner"] == (3.5, 4)
    assert [(s.region, s.repaired) for s in skips] == [(2, True), (3, False), (4, False)]
    assert [u["shape_attributes"]["cx"] for u in dataset.images[0].unread] == ["3", 3]
