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
from vertinst.report.results import METRICS_NAME, read_folder
from vertinst.structures.dataset import CLASSES

__all__ = ["FROM_SCRATCH", "SHORT", "WEIGHTS_SEED", "DemoResult", "Plan", "run_demo"]

RATIOS = (0.6, 0.1, 0.3)
CONFIG = "yolact_demo.yaml"
WEIGHTS_SEED = 20_261_121
"""Seed of the phantoms on which the packaged demo weights were trained (see weights/README.md)."""


@dataclass(frozen=True)
class Plan:
    """How much the demo does.

    Attributes:
        films: How many films it makes.
        settings: `key=value` changes of the demo's config.
        start: What training starts from, in a sentence for the user.
    """

    films: int
    settings: tuple[str, ...]
    start: str


SHORT = Plan(
    60,
    (),
    "It starts from the weights in weights/, which vertinst's authors trained on other phantoms "
    f"(seed {WEIGHTS_SEED}; see weights/README.md)",
)
FROM_SCRATCH = Plan(
    160,
    (
        "init.weights=null",
        "optim.lr=0.0005",
        # The clock ends it.
        "schedule.epochs=1000",
        "schedule.minutes=10",
        "schedule.evaluate_every=5",
    ),
    "It starts from random weights and trains for ten minutes",
)


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
    plan: Plan = SHORT,
    say: Callable[[str], None] = lambda text: None,
    progress: Progress = silent,
) -> DemoResult:
    """Make phantoms, convert, split, train, predict, score and report.

    Args:
        out: New folder; gets films/, coco.json, split/, run/, predictions/, metrics.json and report.html.
        seed: Seed of the films, the split and the training.
        overwrite: Delete what `out` holds.
        plan: How much to do.
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
    say(f"1/6 Making {plan.films} phantom films with VIA annotations (seed {seed})")
    make_phantoms(plan.films, seed, out / "films", progress=progress)
    split = _convert_and_split(out, seed, say)

    say(f"3/6 Training a small YOLACT on the films of the training patients. {plan.start}")
    config = load_config(CONFIG, [f"seed={seed}", *plan.settings])
    images = out / "films" / "images"
    train(config, split.train, split.val, images, out / "run", progress=progress)

    say(f"4/6 Finding and naming vertebrae on {len(split.test)} films of patients never seen")
    films_held_out = [images / i.file_name for i in split.test.images]
    model = load_model(out / "run")
    predict_films(model, films_held_out, out / "predictions", options=SpineOptions(), progress=progress, root=images)

    say("5/6 Scoring them against the truth")
    metrics = evaluate(split.test, read_folder(out / "predictions"), options=EvaluateOptions())
    write_metrics(metrics, out / METRICS_NAME)

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
