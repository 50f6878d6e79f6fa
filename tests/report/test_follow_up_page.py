import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest

from vertinst.cli import run
from vertinst.report import follow_up, labelled, results
from vertinst.report.follow_up import compare_films, to_rows
from vertinst.report.measure_words import measure_words
from vertinst.report.results import FilmResult
from vertinst.structures import Implant, Spine, Vertebra, rle
from vertinst.structures.measures import Body, Measure

SIZE = (160, 120)


def part(left, top, right, bottom):
    mask = np.zeros(SIZE, dtype=np.uint8)
    cv2.rectangle(mask, (left, top), (right - 1, bottom - 1), 1, -1)
    encoded = rle.encode(mask)
    return {"score": 0.9, "box": rle.box_xyxy(encoded), "mask": encoded}


def make_spine(wedge=1.0, screw=45):
    vertebrae = []
    for n, level in enumerate(("L5", "L4", "L3")):
        top = 110 - 40 * n
        corners = np.array([[40, top], [80, top], [80, top + 30], [40, top + 30]], dtype=float)
        values = {"wedge_ratio": Measure(wedge if level == "L4" else 1.0, 0.02), "height_middle_px": Measure(30, 0.4)}
        values |= {f"depth_{end}_px": Measure(40, 0.4) for end in ("superior", "inferior")}
        body = Body(corners, np.full(4, 0.5), values, {"genant_grade": 0 if wedge > 0.9 else 1})
        vertebrae.append(Vertebra(level, "lumbar", **part(40, top, 80, top + 30), body=body))
    implants = (Implant("screw", **part(screw, 85, screw + 20, 89), levels=("L4",)),)
    values = {"lordosis_L1_S1_deg": Measure(40 * wedge, 1.0)}
    construct = "posterior instrumentation L4"
    return Spine(SIZE, tuple(vertebrae), implants, flags=("no_sacrum",), construct=construct, values=values)


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    """Two dates of P7, one of <P8>."""
    folder = tmp_path_factory.mktemp("predictions")
    films = {"P7_1.png": make_spine(), "P7_2.png": make_spine(0.7, 50), "<b>P8_1.png": make_spine()}
    for name, spine in films.items():
        results.write_film(folder, name, np.full(SIZE, 0.4, np.float32), spine, {})
    return folder


def test_two_dates_become_a_page_a_table_and_json(predictions, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["follow-up", str(predictions / "P7_1.json"), str(predictions / "P7_2.json"), "--out", str(out)]
    assert run(command) == 0
    said = capsys.readouterr().out
    assert re.search(
        r"P7_1\.png to P7_2\.png: \d+ of \d+ measures changed beyond the uncertainty; no_common_scale", said
    )
    content = json.loads((out / "follow_up.json").read_text())
    jsonschema.Draft202012Validator(follow_up.schema()).validate(content)
    [pair] = content["pairs"]
    l4 = next(v for v in pair["vertebrae"] if v["level"] == "L4")
    assert l4["changes"]["wedge_ratio"]["change"] == -0.3
    assert l4["changes"]["wedge_ratio"]["beyond"] is True
    assert l4["grades"] == {"genant_grade": {"before": 0, "after": 1}}
    # The front is on the left: 5 px to the right is backwards, by a depth of 40 px.
    assert pair["implants"][0]["changes"]["anterior_by_depth_ratio"]["change"] == pytest.approx(-0.125, abs=0.001)
    rows = list(csv.DictReader((out / "follow_up.csv").open(encoding="utf-8")))
    assert {(r["part"], r["name"]) for r in rows if r["beyond"] == "1"} == {
        ("film", ""), ("vertebra", "L4"), ("screw", "L4")
    }  # fmt: skip
    page = (out / "follow_up.html").read_text(encoding="utf-8")
    for words in ("lordosis L1 to S1", "changed", "posterior instrumentation L4", "genant grade 0, then 1", "Yellow:"):
        assert words in page
    assert page.count("data:image/jpeg") == 2
    assert page.count('class="marked"') == 2
    assert "<script" not in page
    assert "http" not in re.sub(r"http-equiv", "", re.sub(r"base64,[\w+/=]+", "", page))


def test_no_cell_of_the_table_is_a_formula():
    spine = make_spine()
    spine = replace(spine, implants=(replace(spine.implants[0], category="@SUM(A1)"),))
    films = [FilmResult(Path(name), name, spine, {}) for name in ("=HYPERLINK(1).png", "+b.png")]
    cells = {cell for row in to_rows(compare_films(*films)) for cell in row if isinstance(cell, str)}
    assert {"'=HYPERLINK(1).png", "'+b.png", "'@SUM(A1)"} <= cells
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


def test_a_folder_is_compared_patient_by_patient(predictions, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(["follow-up", str(predictions), "--patient-regex", r"(P\d)_", "--out", str(out)]) == 0
    assert "1 film has no other date and was left out: <b>P8_1.png" in capsys.readouterr().err
    assert run(["follow-up", str(predictions), "--patient-regex", r"P\d", "--out", str(out)]) == 2
    assert "not empty" in capsys.readouterr().err


def test_without_films_outlines_are_shown(predictions, tmp_path):
    moved = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, name in zip(moved, ("<b>P8_1.json", "P7_1.json"), strict=True):
        path.write_bytes((predictions / name).read_bytes())
    page = follow_up.write_follow_up([follow_up.read_pair(*moved)], tmp_path / "out").read_text(encoding="utf-8")
    assert "only the outlines are shown" in page
    assert "None of " in page
    assert "&lt;b&gt;P8_1.png" in page
    assert "<b>P8" not in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["P7_1.json"], "must be two labelled JSON files, or one results folder"),
        (["P7_1.json", "P7_1.json"], "the two dates must be two files"),
        ([".", "--patient-regex", "("], "patient pattern must be a regular expression"),
        ([".", "--patient-regex", "^(X)"], "at least one patient must have two films of one view"),
    ],
)
def test_what_cannot_be_compared_is_said(predictions, tmp_path, capsys, arguments, message):
    command = [str(predictions / a) if a[0] in ".P" else a for a in arguments]
    assert run(["follow-up", *command, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_films_without_measures_are_refused_with_the_way_out(predictions, tmp_path, capsys):
    spine = make_spine()
    bare = replace(spine, vertebrae=tuple(replace(v, body=None) for v in spine.vertebrae))
    labelled.write(bare, tmp_path / "a.json", file_name="a.png", provenance={})
    command = ["follow-up", str(tmp_path / "a.json"), str(predictions / "P7_1.json"), "--out", str(tmp_path / "o")]
    assert run(command) == 2
    assert re.search(r"a\.json: must hold measures, got none\n.*vertinst measure", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("name", "words", "unit"),
    [
        ("cobb_T12_L4_deg", "cobb T12 to L4", "°"),
        ("height_ratio", "height ratio", ""),
        ("up_by_depth_ratio", "up", "of the bodies' depth"),
        ("slip_percent", "slip", "%"),
    ],
)
def test_names_of_measures_in_words(name, words, unit):
    assert measure_words(name)[:2] == (words, unit)
    assert measure_words("tilt_deg").number(-0.04, signed=True) == "0.0"
    assert measure_words("tilt_deg").number(-3, signed=True) == "\N{MINUS SIGN}3.0"
