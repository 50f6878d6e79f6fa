"""The report: one HTML file with everything in it, which asks no other host for anything."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from vertinst.errors import DataError, VertinstError
from vertinst.files import write_text
from vertinst.postprocess.stated import needs_anchor
from vertinst.report import gallery
from vertinst.report.figures import Plot, plot_curves, read_curves
from vertinst.report.hints import hints, other_levels
from vertinst.report.labelled import DISCLAIMER
from vertinst.report.measure_words import measure_words
from vertinst.report.overlay import IMPLANT_COLOURS, VERTEBRA_COLOURS
from vertinst.report.pages import template
from vertinst.report.results import FilmResult, read_films
from vertinst.report.scores import FilmScores, Scores, by_level, read_scores
from vertinst.report.sources import Sources, find_sources
from vertinst.structures.spine import LEVELS
from vertinst.version import __version__

__all__ = ["write_report"]

_PIXEL_METRICS = {
    "mean_iou": ("Mean IoU", "Overlap over union with the annotation, averaged over bone and background."),
    "pixel_accuracy": ("Pixel accuracy", "Share of all pixels rightly called bone or background."),
    "mean_accuracy": ("Mean accuracy", "Share of the bone found and share of the background left alone, averaged."),
    "frequency_weighted_iou": ("Frequency-weighted IoU", "Overlap over union, weighted by the area of each class."),
}
_MAX_CONFIG_CHARACTERS = 50_000
_OFFERED = (
    ("S2", "S1", "L6", "L5", "L4", "L3", "L2", "L1"),
    ("T13", *(f"T{n}" for n in range(12, 0, -1))),
)
"""Levels of the menu, by row."""


def write_report(source: Path, out: Path, *, predictions: Path | None = None, metrics: Path | None = None) -> None:
    """Write the report of one model: numbers, curves, and films with their labelled overlays.

    What is missing is said in the report, with the command that makes it. An existing report is replaced.

    Args:
        source: A training run, a results folder, or a folder that holds `run/` and `predictions/`.
        out: The HTML file.
        predictions: Results folder, if it lies elsewhere; see `sources.find_sources` for where it is looked for.
        metrics: `metrics.json`, if it lies elsewhere.

    Raises:
        DataError: Nothing usable was found, or a file is not as it should be.
        VertinstError: The report cannot be written.
    """
    if out.is_dir():
        raise VertinstError("must be a file, got a folder", where=out, fix="Add a file name: --out report.html.")
    found = find_sources(source, predictions=predictions, metrics=metrics)
    films = read_films(found.results) if found.results else []
    scores = read_scores(found.metrics) if found.metrics else None
    filters = {
        "percent": _percent,
        "decimal": _decimal,
        "pixels": _pixels,
        "words": _words,
        "measure_words": measure_words,
        "hints": hints,
        "other_levels": other_levels,
    }
    write_text(out, template("report.html.j2", filters).render(_contents(source, found, films, scores)))


def _contents(source: Path, found: Sources, films: list[FilmResult], scores: Scores | None) -> dict[str, Any]:
    """Everything that the template shows, by the names that it uses."""
    film_scores = {film.file_name: film for film in scores.images} if scores else {}
    groups = gallery.choose(films, film_scores)
    shown = [film.file_name for _, group in groups for film in group]
    cards = [
        (title, [_card(found.results, film, film_scores) for film in group] if found.results else [])
        for title, group in groups
    ]
    script = _script() if any(card.shapes for _, group in cards for card in group) else None
    return {
        "title": source.resolve().name or "report",
        "written": datetime.now(UTC).strftime("%Y-%m-%d"),
        "version": __version__,
        "disclaimer": DISCLAIMER,
        "films": films,
        "scores": scores,
        "pixel_metrics": _PIXEL_METRICS,
        "merged": _merged(scores),
        "levels": by_level(scores) if scores else [],
        "groups": cards,
        "script": script,
        # Browsers run this script and no other: what came in by a name or a flag would not run even as a script.
        "script_source": f"'sha256-{_sha256(script)}'" if script else "'none'",
        "all_levels": " ".join(LEVELS),
        "offered": _OFFERED,
        "open_films": [film.file_name for film in films if needs_anchor(film.spine)],
        "command": _command(found.results),
        "legend": _legend(),
        "anchors": {name: f"film-{number}" for number, name in enumerate(shown, start=1)},
        "rows": [(film, film_scores.get(film.file_name)) for film in films],
        "plots": _plots(found),
        "has_curves": found.curves is not None,
        "software": list(_software(films)),
        "config": _config(found),
    }


def _script() -> str:
    """What names vertebrae on the page; the package's own, so that it goes in unescaped."""
    return resources.files("vertinst.report").joinpath("anchors.js").read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _command(results: Path | None) -> str:
    """What applies the saved anchors; the folder by its name alone, for a path may tell more than it should."""
    name = results.resolve().name if results else "predictions"
    return f"vertinst measure {shlex.quote(name)} --anchors anchors.json --out relabelled"


def _card(folder: Path, film: FilmResult, scores: Mapping[str, FilmScores]) -> gallery.Card:
    return gallery.make_card(folder, film, scores.get(film.file_name))


def _legend() -> list[tuple[str, list[str]]]:
    """Colours of the overlays, as CSS."""
    colours = {"vertebrae, in turns": VERTEBRA_COLOURS}
    colours |= {name: (colour,) for name, colour in IMPLANT_COLOURS.items()}
    return [(name, [f"rgb{rgb}" for rgb in shades]) for name, shades in colours.items()]


def _merged(scores: Scores | None) -> str:
    """What the merged mask holds, in words."""
    merged = scores.options.merged if scores else "bone"
    return merged.replace("+", " and ") if isinstance(merged, str) else ", ".join(merged)


def _plots(found: Sources) -> list[Plot]:
    return plot_curves(read_curves(found.curves)) if found.curves else []


def _config(found: Sources) -> str | None:
    if found.config is None:
        return None
    try:
        with found.config.open(encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_CONFIG_CHARACTERS)
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", where=found.config, fix="Check its permissions."
        ) from error


def _software(films: list[FilmResult]) -> Iterator[tuple[str, str]]:
    """Provenance as rows; where films differ, each value with the number of its films."""
    values: dict[str, Counter[str]] = {}
    for film in films:
        for name, value in _flat(film.provenance):
            values.setdefault(name, Counter())[value] += 1
    for name, counts in values.items():
        if counts.total() == len(films) and len(counts) == 1:
            yield name, next(iter(counts))
        else:
            yield name, "; ".join(f"{value} ({count} films)" for value, count in counts.most_common(5))


def _flat(entry: Mapping[str, Any], prefix: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    for key, value in entry.items():
        name = prefix + _words(str(key))
        if isinstance(value, dict) and depth < 3:
            yield from _flat(value, f"{name}: ", depth + 1)
        elif isinstance(value, list):
            yield name, ", ".join(str(item) for item in value)[:300]
        else:
            yield name, "not stated" if value is None else str(value)[:300]


def _percent(share: float | None) -> str:
    return "n/a" if share is None else f"{100 * share:.1f} %"


def _decimal(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _pixels(length: float | None) -> str:
    return "n/a" if length is None else f"{length:.1f} px"


def _words(flag: str) -> str:
    return flag.replace("_", " ")
