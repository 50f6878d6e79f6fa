"""Results as CSV, for statistics: a row a vertebra, a row a disc, a row a film, a row an implant.

Every table has the same columns whatever was found, a unit at the end of each name that has one, and a column `..._sd`
after each measure; measures that this version does not know follow at the end, by alphabet. A cell is empty where
nothing was measured. UTF-8, one header line, decimal points; several words in a cell are separated by spaces.

A text that a spreadsheet would take for a formula (it begins with = + - @, a tab or a line break), and one that begins
with an apostrophe, is written with an apostrophe before it: relative levels are `'+1`. Removing one leading apostrophe
gives the text again.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from vertinst.files import write_text
from vertinst.report.results import FilmResult
from vertinst.structures.measures import CORNERS, Body, Disc, Measure
from vertinst.structures.spine import Implant, Spine, Vertebra

__all__ = ["DISC_MEASURES", "FILM_MEASURES", "VERTEBRA_MEASURES", "harmless", "tables", "write_tables"]

Cell: TypeAlias = str | int | float | bool | None
Row: TypeAlias = dict[str, Cell]

VERTEBRA_MEASURES = (
    "height_anterior_px",
    "height_middle_px",
    "height_posterior_px",
    "depth_superior_px",
    "depth_inferior_px",
    "wedge_ratio",
    "biconcave_ratio",
    "crush_ratio",
    "wedge_deg",
    "tilt_deg",
)
DISC_MEASURES = (
    "height_anterior_px",
    "height_middle_px",
    "height_posterior_px",
    "height_ratio",
    "wedge_deg",
    "segment_deg",
    "slip_percent",
)
FILM_MEASURES = ("lordosis_L1_S1_deg", "lordosis_L4_S1_deg", "sacral_slope_deg", "cobb_max_deg")

_DIGITS = 8
"""A column of a film of 9999 px to four decimals, as the labelled JSON has it."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "'", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Beginnings of formulas in spreadsheets, in full width too, and the apostrophe that marks them."""
_COBB = re.compile(r"cobb_(?P<upper>[A-Z]\d+|\+\d+)_(?P<lower>[A-Z]\d+|\+\d+)_deg")


def tables(films: Iterable[FilmResult]) -> dict[str, str]:
    """The tables as CSV text: `vertebrae.csv`, `discs.csv`, `films.csv` and `implants.csv`; see the module.

    Rows are in the order of the films and of what was found on each: vertebrae and discs from below, implants by
    falling score. `number` is the value in the film's label map.

    Args:
        films: As `read_films` gives them; none at all gives headers only.
    """
    rows: dict[str, list[Row]] = {"vertebrae.csv": [], "discs.csv": [], "films.csv": [], "implants.csv": []}
    for film in films:
        spine = film.spine
        who: Row = {"film": film.file_name}
        first_implant = len(spine.vertebrae) + 1
        rows["films.csv"].append(_film_row(spine) | who)
        rows["vertebrae.csv"] += [_vertebra_row(v, n) | who for n, v in enumerate(spine.vertebrae, start=1)]
        rows["discs.csv"] += [_disc_row(d) | who for d in spine.discs]
        rows["implants.csv"] += [_implant_row(i, n) | who for n, i in enumerate(spine.implants, first_implant)]
    return {name: _as_text(_HEADERS[name], found) for name, found in rows.items()}


def write_tables(films: Iterable[FilmResult], folder: Path) -> None:
    """Write the tables into a folder, made if missing; each is written aside and renamed. See `tables`.

    Raises:
        VertinstError: A file cannot be written.
    """
    for name, text in tables(films).items():
        write_text(folder / name, text)


def _film_row(spine: Spine) -> Row:
    scale, naming, orientation = spine.scale, spine.naming, spine.orientation
    # Measures first, here and below: none of a stranger's file takes the place of a column with that name.
    return {
        **_measure_cells({name: m for name, m in spine.values.items() if not _COBB.fullmatch(name)}),
        **_largest_cobb(spine.values),
        "width_px": spine.image_size[1],
        "height_px": spine.image_size[0],
        "view": spine.view,
        "orientation_sure": orientation.sure if orientation is not None else None,
        "pixel_spacing_row_mm": scale.row_mm if scale is not None else None,
        "pixel_spacing_column_mm": scale.column_mm if scale is not None else None,
        "pixel_spacing_source": scale.source if scale is not None else None,
        "vertebrae": len(spine.vertebrae),
        "implants": len(spine.implants),
        "flags": " ".join(spine.flags),
        "naming_probability": naming.probability if naming is not None else None,
        "next_best": " ".join(level or "none" for level in naming.next_best) if naming is not None else None,
        "next_probability": naming.next_probability if naming is not None and naming.next_best else None,
        "anchor": naming.anchor if naming is not None else None,
        "construct": spine.construct,
    }


def _largest_cobb(values: Mapping[str, Measure]) -> Row:
    """Levels between which the largest Cobb angle lies: they are in the name of a measure of the same value."""
    largest = values.get("cobb_max_deg")
    for name, measure in values.items():
        match = _COBB.fullmatch(name)
        if match is not None and largest is not None and measure.value == largest.value:
            return {"cobb_max_upper_level": match["upper"], "cobb_max_lower_level": match["lower"]}
    return {}


def _vertebra_row(vertebra: Vertebra, number: int) -> Row:
    return _body_cells(vertebra.body) | {
        "number": number,
        "level": vertebra.level,
        "confidence": vertebra.confidence,
        "category": vertebra.category,
        "score": vertebra.score,
        "flags": " ".join(vertebra.flags),
        **_box_cells(vertebra),
    }


def _body_cells(body: Body | None) -> Row:
    if body is None:
        return {}
    row = _measure_cells(body.values) | dict(body.grades)
    for corner, (x, y), sd in zip(CORNERS, body.corners_px.tolist(), body.corners_sd_px.tolist(), strict=True):
        row |= {f"{corner}_x_px": x, f"{corner}_y_px": y, f"{corner}_px_sd": sd}
        row[f"osteophyte_{corner}_px2"] = sum(o.area_px2 for o in body.osteophytes if o.corner == corner)
    return row


def _disc_row(disc: Disc) -> Row:
    named: Row = {"disc": disc.name, "upper_level": disc.upper, "lower_level": disc.lower}
    return _measure_cells(disc.values) | dict(disc.grades) | named


def _implant_row(implant: Implant, number: int) -> Row:
    return {
        "number": number,
        "category": implant.category,
        "levels": " ".join(implant.levels),
        "score": implant.score,
        "flags": " ".join(implant.flags),
        **_box_cells(implant),
    }


def _box_cells(found: Vertebra | Implant) -> Row:
    return dict(zip(_BOX, (float(v) for v in found.box), strict=True))


def _measure_cells(values: Mapping[str, Measure]) -> Row:
    cells: Row = {}
    for name, measure in values.items():
        cells |= {name: measure.value, f"{name}_sd": measure.sd}
    return cells


def _measure_columns(names: Sequence[str]) -> list[str]:
    """Each measure with its uncertainty; those in pixels once more in millimetres."""
    twins = [twin for name in names for twin in ([name, f"{name[:-3]}_mm"] if name.endswith("_px") else [name])]
    return [column for name in twins for column in (name, f"{name}_sd")]


def _as_text(header: Sequence[str], rows: Sequence[Row]) -> str:
    more = sorted({column for row in rows for column in row} - set(header))
    columns = [*header, *more]
    text = io.StringIO(newline="")
    # As RFC 4180 has it; with a line feed alone, Python leaves carriage returns in texts without quotes.
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def _cell(value: Cell | np.generic) -> str:
    if isinstance(value, np.generic):
        return _cell(value.item())
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        # The sum turns -0 into 0.
        return f"{value + 0.0:.{_DIGITS}g}" if math.isfinite(value) else ""
    return harmless(value)


def harmless(text: str) -> str:
    """A text as a cell that no spreadsheet takes for a formula; see the module."""
    # A zero byte ends the text for many readers.
    text = text.replace("\0", "\ufffd")
    return f"'{text}" if text.startswith(_FORMULA) else text


_BOX = ("box_left_px", "box_top_px", "box_right_px", "box_bottom_px")
_CORNER_COLUMNS = [f"{corner}{end}" for corner in CORNERS for end in ("_x_px", "_y_px", "_px_sd")]
_HEADERS: dict[str, list[str]] = {
    "vertebrae.csv": [
        *("film", "number", "level", "confidence", "category", "score", "flags"),
        *_measure_columns(VERTEBRA_MEASURES),
        "genant_grade",
        *(f"osteophyte_{corner}_px2" for corner in CORNERS),
        *_CORNER_COLUMNS,
        *_BOX,
    ],
    "discs.csv": [
        *("film", "disc", "upper_level", "lower_level"),
        *_measure_columns(DISC_MEASURES),
        "meyerding_grade",
    ],
    "films.csv": [
        *("film", "width_px", "height_px", "view", "orientation_sure"),
        *("pixel_spacing_row_mm", "pixel_spacing_column_mm", "pixel_spacing_source"),
        *("vertebrae", "implants", "flags"),
        *("naming_probability", "next_best", "next_probability", "anchor", "construct"),
        *_measure_columns(FILM_MEASURES),
        *("cobb_max_upper_level", "cobb_max_lower_level"),
    ],
    "implants.csv": ["film", "number", "category", "levels", "score", "flags", *_BOX],
}
