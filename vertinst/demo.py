"""The whole way on phantom films, by calling what the single commands call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vertinst import plugins
from vertinst.config import load_config
from vertinst.data.phantom import make_phantoms
from vertinst.data.splits import Split, split_by_patient, write_split
from vertinst.engine.evaluate import EvaluateOptions, evaluate, write_metrics
from vertinst.engine.predict import load_model, predict_films
from vertinst.engine.train import train
from vertinst.errors import ConfigError
from vertinst.files import prepare_folder
from vertinst.postprocess.pipeline import SpineOptions
from vertinst.progress import Progress, silent
from vertinst.report.html import write_report
from vertinst.report.results import read_folder
from vertinst.structures.dataset import CLASSES

__all__ = ["FILMS", "WEIGHTS_SEED", "DemoResult", "run_demo"]

FILMS = 60
RATIOS = (0.6, 0.1, 0.3)
CONFIG = "yolact_demo.yaml"
WEIGHTS_SEED = 20_261_121
"""Seed of the phantoms on which the packaged demo weights were trained (see weights/README.md)."""


@dataclass(frozen=True)
class DemoResult:
    """What the demo made.

    Attributes:
        metrics: Numbers on the held-out films, as `evaluate` gives them.
        report: The HTML report.
    """

    metrics: dict[str, Any]
    report: Path


def run_demo(
    out: Path,
    seed: int = 0,
    *,
    overwrite: bool = False,
    films: int = FILMS,
    settings: tuple[str, ...] = (),
    say: Callable[[str], None] = lambda text: None,
    progress: Progress = silent,
) -> DemoResult:
    """Make phantoms, convert, split, train, predict, score and report.

    Args:
        out: New folder; gets films/, coco.json, split/, run/, predictions/, metrics.json and report.html.
        seed: Seed of the films, the split and the training.
        overwrite: Delete what `out` holds.
        films: How many films to make.
        settings: `key=value` changes of the demo's config.
        say: Told in a sentence what comes next.
        progress: Told how far each step is.

    Raises:
        ConfigError: `seed` is the one of the packaged weights: its films would not be new to them.
        OutputExistsError: `out` holds something and `overwrite` is false.
    """
    if seed == WEIGHTS_SEED:
        raise ConfigError(
            f"seed must not be {WEIGHTS_SEED}: the demo's weights were trained on it", fix="Take another seed."
        )
    prepare_folder(out, overwrite=overwrite)
    say(f"1/6 Making {films} phantom films with VIA annotations (seed {seed})")
    make_phantoms(films, seed, out / "films", progress=progress)
    split = _convert_and_split(out, seed, say)

    say(
        "3/6 Training a small YOLACT on the films of the training patients. It starts from the weights in "
        f"weights/, which vertinst's authors trained on other phantoms (seed {WEIGHTS_SEED}; see weights/README.md)"
    )
    config = load_config(CONFIG, [f"seed={seed}", *settings])
    images = out / "films" / "images"
    train(config, split.train, split.val, images, out / "run", progress=progress)

    say(f"4/6 Finding and naming vertebrae on {len(split.test)} films of patients never seen")
    films_held_out = [images / i.file_name for i in split.test.images]
    model = load_model(out / "run")
    predict_films(
        model, films_held_out, out / "predictions", options=SpineOptions(), anchor=None, progress=progress, root=images
    )

    say("5/6 Scoring them against the truth")
    metrics = evaluate(split.test, read_folder(out / "predictions"), options=EvaluateOptions())
    write_metrics(metrics, out / "metrics.json")

    say("6/6 Writing the report")
    report = out / "report.html"
    write_report(out, report)
    return DemoResult(metrics, report)


def _convert_and_split(out: Path, seed: int, say: Callable[[str], None]) -> Split:
    say("2/6 Converting VIA to COCO and splitting by patient")
    via, coco = plugins.load("converters", "via"), plugins.load("converters", "coco")
    dataset, skips = via.read([out / "films" / "via_project.json"], out / "films" / "images")
    coco.write(dataset, out / "coco.json")
    split = split_by_patient(dataset, RATIOS, seed)
    write_split(split, out / "split")
    instances = sum(dataset.counts().values())
    say(f"    {len(dataset)} films, {instances} instances of {len(CLASSES)} classes, {len(skips)} regions skipped")
    say(f"    {len(split.train)} films to train, {len(split.val)} to validate, {len(split.test)} held out")
    return split
