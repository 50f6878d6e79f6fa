"""What fine-tuning gains over training from scratch on 50 phantoms, from weights of phantoms of another seed and style.

    OMP_NUM_THREADS=1 python benchmarks/fine_tuning.py --out tuning [--model yolact] [--seeds 0,1,2] [--bf16-check]

Trains a small network on films of the standard style, then twice on films of portable machines: from random numbers,
and from those weights; the same films, settings and epochs, a validation after each epoch, the best epoch's weights
kept. All sets are of patients of their own. Both are scored on test films that chose nothing, and so are the weights
that were not fine-tuned. Prints the report and writes `report.md` and `report.json` into the folder. A benchmark that
was stopped goes on where it was: give the same arguments again; with others take a new folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from vertinst import plugins
from vertinst.config import load_config
from vertinst.data.phantom import make_phantoms
from vertinst.data.phantom_style import STYLES
from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.predict import load_model
from vertinst.engine.train import train
from vertinst.engine.validate import summary_numbers, validate
from vertinst.files import write_json, write_text
from vertinst.postprocess.pipeline import SpineOptions
from vertinst.structures import Dataset

FILM_PX = (512, 384)
# Style and seed of each set of films; patients of different seeds are different patients.
SETS = {"pretrain": ("standard", 1), "train": ("portable", 2), "val": ("portable", 3), "test": ("portable", 4)}

MODELS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mask_rcnn": (
        "mask_rcnn_lumbar.yaml",
        (
            "model.backbone=resnet18",
            "model.image_size=256",
            "model.channels=64",
            "model.box_head_width=256",
            "model.rpn_candidates_train=400",
            "model.rpn_candidates_test=400",
            "model.rpn_proposals_train=200",
            "model.rpn_proposals_test=200",
            "model.rois_per_image=64",
        ),
    ),
    "yolact": ("yolact_demo.yaml", ("schedule.batch_size=2",)),
}
COMMON = ("data.workers=0", "optim.lr=0.0005", "schedule.patience=null", "schedule.evaluate_every=1")

COLUMNS = {
    "mean IoU": ("mean_iou", "{:.3f}"),
    "mask AP": ("mask_AP", "{:.3f}"),
    "mask AP50": ("mask_AP50", "{:.3f}"),
    "box AP": ("box_AP", "{:.3f}"),
    "vertebrae found": ("found_rate", "{:.3f}"),
    "level right": ("labelled_rate", "{:.3f}"),
    "films with all levels right": ("films_right_rate", "{:.3f}"),
    "false vertebrae": ("false", "{:.0f}"),
}


def main() -> None:
    """Do what is missing, and write the report."""
    options = _arguments()
    sets = {name: _films(options, name) for name in SETS}
    base = _trained(options, "pretrained", sets["pretrain"], None, options.seeds[0], None)
    runs = {"not fine-tuned": [base], "from scratch": [], "fine-tuned": []}
    for seed in options.seeds:
        runs["from scratch"].append(_trained(options, f"scratch-{seed}", sets["train"], sets["val"], seed, None))
        runs["fine-tuned"].append(_trained(options, f"tuned-{seed}", sets["train"], sets["val"], seed, base))
    results = {name: [_scored(run, sets["test"], "32") for run in made] for name, made in runs.items()}
    curves = {name: [_curve(run) for run in made] for name, made in runs.items() if name != "not fine-tuned"}
    record = _record(options, runs, results, curves)
    if options.bf16_check:
        record["bf16"] = [_scored(run, sets["test"], "bf16") for run in runs["fine-tuned"]]
    text = "\n".join(_report(record)) + "\n"
    write_json(options.out / "report.json", record, indent=1)
    write_text(options.out / "report.md", text)
    print(text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The gain of fine-tuning over training from scratch, on phantoms.")
    parser.add_argument("--out", type=Path, required=True, help="Folder for films, runs and report.")
    parser.add_argument("--model", choices=MODELS, default="mask_rcnn")
    parser.add_argument("--pretrain-films", type=int, default=120)
    parser.add_argument("--pretrain-epochs", type=int, default=10)
    parser.add_argument("--films", dest="train_films", type=int, default=50)
    parser.add_argument("--val-films", type=int, default=12)
    parser.add_argument("--test-films", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=12, help="Of either training on the few films.")
    parser.add_argument("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[0])
    parser.add_argument("--set", dest="settings", action="append", default=[], help="Settings of all trainings.")
    parser.add_argument(
        "--bf16-check",
        action="store_true",
        help="Predict the test films in bf16 as well, which processors without its units compute slowly but alike.",
    )
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _films(options: argparse.Namespace, name: str) -> tuple[Dataset, Path]:
    """A set of films and the folder of its pictures, made now unless it is there."""
    count = getattr(options, f"{name}_films")
    folder = options.out / f"films-{name}"
    style, seed = SETS[name]
    if not (folder / "truth.json").is_file():
        _say(f"making {count} films to {name}")
        drawn = replace(STYLES[style], height_px=FILM_PX[0], width_px=FILM_PX[1])
        make_phantoms(count, seed, folder, style=drawn, overwrite=True)
    dataset, _ = plugins.load("converters", "via").read([folder / "via_project.json"], folder / "images")
    if len(dataset) != count:
        sys.exit(f"{folder} holds {len(dataset)} films and {count} are asked for: take another --out.")
    return dataset, folder / "images"


def _trained(
    options: argparse.Namespace,
    name: str,
    films: tuple[Dataset, Path],
    val: tuple[Dataset, Path] | None,
    seed: int,
    start: Path | None,
) -> Path:
    """The folder of one training, done now unless it is finished."""
    run: Path = options.out / name
    packaged, small = MODELS[options.model]
    epochs = options.epochs if val is not None else options.pretrain_epochs
    weights = f"init.weights={'null' if start is None else start / 'best.safetensors'}"
    own = (f"seed={seed}", f"schedule.epochs={epochs}", weights)
    config = load_config(packaged, [*small, *COMMON, *options.settings, *own])
    resume = (run / "config.yaml").is_file()
    if resume and (run / "last.safetensors").is_file() and _epochs_done(run) >= epochs:
        return run
    _say(f"training {name}, {epochs} epochs of {len(films[0])} films")
    # One folder of pictures for both sets: films are found by the path from there.
    train_set = _below(films, options.out)
    val_set = _below(val, options.out) if val is not None else Dataset(train_set.categories, ())
    train(config, train_set, val_set, options.out, run, resume=resume, progress=Lines(name))
    return run


def _epochs_done(run: Path) -> int:
    return int(checkpoints.read(run / "last.safetensors").description.epoch)


def _below(films: tuple[Dataset, Path], root: Path) -> Dataset:
    dataset, folder = films
    prefix = folder.relative_to(root).as_posix()
    images = tuple(replace(image, file_name=f"{prefix}/{image.file_name}") for image in dataset.images)
    return Dataset(dataset.categories, images)


class Lines:
    """Tells where a training stands, ten times in its course."""

    def __init__(self, name: str) -> None:
        self.name, self.tenth = name, 0

    def __call__(self, done: int, total: int, text: str) -> None:
        """See `vertinst.progress`."""
        if text.startswith("training") and 10 * done // max(total, 1) > self.tenth:
            self.tenth = 10 * done // max(total, 1)
            _say(f"{datetime.now(UTC):%H:%M:%S} {self.name}: {text}")


def _scored(run: Path, films: tuple[Dataset, Path], precision: str) -> dict[str, Any]:
    """Numbers of a run's best weights on films; kept beside the run."""
    kept = run.parent / f"{run.name}-test-{precision}.json"
    if not kept.is_file():
        _say(f"scoring {run.name} in {precision}")
        predictor = load_model(run, precision=precision, device="cpu")
        metrics = validate(predictor, films[0], films[1], SpineOptions())
        write_json(kept, _numbers(metrics), indent=1)
    numbers: dict[str, Any] = json.loads(kept.read_text("utf-8"))
    return numbers


def _numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    summary, ap = metrics["summary"], metrics["ap"]
    right = summary["films_all_levels_right"]
    return {
        "score": summary_numbers(metrics)["val_score"],
        "mean_iou": summary["mean_iou"],
        "mask_AP": ap["mask"]["AP"],
        "mask_AP50": ap["mask"]["AP50"],
        "box_AP": ap["box"]["AP"],
        "found_rate": summary["vertebrae"]["found_rate"],
        "labelled_rate": summary["vertebrae"]["labelled_rate"],
        "films_right_rate": right["right"] / right["films"] if right["films"] else None,
        "false": summary["vertebrae"]["false"],
    }


def _curve(run: Path) -> list[float]:
    """Validation score by epoch."""
    with (run / "curves.csv").open(encoding="utf-8") as file:
        return [float(row["val_score"]) for row in csv.DictReader(file)]


def _record(
    options: argparse.Namespace,
    runs: Mapping[str, Sequence[Path]],
    results: Mapping[str, Sequence[Mapping[str, Any]]],
    curves: Mapping[str, Sequence[Sequence[float]]],
) -> dict[str, Any]:
    def minutes(run: Path) -> float:
        return float(checkpoints.read(run / "last.safetensors").description.training["seconds"]) / 60

    asked = {key: value for key, value in vars(options).items() if key not in ("out", "bf16_check")}
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "threads": torch.get_num_threads(),
        "versions": dict(checkpoints.versions()),
        "arguments": asked,
        "results": results,
        "curves": curves,
        "minutes": {name: [minutes(run) for run in made] for name, made in runs.items()},
        "reached": [_reached(a, b) for a, b in zip(curves["from scratch"], curves["fine-tuned"], strict=True)],
    }


def _reached(scratch: Sequence[float], tuned: Sequence[float]) -> int | None:
    """The first epoch, from 1, in which fine-tuning is as good as training from scratch ever gets."""
    return next((epoch for epoch, score in enumerate(tuned, start=1) if score >= max(scratch)), None)


def _report(record: Mapping[str, Any]) -> Iterator[str]:
    """Markdown: test films, validation by epoch, time, and bf16 where it was asked for."""
    asked = record["arguments"]
    where = f"{record['machine']}, threads: {record['threads']}"
    yield f"{asked['model']}, {record['made']}, {where}; {asked['test_films']} test films:"
    yield ""
    yield "| weights | " + " | ".join(COLUMNS) + " | minutes |"
    yield "|---" * (len(COLUMNS) + 2) + "|"
    for name, results in record["results"].items():
        cells = [_cell([r[key] for r in results], form) for key, form in COLUMNS.values()]
        yield f"| {name} | " + " | ".join(cells) + f" | {_cell(record['minutes'][name], '{:.1f}')} |"
    yield ""
    for seed, reached in zip(asked["seeds"], record["reached"], strict=True):
        when = f"after {reached} of {asked['epochs']} epochs" if reached else "never"
        yield f"Fine-tuning (seed {seed}) reaches the best validation score of training from scratch {when}."
    yield ""
    yield "| validation score after epoch | " + " | ".join(str(e) for e in range(1, asked["epochs"] + 1)) + " |"
    yield "|---" * (asked["epochs"] + 1) + "|"
    for name, curves in record["curves"].items():
        for seed, curve in zip(asked["seeds"], curves, strict=True):
            yield f"| {name}, seed {seed} | " + " | ".join(f"{score:.3f}" for score in curve) + " |"
    if "bf16" in record:
        yield from _precision_table(record["results"]["fine-tuned"], record["bf16"])


def _precision_table(exact: Sequence[Mapping[str, Any]], rounded: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield ""
    yield "| AP of the fine-tuned weights, points | float32 | bf16 | difference |"
    yield "|---|---|---|---|"
    for a, b in zip(exact, rounded, strict=True):
        for key in ("mask_AP", "box_AP"):
            if a[key] is not None and b[key] is not None:
                left, right = 100 * a[key], 100 * b[key]
                yield f"| {key.replace('_', ' ')} | {left:.2f} | {right:.2f} | {right - left:+.2f} |"


def _cell(values: Sequence[float | None], form: str) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "n/a"
    spread = f" ± {form.format((max(known) - min(known)) / 2)}" if len(known) > 1 else ""
    return form.format(statistics.fmean(known)) + spread


if __name__ == "__main__":
    main()
