"""Predictions become a data set, go to VIA to be corrected, and come back."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vertinst.converters import coco, labelled, via
from vertinst.errors import DataError
from vertinst.report import labelled as report
from vertinst.structures import Spine, rle
from vertinst.structures.conversion import ReadOptions
from vertinst.structures.dataset import CLASSES
from vertinst.structures.measures import CORNERS, Body, Scale
from vertinst.structures.spine import Implant, Vertebra

SIZE = (90, 70)


def found(kind, *named, category, top, score=0.9, flags=(), hole=False):
    dense = np.zeros(SIZE, dtype=bool)
    dense[top : top + 12, 10:40] = True
    if hole:
        dense[top + 4 : top + 8, 20:30] = False
    mask = rle.encode(dense)
    return kind(*named, category, score, rle.box_xyxy(mask), mask, flags)


def spine(**changes):
    parts = {
        "vertebrae": (
            found(Vertebra, "S1", category="sacral", top=60, score=0.98765),
            found(Vertebra, "L5", category="lumbar", top=40, flags=("touches_border", "low_score"), hole=True),
            found(Vertebra, "L4", category="lumbar", top=20),
        ),
        "implants": (found(Implant, category="screw", top=43),),
        "candidates": (found(Implant, category="rod", top=0, score=0.1),),
        "flags": ("gap",),
    }
    return Spine(SIZE, **(parts | changes))


def results(folder, name="a.png", content=None):
    path = folder / "results" / name
    report.write(content or spine(), path.with_suffix(".json"), file_name=name, provenance={})
    return folder / "results"


def film(folder, name="a.png", size=SIZE):
    path = folder / "films" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size[::-1]).save(path)
    return path


def test_what_was_found_becomes_annotations(tmp_path):
    data, skips = labelled.read([results(tmp_path)], None)
    (image,) = data.images
    assert skips == ()
    assert data.categories == CLASSES
    assert (image.image_id, image.file_name, image.image_size, image.attributes) == (1, "a.png", SIZE, {"flags": "gap"})
    assert [(a.category, a.level) for a in image.annotations] == [
        ("sacral", "S1"),
        ("lumbar", "L5"),
        ("lumbar", "L4"),
        ("screw", None),
    ]
    assert image.annotations[0].attributes == {"class": "sacral", "level": "S1", "score": "0.988"}
    assert image.annotations[1].attributes["flags"] == "touches_border, low_score"
    assert image.annotations[1].mask == spine().vertebrae[1].mask


def full_spine():
    corners = np.array([[10.5, 41], [40, 40.25], [40, 52], [10, 52]])
    fifth = replace(spine().vertebrae[1], confidence=0.98765, body=Body(corners, np.ones(4)))
    screw = replace(spine().implants[0], levels=("L5",))
    rod = replace(screw, category="rod", levels=("S1", "L5"))
    return spine(
        vertebrae=(spine().vertebrae[0], fifth),
        implants=(screw, rod),
        construct="posterior instrumentation L5-S1",
        view="ap",
        scale=Scale(0.25, 0.5, "stated by the user"),
    )


def test_levels_confidence_corners_and_construct_go_to_via_and_coco_and_come_back(tmp_path):
    path = film(tmp_path)
    data, _ = labelled.read([results(tmp_path, content=full_spine())], tmp_path / "films")
    via.write(data, tmp_path / "via.json")
    coco.write(data, tmp_path / "coco.json")
    again, skips = via.read([tmp_path / "via.json"], path.parent)
    assert skips == ()
    for read in (data, again, coco.read(tmp_path / "coco.json")):
        (image,) = read.images
        sacrum, fifth, screw, rod = image.annotations
        assert image.attributes["construct"] == "posterior instrumentation L5-S1"
        assert (fifth.attributes["confidence"], "confidence" in sacrum.attributes) == ("0.988", False)
        assert list(fifth.keypoints) == list(CORNERS)
        assert (fifth.keypoints["superior_posterior"], dict(sacrum.keypoints)) == ((40.0, 40.25), {})
        assert (screw.attributes["levels"], rod.attributes["levels"], rod.level) == ("L5", "S1, L5", None)
        assert [a.mask for a in image.annotations] == [a.mask for a in data.images[0].annotations]
    assert data.images[0].view == "ap"
    assert (data.images[0].pixel_spacing_mm, data.images[0].pixel_spacing_source) == ((0.25, 0.5), "stated by the user")


def test_films_give_the_size_by_which_via_knows_them(tmp_path):
    path = film(tmp_path, "sub/a.png")
    data, _ = labelled.read([results(tmp_path)], tmp_path / "films", ReadOptions(patient_regex="^(sub)"))
    (image,) = data.images
    assert (image.file_name, image.patient) == ("sub/a.png", "sub")
    assert image.source == {"filename": "a.png", "size": path.stat().st_size}


def test_predictions_corrected_in_via_come_back(tmp_path):
    film(tmp_path)
    data, _ = labelled.read([results(tmp_path)], tmp_path / "films")
    via.write(data, tmp_path / "via.json")
    again, skips = via.read([tmp_path / "via.json"], tmp_path / "films")
    assert skips == ()
    assert again.categories == data.categories
    facts = [
        [(a.category, a.level, a.mask, a.attributes["score"]) for a in d.images[0].annotations] for d in (data, again)
    ]
    assert facts[0] == facts[1]
    assert again.images[0].attributes == {"flags": "gap", "view": "lateral"}


def test_levels_without_an_anchor_come_back(tmp_path):
    film(tmp_path)
    content = spine(vertebrae=(found(Vertebra, "+1", category="lumbar", top=40),))
    data, _ = labelled.read([results(tmp_path, content=content)], tmp_path / "films")
    via.write(data, tmp_path / "via.json")
    again, _ = via.read([tmp_path / "via.json"], tmp_path / "films")
    assert [a.level for a in again.images[0].annotations] == ["+1", None]


def test_classes_of_another_model(tmp_path):
    film(tmp_path)
    content = Spine(SIZE, (), (found(Implant, category="hook", top=10), found(Implant, category="bolt", top=40)))
    data, _ = labelled.read([results(tmp_path, content=content)], tmp_path / "films")
    assert data.categories == ("bolt", "hook")
    via.write(data, tmp_path / "via.json")
    again, _ = via.read([tmp_path / "via.json"], tmp_path / "films")
    assert [a.category for a in again.images[0].annotations] == ["hook", "bolt"]


def test_film_with_nothing_found_is_kept(tmp_path):
    data, _ = labelled.read([results(tmp_path, content=Spine(SIZE))], None)
    assert [i.annotations for i in data.images] == [()]
    assert data.categories == CLASSES


def test_film_of_another_size_is_refused(tmp_path):
    film(tmp_path, size=(50, 40))
    with pytest.raises(DataError, match=r"film must be 70 x 90 px as its results say, got 40 x 50"):
        labelled.read([results(tmp_path)], tmp_path / "films")


def test_missing_film_is_named(tmp_path):
    (tmp_path / "films").mkdir()
    with pytest.raises(DataError, match="film is not there"):
        labelled.read([results(tmp_path)], tmp_path / "films")


def test_film_in_two_folders_is_refused(tmp_path):
    results(tmp_path / "x"), results(tmp_path / "y")
    with pytest.raises(DataError, match=r"a film must occur once, got 'a\.png' in two folders"):
        labelled.read([tmp_path / "x" / "results", tmp_path / "y" / "results"], None)


def test_folder_without_results_is_refused(tmp_path):
    with pytest.raises(DataError, match="must be a folder with labelled JSON files"):
        labelled.read([tmp_path], None)
