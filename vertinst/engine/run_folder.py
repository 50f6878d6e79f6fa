"""The folder of a training run: its settings, checkpoints and curves, and whether it may be started or resumed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from vertinst import files
from vertinst.config import Config, differences, save_config
from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.board import Board
from vertinst.engine.checkpoint import BEST, LAST, Checkpoint
from vertinst.errors import CheckpointError, ConfigError, OutputExistsError
from vertinst.structures import Dataset

__all__ = ["WAIT_COLUMN", "Curves", "RunFolder", "fingerprint", "waiting_hint"]

WAIT_COLUMN = "data_wait_share"
"""Column of curves.csv: share of an epoch's time in which training waited for its next films."""

LONG_WAIT = 0.2

# What may differ when a run is resumed: how long it goes on, and what does not touch its results.
RESUMABLE = (
    "schedule.epochs",
    "schedule.patience",
    "schedule.minutes",
    "data.workers",
    "data.cache",
    "init.weights",
    "init.strict",
)


class RunFolder:
    """Paths of a run.

    Args:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.best = path / BEST
        self.last = path / LAST
        # A trained epoch whose validation is under way: a kill now must not cost the epoch.
        self.pending = path / "pending.safetensors"
        self.curves = path / "curves.csv"
        self.tensorboard = path / "tensorboard"
        self.val = path / "val"
        self.init = path / "init.json"
        self.detectron2 = path / "detectron2"

    def open(self, config: Config, data: str, *, resume: bool, overwrite: bool) -> Checkpoint | None:
        """Make the folder for a new run, or find where an old one stopped.

        Args:
            config: Settings.
            data: `fingerprint` of the training data.
            resume: Go on with the run that is there.
            overwrite: Delete the run that is there.

        Returns:
            The last checkpoint with its training state, possibly one whose validation was cut off; None if there is
            no trained epoch to go on from.

        Raises:
            OutputExistsError: There is a run, and neither was asked for.
            ConfigError: Both were asked for; nothing to resume; or settings or data that shape the result differ.
            CheckpointError: The last checkpoint is broken.
        """
        if resume and overwrite:
            raise ConfigError("--resume and --overwrite exclude each other", fix="Choose one.")
        if not resume:
            self._start(config, overwrite=overwrite)
            return None
        if not self.config.is_file():
            raise ConfigError(
                "there is no run to resume", where=self.path, fix="Check --out, or leave --resume away to start one."
            )
        for leftover in self.path.glob(".*.part*"):
            # What a killed process was writing.
            leftover.unlink()
        latest = self.pending if self.pending.is_file() else self.last
        last = checkpoints.read(latest, state=True) if latest.is_file() else None
        self._check(config, data, last)
        save_config(config, self.config)
        return last

    def _start(self, config: Config, *, overwrite: bool) -> None:
        try:
            files.prepare_folder(self.path, overwrite=overwrite)
        except OutputExistsError as error:
            if not self.config.is_file():
                raise
            raise OutputExistsError(
                "there is a run in this folder", where=self.path, fix="Add --resume to go on, or --overwrite."
            ) from error
        save_config(config, self.config)

    def _check(self, config: Config, data: str, last: Checkpoint | None) -> None:
        # The checkpoint knows its settings; config.yaml may have been edited since.
        saved = last.description.config if last else yaml.safe_load(self.config.read_text("utf-8"))
        dumped = config.model_dump(mode="json")
        changed = [key for key in differences(saved or {}, dumped) if key not in RESUMABLE]
        if changed:
            raise ConfigError(
                f"settings must be those of the run that is resumed, got others for {', '.join(changed)}",
                where=self.path,
                fix="Resume with the run's own config.yaml, or start a new run in another folder from these weights "
                f"(--set init.weights={self.path}).",
            )
        if last and not last.description.training:
            raise CheckpointError("has no training state", where=self.last, fix="Start again with --overwrite.")
        if last and last.description.training["data"] != data:
            raise ConfigError(
                "training films or annotations are not those of the run that is resumed",
                where=self.path,
                fix=f"Start a new run in another folder from these weights (--set init.weights={self.path}).",
            )


class Curves:
    """One row an epoch, in `curves.csv` and for TensorBoard.

    Args:
        folder: The run.
        epochs: Finished epochs of a resumed run: rows beyond them (of an epoch that a kill cut off) are dropped.
    """

    def __init__(self, folder: RunFolder, epochs: int) -> None:
        self.path = folder.curves
        self.rows = [row for row in _read_rows(self.path) if int(row["epoch"]) <= epochs]
        self.board = Board(folder.tensorboard, epochs + 1)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write the row of an epoch. Columns may be missing (no validation in this epoch): they stay empty."""
        self.rows.append({key: _cell(value) for key, value in row.items() if value is not None})
        columns = list(dict.fromkeys(key for r in self.rows for key in r))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        files.write_text(self.path, text.getvalue())
        shown = {key: value for key, value in row.items() if key != "epoch" and value is not None}
        self.board.add(shown, int(row["epoch"]))


def waiting_hint(folder: Path, workers: int) -> str | None:
    """What to do where training waited for films more than a fifth of its time (median of the epochs); else None.

    Args:
        folder: Of the run.
        workers: `data.workers` of the run.
    """
    shares = [float(row[WAIT_COLUMN]) for row in _read_rows(folder / "curves.csv") if WAIT_COLUMN in row]
    if not shares or median(shares) <= LONG_WAIT:
        return None
    more = max(2, 2 * workers)
    return (
        f"Training waited for its films {median(shares):.0%} of the time. Where processor cores are idle, "
        f"--set data.workers={more} makes it faster; the result stays the same."
    )


def _cell(value: float | int) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _read_rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8"))))
    return [{key: value for key, value in row.items() if value != ""} for row in rows]


def fingerprint(dataset: Dataset) -> str:
    """A digest of films, classes and masks: equal for the same training data, and only for these."""
    digest = hashlib.sha256(json.dumps(dataset.categories).encode())
    for image in dataset.images:
        digest.update(json.dumps([image.file_name, image.height, image.width]).encode())
        for annotation in image.annotations:
            digest.update(json.dumps([annotation.category, annotation.ignore]).encode())
            digest.update(annotation.mask["counts"])
    return digest.hexdigest()
