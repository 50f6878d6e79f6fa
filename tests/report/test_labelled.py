import copy
import json

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vertinst.errors import DataError
from vertinst.report import labelled
from vertinst.structures import Implant, Spine, Vertebra, rle

SIZE = (24, 17)
PROVENANCE = {"model": "yolact", "versions": {"vertinst": "0.1.0"}, "precision": "32"}


def mask_at(top: int, left: int, height: int = 5, width: int = 6) -> rle.Rle:
    mask = np.zeros(SIZE, dtype=bool)
    mask[top : top + height, left : left + width] = True
    mask[top + 2, left + 2] = False
    return rle.encode(mask)


def found(top: int) -> dict:
    mask = mask_at(top, 3)
    return {"score": 0.9, "box": rle.box_xyxy(mask), "mask": mask}


def make_spine() -> Spine:
    vertebrae = (
        Vertebra("S1", "sacral", **found(18), flags=("touches_border",)),
        Vertebra("L5", "lumbar", **found(9)),
        Vertebra("L4", "lumbar", **found(1)),
    )
    implants = (Implant("screw", **found(8)),)
    candidates = (Implant("lumbar", **found(2)),)
    return Spine(SIZE, vertebrae, implants, candidates, ("a_flag",), ({"event": "suppressed", "iou": 0.7},))


def same(a: Spine, b: Spine) -> None:
    assert (a.image_size, a.flags, a.log) == (b.image_size, b.flags, b.log)
    for kind in ("vertebrae", "implants", "candidates"):
        assert len(getattr(a, kind)) == len(getattr(b, kind))
        for x, y in zip(getattr(a, kind), getattr(b, kind), strict=True):
            assert type(x) is type(y)
            assert getattr(x, "level", None) == getattr(y, "level", None)
            assert (x.category, x.score, x.mask, x.flags) == (y.category, y.score, y.mask, y.flags)
            assert x.box.dtype == y.box.dtype == np.float32
            np.testing.assert_array_equal(x.box, y.box)


def as_json(spine: Spine | None = None) -> dict:
    return labelled.to_json(spine or make_spine(), file_name="sub/film.png", provenance=PROVENANCE)


def test_written_file_keeps_to_the_schema_and_comes_back_the_same(tmp_path):
    path = tmp_path / "film.json"
    labelled.write(make_spine(), path, file_name="sub/film.png", provenance=PROVENANCE)
    jsonschema.Draft202012Validator(labelled.schema()).validate(json.loads(path.read_text()))
    name, spine, provenance = labelled.read(path)
    assert (name, provenance) == ("sub/film.png", PROVENANCE)
    same(spine, make_spine())


def test_schema_is_a_schema_and_describes_every_property():
    schema = labelled.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    for name, prop in schema["properties"].items():
        assert prop.get("description") or name in ("schema_version",), name


def test_schema_refuses_what_is_not_in_it():
    validator = jsonschema.Draft202012Validator(labelled.schema())
    for change in ({"more": 1}, {"schema_version": 2}, {"disclaimer": ""}):
        assert list(validator.iter_errors(as_json() | change)), change
    content = as_json()
    content["vertebrae"][0]["level"] = "L6"
    assert list(validator.iter_errors(content))


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


levels = st.lists(st.sampled_from(["S1", "L5", "L4", "T12", "+1", "+12"]), unique=True, max_size=4)
masks = st.lists(st.booleans(), min_size=35, max_size=35).map(lambda b: rle.encode(np.array(b).reshape(5, 7)))
scores = st.floats(0, 1)
words = st.lists(st.text(max_size=5), max_size=2).map(tuple)


@st.composite
def spines(draw):
    def parts():
        mask = draw(masks)
        return draw(st.text(min_size=1, max_size=4)), draw(scores), rle.box_xyxy(mask), mask, draw(words)

    return Spine(
        (5, 7),
        tuple(Vertebra(level, *parts()) for level in draw(levels)),
        tuple(Implant(*parts()) for _ in range(draw(st.integers(0, 2)))),
        tuple(Implant(*parts()) for _ in range(draw(st.integers(0, 2)))),
        draw(words),
        tuple({"why": why} for why in draw(words)),
    )


@settings(max_examples=40, deadline=None)
@given(spines(), st.text(min_size=1, max_size=8), st.dictionaries(st.text(max_size=4), st.integers() | st.text()))
def test_round_trip_is_the_identity(spine, name, provenance):
    text = json.dumps(labelled.to_json(spine, file_name=name, provenance=provenance))
    jsonschema.validate(json.loads(text), labelled.schema())
    name_again, spine_again, provenance_again = labelled.from_json(json.loads(text), where="memory")
    assert (name_again, provenance_again) == (name, provenance)
    same(spine_again, spine)


HOSTILE = [
    (("schema_version",), 2, "schema_version must be 1, got 2"),
    (("image",), None, "image: must be of type dict, got NoneType"),
    (("image", "width"), "17", "width: must be of type int, got str"),
    (("image", "width"), True, "width: must be of type int, got bool"),
    (("image", "width"), -3, "image size must be at least 1 x 1"),
    (("image", "height"), 10**12, "image size must be"),
    (("image", "file_name"), "", "file_name: must not be empty"),
    (("image", "file_name"), 7, "file_name: must be of type str, got int"),
    (("image", "pixel_spacing_mm"), [0.1, 0.1], "pixel_spacing_mm must be null"),
    (("software",), [], "software: must be of type dict, got list"),
    (("flags",), "no_sacrum", "flags: must be of type list, got str"),
    (("flags",), [1], "flags 1: must be of type str, got int"),
    (("log",), [[]], "log 1: must be of type dict, got list"),
    (("vertebrae",), {}, "vertebrae: must be of type list, got dict"),
    (("vertebrae",), [None], "vertebrae 1: must be of type dict"),
    (("vertebrae", 1), {}, "vertebrae 2: lacks level, category"),
    (("vertebrae", 0, "level"), "L9", "vertebrae 1: level must be like L5"),
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


@pytest.mark.parametrize(("place", "value", "message"), HOSTILE)
def test_a_strangers_file_is_refused_with_its_place(place, value, message):
    content = copy.deepcopy(as_json())
    target = content
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    with pytest.raises(DataError, match=r"film\.json") as caught:
        labelled.from_json(content, where="film.json")
    assert message in str(caught.value)


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
