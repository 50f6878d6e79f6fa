import copy
import dataclasses
import json

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vertinst.errors import DataError
from vertinst.report import labelled
from vertinst.structures import Implant, Naming, Spine, Vertebra, rle
from vertinst.structures.measures import CORNERS, Body, Disc, Measure, Orientation, Osteophyte, Scale

SIZE = (24, 17)
VALIDATOR = jsonschema.Draft202012Validator(labelled.schema())
PROVENANCE = {"model": "yolact", "versions": {"vertinst": "0.1.0"}, "precision": "32"}


def mask_at(top: int, left: int, height: int = 5, width: int = 6) -> rle.Rle:
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + height, left : left + width] = True
    mask[top + 2, left + 2] = False
    return rle.encode(mask)


def found(top: int) -> dict:
    mask = mask_at(top, 3)
    return {"score": 0.9, "box": rle.box_xyxy(mask), "mask": mask}


def make_body(**changes) -> Body:
    parts = {
        "corners_px": np.array([[3.25, 9], [9, 9.5], [9, 14], [-3, 14]]),
        "corners_sd_px": np.array([0.5, 0, np.nan, 1]),
        "values": {"height_anterior_px": Measure(5.25, 0.125), "wedge_ratio": Measure(0.875)},
        "grades": {"genant_grade": 1},
        "osteophytes": (Osteophyte(CORNERS[3], 4.5, (2.5, 13.5)),),
    }
    return Body(**(parts | changes))


def make_spine(**changes) -> Spine:
    parts = {
        "vertebrae": (
            Vertebra("S1", "sacral", **found(18), flags=("touches_border",), confidence=1.0),
            Vertebra("L6", "lumbar", **found(9), confidence=0.75, body=make_body()),
            Vertebra("L5", "lumbar", **found(1), confidence=0.5),
        ),
        "implants": (Implant("screw", **found(8), levels=("L6",)),),
        "candidates": (Implant("lumbar", **found(2)),),
        "flags": ("a_flag",),
        "log": ({"event": "suppressed", "iou": 0.7},),
        "naming": Naming(0.75, ("S1", "L5", ""), 0.125, "L5@12,3"),
        "construct": "posterior instrumentation L6",
        "view": "ap",
        "orientation": Orientation(np.array([0.6, -0.8]), np.array([0.8, 0.6]), sure=False),
        "scale": Scale(0.25, 0.125, "ImagerPixelSpacing"),
        "discs": (Disc("L6", "S1", {"slip_percent": Measure(-3.5, 1)}, {"meyerding_grade": 0}),),
        "values": {"lordosis_L1_S1_deg": Measure(41.5, 1.25)},
    }
    return Spine(SIZE, **(parts | changes))


def plain(value):
    """Numbers as they are written; of arrays and structures what they hold."""
    if dataclasses.is_dataclass(value):
        return type(value).__name__, {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return value.dtype.name, plain(value.tolist())
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return "nan" if isinstance(value, float) and np.isnan(value) else value


def same(a: Spine, b: Spine) -> None:
    assert plain(a) == plain(b)


def as_json(spine: Spine | None = None) -> dict:
    return labelled.to_json(spine or make_spine(), file_name="sub/film.png", provenance=PROVENANCE)


def test_written_file_keeps_to_the_schema_and_comes_back_the_same(tmp_path):
    path = tmp_path / "film.json"
    labelled.write(make_spine(), path, file_name="sub/film.png", provenance=PROVENANCE)
    VALIDATOR.validate(json.loads(path.read_text()))
    name, spine, provenance = labelled.read(path)
    assert (name, provenance) == ("sub/film.png", PROVENANCE)
    same(spine, make_spine())


def test_schema_is_a_schema_and_describes_every_property():
    schema = labelled.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    undescribed = []

    def look(part, place):
        for name, prop in part.get("properties", {}).items():
            if not prop.get("description") and "$ref" not in prop:
                undescribed.append(f"{place}.{name}")
            for inner in (prop, prop.get("items", {}), *prop.get("anyOf", [])):
                if "type" in inner:
                    look(inner, f"{place}.{name}")

    look({"properties": schema["properties"]}, "")
    for name, part in schema["$defs"].items():
        assert part.get("description"), name
        look({"properties": part.get("properties", {})}, name)
    assert undescribed == []


def test_schema_refuses_what_is_not_in_it():

    for change in ({"more": 1}, {"schema_version": 1}, {"disclaimer": ""}):
        assert list(VALIDATOR.iter_errors(as_json() | change)), change
    for place, value, _ in HOSTILE:
        if not any(
            isinstance(v, float | int) and abs(v) > 1e30 for v in (value if isinstance(value, list) else [value])
        ):
            errors = not VALIDATOR.is_valid(changed_at(place, value))
            assert errors or place in ONLY_READERS, (place, value)


def test_overlaps_are_told():
    pairs = as_json()["overlaps"]
    told = [(p["first"]["name"], p["second"]["name"], p["area_px2"], p["wins"]) for p in pairs]
    assert told == [("L6", "screw", 22, "second")]


def test_nothing_found_is_ordinary(tmp_path):
    labelled.write(Spine(SIZE), tmp_path / "f.json", file_name="f.png", provenance={})
    jsonschema.validate(json.loads((tmp_path / "f.json").read_text()), labelled.schema())
    same(labelled.read(tmp_path / "f.json")[1], Spine(SIZE))


def test_polygons_rasterise_to_the_mask_and_candidates_have_none():
    content = as_json()
    entry = content["vertebrae"][0]
    part = entry["polygons"][0]
    outer = rle.polygons_to_rle([np.array(part["exterior"])], SIZE)
    hole = rle.polygons_to_rle([np.array(part["holes"][0])], SIZE)
    mask = rle.from_coco(entry["segmentation"], SIZE)
    assert rle.area(rle.intersection(outer, mask)) == rle.area(mask)
    assert rle.area(outer) - rle.area(mask) <= 4
    assert rle.area(hole) <= 4
    assert "polygons" not in content["candidates"][0]


level_names = st.sampled_from(["S1", "L6", "L5", "L4", "T13", "T12", "+1", "+12"])
levels = st.lists(level_names, unique=True, max_size=4)
# Exactly representable and of at most four decimals, as they are written.
numbers = st.integers(-(10**7), 10**7).map(lambda n: n / 64).map(lambda v: round(v, 4))
sds = st.none() | numbers.map(abs)
names = st.from_regex(r"[A-Za-z][A-Za-z0-9_+]{0,12}_(deg|px|mm2)", fullmatch=True)
measures = st.dictionaries(names, st.builds(Measure, numbers, sds), max_size=3)
grades = st.dictionaries(names, st.integers(0, 5), max_size=2)
probabilities = st.integers(0, 10**4).map(lambda n: n / 10**4)
bodies = st.builds(
    Body,
    st.lists(st.tuples(numbers, numbers), min_size=4, max_size=4).map(np.array),
    st.lists(numbers.map(abs), min_size=4, max_size=4).map(np.array),
    measures,
    grades,
    st.lists(
        st.builds(
            Osteophyte,
            st.sampled_from(CORNERS),
            numbers.map(lambda v: abs(v) + 1),
            st.tuples(numbers, numbers),
        ),
        max_size=2,
    ).map(tuple),
)
discs = st.lists(st.builds(Disc, level_names, level_names, measures, grades), max_size=2).map(tuple)
turns = st.floats(0, 2 * np.pi).map(lambda a: np.array([np.cos(a), np.sin(a)]).round(9))
orientations = st.builds(
    lambda up, side, sure: Orientation(up, side * np.array([-up[1], up[0]]), sure),
    turns,
    st.sampled_from([-1.0, 1.0]),
    st.booleans(),
)
scales = st.builds(Scale, st.floats(1e-6, 100), st.floats(1e-6, 100), st.text(min_size=1, max_size=5))
masks = st.lists(st.booleans(), min_size=35, max_size=35).map(lambda b: rle.encode(np.array(b).reshape(5, 7)))
scores = st.floats(0, 1)
words = st.lists(st.text(max_size=5), max_size=2).map(tuple)


@st.composite
def spines(draw):
    def parts():
        mask = draw(masks)
        return draw(st.text(min_size=1, max_size=4)), draw(scores), rle.box_xyxy(mask), mask, draw(words)

    chosen = draw(levels)
    next_best = st.sampled_from([(), tuple(["", *chosen[1:]][: len(chosen)])])
    belong = st.lists(level_names, max_size=2).map(tuple)
    return Spine(
        (5, 7),
        tuple(Vertebra(level, *parts(), draw(st.none() | probabilities), draw(st.none() | bodies)) for level in chosen),
        tuple(Implant(*parts(), draw(belong)) for _ in range(draw(st.integers(0, 2)))),
        tuple(Implant(*parts()) for _ in range(draw(st.integers(0, 2)))),
        draw(words),
        tuple({"why": why} for why in draw(words)),
        draw(
            st.none()
            | st.builds(Naming, probabilities, next_best, probabilities, st.none() | st.text(min_size=1, max_size=4))
        ),
        draw(st.text(max_size=5)),
        draw(st.sampled_from(["lateral", "ap"])),
        draw(st.none() | orientations),
        draw(st.none() | scales),
        draw(discs),
        draw(measures),
    )


@settings(max_examples=20, deadline=None)
@given(spines(), st.text(min_size=1, max_size=8), st.dictionaries(st.text(max_size=4), st.integers() | st.text()))
def test_round_trip_is_the_identity(spine, name, provenance):
    text = json.dumps(labelled.to_json(spine, file_name=name, provenance=provenance))
    VALIDATOR.validate(json.loads(text))
    name_again, spine_again, provenance_again = labelled.from_json(json.loads(text), where="memory")
    assert (name_again, provenance_again) == (name, provenance)
    same(spine_again, spine)


HOSTILE = [
    (("schema_version",), 3, "schema_version must be 2 or 1, got 3"),
    (("image",), None, "image: must be of type dict, got NoneType"),
    (("image", "width"), "17", "width: must be of type int, got str"),
    (("image", "width"), True, "width: must be of type int, got bool"),
    (("image", "width"), -3, "image size must be at least 1 x 1"),
    (("image", "height"), 10**12, "image size must be"),
    (("image", "file_name"), "", "file_name: must not be empty"),
    (("image", "file_name"), 7, "file_name: must be of type str, got int"),
    (("image", "pixel_spacing_mm"), [0.1, 0.1], "pixel_spacing_mm: must be of type dict, got list"),
    (("image", "pixel_spacing_mm"), {"row": 0.1}, "pixel_spacing_mm: lacks column"),
    (("image", "pixel_spacing_mm"), {"row": 0.1, "column": 0}, "must be above 0, got 0.1 and 0"),
    (("image", "pixel_spacing_mm"), None, "pixel_spacing_source must be null where pixel_spacing_mm is"),
    (("image", "pixel_spacing_source"), None, "pixel_spacing_source: must be of type str, got NoneType"),
    (("image", "view"), "oblique", "image: view must be lateral or ap, got oblique"),
    (("image", "view"), {}, "view must be lateral or ap"),
    (("image", "orientation"), "up", "orientation: must be of type dict"),
    (("image", "orientation", "sure"), 1, "sure: must be of type bool, got int"),
    (("image", "orientation", "up"), [0, -2], "up and anterior must be of length 1 and at a right angle"),
    (("image", "orientation", "up"), [0.8, 0.6], "at a right angle"),
    (("image", "orientation", "up"), [1], "up: must hold 2 entries, got 1"),
    (("naming",), [], "naming: must be of type dict"),
    (("naming", "probability"), -0.1, "probability must lie in 0..1, got -0.1"),
    (("naming", "next_best"), ["L4"], "next_best: must hold one level a vertebra (3) or none, got 1"),
    (("naming", "next_best"), ["S1", "L5", "M1"], "next_best 3: must be a level like L5 or +1, got 'M1'"),
    (("naming", "anchor"), "", "anchor: must not be empty"),
    (("construct",), None, "construct: must be of type str"),
    (("values",), [], "values: must be of type dict, got list"),
    (("values", "lordosis_L1_S1_deg"), 41.5, "lordosis_L1_S1_deg: must be of type dict"),
    (("values", "lordosis_L1_S1_deg", "value"), None, "value: must be a finite number, got None"),
    (("values", "lordosis_L1_S1_deg", "value"), float("inf"), "value: must be a finite number, got inf"),
    (("values", "lordosis_L1_S1_deg", "sd"), -1, "sd must not be negative, got -1"),
    (("values", "=HYPERLINK()"), {"value": 1, "sd": None}, "names must be of letters, digits and _"),
    (("discs",), {}, "discs: must be of type list"),
    (("discs", 0, "upper"), "L7", "discs 1, upper: must be a level like L5"),
    (("discs", 0, "grades", "meyerding_grade"), 1.5, "meyerding_grade: must be of type int, got float"),
    (("discs", 0, "grades", "meyerding_grade"), -1, "must be a grade of 0 or more"),
    (("discs", 0, "name"), 5, "name: must be of type str"),
    (("overlaps",), [1], "overlaps 1: must be of type dict"),
    (("vertebrae", 1, "confidence"), 1.5, "confidence must lie in 0..1, got 1.5"),
    (("vertebrae", 1, "confidence"), True, "confidence: must be a finite number"),
    (("vertebrae", 1, "body"), {}, "body: lacks corners_px"),
    (("vertebrae", 1, "body", "corners_px"), [[1, 2]] * 3, "corners_px: must hold 4 entries, got 3"),
    (("vertebrae", 1, "body", "corners_px"), [[1, 2]] * 3 + [[1, None]], "corners_px 4 2: must be a finite number"),
    (("vertebrae", 1, "body", "corners_sd_px"), [1, 1, 1, -1], "corners_sd_px 4: must not be negative"),
    (("vertebrae", 1, "body", "osteophytes", 0, "corner"), "top", "corner must be one of superior_anterior"),
    (("vertebrae", 1, "body", "osteophytes", 0, "area_px2"), 0, "area_px2 must be above 0"),
    (("implants", 0, "levels"), "L5", "levels: must be of type list"),
    (("implants", 0, "levels"), ["L5", ""], "levels 2: must be a level like L5"),
    (("candidates", 0, "levels"), [], "candidates 1: has unknown levels"),
    (("software",), [], "software: must be of type dict, got list"),
    (("flags",), "no_sacrum", "flags: must be of type list, got str"),
    (("flags",), [1], "flags 1: must be of type str, got int"),
    (("log",), [[]], "log 1: must be of type dict, got list"),
    (("vertebrae",), {}, "vertebrae: must be of type list, got dict"),
    (("vertebrae",), [None], "vertebrae 1: must be of type dict"),
    (("vertebrae", 1), {}, "vertebrae 2: lacks level, confidence"),
    (("vertebrae", 0, "level"), "L9", "vertebrae 1, level: must be a level like L5"),
    (("vertebrae", 0, "level"), "L5", "a level must occur once"),
    (("vertebrae", 0, "level"), None, "level: must be of type str"),
    (("vertebrae", 0, "score"), 1.5, "score must lie in 0..1, got 1.5"),
    (("vertebrae", 0, "score"), float("nan"), "score: must be a finite number, got nan"),
    (("vertebrae", 0, "score"), True, "score: must be a finite number, got True"),
    (("vertebrae", 0, "box_xyxy_px"), [1, 2, 3], "box_xyxy_px must hold 4 numbers, got 3"),
    (("vertebrae", 0, "box_xyxy_px"), [1, 2, 3, 10**400], "box_xyxy_px 4: must be a finite number"),
    (("vertebrae", 0, "box_xyxy_px"), [1, 2, 3, 1e300], "box_xyxy_px 4: must be a finite number"),
    (("vertebrae", 0, "segmentation"), [[1, 1, 2, 2, 3, 3]], "segmentation: must be of type dict, got list"),
    (("vertebrae", 0, "segmentation", "size"), [17, 24], "RLE must have the image's size"),
    (("vertebrae", 0, "segmentation", "size"), "ab", "size: must be of type list"),
    (("vertebrae", 0, "segmentation", "counts"), 5, "counts: must be of type str"),
    (("vertebrae", 0, "segmentation", "counts"), "o" * 9, "RLE counts are damaged"),
    (("vertebrae", 0, "segmentation", "counts"), "oooooooooooooooo0", "RLE"),
    (("vertebrae", 0, "segmentation", "counts"), "é\x00", "RLE"),
    (("vertebrae", 0, "segmentation", "counts"), "11", "RLE runs must add up to 408"),
    (("candidates", 0, "category"), "", "candidates 1, category: must not be empty"),
    (("candidates", 0, "category"), [], "candidates 1, category: must be of type str"),
    (("implants", 0, "surprise"), 1, "implants 1: has unknown surprise"),
]


ONLY_READERS = {
    ("image", "height"),
    ("image", "orientation", "up"),
    ("naming", "next_best"),
    ("vertebrae", 0, "level"),
    ("vertebrae", 0, "score"),
    ("vertebrae", 0, "segmentation", "size"),
    ("vertebrae", 0, "segmentation", "counts"),
    ("values", "lordosis_L1_S1_deg", "value"),
}
"""Of these a schema cannot say all."""


def changed_at(place, value, content=None):
    content = copy.deepcopy(as_json() if content is None else content)
    target = content
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    return content


@pytest.mark.parametrize(("place", "value", "message"), HOSTILE)
def test_a_strangers_file_is_refused_with_its_place(place, value, message):
    content = changed_at(place, value)
    with pytest.raises(DataError, match=r"film\.json") as caught:
        labelled.from_json(content, where="film.json")
    assert message in str(caught.value)


def as_version_1():
    content = as_json()
    for key in ("naming", "construct", "values", "discs", "overlaps"):
        del content[key]
    for key in ("view", "orientation"):
        del content["image"][key]
    content["image"] |= {"pixel_spacing_mm": None, "pixel_spacing_source": None}
    for entry in content["vertebrae"]:
        del entry["confidence"], entry["body"]
    del content["implants"][0]["levels"]
    return content | {"schema_version": 1}


def test_files_of_version_1_are_read():
    name, spine, provenance = labelled.from_json(as_version_1(), where="film.json")
    assert (name, provenance) == ("sub/film.png", PROVENANCE)
    full = make_spine()
    vertebrae = tuple(dataclasses.replace(v, confidence=None, body=None) for v in full.vertebrae)
    implants = tuple(dataclasses.replace(i, levels=()) for i in full.implants)
    same(spine, Spine(SIZE, vertebrae, implants, full.candidates, full.flags, full.log))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("image",), None, "image: must be of type dict"),
        (("vertebrae",), "abc", "vertebrae: must be of type list"),
        (("vertebrae", 0), [], "vertebrae 1: must be of type dict"),
        (("implants", 0, "surprise"), 1, "implants 1: has unknown surprise"),
    ],
)
def test_files_of_version_1_are_checked_too(place, value, message):
    with pytest.raises(DataError, match=message):
        labelled.from_json(changed_at(place, value, as_version_1()), where="film.json")


def test_what_is_not_finite_is_not_written():
    nan = float("nan")
    body = make_body(values={"a_px": Measure(nan, 1), "b_px": Measure(1, nan)})
    broken = make_body(corners_px=np.full((4, 2), nan))
    vertebrae = (
        Vertebra("L5", "lumbar", **found(9), body=body),
        Vertebra("L4", "lumbar", **found(1), body=broken),
    )
    spine = make_spine(vertebrae=vertebrae, naming=None, values={"x_deg": Measure(float("inf"))})
    text = json.dumps(as_json(spine), allow_nan=False)
    VALIDATOR.validate(json.loads(text))
    again = labelled.from_json(json.loads(text), where="memory")[1]
    assert again.values == {}
    assert again.vertebrae[0].body.values == {"b_px": Measure(1, None)}
    assert again.vertebrae[1].body is None


def test_numbers_are_rounded():
    spine = make_spine(values={"x_deg": Measure(1 / 3, 2 / 3)}, naming=Naming(1 / 3))
    content = as_json(spine)
    assert content["values"]["x_deg"] == {"value": 0.3333, "sd": 0.6667}
    assert content["naming"]["probability"] == 0.3333


@pytest.mark.parametrize("content", [None, [], {}, "text", 3, {"images": [], "annotations": []}])
def test_other_json_is_named_as_such(content):
    with pytest.raises(DataError, match="must be a labelled JSON of vertinst"):
        labelled.from_json(content, where="x.json")


def test_every_key_is_needed():
    for key in as_json():
        content = as_json()
        del content[key]
        with pytest.raises(DataError, match=r"lacks|must be a labelled JSON"):
            labelled.from_json(content, where="x.json")


def test_broken_and_missing_files_are_named(tmp_path):
    (tmp_path / "a.json").write_text('{"schema_version": 1,')
    with pytest.raises(DataError, match=r"a\.json: is not valid JSON"):
        labelled.read(tmp_path / "a.json")
    with pytest.raises(DataError, match="no such file"):
        labelled.read(tmp_path / "b.json")
