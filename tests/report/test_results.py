import json

import cv2
import jsonschema
import numpy as np
import pytest

from vertinst.errors import DataError
from vertinst.report import labelled, results
from vertinst.structures import Implant, Spine, Vertebra, rle

SIZE = (240, 200)


def part(box):
    mask = np.zeros(SIZE, dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    encoded = rle.encode(mask)
    return {"score": 0.9, "box": rle.box_xyxy(encoded), "mask": encoded}


def spine():
    vertebrae = (
        Vertebra("S1", "sacral", **part((40, 160, 120, 220))),
        Vertebra("L5", "lumbar", **part((40, 80, 120, 140))),
    )
    return Spine(SIZE, vertebrae, (Implant("screw", **part((80, 100, 180, 120))),))


def pixels(size=SIZE):
    return np.linspace(0, 1, size[0] * size[1], dtype=np.float32).reshape(size)


def test_write_film_writes_everything_and_read_folder_reads_it(tmp_path):
    results.write_film(tmp_path, "ward/a.png", pixels(), spine(), {"model": "yolact"})
    paths = results.film_paths(tmp_path, "ward/a.png")
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.*")) == [
        "films/ward/a.jpg",
        "masks/ward/a.png",
        "masks/ward/a_merged.png",
        "overlays/ward/a.png",
        "ward/a.json",
    ]
    jsonschema.validate(json.loads(paths.labelled.read_text()), labelled.schema())
    labels = cv2.imread(str(paths.label_map), cv2.IMREAD_UNCHANGED)
    assert labels.dtype == np.uint8
    assert [labels[200, 60], labels[88, 60], labels[108, 160], labels[108, 100], labels[0, 0]] == [1, 2, 3, 3, 0]
    bone = cv2.imread(str(paths.merged), cv2.IMREAD_UNCHANGED)
    assert set(np.unique(bone)) == {0, 255}
    assert (bone == 255).sum() == 80 * 60 * 2
    overlay = cv2.imread(str(paths.overlay), cv2.IMREAD_UNCHANGED)
    assert overlay.shape == (*SIZE, 3)
    blue, _, red = (int(v) for v in overlay[210, 50])
    assert blue > red, "the first colour is sky blue: channels must not be swapped on disk"
    read = results.read_folder(tmp_path)
    assert list(read) == ["ward/a.png"]
    assert [v.level for v in read["ward/a.png"].vertebrae] == ["S1", "L5"]


def test_nothing_found_still_writes_all_files(tmp_path):
    results.write_film(tmp_path, "a.tif", pixels(), Spine(SIZE), {})
    paths = results.film_paths(tmp_path, "a.tif")
    assert all(path.exists() for path in paths)
    assert not cv2.imread(str(paths.merged), cv2.IMREAD_UNCHANGED).any()


def test_masks_of_classes_where_asked_for(tmp_path):
    classes = ("lumbar", "screw", "pedicle screw/left")
    results.write_film(tmp_path, "ward/a.png", pixels(), spine(), {}, classes=classes)
    masks = {name: results.class_mask_path(tmp_path, "ward/a.png", name) for name in classes}
    assert masks["pedicle screw/left"] == tmp_path / "masks/ward/a_pedicle_screw_left.png"
    read = {name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for name, path in masks.items()}
    assert {name: int((mask == 255).sum()) for name, mask in read.items()} == {
        "lumbar": 80 * 60,
        "screw": 100 * 20,
        "pedicle screw/left": 0,
    }
    assert not results.class_mask_path(tmp_path, "ward/a.png", "sacral").exists()
    assert [v.level for v in results.read_folder(tmp_path)["ward/a.png"].vertebrae] == ["S1", "L5"]


@pytest.mark.parametrize(("first", "second"), [("a.png", "a_lumbar.png"), ("a_lumbar.png", "a.png")])
def test_a_mask_of_a_class_never_overwrites_another_film(tmp_path, first, second):
    results.write_film(tmp_path, first, pixels(), spine(), {}, classes=["lumbar"])
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.*")}
    with pytest.raises(DataError, match="two films must not share an output"):
        results.write_film(tmp_path, second, pixels(), spine(), {}, classes=["lumbar"])
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.*")} == before


@pytest.mark.parametrize("classes", [["merged"], ["a b", "a/b"]])
def test_masks_of_classes_have_names_of_their_own(tmp_path, classes):
    with pytest.raises(DataError, match=r"must have names of their own, got 'a_(merged|a_b)\.png' for"):
        results.write_film(tmp_path, "a.png", pixels(), spine(), {}, classes=classes)
    assert not list(tmp_path.iterdir())


def test_more_than_255_instances_make_a_16_bit_map(tmp_path):
    implants = tuple(Implant("screw", **part((n % 50, n // 50, n % 50 + 1, n // 50 + 1))) for n in range(300))
    results.write_film(tmp_path, "a.png", pixels(), Spine(SIZE, (), implants), {})
    labels = cv2.imread(str(results.film_paths(tmp_path, "a.png").label_map), cv2.IMREAD_UNCHANGED)
    assert labels.dtype == np.uint16
    assert labels.max() == 300


def test_small_copy_is_small_and_keeps_its_shape(tmp_path):
    size = (2400, 600)
    results.write_film(tmp_path, "a.png", pixels(size), Spine(size), {})
    assert cv2.imread(str(results.film_paths(tmp_path, "a.png").film)).shape[:2] == (1200, 300)


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "x/../../a.png", "C:\\a.png", "..\\a.png"])
def test_names_never_lead_outside(tmp_path, name):
    folder = tmp_path / "out"
    with pytest.raises(DataError, match="leads outside"):
        results.write_film(folder, name, pixels(), spine(), {})
    assert not folder.exists()


@pytest.mark.parametrize("name", ["", ".", "/"])
def test_a_name_must_name_a_film(tmp_path, name):
    with pytest.raises(DataError, match="must name a film"):
        results.film_paths(tmp_path, name)


def test_a_hostile_name_in_a_labelled_json_is_refused_on_reading(tmp_path):
    labelled.write(spine(), tmp_path / "a.json", file_name="../../secret.png", provenance={})
    with pytest.raises(DataError, match=r"a\.json: image, file_name: .* leads outside"):
        results.read_folder(tmp_path)


@pytest.mark.parametrize(
    ("first", "second"), [("a.png", "a.jpg"), ("a.png", "a_merged.png"), ("a_merged.png", "a.png")]
)
def test_films_that_would_overwrite_each_other_are_refused(tmp_path, first, second):
    results.write_film(tmp_path, first, pixels(), spine(), {})
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.*")}
    with pytest.raises(DataError, match="two films must not share an output"):
        results.write_film(tmp_path, second, pixels(), spine(), {})
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.*")} == before


def test_the_same_film_is_replaced(tmp_path):
    results.write_film(tmp_path, "a.png", pixels(), spine(), {})
    results.write_film(tmp_path, "a.png", pixels(), Spine(SIZE), {})
    assert not results.read_folder(tmp_path)["a.png"].vertebrae


def test_a_film_called_metrics_is_refused(tmp_path):
    with pytest.raises(DataError, match="must not be called metrics"):
        results.write_film(tmp_path, "metrics.png", pixels(), spine(), {})


def test_read_folder_passes_over_metrics_and_schema(tmp_path):
    results.write_film(tmp_path, "a.png", pixels(), spine(), {})
    (tmp_path / "metrics.json").write_text("{}")
    (tmp_path / "labelled.schema.json").write_text(json.dumps(labelled.schema()))
    assert list(results.read_folder(tmp_path)) == ["a.png"]


def test_read_folder_says_what_is_wrong(tmp_path):
    with pytest.raises(DataError, match=r"folder with labelled JSON files, got none[\s\S]*vertinst predict"):
        results.read_folder(tmp_path)
    with pytest.raises(DataError, match="got none"):
        results.read_folder(tmp_path / "missing")
    results.write_film(tmp_path, "a.png", pixels(), spine(), {})
    (tmp_path / "coco.json").write_text('{"images": []}')
    with pytest.raises(DataError, match=r"coco\.json: must be a labelled JSON[\s\S]*Move it out of the results folder"):
        results.read_folder(tmp_path)
    (tmp_path / "coco.json").unlink()
    labelled.write(spine(), tmp_path / "b.json", file_name="a.png", provenance={})
    with pytest.raises(DataError, match="a film must occur once"):
        results.read_folder(tmp_path)


def test_has_results(tmp_path):
    assert not results.has_results(tmp_path)
    (tmp_path / "coco.json").write_text('{"images": []}')
    assert not results.has_results(tmp_path)
    results.write_film(tmp_path, "sub/a.png", pixels(), spine(), {})
    assert results.has_results(tmp_path)
    content = json.loads(results.film_paths(tmp_path, "sub/a.png").labelled.read_text())
    results.film_paths(tmp_path, "sub/a.png").labelled.write_text(json.dumps(content, sort_keys=True, indent=2))
    assert results.has_results(tmp_path), "sorted and indented by another program"
    assert not results.has_results(tmp_path, deep=False)
    assert not results.has_results(tmp_path / "missing")
