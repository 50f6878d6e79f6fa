"""Training: it learns, it survives kills without losing an epoch, and it stops with a reason."""

import csv
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vertinst import plugins
from vertinst.config import Config, load_config
from vertinst.data.films import FilmDataset
from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.optim import lr_factor
from vertinst.engine.predict import load_model
from vertinst.engine.run_folder import WAIT_COLUMN, waiting_hint
from vertinst.engine.train import train
from vertinst.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    NonFiniteLossError,
    OutputExistsError,
    VertinstError,
)
from vertinst.structures import Dataset, ImageRecord

Tiny = Callable[..., Config]


def rows(run: Path, *, timed: bool = False) -> list[dict[str, str]]:
    with (run / "curves.csv").open() as file:
        clocks = () if timed else ("seconds", WAIT_COLUMN)
        return [{k: v for k, v in row.items() if k not in clocks} for row in csv.DictReader(file)]


def same_run(a: Path, b: Path) -> None:
    """Both runs ended with the same weights, optimiser and curves, to the last bit."""
    assert rows(a) == rows(b)
    for name in ("last.safetensors", "best.safetensors"):
        left, right = load_file(a / name), load_file(b / name)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)
    for counter in ("epoch", "step", "best_epoch", "best_score"):
        left, right = (checkpoints.read(run / "last.safetensors").description.training[counter] for run in (a, b))
        assert left == right


@pytest.mark.usefixtures("narrow")
def test_a_small_yolact_learns_and_fills_the_run_folder(films: Dataset, images: Path, tmp_path: Path) -> None:
    settings = ["model.image_size=64", "model.channels=16", "model.prototypes=8", "classes=[lumbar, sacral]"]
    settings += ["schedule.epochs=5", "schedule.batch_size=2", "optim.lr=0.002", "device=cpu"]
    settings += ["init.weights=null"]
    config = load_config("yolact_demo", settings)
    told: list[tuple[int, int, str]] = []
    best = train(config, films, films.subset({1}), images, tmp_path / "run", progress=lambda *a: told.append(a))
    run = tmp_path / "run"
    assert best == run / "best.safetensors"
    curves = rows(run)
    assert [row["epoch"] for row in curves] == ["1", "2", "3", "4", "5"]
    assert float(curves[-1]["loss"]) < 0.9 * float(curves[0]["loss"])
    assert {"lr", "loss_class", "loss_mask", "val_mean_iou", "val_score"} <= curves[0].keys()
    assert load_config(run / "config.yaml") == config
    assert list((run / "tensorboard").glob("events*"))
    metrics = json.loads((run / "val" / "metrics.json").read_text())
    assert [image["file_name"] for image in metrics["images"]] == ["1.png"]
    assert (run / "val" / "1.json").is_file()
    model = load_model(run, device="cpu")
    assert model.classes == ("lumbar", "sacral")
    assert any(text.startswith("training: epoch 5 of 5, loss") for _, _, text in told)
    assert not list(run.glob(".*"))
    # 150 MB, and pytest keeps the folders of several sessions.
    (run / "last.safetensors").unlink()


def test_the_tiny_model_finds_the_bone(films: Dataset, images: Path, tmp_path: Path, tiny: Tiny) -> None:
    train(tiny("schedule.epochs=15", "data.augment.gamma=0"), films, films.subset({4}), images, tmp_path / "run")
    assert float(rows(tmp_path / "run")[-1]["val_mean_iou"]) > 0.8
    assert checkpoints.read(tmp_path / "run").description.metrics["val_mean_iou"] > 0.8


@pytest.mark.parametrize(("optimiser", "average"), [("adamw", "null"), ("sgd", "null"), ("adamw", "0.9")])
def test_an_interrupted_run_resumed_is_the_uninterrupted_run(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny, optimiser: str, average: str
) -> None:
    config = tiny(
        "schedule.epochs=4", f"optim.name={optimiser}", "optim.lr=0.01", f"optim.ema_decay={average}",
        "data.augment.metal=0.5",
    )  # fmt: skip
    val = films.subset({1, 2})
    train(config, films, val, images, tmp_path / "whole")

    def interrupt(done: int, total: int, text: str) -> None:
        # In the middle of the third epoch.
        if text.startswith("training") and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, films, val, images, tmp_path / "parts", progress=interrupt)
    assert len(rows(tmp_path / "parts")) == 2
    train(config, films, val, images, tmp_path / "parts", resume=True)
    same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(("epoch", "average"), [(1, "null"), (4, "null"), (1, "0.9"), (4, "0.9")])
def test_a_kill_during_validation_loses_no_epoch(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny, epoch: int, average: str
) -> None:
    config = tiny("schedule.epochs=4", "optim.lr=0.01", f"optim.ema_decay={average}")
    val = films.subset({1, 2})
    train(config, films, val, images, tmp_path / "whole")

    def interrupt(done: int, total: int, text: str) -> None:
        if text.startswith(f"training: epoch {epoch} of 4") and "1 of 2" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(config, films, val, images, tmp_path / "parts", progress=interrupt)
    assert (tmp_path / "parts" / "pending.safetensors").exists()
    told: list[str] = []
    train(
        config, films, val, images, tmp_path / "parts", resume=True,
        progress=lambda done, total, text: told.append(text),
    )  # fmt: skip
    assert next(text for text in told if text.startswith("training")).startswith(f"training: epoch {epoch} of 4")
    steps = [text for text in told if "loss" in text]
    assert len(steps) == (4 - epoch) * len(films) / config.schedule.batch_size
    same_run(tmp_path / "whole", tmp_path / "parts")
    assert not (tmp_path / "parts" / "pending.safetensors").exists()


def test_a_truncated_validation_film_is_found_before_training(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny
) -> None:
    path = images / films.images[0].file_name
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=path.name):
        train(tiny(), films.subset({2, 3}), films.subset({1}), images, tmp_path / "run")
    assert not (tmp_path / "run").exists()


KILLED = """
import importlib.util, os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location("drawing", sys.argv[1])
drawing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(drawing)
import vertinst.models
vertinst.models.__path__.append(str(drawing.TINY_MODELS))
from vertinst.config import load_config
from vertinst.engine.train import train
renamed = []
rename = os.replace
def kill_before_third(source, target):
    if Path(target).name == "last.safetensors":
        renamed.append(target)
        if len(renamed) == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    rename(source, target)
os.replace = kill_before_third
folder = Path(sys.argv[2])
films = drawing.draw_films(folder / "images", 4)
train(load_config(sys.argv[3], sys.argv[4:]), films, films.subset({1}), folder / "images", folder / "killed")
"""


def test_a_kill_while_a_checkpoint_is_written_loses_no_finished_epoch(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny
) -> None:
    changed = ["schedule.epochs=4", "optim.ema_decay=0.9"]
    config = tiny(*changed)
    drawing, settings = Path(__file__).with_name("conftest.py"), tmp_path / "tiny.yaml"
    # The kill comes when the third epoch's weights and curves are written and its last.safetensors is not yet in place.
    killed = subprocess.run([sys.executable, "-c", KILLED, drawing, tmp_path, settings, *changed], check=False)
    assert killed.returncode == -signal.SIGKILL
    run = tmp_path / "killed"
    assert checkpoints.read(run / "last.safetensors").description.epoch == 2
    assert list(run.glob(".*.part*"))
    train(config, films, films.subset({1}), images, run, resume=True)
    assert not list(run.glob(".*.part*"))
    train(config, films, films.subset({1}), images, tmp_path / "whole")
    same_run(tmp_path / "whole", run)


def test_resuming_before_the_first_epoch_ended_starts_over(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny
) -> None:
    def interrupt(done: int, total: int, text: str) -> None:
        if text.startswith("training"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tiny(), films, films, images, tmp_path / "run", progress=interrupt)
    train(tiny(), films, films, images, tmp_path / "run", resume=True)
    assert len(rows(tmp_path / "run")) == 3


def test_a_finished_run_can_be_prolonged(films: Dataset, images: Path, tmp_path: Path, tiny: Tiny) -> None:
    train(tiny("schedule.decay=none"), films, films, images, tmp_path / "run")
    train(tiny("schedule.decay=none", "schedule.epochs=5"), films, films, images, tmp_path / "run", resume=True)
    train(tiny("schedule.decay=none", "schedule.epochs=5"), films, films, images, tmp_path / "whole")
    same_run(tmp_path / "whole", tmp_path / "run")


def test_what_cannot_be_resumed_is_refused(films: Dataset, images: Path, tmp_path: Path, tiny: Tiny) -> None:
    run = tmp_path / "run"
    with pytest.raises(ConfigError, match="there is no run to resume"):
        train(tiny(), films, films, images, run, resume=True)
    train(tiny("schedule.epochs=1"), films, films, images, run)
    with pytest.raises(ConfigError, match=r"got others for optim\.lr, seed(.|\n)*init\.weights"):
        train(tiny("optim.lr=0.5", "seed=3", "schedule.epochs=9"), films, films, images, run, resume=True)
    with pytest.raises(ConfigError, match="training films or annotations are not those"):
        train(tiny(), films.subset({1, 2}), films, images, run, resume=True)
    with pytest.raises(ConfigError, match="exclude each other"):
        train(tiny(), films, films, images, run, resume=True, overwrite=True)
    with pytest.raises(OutputExistsError, match=r"there is a run in this folder\n.*--resume"):
        train(tiny(), films, films, images, run)
    (run / "last.safetensors").write_bytes((run / "last.safetensors").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="broken or cut short"):
        train(tiny(), films, films, images, run, resume=True)


def test_another_folder_is_not_mistaken_for_a_run(films: Dataset, images: Path, tmp_path: Path, tiny: Tiny) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match="not empty"):
        train(tiny(), films, films, images, tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.txt").exists()


def test_overwrite_starts_anew(films: Dataset, images: Path, tmp_path: Path, tiny: Tiny) -> None:
    train(tiny(), films, films, images, tmp_path / "run")
    train(tiny("schedule.epochs=1"), films, films, images, tmp_path / "run", overwrite=True)
    assert len(rows(tmp_path / "run")) == 1


def test_a_broken_film_in_a_worker_process_is_told_without_a_traceback(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny
) -> None:
    (images / "3.png").write_bytes((images / "3.png").read_bytes()[:-400])
    with pytest.raises(DataError, match=r"^\S+3\.png: film is broken or cut short.*\nCopy or export") as caught:
        train(tiny("data.workers=1", "data.cache=false"), films, films, images, tmp_path / "run")
    assert "Traceback" not in str(caught.value)


def test_a_killed_worker_process_says_what_to_do(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("data.workers=1")

    def kill(self: FilmDataset, keys: list[tuple[int, int]]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(FilmDataset, "__getitems__", kill)
    with pytest.raises(VertinstError, match=r"process that prepares films was killed(.|\n)*data\.workers=0"):
        train(config, films, films, images, tmp_path / "run")


def poisoned(monkeypatch: pytest.MonkeyPatch, step: int, error: Exception | None = None) -> None:
    """From this training step on, the tiny model's loss is no number, or an error."""
    model, calls = plugins.load("models", "tiny").Tiny, []
    forward = model.forward

    def poison(self, images, targets=None):
        losses = forward(self, images, targets)
        if self.training:
            calls.append(1)
            if len(calls) >= step:
                if error:
                    raise error
                losses["loss_mask"] = losses["loss_mask"] * float("nan")
        return losses

    monkeypatch.setattr(model, "forward", poison)


def test_a_loss_that_is_no_number_names_films_and_loss_and_keeps_the_checkpoint(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("schedule.batch_size=1")
    poisoned(monkeypatch, step=7)
    message = (
        r"^\d\.png: loss must be a finite number, got loss = nan, loss_mask = nan\n(.|\n)*optim\.lr(.|\n)*precision"
        r"(.|\n)*init\.weights=\S+/run/last\.safetensors"
    )
    with pytest.raises(NonFiniteLossError, match=message):
        train(config, films, films, images, tmp_path / "run")
    last = checkpoints.read(tmp_path / "run" / "last.safetensors")
    assert last.description.epoch == 1
    assert all(torch.isfinite(t).all() for t in last.weights.values() if t.is_floating_point())


def test_outputs_that_are_no_numbers_in_validation_stop_the_run(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()

    def diverged(*args: object, **kwargs: object) -> None:
        raise CheckpointError("outputs must be finite", fix="Take an earlier checkpoint.")

    monkeypatch.setattr("vertinst.engine.train.validate", diverged)
    message = r"diverged in epoch 1: outputs must be finite\nLower optim\.lr.*No epoch was finished"
    with pytest.raises(NonFiniteLossError, match=message):
        train(config, films, films, images, tmp_path / "run")
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_gradients_that_are_no_numbers_never_reach_the_weights(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny
) -> None:
    # The loss of the first step is finite, its gradient is not: films of the first step must be named.
    model = plugins.load("models", "tiny")
    config = tiny("schedule.batch_size=1", "optim.clip_norm=null")
    hook = model.Tiny.__init__

    def explode(self, options, classes):
        hook(self, options, classes)
        self.head[3].weight.register_hook(lambda gradient: gradient * float("inf"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.Tiny, "__init__", explode)
        with pytest.raises(NonFiniteLossError, match=r"^\d\.png: .*got gradient = (nan|inf)"):
            train(config, films, films, images, tmp_path / "run")
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_too_little_memory_says_what_to_do(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny()
    poisoned(monkeypatch, step=1, error=torch.OutOfMemoryError("out of memory"))
    with pytest.raises(VertinstError, match=r"too small for 2 films at once\n.*schedule\.batch_size"):
        train(config, films, films, images, tmp_path / "run")


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing beyond this many bytes fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_last_checkpoint_whole(films: Dataset, images: Path, tmp_path: Path, tiny: Tiny) -> None:
    config = tiny("model.width=64", "schedule.epochs=1", "schedule.decay=none")
    train(config, films, films, images, tmp_path / "run")
    longer = tiny("model.width=64", "schedule.epochs=3", "schedule.decay=none")
    message = r"(best|last|pending)\.safetensors: cannot be written: .*\nFree space"
    with largest_file(200_000), pytest.raises(VertinstError, match=message):
        train(longer, films, films, images, tmp_path / "run", resume=True)
    assert checkpoints.read(tmp_path / "run" / "last.safetensors").description.epoch == 1
    assert not list((tmp_path / "run").glob(".*.part*"))
    train(longer, films, films, images, tmp_path / "run", resume=True)
    assert len(rows(tmp_path / "run")) == 3


def test_nothing_to_learn_from_is_refused(films: Dataset, images: Path, tmp_path: Path, tiny: Tiny) -> None:
    with pytest.raises(DataError, match="training needs at least one film, got none"):
        train(tiny(), films.subset(set()), films, images, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_missing_validation_film_is_found_before_training(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny
) -> None:
    (images / "4.png").unlink()
    with pytest.raises(DataError, match=r"4\.png: no such film"):
        train(tiny(), films.subset({1}), films.subset({4}), images, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_validation_films_the_last_epoch_is_the_best(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny
) -> None:
    train(tiny("schedule.patience=1"), films, films.subset(set()), images, tmp_path / "run")
    assert checkpoints.read(tmp_path / "run" / "best.safetensors").description.epoch == 3
    assert "val_score" not in rows(tmp_path / "run")[0]
    assert not (tmp_path / "run" / "val").exists()


def test_patience_ends_a_run_that_does_not_improve(films: Dataset, images: Path, tmp_path: Path, tiny: Tiny) -> None:
    # Zero detections with every setting of the weights: the score stays where it is.
    config = tiny("schedule.epochs=30", "schedule.patience=2", "postprocess.score_threshold=1", "optim.lr=1e-6")
    train(config, films, films, images, tmp_path / "run")
    assert len(rows(tmp_path / "run")) == 3


def test_the_best_weights_are_kept_when_later_ones_are_worse(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tiny("schedule.epochs=2", "schedule.decay=none"), films, films.subset({1}), images, tmp_path / "two")
    scores = iter([0.3, 0.6, 0.2, 0.5, 0.6, 0.9])

    def numbers(metrics: object) -> dict[str, float]:
        return {"val_score": next(scores)}

    monkeypatch.setattr("vertinst.engine.train.summary_numbers", numbers)
    config = tiny("schedule.epochs=6", "schedule.decay=none", "schedule.patience=3")
    train(config, films, films.subset({1}), images, tmp_path / "run")
    # As good as the best is no improvement: the sixth epoch, which would be better, is never trained.
    assert [float(row["val_score"]) for row in rows(tmp_path / "run")] == [0.3, 0.6, 0.2, 0.5, 0.6]
    best = checkpoints.read(tmp_path / "run" / "best.safetensors")
    assert (best.description.epoch, best.description.metrics) == (2, {"val_score": 0.6})
    second = checkpoints.read(tmp_path / "two" / "last.safetensors").weights
    assert all(torch.equal(best.weights[name], tensor) for name, tensor in second.items())


def test_the_clock_ends_a_run_at_the_end_of_an_epoch(films: Dataset, images: Path, tmp_path: Path, tiny: Tiny) -> None:
    train(tiny("schedule.epochs=30", "schedule.minutes=1e-6"), films, films, images, tmp_path / "run")
    assert len(rows(tmp_path / "run")) == 1


def test_validation_every_other_epoch_and_after_the_last(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny
) -> None:
    train(tiny("schedule.evaluate_every=2"), films, films, images, tmp_path / "run")
    assert [bool(row["val_score"]) for row in rows(tmp_path / "run")] == [False, True, True]


def test_training_starts_from_weights(films: Dataset, images: Path, tmp_path: Path, tiny: Tiny) -> None:
    train(tiny("schedule.epochs=6"), films, films, images, tmp_path / "first")
    start = f"init.weights={tmp_path / 'first'}"
    train(tiny(start, "schedule.epochs=1", "optim.lr=1e-6"), films, films, images, tmp_path / "second")
    assert float(rows(tmp_path / "second")[0]["loss"]) < 0.7 * float(rows(tmp_path / "first")[0]["loss"])


def test_what_is_to_know_of_the_weights_is_told_first(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    train(tiny("schedule.epochs=1"), films, films, images, tmp_path / "first", noted=said.append)
    assert said == []
    monkeypatch.setattr("vertinst.engine.train.remarks", lambda weights, options, classes: [", ".join(classes)])
    start = tiny(f"init.weights={tmp_path / 'first'}", "schedule.epochs=1")
    train(start, films, films, images, tmp_path / "second", noted=said.append)
    assert said == ["lumbar, sacral"]


def test_weights_for_other_classes_are_refused_by_name(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny
) -> None:
    train(tiny("schedule.epochs=1"), films, films, images, tmp_path / "first")
    others = [f"init.weights={tmp_path / 'first'}", "classes=[lumbar, sacral, cage]", "schedule.epochs=1"]
    with pytest.raises(CheckpointError, match="for the classes lumbar, sacral, cage, got lumbar, sacral"):
        train(tiny(*others), films, films, images, tmp_path / "second")
    train(tiny(*others, "init.strict=false"), films, films, images, tmp_path / "third")
    taken = json.loads((tmp_path / "third" / "init.json").read_text())
    assert taken["weights"] == "best.safetensors"
    assert taken["not_taken"] == ["head.3.weight", "head.3.bias"]


def test_weights_to_start_from_are_checked_before_any_film_is_read(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny
) -> None:
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04")
    train(tiny("schedule.epochs=1"), films, films, images, tmp_path / "first")
    reports: list[tuple[object, ...]] = []
    for settings, message in (
        ([f"init.weights={tmp_path / 'cut.pth'}"], "broken or cut short"),
        ([f"init.weights={tmp_path / 'none.pth'}"], "no such weights file"),
        ([f"init.weights={tmp_path / 'first'}", "classes=[lumbar, sacral, cage]"], "must be for the classes"),
    ):
        config = tiny(*settings)
        with pytest.raises(CheckpointError, match=message):
            train(config, films, films, images, tmp_path / "second", progress=lambda *step: reports.append(step))
        assert not reports
        assert not (tmp_path / "second").exists()


def test_the_seed_decides(films: Dataset, images: Path, tmp_path: Path, tiny: Tiny) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(tiny(f"seed={seed}", "schedule.epochs=1"), films, films, images, tmp_path / name)
    same_run(tmp_path / "a", tmp_path / "b")
    assert rows(tmp_path / "a") != rows(tmp_path / "c")


def test_worker_processes_change_nothing(films: Dataset, images: Path, tmp_path: Path, tiny: Tiny) -> None:
    for workers in (0, 2):
        train(tiny(f"data.workers={workers}"), films, films, images, tmp_path / str(workers))
    same_run(tmp_path / "0", tmp_path / "2")


def with_a_rare_class(films: Dataset) -> Dataset:
    """The first film alone keeps its sacrum: with a threshold of 1 it comes twice an epoch."""
    lumbar = [
        replace(image, annotations=tuple(a for a in image.annotations if a.category == "lumbar"))
        for image in films.images[1:]
    ]
    return Dataset(films.categories, (films.images[0], *lumbar))


def test_films_with_a_rare_class_are_repeated_and_every_step_is_counted(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny
) -> None:
    told: list[tuple[int, int]] = []
    said: list[str] = []

    def progress(done: int, total: int, text: str) -> None:
        if text.startswith("training"):
            told.append((done, total))

    config = tiny("data.repeat_threshold=1", "schedule.batch_size=1", "schedule.decay=cosine")
    rare = with_a_rare_class(films)
    train(config, rare, films.subset(set()), images, tmp_path / "run", noted=said.append, progress=progress)
    assert told == [(step, 15) for step in range(1, 16)]
    assert [row["step"] for row in rows(tmp_path / "run")] == ["5", "10", "15"]
    assert said == [
        "Films are shown more often for their rare classes: with sacral (in 1 of 4) 2 times; 5 films an epoch."
    ]
    # The rate of the last step: half a step of five before the end of three epochs.
    expected = 0.02 * lr_factor(config.schedule, 3 - 0.5 / 5)
    assert float(rows(tmp_path / "run")[-1]["lr"]) == pytest.approx(expected, rel=1e-4)


def test_a_run_whose_epochs_differ_by_a_step_ends_at_its_last_step(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny
) -> None:
    told: list[tuple[int, int]] = []
    # The factor is 1.41: some epochs have five films, others four.
    train(
        tiny("data.repeat_threshold=0.5", "schedule.batch_size=1", "schedule.epochs=8"), with_a_rare_class(films),
        films.subset(set()), images, tmp_path / "run",
        progress=lambda done, total, text: told.append((done, total)) if text.startswith("training") else None,
    )  # fmt: skip
    steps = [int(row["step"]) for row in rows(tmp_path / "run")]
    assert set(np.diff([0, *steps]).tolist()) == {4, 5}
    assert [done for done, _ in told] == list(range(1, steps[-1] + 1))
    assert all(done <= total for done, total in told)
    assert told[-1] == (steps[-1], steps[-1])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupted_run_with_repeats_resumed_is_the_uninterrupted_run(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny, workers: int
) -> None:
    settings = ("data.repeat_threshold=0.5", "schedule.batch_size=1", "schedule.epochs=4", "optim.lr=0.01")
    rare, val = with_a_rare_class(films), films.subset({1})
    train(tiny(*settings), rare, val, images, tmp_path / "whole")

    def interrupt(done: int, total: int, text: str) -> None:
        if text.startswith("training") and done == 11:
            raise KeyboardInterrupt

    parts = tiny(*settings, f"data.workers={workers}")
    with pytest.raises(KeyboardInterrupt):
        train(parts, rare, val, images, tmp_path / "parts", progress=interrupt)
    assert 0 < len(rows(tmp_path / "parts")) < 4
    train(parts, rare, val, images, tmp_path / "parts", resume=True)
    same_run(tmp_path / "whole", tmp_path / "parts")


def test_deterministic_is_put_back(films: Dataset, images: Path, tmp_path: Path, tiny: Tiny) -> None:
    train(tiny("deterministic=true", "schedule.epochs=1"), films, films, images, tmp_path / "run")
    assert not torch.are_deterministic_algorithms_enabled()


def test_bf16_trains(films: Dataset, images: Path, tmp_path: Path, tiny: Tiny) -> None:
    train(tiny("precision=bf16"), films, films, images, tmp_path / "run")
    weights = load_file(tmp_path / "run" / "best.safetensors")
    assert {t.dtype for t in weights.values() if t.is_floating_point()} == {torch.float32}
    assert load_model(tmp_path / "run", precision="bf16", device="cpu").provenance()["precision"] == "bf16"


def test_films_of_different_sizes_and_without_annotations(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny
) -> None:
    cv2.imwrite(str(images / "wide.png"), np.zeros((40, 90), dtype=np.uint8))
    mixed = Dataset(films.categories, (*films.images[:2], ImageRecord(9, "wide.png", 90, 40)))
    train(tiny("schedule.batch_size=3"), mixed, mixed, images, tmp_path / "run")
    assert len(rows(tmp_path / "run")) == 3


def test_averaged_weights_are_judged_kept_and_predicted_with(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny
) -> None:
    plain, averaged = tmp_path / "plain", tmp_path / "averaged"
    for run, decay in ((plain, "null"), (averaged, "0.5")):
        train(tiny(f"optim.ema_decay={decay}"), films, films.subset(set()), images, run)
    # The training itself is the same: only what is made of its weights differs.
    last = checkpoints.read(averaged / "last.safetensors", state=True)
    live = {name.removeprefix("live/"): t for name, t in last.state.items() if name.startswith("live/")}
    unaveraged = checkpoints.read(plain / "last.safetensors", state=True)
    assert all(torch.equal(live[name], tensor) for name, tensor in unaveraged.weights.items())
    assert not any(name.startswith("live/") for name in unaveraged.state)
    assert [row["loss"] for row in rows(plain)] == [row["loss"] for row in rows(averaged)]
    best = checkpoints.read(averaged / "best.safetensors").weights
    assert all(torch.equal(last.weights[name], tensor) for name, tensor in best.items())
    assert not torch.equal(best["head.1.weight"], live["head.1.weight"])
    assert not torch.equal(best["body.1.running_mean"], live["body.1.running_mean"])
    assert torch.equal(best["body.1.num_batches_tracked"], live["body.1.num_batches_tracked"])


def test_the_score_of_averaged_weights_is_that_of_the_file(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny
) -> None:
    config = tiny("optim.ema_decay=0.9", "schedule.epochs=8")
    train(config, films, films.subset({1, 2}), images, tmp_path / "run")
    said = checkpoints.read(tmp_path / "run" / "best.safetensors").description.metrics["val_mean_iou"]
    metrics = json.loads((tmp_path / "run" / "val" / "metrics.json").read_text())
    assert metrics["summary"]["mean_iou"] == pytest.approx(said, abs=1e-6)


def test_a_wait_for_films_is_measured_and_advice_given(
    films: Dataset, images: Path, tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = FilmDataset.__getitems__
    monkeypatch.setattr(FilmDataset, "__getitems__", lambda self, keys: (time.sleep(0.2), fetch(self, keys))[1])
    train(tiny("schedule.epochs=1"), films, films.subset(set()), images, tmp_path / "run")
    row = rows(tmp_path / "run", timed=True)[0]
    assert 0.4 / float(row["seconds"]) - 0.05 < float(row[WAIT_COLUMN]) <= 1
    hint = waiting_hint(tmp_path / "run", workers=0)
    assert hint is not None
    assert "data.workers=2" in hint
    assert "data.workers=8" in (waiting_hint(tmp_path / "run", workers=4) or "")


def test_no_advice_where_training_hardly_waited(tmp_path: Path) -> None:
    assert waiting_hint(tmp_path, 0) is None
    (tmp_path / "curves.csv").write_text(f"epoch,{WAIT_COLUMN}\n1,0.9\n2,0.1\n3,0.2\n")
    assert waiting_hint(tmp_path, 0) is None
