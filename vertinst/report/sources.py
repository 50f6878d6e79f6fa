"""What a report can be made of, and where it lies in the folder that the user names."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vertinst.errors import DataError
from vertinst.report.results import METRICS_NAME, has_results

__all__ = ["Sources", "find_sources"]


class Sources(NamedTuple):
    """What was found; at least one of `results`, `metrics` and `curves` is there.

    Attributes:
        results: Results folder.
        metrics: File written by evaluation.
        curves: CSV of a training run.
        config: YAML of a training run.
    """

    results: Path | None
    metrics: Path | None
    curves: Path | None
    config: Path | None


def find_sources(source: Path, *, predictions: Path | None = None, metrics: Path | None = None) -> Sources:
    """Find what a report needs in a training run, a results folder, or a folder that holds `run/` and `predictions/`.

    Results are taken from `predictions` if given, else from the first of `source`, `source/predictions`,
    `source/val`, `source/run/val` that holds labelled JSON; metrics from `metrics` if given, else from beside the
    results, else from `source`; curves and config from `source` or `source/run`.

    Args:
        source: An existing folder.
        predictions: Results folder that the user names.
        metrics: Metrics file that the user names.

    Raises:
        DataError: `source` is no folder, what the user named is not there, or nothing of use was found.
    """
    if not source.is_dir():
        raise DataError("must be an existing folder", where=source, fix="Give a training run or a results folder.")
    if predictions is not None and not has_results(predictions):
        raise DataError(
            "must be a folder with labelled JSON files", where=predictions, fix="Make them with `vertinst predict`."
        )
    if metrics is not None and not metrics.is_file():
        raise DataError("no such file", where=metrics, fix="Make it with `vertinst evaluate --out FILE`.")
    results = predictions or _results_in(source)
    found = Sources(
        results,
        metrics or _first_file(*([results / METRICS_NAME] if results else []), source / METRICS_NAME),
        _first_file(source / "curves.csv", source / "run" / "curves.csv"),
        _first_file(source / "config.yaml", source / "run" / "config.yaml"),
    )
    if found[:3] == (None, None, None):
        raise DataError(
            "must hold labelled JSON, metrics.json or curves.csv, got none of them",
            where=source,
            fix="Give a folder made by `vertinst train`, `vertinst predict` or `vertinst demo`.",
        )
    return found


def _results_in(source: Path) -> Path | None:
    if has_results(source, deep=False):
        return source
    # Before a search in depth: that would find a run's `val/` as well, but under the wrong root.
    parts = (source / "predictions", source / "val", source / "run" / "val", source)
    return next((part for part in parts if has_results(part)), None)


def _first_file(*candidates: Path) -> Path | None:
    return next((path for path in candidates if path.is_file()), None)
