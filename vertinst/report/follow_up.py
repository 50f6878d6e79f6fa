"""Follow-up on disk: JSON for the next program, a table for statistics, and the page that people read."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from vertinst.errors import ConfigError, DataError
from vertinst.files import film_stem, prepare_folder, write_json, write_text
from vertinst.postprocess.construct import spanned
from vertinst.postprocess.follow_up import COVERAGE, Change, FollowUp, LevelChange, follow_up
from vertinst.progress import Progress, silent, track
from vertinst.report import labelled
from vertinst.report.gallery import Card, make_card
from vertinst.report.labelled import DISCLAIMER
from vertinst.report.measure_words import flag_sentence, measure_words
from vertinst.report.outlines import vertebra_shapes
from vertinst.report.pages import template
from vertinst.report.results import FilmResult, read_films
from vertinst.report.tables import harmless
from vertinst.structures.measures import Measure
from vertinst.version import __version__

__all__ = ["NAME", "Pair", "compare_films", "pairs_of", "read_pair", "schema", "to_json", "to_rows", "write_follow_up"]

NAME = "follow_up"
"""Of the three files, before their suffixes."""
SCHEMA_VERSION = 1
SHOWN_WITH_PICTURES = 40
COLUMNS = (
    "before_film", "after_film", "part", "name", "measure", "unit", "before", "before_sd", "after", "after_sd",
    "change", "uncertainty", "beyond",
)  # fmt: skip


class Pair(NamedTuple):
    """Two films of one patient.

    Attributes:
        before: First date.
        after: Second date.
        found: What changed.
    """

    before: FilmResult
    after: FilmResult
    found: FollowUp


def schema() -> dict[str, Any]:
    """The JSON schema (draft 2020-12) that every written file keeps to."""
    text = resources.files("vertinst.report").joinpath(f"{NAME}.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def compare_films(before: FilmResult, after: FilmResult) -> Pair:
    """Compare two films; see `follow_up`.

    Raises:
        DataError: They are of different views, or hold no measures.
    """
    for film in (before, after):
        if film.spine.vertebrae and not any(v.body for v in film.spine.vertebrae):
            raise DataError(
                "must hold measures, got none",
                where=film.path,
                fix="Measure it first: vertinst measure PREDICTIONS --out MEASURED.",
            )
    try:
        return Pair(before, after, follow_up(before.spine, after.spine))
    except DataError as error:
        where = error.where or f"{before.file_name} and {after.file_name}"
        raise DataError(error.message, where=where, fix=error.fix) from error


def read_pair(before: Path, after: Path) -> Pair:
    """Read and compare two labelled JSON files.

    Raises:
        DataError: One is not as it should be, they are the same file, or they cannot be compared.
    """
    if before.resolve() == after.resolve():
        raise DataError("the two dates must be two files, got one", where=before, fix="Name the second date's file.")
    films = [FilmResult(path, *labelled.read(path)) for path in (before, after)]
    return compare_films(films[0], films[1])


def pairs_of(folder: Path, patient_regex: str) -> tuple[list[Pair], list[str]]:
    """Films of a results folder by patient, in the order of their names: each against the one before of its view.

    Args:
        folder: Results folder.
        patient_regex: Searched in a film's name: its first group, or all of it, is the patient.

    Returns:
        Pairs, and the films that are in none.

    Raises:
        ConfigError: The pattern is no regular expression.
        DataError: The folder is not as it should be, or no patient has two films of one view.
    """
    try:
        pattern = re.compile(patient_regex)
    except re.error as error:
        raise ConfigError(
            f"patient pattern must be a regular expression, got {patient_regex!r}: {error}",
            fix="For example --patient-regex '^([^_]+)_' for names like P7_2024.png",
        ) from error
    groups: dict[tuple[str, str], list[FilmResult]] = {}
    films = read_films(folder)
    for film in films:
        match = pattern.search(film.file_name)
        patient = (match[1] if pattern.groups else match[0]) if match else None
        if patient:
            groups.setdefault((patient, film.spine.view), []).append(film)
    steps = [step for group in groups.values() for step in pairwise(group)]
    if not steps:
        raise DataError(
            "at least one patient must have two films of one view, got none",
            where=folder,
            fix="Correct --patient-regex, or name two labelled JSON files.",
        )
    used = {film.file_name for step in steps for film in step}
    return [compare_films(*step) for step in steps], [f.file_name for f in films if f.file_name not in used]


def write_follow_up(pairs: Sequence[Pair], out: Path, *, overwrite: bool = False, progress: Progress = silent) -> Path:
    """Write `follow_up.json`, `follow_up.csv` and `follow_up.html` about all pairs into a folder.

    Args:
        pairs: At least one.
        out: The folder.
        overwrite: Delete what it holds.
        progress: Told after each pair.

    Returns:
        The page.

    Raises:
        OutputExistsError: The folder is not empty, or holds what was read.
    """
    prepare_folder(out, overwrite=overwrite, inputs=[film.path for pair in pairs for film in pair[:2]])
    write_json(out / f"{NAME}.json", to_json(pairs), indent=1)
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(row for pair in pairs for row in to_rows(pair))
    write_text(out / f"{NAME}.csv", table.getvalue())
    shown = track((_shown(n, pair) for n, pair in enumerate(pairs)), len(pairs), "writing the page", progress)
    page = template(f"{NAME}.html.j2", {"sentence": flag_sentence, "words": lambda flag: str(flag).replace("_", " ")})
    write_text(out / f"{NAME}.html", page.render(_page(list(shown))))
    return out / f"{NAME}.html"


def to_json(pairs: Sequence[Pair]) -> dict[str, Any]:
    """All pairs as the schema has them."""
    return {
        "schema_version": SCHEMA_VERSION,
        "disclaimer": DISCLAIMER,
        "vertinst": __version__,
        "coverage": COVERAGE,
        "pairs": [_pair(pair) for pair in pairs],
    }


def _pair(pair: Pair) -> dict[str, Any]:
    found = pair.found
    return {
        "before": _film(pair.before),
        "after": _film(pair.after),
        "flags": list(found.flags),
        "shift": found.shift,
        "length_unit": found.length_unit,
        "film": _changes(found.film),
        "vertebrae": [_level(part, "level") for part in found.vertebrae],
        "discs": [_level(part, "name") for part in found.discs],
        "implants": [
            {
                "category": part.category,
                "levels": list(part.levels),
                "before": part.before,
                "after": part.after,
                "changes": _changes(part.changes),
            }
            for part in found.implants
        ],
        "only_before": {"levels": list(found.only_before), "implants": list(found.implants_only_before)},
        "only_after": {"levels": list(found.only_after), "implants": list(found.implants_only_after)},
    }


def _film(film: FilmResult) -> dict[str, Any]:
    return {"file_name": film.file_name, "flags": list(film.spine.flags), "construct": film.spine.construct}


def _level(part: LevelChange, key: str) -> dict[str, Any]:
    grades = {name: {"before": old, "after": new} for name, (old, new) in part.grades.items()}
    return {key: part.name, "changes": _changes(part.changes), "grades": grades}


def _changes(changes: Sequence[Change]) -> dict[str, Any]:
    return {
        change.name: {
            "before": _measure(change.before),
            "after": _measure(change.after),
            "change": round(change.change, 5),
            "uncertainty": None if change.uncertainty is None else round(change.uncertainty, 5),
            "beyond": change.beyond,
        }
        for change in changes
    }


def _measure(measure: Measure) -> dict[str, float | None]:
    return {"value": round(measure.value, 5), "sd": None if measure.sd is None else round(measure.sd, 5)}


def to_rows(pair: Pair) -> list[list[str | float | int]]:
    """Rows of the table, one a change, with the columns `COLUMNS`; `beyond` is 1, 0 or empty.

    No text is a formula to a spreadsheet: see `tables`.
    """
    found = pair.found
    parts = [("film", "", found.film)]
    parts += [("vertebra", part.name, part.changes) for part in found.vertebrae]
    parts += [("disc", part.name, part.changes) for part in found.discs]
    parts += [(part.category, " ".join(part.levels), part.changes) for part in found.implants]
    return [
        [
            *map(harmless, (pair.before.file_name, pair.after.file_name, part, name, change.name)),
            measure_words(change.name).unit,
            *(_cell(v) for v in (*change.before, *change.after, change.change, change.uncertainty)),
            "" if change.beyond is None else int(change.beyond),
        ]
        for part, name, changes in parts
        for change in changes
    ]  # fmt: skip


def _cell(value: float | None) -> float | str:
    return "" if value is None else round(value, 5)


class _Row(NamedTuple):
    """A change on the page, every number as text."""

    part: str
    measure: str
    before: str
    after: str
    change: str
    uncertainty: str
    unit: str
    beyond: bool | None


def _page(pairs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "pairs": pairs,
        "written": datetime.now(UTC).strftime("%Y-%m-%d"),
        "version": __version__,
        "disclaimer": DISCLAIMER,
        "coverage": f"{COVERAGE:g}",
    }


def _shown(number: int, pair: Pair) -> dict[str, Any]:
    """What the page shows of a pair."""
    changes = sorted(pair.found.changes, key=lambda entry: -_excess(entry[1]))
    rows = [_row(name, change) for name, change in pair.found.changes]
    marked = {name for name, change in changes if change.beyond}
    return {
        "id": f"pair-{number + 1}",
        "pair": pair,
        "found": pair.found,
        "beyond": [_row(name, change) for name, change in changes if change.beyond],
        "rows": rows,
        "unknown": sum(row.beyond is None for row in rows),
        "grades": [
            (part.name, name, old, new)
            for part in (*pair.found.vertebrae, *pair.found.discs)
            for name, (old, new) in part.grades.items()
            if old != new
        ],
        "films": [_card(film, marked, number < SHOWN_WITH_PICTURES) for film in pair[:2]],
        "lost": _categories(pair.before, pair.found.implants_only_before),
        "new": _categories(pair.after, pair.found.implants_only_after),
    }


def _excess(change: Change) -> float:
    return abs(change.change) / change.uncertainty if change.uncertainty else float(bool(change.beyond))


def _row(part: str, change: Change) -> _Row:
    words = measure_words(change.name)

    def with_sd(measure: Measure) -> str:
        sd = "" if measure.sd is None else f" ± {words.number(measure.sd)}"
        return words.number(measure.value) + sd

    return _Row(
        "Whole film" if part == "film" else part,
        words.text,
        with_sd(change.before),
        with_sd(change.after),
        words.number(change.change, signed=True),
        "not known" if change.uncertainty is None else words.number(change.uncertainty),
        words.unit,
        change.beyond,
    )


def _categories(film: FilmResult, numbers: Sequence[int]) -> list[str]:
    """Implants in words, those of the same class and levels together."""
    implants = [film.spine.implants[n] for n in numbers]
    counts = Counter(f"{i.category} {spanned(i)}".strip() for i in implants)
    return [name if count == 1 else f"{count} \N{MULTIPLICATION SIGN} {name}" for name, count in counts.items()]


def _card(film: FilmResult, marked: set[str], with_picture: bool) -> dict[str, Any]:
    """A film with its vertebrae as shapes, those with changes beyond the uncertainty marked."""
    card: Card | None = None
    folder = _folder_of(film)
    if with_picture and folder is not None:
        card = make_card(folder, film, None)
    height, width = film.spine.image_size
    shapes: list[Mapping[str, Any]] = [
        {"shape": shape, "marked": shape.level in marked} for shape in vertebra_shapes(film.spine)
    ]
    picture = (card.film or card.overlay) if card else None
    return {"film": film, "picture": picture, "width": width, "height": height, "shapes": shapes}


def _folder_of(film: FilmResult) -> Path | None:
    """The results folder that a labelled JSON lies in, or None where it was moved out of it."""
    tail = Path(film_stem(film.file_name) + ".json").parts
    if film.path.resolve().parts[-len(tail) :] != tail:
        return None
    return film.path.resolve().parents[len(tail) - 1]
