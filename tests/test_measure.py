"""Levels and measures anew: of results with what the user says now, and of annotations."""

import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

from vertinst.cli import run
from vertinst.converters import coco
from vertinst.errors import DataError, OutputExistsError
from vertinst.measure import DIFFERS, MOST, measure, spine_of_annotations
from vertinst.postprocess.labelling import parse_anchor
from vertinst.postprocess.pipeline import SpineOptions, build_spine, relabel
from vertinst.postprocess.stated import stated
from vertinst.report import results
from vertinst.structures import Annotation, Dataset, ImageRecord, Implant, Instances, Scale, rle

SIZE = (420, 200)
CLASSES = ("lumbar", "sacral")


def body(place):
    """The mask of the vertebra at a place of the column, from below."""
    mask = np.zeros(SIZE, dtype=np.uint8)
    centre = (100.0 + 6 * np.sin(place), 370.0 - 62 * place)
    cv2.ellipse(mask, (centre, (74.0, 42.0), 0.0), 1, -1)
    return rle.encode(mask)


def found(count=5, score=0.9, **how):
    instances = Instances.from_masks(SIZE, [body(n) for n in range(count)], [1] * count)
    instances = replace(instances, scores=np.full(count, score, dtype=np.float32))
    return build_spine(instances, CLASSES, **how)


def record(name, levels, **facts):
    annotations = tuple(
        Annotation("lumbar", body(n), attributes={"level": level} if level else {}) for n, level in enumerate(levels)
    )
    return ImageRecord(1, name, SIZE[1], SIZE[0], annotations=annotations, **facts)


def levels(spine):
    return [v.level for v in spine.vertebrae]


@pytest.fixture
def predictions(tmp_path):
    """Two films without a sacrum."""
    folder = tmp_path / "predictions"
    for name in ("a.png", "ward/b.png"):
        results.write_film(folder, name, np.full(SIZE, 0.5, np.float32), found(), {"model": "yolact"})
    return folder


def test_an_anchor_afterwards_names_the_levels(predictions, tmp_path, capsys):
    anchors = tmp_path / "anchors.json"
    anchors.write_text(json.dumps({"ward/b.png": "L3@100,308"}))
    out = tmp_path / "out"
    command = ["measure", str(predictions), "--anchors", str(anchors), "--pixel-spacing-mm", "0.2", "--out", str(out)]
    assert run(command) == 0
    shown = capsys.readouterr()
    assert "2 films with 10 vertebrae: labelled JSON in " in shown.out
    assert "1 film needs an anchor: a.png\n" in shown.err
    assert f"vertinst measure {out} --anchors anchors.json" in shown.err
    first, second = results.read_films(out)
    assert levels(first.spine)[0] == "+1"
    assert levels(second.spine) == ["L4", "L3", "L2", "L1", "T12"]
    assert second.spine.naming.anchor == "L3@100,308"
    assert second.spine.scale == Scale(0.2, 0.2, "stated by the user")
    assert second.provenance["model"] == "yolact"
    assert "measured_again" in second.provenance
    assert results.film_paths(out, "ward/b.png").overlay.is_file()
    # What was said before holds, and what is new wins.
    spines = measure(out, tmp_path / "third", stated=stated(view="ap"))
    assert levels(spines["ward/b.png"]) == ["L4", "L3", "L2", "L1", "T12"]
    assert (spines["ward/b.png"].view, spines["ward/b.png"].scale.row_mm) == ("ap", 0.2)
    spines = measure(tmp_path / "third", tmp_path / "fourth", stated=stated(anchor="L5=lowest"))
    assert levels(spines["ward/b.png"])[0] == "L5"
    assert spines["ward/b.png"].view == "ap"


def test_an_anchor_beside_all_vertebrae_is_told(predictions, tmp_path, capsys):
    said = ["--anchor", "L3@199,1"]
    assert run(["measure", str(predictions), *said, "--out", str(tmp_path / "out")]) == 0
    assert "2 anchors lie on no vertebra: a.png, ward/b.png\n" in capsys.readouterr().err


def test_films_without_a_copy_get_no_overlay_and_those_of_another_size_are_refused(predictions, tmp_path):
    results.film_paths(predictions, "a.png").film.unlink()
    measure(predictions, tmp_path / "out")
    paths = results.film_paths(tmp_path / "out", "a.png")
    assert (paths.overlay.exists(), paths.film.exists(), paths.label_map.exists()) == (False, False, True)
    images = tmp_path / "images"
    (images / "ward").mkdir(parents=True)
    for name, size in (("a.png", SIZE), ("ward/b.png", (20, 30))):
        cv2.imwrite(str(images / name), np.eye(*size, dtype=np.uint8) * 200)
    with pytest.raises(DataError, match=r"b\.png: film must have the size \(420, 200\) .*, got \(20, 30\)"):
        measure(predictions, tmp_path / "two", images=images)
    assert results.film_paths(tmp_path / "two", "a.png").overlay.is_file()


def test_the_threshold_of_the_prediction_holds(tmp_path):
    spine = found(score=0.3, options=SpineOptions(score_threshold=0.2))
    for name, provenance in (("a.png", {"score_threshold": 0.2}), ("b.png", {"score_threshold": True})):
        results.write_film(tmp_path / "low", name, None, spine, provenance)
    spines = measure(tmp_path / "low", tmp_path / "out")
    assert len(spines["a.png"].vertebrae) == 5
    assert len(spines["b.png"].vertebrae) == 0


def test_wrong_names_and_folders_are_refused(predictions, tmp_path, capsys):
    anchors = tmp_path / "anchors.json"
    anchors.write_text(json.dumps({"b.png": "L4=lowest"}))
    command = ["measure", str(predictions), "--anchors", str(anchors), "--out", str(tmp_path / "out")]
    assert run(command) == 2
    assert re.search(r"anchors must be of films that are there, got b\.png\n.*such as a\.png", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
    with pytest.raises(OutputExistsError, match="must not lie in the folder that is read"):
        measure(predictions, predictions / "again")
    (tmp_path / "anchors_out").mkdir()
    inside = tmp_path / "anchors_out" / "anchors.json"
    inside.write_text("{}")
    command = ["measure", str(predictions), "--anchors", str(inside), "--out", str(inside.parent), "--overwrite"]
    assert run(command) == 2
    assert inside.exists()


def test_annotations_are_counted_from_their_lowest_level(tmp_path):
    facts = {"view": "LL", "pixel_spacing_mm": (0.3, 0.3), "pixel_spacing_source": "phantom"}
    film = record("a.png", (None, "L4", "LWK 3", "L2"), **facts)
    path = tmp_path / "coco.json"
    coco.write(Dataset(CLASSES, (film,)), path)
    spine = measure(path, tmp_path / "out")["a.png"]
    assert levels(spine) == ["L5", "L4", "L3", "L2"]
    assert (spine.view, spine.scale) == ("lateral", Scale(0.3, 0.3, "phantom"))
    assert DIFFERS not in spine.flags
    assert results.read_folder(tmp_path / "out").keys() == {"a.png"}
    assert not (tmp_path / "out" / "overlays").exists()


def test_annotated_levels_that_cannot_be_counted_are_flagged():
    film = record("a.png", ("L5", "L4", "L2", "L1"))
    spine = spine_of_annotations(film, Dataset(CLASSES, (film,)))
    assert DIFFERS in spine.flags
    other = spine_of_annotations(film, Dataset(CLASSES, (film,)), anchor=parse_anchor("L3=lowest"))
    assert levels(other)[0] == "L3"


def test_no_annotation_is_suppressed():
    film = record("a.png", ("L5", "L4", "L3"))
    doubled = replace(film, annotations=(*film.annotations, Annotation("lumbar", body(1))))
    spine = spine_of_annotations(doubled, Dataset(CLASSES, (doubled,)))
    assert len(spine.vertebrae) + len(spine.candidates) == 4
    assert not [event for event in spine.log if event["event"] == "suppressed"]


def test_measuring_again_suppresses_nothing_more(tmp_path):
    rod = {"score": 0.9, "box": rle.box_xyxy(body(2)), "mask": body(2)}
    spine = replace(found(), implants=(Implant("rod", **rod), Implant("rod", **rod)))
    results.write_film(tmp_path / "in", "a.png", None, spine, {})
    again = measure(tmp_path / "in", tmp_path / "out")["a.png"]
    assert [i.category for i in again.implants] == ["rod", "rod"]


def test_logs_of_strangers_are_kept_whatever_they_hold():
    log = ({"by": 1}, {"event": ["recovered"]}, {"event": "recovered"})
    again = relabel(replace(found(), log=log))
    assert again.log[:2] == log[:2]
    assert len(again.log) == 2


def test_of_thousands_of_annotations_the_largest_are_looked_at():
    annotations = [Annotation("lumbar", body(n)) for n in range(5)]
    dots = [rle.paste(np.ones((2, 2), dtype=bool), 2 * n % 400, 2 * (n // 200), SIZE) for n in range(3000)]
    film = ImageRecord(1, "a.png", SIZE[1], SIZE[0], annotations=(*(Annotation("rod", m) for m in dots), *annotations))
    spine = spine_of_annotations(film, Dataset(("lumbar", "rod"), (film,)))
    assert len(spine.vertebrae) == 5
    assert {"event": "removed", "count": 3005 - MOST, "reason": "max_instances"} in spine.log


def test_films_without_annotations_are_empty():
    film = record("a.png", ())
    spine = spine_of_annotations(film, Dataset(CLASSES, (film,)), view="ap")
    assert (spine.vertebrae, spine.view) == ((), "ap")
