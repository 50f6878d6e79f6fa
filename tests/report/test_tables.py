"""Tables of results: the same columns always, empty cells where nothing was measured, no formula."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vertinst import convert
from vertinst.cli import run
from vertinst.errors import ConfigError, DataError, OutputExistsError
from vertinst.report import labelled, tables
from vertinst.report.results import FilmResult
from vertinst.structures import Implant, Naming, Spine, Vertebra, rle
from vertinst.structures.measures import CORNERS, Body, Disc, Measure, Orientation, Osteophyte, Scale

SIZE = (40, 30)
NAMES = {"vertebrae.csv", "discs.csv", "films.csv", "implants.csv"}


def found(top):
    dense = np.zeros(SIZE, dtype=bool)
    dense[top : top + 6, 4:20] = True
    mask = rle.encode(dense)
    return {"score": 0.5, "box": rle.box_xyxy(mask), "mask": mask}


def body(**values):
    return Body(
        np.array([[4.0, 9.5], [20, 9], [20, 15], [4, 15]]),
        np.array([0.5, 1, np.nan, 2]),
        values,
        {"genant_grade": 2},
        (Osteophyte(CORNERS[2], 3.5, (20.0, 15.0)), Osteophyte(CORNERS[2], 1.5, (20.0, 15.0))),
    )


def spine():
    measured = body(height_anterior_px=Measure(5.25, 0.5), height_anterior_mm=Measure(1.3125), own_ratio=Measure(-0.0))
    vertebrae = (
        Vertebra("S1", "sacral", **found(30), flags=("touches_border", "low_score")),
        Vertebra("L5", "lumbar", **found(9), confidence=0.75, body=measured),
    )
    return Spine(
        SIZE,
        vertebrae,
        (Implant("rod", **found(9), levels=("S1", "L5")),),
        flags=("possible_L6",),
        naming=Naming(0.75, ("", "S1"), 0.125, "L5@3,4"),
        construct="posterior instrumentation L5-S1",
        view="ap",
        orientation=Orientation(np.array([0.0, -1]), np.array([1.0, 0]), sure=False),
        scale=Scale(0.123456, 0.125, "stated by the user"),
        discs=(Disc("L5", "S1", {"slip_percent": Measure(-12.5, 1)}, {"meyerding_grade": 1}),),
        values={"cobb_max_deg": Measure(20.5, 1), "cobb_L5_S1_deg": Measure(20.5, 1), "cobb_L4_S1_deg": Measure(3)},
    )


def result(content, name="sub/film.png"):
    return FilmResult(Path("film.json"), name, content, {})


def made(*films):
    read = {n: list(csv.DictReader(io.StringIO(text, newline=""))) for n, text in tables.tables(films).items()}
    assert set(read) == NAMES
    return read


def test_a_row_for_everything_that_was_found():
    read = made(result(spine()))
    sacrum, fifth = read["vertebrae.csv"]
    assert (sacrum["film"], sacrum["number"], sacrum["level"]) == ("sub/film.png", "1", "S1")
    assert (sacrum["flags"], sacrum["confidence"], sacrum["score"]) == ("touches_border low_score", "", "0.5")
    assert {sacrum[c] for c in sacrum if c.startswith(("height", "genant", "osteophyte", "superior"))} == {""}
    assert (fifth["height_anterior_px"], fifth["height_anterior_px_sd"]) == ("5.25", "0.5")
    assert (fifth["height_anterior_mm"], fifth["height_anterior_mm_sd"]) == ("1.3125", "")
    assert (fifth["own_ratio"], fifth["wedge_ratio"], fifth["genant_grade"]) == ("0", "", "2")
    assert (fifth["superior_anterior_y_px"], fifth["superior_posterior_px_sd"]) == ("9.5", "1")
    assert fifth["inferior_posterior_px_sd"] == ""
    assert (fifth["osteophyte_inferior_posterior_px2"], fifth["osteophyte_superior_anterior_px2"]) == ("5", "0")
    (disc,) = read["discs.csv"]
    assert (disc["disc"], disc["upper_level"], disc["lower_level"]) == ("L5/S1", "L5", "S1")
    assert (disc["slip_percent"], disc["slip_percent_sd"], disc["meyerding_grade"]) == ("-12.5", "1", "1")
    (implant,) = read["implants.csv"]
    assert (implant["number"], implant["category"], implant["levels"]) == ("3", "rod", "S1 L5")
    assert (implant["box_left_px"], implant["box_bottom_px"]) == ("4", "15")


def test_a_row_for_every_film():
    film, empty = made(result(spine()), result(Spine(SIZE), "empty.png"))["films.csv"]
    assert (film["width_px"], film["height_px"], film["view"], film["orientation_sure"]) == ("30", "40", "ap", "false")
    assert (film["pixel_spacing_row_mm"], film["pixel_spacing_source"]) == ("0.123456", "stated by the user")
    assert (film["naming_probability"], film["next_best"], film["next_probability"]) == ("0.75", "none S1", "0.125")
    assert (film["cobb_max_deg"], film["cobb_max_upper_level"], film["cobb_max_lower_level"]) == ("20.5", "L5", "S1")
    assert (film["lordosis_L1_S1_deg"], film["flags"], film["vertebrae"]) == ("", "possible_L6", "2")
    assert "cobb_L5_S1_deg" not in film
    assert (empty["film"], empty["vertebrae"], empty["implants"]) == ("empty.png", "0", "0")
    assert {empty[c] for c in empty if c.startswith(("naming", "pixel", "orientation", "cobb", "anchor"))} == {""}


def test_columns_do_not_depend_on_what_was_found():
    known = tables.tables([])
    some = tables.tables([result(spine())])
    for name, text in some.items():
        header, columns = known[name].splitlines(), text.splitlines()[0].split(",")
        assert len(header) == 1
        assert columns[: len(header[0].split(","))] == header[0].split(",")
        assert len(set(columns)) == len(columns)
    assert some["vertebrae.csv"].splitlines()[0].endswith(",own_ratio,own_ratio_sd")
    for name, measures in (("vertebrae.csv", tables.VERTEBRA_MEASURES), ("discs.csv", tables.DISC_MEASURES)):
        assert {f"{m}_sd" for m in measures} < set(known[name].strip().split(","))


def test_a_strangers_measure_takes_no_column_of_ours():
    strange = Vertebra("L5", "lumbar", **found(9), body=body(film=Measure(1.0), level=Measure(2.0)))
    (row,) = made(result(Spine(SIZE, (strange,))))["vertebrae.csv"]
    assert (row["film"], row["level"]) == ("sub/film.png", "L5")


@given(st.text(st.sampled_from("=+-@'\t\r\nä,\"; A1\uff1d"), max_size=6).filter(bool))
def test_no_text_is_a_formula_and_all_can_be_read_back(name):
    (row,) = made(result(Spine(SIZE), name))["films.csv"]
    assert not row["film"].startswith(("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d"))
    assert row["film"].removeprefix("'") == name


def test_numbers_of_numpy_are_numbers():
    spine = Spine(SIZE, (Vertebra("L5", "lumbar", **found(9) | {"score": np.float32(0.25)}),))
    turned = Orientation(np.array([0.0, -1]), np.array([1.0, 0]), sure=np.True_)
    read = made(result(replace(spine, orientation=turned)))
    assert (read["vertebrae.csv"][0]["score"], read["films.csv"][0]["orientation_sure"]) == ("0.25", "true")


def test_relative_levels_are_text():
    (row,) = made(result(Spine(SIZE, (Vertebra("+1", "lumbar", **found(9)),))))["vertebrae.csv"]
    assert row["level"] == "'+1"


@pytest.fixture
def predicted(tmp_path):
    labelled.write(spine(), tmp_path / "results" / "ü.json", file_name="ü.png", provenance={})
    return tmp_path


def test_export_writes_the_tables(predicted, capsys):
    assert run(["export", f"{predicted}/results", "--format", "csv", "--out", f"{predicted}/tables"]) == 0
    assert {p.name for p in (predicted / "tables").iterdir()} == NAMES
    assert "1 films, written to" in " ".join(capsys.readouterr().out.split())
    with (predicted / "tables" / "films.csv").open(encoding="utf-8", newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["film"], row["construct"]) == ("ü.png", "posterior instrumentation L5-S1")


def test_tables_are_not_written_over_something(predicted):
    convert.export(predicted / "results", "csv", predicted / "tables")
    with pytest.raises(OutputExistsError, match="not empty"):
        convert.export(predicted / "results", "csv", predicted / "tables")
    (predicted / "tables" / "old.csv").write_text("old")
    convert.export(predicted / "results", "csv", predicted / "tables", overwrite=True)
    assert {p.name for p in (predicted / "tables").iterdir()} == NAMES
    with pytest.raises(OutputExistsError, match="would overwrite the input"):
        convert.export(predicted / "results", "csv", predicted / "results", overwrite=True)
    with pytest.raises(OutputExistsError, match="holds what is to be read"):
        convert.export(predicted / "results", "csv", predicted, overwrite=True)


def test_tables_are_made_of_results_only(predicted):
    data = predicted / "coco.json"
    data.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    for source in (data, predicted / "nothing"):
        with pytest.raises(DataError, match="tables are made of results, got no folder that `vertinst predict` wrote"):
            convert.export(source, "csv", predicted / "tables")
    with pytest.raises(ConfigError, match="csv has no setting images, kind"):
        convert.export(predicted / "results", "csv", predicted / "tables", predicted, kind="binary")
    assert not (predicted / "tables").exists()
