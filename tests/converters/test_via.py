"""VIA files in all their forms become the same data set."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vertinst.converters import via
from vertinst.errors import DataError
from vertinst.structures import rle
from vertinst.structures.conversion import ReadOptions
from vertinst.structures.dataset import CLASSES

HEIGHT, WIDTH = 60, 80


def film(folder, name="a.png", size=(WIDTH, HEIGHT), **options):
    path = folder / "films" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size).save(path, **options)
    return folder / "films"


def box(x=10, y=10, width=20, height=10):
    xs, ys = [x, x + width, x + width, x], [y, y, y + height, y + height]
    return {"name": "polygon", "all_points_x": xs, "all_points_y": ys}


def region(shape=None, **attributes):
    return {"shape_attributes": shape or box(), "region_attributes": attributes}


def entry(regions, name="a.png", **attributes):
    return {"filename": name, "size": 10, "regions": regions, "file_attributes": attributes}


def export(folder, *entries, name="via.json"):
    path = folder / name
    path.write_text(json.dumps({f"{e['filename']}{number}": e for number, e in enumerate(entries)}))
    return path


def project(folder, *entries, region_options=None, id_list=None):
    attributes = {n: {"type": "dropdown", "options": o} for n, o in (region_options or {}).items()}
    content = {
        "_via_settings": {},
        "_via_img_metadata": {f"{e['filename']}10": e for e in entries},
        "_via_attributes": {"region": attributes, "file": {}},
    }
    if id_list is not None:
        content["_via_image_id_list"] = id_list
    path = folder / "project.json"
    path.write_text(json.dumps(content))
    return path


def read_regions(folder, *regions, **options):
    """Annotations of one film with these regions, and the skips."""
    dataset, skips = via.read([export(folder, entry(list(regions)))], film(folder), ReadOptions(**options))
    return dataset.images[0].annotations, skips


def only(folder, *regions, **options):
    annotations, skips = read_regions(folder, *regions, **options)
    assert skips == ()
    (annotation,) = annotations
    return annotation


def test_export_keeps_everything_annotated(tmp_path):
    found = region(Objekte="lumbar", level="L4", note="blurred", grade=3, tilted=None)
    source = entry([found], patient="P7", view="lateral", exposure="70 kV")
    dataset, skips = via.read([export(tmp_path, source)], film(tmp_path))
    (image,) = dataset.images
    assert skips == ()
    assert dataset.categories == CLASSES
    assert (image.image_id, image.file_name, image.image_size) == (1, "a.png", (HEIGHT, WIDTH))
    assert (image.patient, image.view, image.attributes) == ("P7", "lateral", source["file_attributes"])
    (annotation,) = image.annotations
    assert (annotation.category, annotation.level, annotation.ignore) == ("lumbar", "L4", False)
    assert annotation.outlines == (found["shape_attributes"],)
    assert annotation.attributes == found["region_attributes"]
    assert rle.box_xyxy(annotation.mask).tolist() == [10, 10, 30, 20]
    assert rle.area(annotation.mask) == 200


def test_via_1_regions_and_closed_polygons(tmp_path):
    shape = {"name": "polygon", "all_points_x": [3, 3, 6, 3], "all_points_y": [1, 4, 4, 1]}
    old = {"fileref": "", "size": "10", "filename": "a.png", "base64_img_data": "", "file_attributes": {}}
    old["regions"] = {"0": region(shape, **{"class": "rod"}), "1": region(**{"class": "cage"})}
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"a.png10": old}))
    dataset, skips = via.read([path], film(tmp_path))
    assert skips == ()
    first, second = dataset.images[0].annotations
    assert (first.category, second.category) == ("rod", "cage")
    assert first.outlines == (shape,)
    assert rle.area(first.mask) > 0


@pytest.mark.parametrize("id_list", [None, ["b.png10", "a.png10"]])
def test_project_follows_its_list(tmp_path, id_list):
    film(tmp_path, "b.png")
    path = project(tmp_path, entry([region(**{"class": "rod"})]), entry([], "b.png"), id_list=id_list)
    dataset, skips = via.read([path], film(tmp_path))
    assert skips == ()
    names = [image.file_name for image in dataset.images]
    assert names == (["a.png", "b.png"] if id_list is None else ["b.png", "a.png"])


def test_project_list_with_unknown_film_is_reported_and_others_kept(tmp_path):
    path = project(tmp_path, entry([region(**{"class": "rod"})]), id_list=["gone.png5"])
    dataset, (skip,) = via.read([path], film(tmp_path))
    assert len(dataset) == 1
    assert (skip.image, skip.region) == ("gone.png5", None)
    assert "no entry" in skip.reason


@pytest.mark.parametrize("regions", [[], {}, None])
def test_film_without_regions_is_kept(tmp_path, regions):
    dataset, skips = via.read([export(tmp_path, entry(regions))], film(tmp_path))
    assert (len(dataset), dataset.images[0].annotations, skips) == (1, (), ())
    assert dataset.categories == CLASSES


def test_rectangle(tmp_path):
    annotation = only(tmp_path, region({"name": "rect", "x": 5, "y": 6, "width": 7, "height": 8}, type="cage"))
    assert rle.box_xyxy(annotation.mask).tolist() == [5, 6, 12, 14]
    assert rle.area(annotation.mask) == 56


def dense(annotation):
    return rle.decode(annotation.mask)


def grid():
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    return x, y


def test_circle_differs_from_the_true_disc_at_its_edge_only(tmp_path):
    annotation = only(tmp_path, region({"name": "circle", "cx": 40, "cy": 30, "r": 20.5}, type="screw"))
    x, y = grid()
    distance = np.hypot(x - 40, y - 30)
    assert dense(annotation)[distance < 19.7].all()
    assert not dense(annotation)[distance > 21.3].any()


@pytest.mark.parametrize("theta", [0.0, 0.6, -1.2])
def test_ellipse_is_turned_by_theta(tmp_path, theta):
    shape = {"name": "ellipse", "cx": 40, "cy": 30, "rx": 25, "ry": 8, "theta": theta}
    annotation = only(tmp_path, region(shape, type="screw"))
    x, y = grid()
    along = (x - 40) * np.cos(theta) + (y - 30) * np.sin(theta)
    across = -(x - 40) * np.sin(theta) + (y - 30) * np.cos(theta)
    assert dense(annotation)[(along / 24) ** 2 + (across / 7) ** 2 < 1].all()
    assert not dense(annotation)[(along / 26) ** 2 + (across / 9) ** 2 > 1].any()
    assert annotation.outlines == (shape,)


def test_via_1_ellipse_has_no_theta(tmp_path):
    annotation = only(tmp_path, region({"name": "ellipse", "cx": 40, "cy": 30, "rx": 20, "ry": 5}, type="screw"))
    left, top, right, bottom = rle.box_xyxy(annotation.mask)
    assert (right - left, bottom - top) == pytest.approx((40, 10), abs=1)


@pytest.mark.parametrize(
    ("value", "category", "level"),
    [
        ("lumbar", "lumbar", None),
        (" Lumbar_Vertebra ", "lumbar", None),
        ("Lendenwirbel", "lumbar", None),
        ("Wirbelkoerper", "lumbar", None),
        ("LWK", "lumbar", None),
        ("Kreuzbein", "sacral", None),
        ("Sakrum", "sacral", None),
        ("KÄFIG", "cage", None),
        ("Schraube", "screw", None),
        ("pedicle-screw", "screw", None),
        ("Stab", "rod", None),
        ("L5", "lumbar", "L5"),
        ("lwk 3", "lumbar", "L3"),
        ("Th12", "lumbar", "T12"),
        ("S1", "sacral", "S1"),
    ],
)
def test_names_in_two_languages(tmp_path, value, category, level):
    annotation = only(tmp_path, region(Klasse=value))
    assert (annotation.category, annotation.level) == (category, level)
    assert annotation.attributes["Klasse"] == value


def test_a_level_of_its_own_is_not_replaced(tmp_path):
    annotation = only(tmp_path, region(label="L5", level="L4"))
    assert annotation.level == "L4"


@pytest.mark.parametrize("value", ["T11", "S3", "L6", "disc"])
def test_unknown_class_is_skipped_and_listed(tmp_path, value):
    annotations, (skip,) = read_regions(tmp_path, region(label="L5"), region(box(40), label=value))
    assert len(annotations) == 1
    assert (skip.image, skip.region, skip.repaired) == ("a.png", 1, False)
    assert repr(value) in skip.reason


@pytest.mark.parametrize("attributes", [{}, {"label": ""}, {"label": None}, {"label": {}}, {"label": [1]}])
def test_missing_class_is_skipped_and_listed(tmp_path, attributes):
    annotations, (skip,) = read_regions(tmp_path, region(label="rod"), region(box(40), **attributes))
    assert len(annotations) == 1
    assert skip.region == 1
    assert "has no class" in skip.reason


def test_absent_region_attributes(tmp_path):
    bare = {"shape_attributes": box(40), "region_attributes": None}
    _, (skip,) = read_regions(tmp_path, region(label="rod"), bare)
    assert "has no class" in skip.reason


def test_checkbox(tmp_path):
    annotation = only(tmp_path, region(Objekt={"lumbar": True, "screw": False}))
    assert annotation.category == "lumbar"
    assert annotation.attributes["Objekt"] == {"lumbar": True, "screw": False}


def test_checkbox_with_two_classes_is_skipped(tmp_path):
    both = region(box(40), Objekt={"lumbar": True, "screw": True})
    _, (skip,) = read_regions(tmp_path, region(Objekt={"rod": True}), both)
    assert "must have one class, got 'lumbar, screw'" in skip.reason


def test_option_ids_are_translated(tmp_path):
    options = {"class": {"0": "Lendenwirbel", "1": "Schraube"}, "level": {"x": "L4"}, "ignore": {"0": "no", "1": "yes"}}
    regions = [
        region(**{"class": "0", "level": "x", "ignore": "0"}),
        region(box(40), **{"class": 1, "ignore": "1"}),
    ]
    dataset, skips = via.read([project(tmp_path, entry(regions), region_options=options)], film(tmp_path))
    assert skips == ()
    bone, metal = dataset.images[0].annotations
    assert (bone.category, bone.level, bone.ignore) == ("lumbar", "L4", False)
    assert (metal.category, metal.ignore) == ("screw", True)
    assert metal.attributes["class"] == 1


def test_levels_of_ticks_and_of_options_above_the_lumbar_spine(tmp_path):
    ticked = region(label="lumbar", level={"Th11": False, "LWK 1": True})
    chosen = region(box(40), label="lumbar", level="7")
    path = project(tmp_path, entry([ticked, chosen]), region_options={"level": {"7": "Th11"}})
    dataset, _ = via.read([path], film(tmp_path))
    assert [a.level for a in dataset.images[0].annotations] == ["L1", "T11"]


@pytest.mark.parametrize(
    "hostile", [None, [], {"region": []}, {"region": {"class": 3}}, {"region": {"class": {"options": [1]}}}]
)
def test_broken_attribute_definitions_do_no_harm(tmp_path, hostile):
    path = project(tmp_path, entry([region(**{"class": "rod"})]))
    path.write_text(json.dumps({**json.loads(path.read_text()), "_via_attributes": hostile}))
    dataset, skips = via.read([path], film(tmp_path))
    assert (dataset.counts()["rod"], skips) == (1, ())


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), ("yes", True), ({"ignore": True}, True), ("", False), ("false", False), (0, False)],
)
def test_ignore(tmp_path, value, expected):
    assert only(tmp_path, region(label="rod", ignore=value)).ignore is expected


def test_usual_name_wins_over_level_and_others(tmp_path):
    annotation = only(tmp_path, region(finding="rod", level="L5", Objekte="lumbar"))
    assert annotation.category == "lumbar"


def test_level_alone_gives_the_class(tmp_path):
    annotation = only(tmp_path, region(level="S1", instance="3"))
    assert (annotation.category, annotation.level) == ("sacral", "S1")


def test_several_fitting_attributes_are_refused_with_the_way_out(tmp_path):
    with pytest.raises(DataError, match=r"several that fit: label, type\nName the right one: --class-attribute label"):
        read_regions(tmp_path, region(label="rod", type="screw"))
    assert only(tmp_path, region(label="rod", type="screw"), class_attribute="type").category == "screw"


def test_attribute_that_holds_something_else_does_not_fit(tmp_path):
    found = [region(type="bird", name="rod"), region(box(40), type="human", name="screw")]
    annotations, _ = read_regions(tmp_path, *found)
    assert [a.category for a in annotations] == ["rod", "screw"]


def test_no_fitting_attribute_names_attributes_but_no_values(tmp_path):
    with pytest.raises(DataError, match=r"attributes found: insect, reader\n.*--class-attribute") as error:
        read_regions(tmp_path, region(insect="kudzu", reader="Dr. Miller"))
    assert "Miller" not in str(error.value)


def test_requested_attribute_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="no region has the attribute 'Klasse'; attributes found: label"):
        read_regions(tmp_path, region(label="rod"), class_attribute="Klasse")


def test_own_classes_of_a_requested_attribute(tmp_path):
    found = [region(insect="kudzu"), region(box(40), insect=" ant ")]
    dataset, skips = via.read([export(tmp_path, entry(found))], film(tmp_path), ReadOptions(class_attribute="insect"))
    assert skips == ()
    assert dataset.categories == ("ant", "kudzu")


def test_class_map_translates_skips_and_adds(tmp_path):
    found = [region(insect=name) for name in ("KUDZU", "leaf", "Schraube", "stem")]
    names = {"kudzu": "Lumbar", "leaf": None, "stem": "plant"}
    dataset, skips = via.read([export(tmp_path, entry(found))], film(tmp_path), ReadOptions(class_map=names))
    assert dataset.categories == (*CLASSES, "plant")
    assert [a.category for a in dataset.images[0].annotations] == ["lumbar", "screw", "plant"]
    assert "class 'leaf' is skipped by the class map" in [s.reason for s in skips]


def test_class_map_with_blank_name_classifies_the_rest(tmp_path):
    assert only(tmp_path, region(), class_map={"": "lumbar"}).category == "lumbar"
    with pytest.raises(DataError, match=r"no region has an attribute.*\n.*--class-map"):
        read_regions(tmp_path, region())


def test_class_map_that_fits_nothing(tmp_path):
    with pytest.raises(DataError, match="none of the values of 'insect' is in the class map"):
        read_regions(tmp_path, region(insect="ant"), class_attribute="insect", class_map={"bee": "rod"})


@pytest.mark.parametrize(
    ("name", "text"),
    [("m.json", '{"a": "lumbar", "1": null}'), ("m.yaml", "a: lumbar\n1: null\n"), ("m.yml", "'a': lumbar\n1: ~\n")],
)
def test_read_class_map(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert via.read_class_map(tmp_path / name) == {"a": "lumbar", "1": None}


def test_names_of_a_class_map_are_texts_whatever_yaml_calls_them(tmp_path):
    (tmp_path / "m.yaml").write_text('no: rod\n05: lumbar\non: null\n1.0: cage\n"null": screw\n"": sacral\n')
    expected = {"no": "rod", "05": "lumbar", "on": None, "1.0": "cage", "null": "screw", "": "sacral"}
    assert via.read_class_map(tmp_path / "m.yaml") == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.yaml", "[1, 2]", "must be a list of"),
        ("m.yaml", "", "must be a list of"),
        ("m.yaml", "a: [b", "is not valid YAML"),
        ("m.yaml", "!!python/object/apply:os.getcwd []", "must be a list of"),
        ("m.yaml", "a: lumbar\na: rod\n", r"is not valid YAML: each name must be a text that stands once \(line 1\)"),
        ("m.yaml", "[a, b]: rod\n", "each name must be a text"),
        ("m.yaml", "a: [rod]\n", "class must be a name or null, got list for 'a'"),
        ("m.json", "{", "is not valid JSON"),
        ("m.json", '{"a": 3}', "class must be a name or null, got int for 'a'"),
    ],
)
def test_broken_class_map(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        via.read_class_map(tmp_path / name)


def test_parts_of_an_instance_are_one_annotation(tmp_path):
    parts = [
        region(box(10), label="lumbar", instance="1", level="L4"),
        region(box(50), label="lumbar", instance=1, side="left", level="L3"),
        region(box(30), label="screw", instance="1"),
        region(box(60), label="lumbar", instance=""),
        region(box(58), label="lumbar", instance=""),
    ]
    annotations, skips = read_regions(tmp_path, *parts)
    assert [(s.region, s.repaired) for s in skips] == [(1, True)]
    assert "another level" in skips[0].reason
    assert [a.category for a in annotations] == ["lumbar", "screw", "lumbar", "lumbar"]
    body = annotations[0]
    assert body.outlines == (box(10), box(50))
    assert body.attributes == {"label": "lumbar", "instance": "1", "level": "L4", "side": "left"}
    assert rle.area(body.mask) == 400


def test_two_files_are_one_data_set(tmp_path):
    first = export(tmp_path, entry([region(label="lumbar", instance="1")], patient="P1"), name="one.json")
    again = [region(label="lumbar", instance="1"), region(box(50), label="rod", instance="1")]
    second = export(tmp_path, entry(again, view="ap"), entry([], "b.png"), name="two.json")
    film(tmp_path, "b.png")
    dataset, (skip,) = via.read([first, second], film(tmp_path))
    assert [len(i.annotations) for i in dataset.images] == [2, 0]
    assert (dataset.images[0].patient, dataset.images[0].view) == ("P1", "ap")
    assert (skip.file, skip.region, skip.repaired) == (str(second), 0, False)
    assert f"the same as region 0 of {first}: left out" in skip.reason


def test_instances_of_two_files_stay_apart(tmp_path):
    paths = [
        export(tmp_path, entry([region(box(x), label="lumbar", instance="1")]), name=f"{x}.json") for x in (10, 50)
    ]
    dataset, skips = via.read(paths, film(tmp_path))
    assert (len(dataset.images[0].annotations), skips) == (2, ())


def test_the_same_file_twice_counts_once(tmp_path):
    path = export(tmp_path, entry([region(label="rod")]))
    dataset, (skip,) = via.read([path, path], film(tmp_path))
    assert dataset.counts()["rod"] == 1
    assert (skip.region, skip.repaired) == (None, False)
    assert "occurs again" in skip.reason


def test_duplicates_within_a_film_are_kept_and_reported(tmp_path):
    annotations, (skip,) = read_regions(tmp_path, region(label="rod"), region(label="rod"))
    assert len(annotations) == 2
    assert (skip.region, skip.reason, skip.repaired) == (1, "the same as region 0: both kept", True)


@pytest.mark.parametrize("name", ["a.png", "./a.png", "sub/a.png", "sub\\a.png", "http://server/films/a.png"])
def test_names_with_folders_fall_back_to_the_base_name(tmp_path, name):
    dataset, _ = via.read([export(tmp_path, entry([], name))], film(tmp_path))
    assert dataset.images[0].file_name == "a.png"


def test_films_in_sub_folders(tmp_path):
    film(tmp_path, "deep/er/b.png")
    path = export(tmp_path, entry([], "b.png"), entry([], "deep/er/b.png"))
    dataset, _ = via.read([path], film(tmp_path))
    assert [i.file_name for i in dataset.images] == ["deep/er/b.png"]


def test_base_name_that_fits_two_films(tmp_path):
    film(tmp_path, "x/b.png")
    path = export(tmp_path, entry([], "b.png"))
    with pytest.raises(DataError, match=r"several films have this name: x/b\.png, y/b\.png"):
        via.read([path], film(tmp_path, "y/b.png"))


@pytest.mark.parametrize("name", ["../a.png", "/x/../a.png", "C:\\..\\a.png", "x/../../a.png", "a\0.png"])
def test_names_never_lead_outside(tmp_path, name):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(DataError, match="leads outside the image folder"):
        via.read([export(tmp_path, entry([], name))], film(tmp_path, "other.png"))


def test_links_never_lead_outside(tmp_path):
    films = film(tmp_path, "other.png")
    Image.new("L", (4, 4)).save(tmp_path / "secret.png")
    (films / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="leads outside the image folder"):
        via.read([export(tmp_path, entry([], "link.png"))], films)


@pytest.mark.parametrize(("suffix", "orientation"), [("jpg", 6), ("jpg", 3), ("tif", 8), ("tif", 1), ("png", 5)])
def test_size_obeys_the_exif_orientation(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    name = f"a.{suffix}"
    dataset, _ = via.read([export(tmp_path, entry([], name))], film(tmp_path, name, exif=exif))
    turned = orientation >= 5
    assert dataset.images[0].image_size == ((WIDTH, HEIGHT) if turned else (HEIGHT, WIDTH))


@pytest.mark.parametrize("key", ["patient", "Patient_ID", "PatientID", "patient id", "Subject"])
def test_patient_names(tmp_path, key):
    dataset, _ = via.read([export(tmp_path, entry([], **{key: 12}))], film(tmp_path))
    assert dataset.images[0].patient == "12"


@pytest.mark.parametrize("value", ["", "  ", None, {}, True])
def test_blank_patient_is_none(tmp_path, value):
    dataset, _ = via.read([export(tmp_path, entry([], patient=value))], film(tmp_path))
    assert dataset.images[0].patient is None


@pytest.mark.parametrize(
    ("value", "spacing"), [(0.2, (0.2, 0.2)), ("0.2", (0.2, 0.2)), ("0.2\\0.3", (0.2, 0.3)), ([0.2, 0.3], (0.2, 0.3))]
)
def test_pixel_spacing(tmp_path, value, spacing):
    dataset, skips = via.read([export(tmp_path, entry([], PixelSpacing=value))], film(tmp_path))
    assert skips == ()
    assert dataset.images[0].pixel_spacing_mm == spacing
    assert dataset.images[0].pixel_spacing_source == "PixelSpacing"


def test_pixel_spacing_with_its_source(tmp_path):
    path = export(tmp_path, entry([], pixel_spacing_mm=0.1, pixel_spacing_source="ruler"))
    assert via.read([path], film(tmp_path))[0].images[0].pixel_spacing_source == "ruler"


@pytest.mark.parametrize("value", ["unknown", "0", "-1", "nan", "1,2,3", [0.2, -0.2]])
def test_unusable_pixel_spacing_is_listed(tmp_path, value):
    dataset, (skip,) = via.read([export(tmp_path, entry([], PixelSpacing=value))], film(tmp_path))
    assert dataset.images[0].pixel_spacing_mm is None
    assert "PixelSpacing must be one or two positive numbers" in skip.reason


def test_read_does_not_decode_films(tmp_path):
    films = film(tmp_path)
    content = (films / "a.png").read_bytes()
    (films / "a.png").write_bytes(content[: content.index(b"IDAT") + 8])
    dataset, _ = via.read([export(tmp_path, entry([]))], films)
    assert dataset.images[0].image_size == (HEIGHT, WIDTH)


def test_paths_may_be_relative(tmp_path, monkeypatch):
    export(tmp_path, entry([region(label="rod")]))
    film(tmp_path)
    monkeypatch.chdir(tmp_path)
    dataset, _ = via.read([Path("via.json")], Path("films"))
    assert dataset.counts()["rod"] == 1


def test_progress_counts_films(tmp_path):
    steps = []
    path = export(tmp_path, entry([]), entry([], "b.png"))
    film(tmp_path, "b.png")
    via.read([path], film(tmp_path), progress=lambda done, total, text: steps.append((done, total)))
    assert steps == [(0, 2), (1, 2), (2, 2)]
