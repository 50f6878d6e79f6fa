"""One training loop for every model, on Lightning Fabric."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from lightning_fabric import Fabric
from pydantic import BaseModel
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vertinst import files, plugins
from vertinst.config import Config, model_options
from vertinst.data.films import Batch, EpochSampler, FilmDataset, check_films, collate, start_worker
from vertinst.data.radiograph import read_film
from vertinst.data.repeats import repeats
from vertinst.data.transforms import build_augment
from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.averaging import WeightAverage
from vertinst.engine.checkpoint import Checkpoint, Description
from vertinst.engine.detectron2_files import write_detectron2
from vertinst.engine.evaluate import evaluate, write_metrics
from vertinst.engine.optim import build_optimizer, lr_factor, optimizer_tensors, restore_optimizer, set_lr
from vertinst.engine.precision import choose_device, choose_precision, lay_out
from vertinst.engine.predict import Predictor, load_model, predict_films
from vertinst.engine.run_folder import WAIT_COLUMN, Curves, RunFolder, fingerprint
from vertinst.engine.seeding import reproducible, seed_everything
from vertinst.engine.start import check_start, remarks, start_from
from vertinst.engine.taken import Taken
from vertinst.engine.validate import summary_numbers, validate
from vertinst.errors import CheckpointError, DataError, NonFiniteLossError, VertinstError
from vertinst.postprocess.stated import Stated
from vertinst.progress import Progress, silent, track
from vertinst.report.results import METRICS_NAME, read_folder
from vertinst.structures import Dataset
from vertinst.structures.views import view_name

__all__ = ["train"]

DEFAULT_LONGEST_SIDE_PX = 1024
"""For models that have no `image_size` of their own."""

# Weights in training, where the checkpoint's own are averages of them; in the training state, beside the optimiser's.
LIVE_PREFIX = "live/"


@dataclass
class State:
    """Counters that a resumed run goes on from.

    Attributes:
        epoch: Finished epochs.
        step: Finished steps.
        seconds: Wall time spent training.
        best_epoch: Epoch of the best checkpoint, 0 for none.
        best_score: Its validation score.
        data: Fingerprint of the training data.
        unjudged: What the epoch just trained has to report (learning rate, mean losses) while its validation is
            under way; else empty.
    """

    data: str
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best_score: float = field(default=-1.0)
    unjudged: dict[str, float] = field(default_factory=dict)


def train(
    config: Config,
    train_set: Dataset,
    val_set: Dataset,
    images: Path,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    listed: Callable[[Taken], None] = lambda taken: None,
    noted: Callable[[str], None] = lambda text: None,
    progress: Progress = silent,
) -> Path:
    """Train a model, keep its best checkpoint, and predict the validation films with it.

    `best.safetensors` is the epoch with the best validation score (see `validate.score`); without validation films it
    is the last epoch. With `optim.ema_decay` all of this is about the averaged weights. After a kill or Ctrl-C at any
    moment, `resume` goes on after the last finished epoch, on a CPU with the same result as if nothing had happened.

    Args:
        config: Settings.
        train_set: Films to learn from, at least one.
        val_set: Films to compare epochs on; may hold none.
        images: Folder of the film files.
        out: Run folder: config.yaml, best.safetensors, last.safetensors (weights and training state in one file, so
            that they always belong together), curves.csv, tensorboard/, val/; and pending.safetensors while an epoch
            is validated. Of a model of Detectron2 also detectron2/, which it opens itself.
        resume: Go on with the run in `out`.
        overwrite: Delete what `out` holds.
        listed: Told what of `init.weights` was taken, before the first step.
        noted: Told what is to know of `init.weights` of others, and with `data.repeat_threshold` which films are shown
            how often, before the first step.
        progress: Told after each step.

    Returns:
        The best checkpoint.

    Raises:
        DataError: No training film; a film is missing, broken or of another size; an unknown class.
        ConfigError: Unknown model or option; `resume` without a run or with other settings.
        OutputExistsError: `out` holds something, or `overwrite` would delete the films or `init.weights` with it.
        CheckpointError: `init.weights` cannot be used.
        NonFiniteLossError: The loss, a gradient or an output in validation is no finite number; the checkpoint of
            the last good epoch stays.
    """
    if not len(train_set):
        raise DataError("training needs at least one film, got none", fix="Check the split and its ratios.")
    options = model_options(config)
    device = choose_device(config.device)
    if config.init.weights is not None and not resume:
        # Reading the films may take minutes, after which nobody waits for a mistake in a file's name.
        weights = checkpoints.read(config.init.weights, model=config.model.name)
        check_start(weights, config.model.name, options, config.classes, strict=config.init.strict)
        for remark in remarks(weights, options, config.classes):
            noted(remark)
        del weights
    for dataset in (train_set, val_set):
        check_films(dataset, images, config.classes)
    for record in track(val_set.images, len(val_set), "checking validation films", progress):
        # Training films are decoded before the first step; these would be only after the first epoch.
        read_film(files.inside(images, record.file_name))
    if overwrite:
        files.keep_inputs(out, [images, *([Path(config.init.weights)] if config.init.weights else [])])
    folder = RunFolder(out)
    data = fingerprint(train_set)
    last = folder.open(config, data, resume=resume, overwrite=overwrite)
    with reproducible(config.seed, deterministic=config.deterministic):
        longest = config.data.longest_side_px or _longest_side_px(options)
        films = FilmDataset(
            train_set,
            images,
            config.classes,
            longest_side_px=longest,
            tone=getattr(options, "film_tone", "window"),
            transform=build_augment(config.data.augment, config.classes),
            seed=config.seed,
            cache=config.data.cache,
            progress=progress,
        )
        rare = repeats(train_set, config.data.repeat_threshold or 0.0)
        if config.data.repeat_threshold:
            noted(rare.in_words())
        trainer = Trainer(config, films, rare.factors, folder, data, device, progress)
        trainer.start(last, listed)
        trainer.run(val_set, images)
    _predict_validation(config, folder, val_set, images, progress)
    if getattr(plugins.load("models", config.model.name), "OPENS_IN_DETECTRON2", False):
        write_detectron2(checkpoints.read(folder.best), folder.detectron2, overwrite=True)
    return folder.best


def _longest_side_px(options: BaseModel) -> int:
    """The longest side that films have inside a model: of its own name, or the size that every model has."""
    side = getattr(options, "longest_side_px", None) or getattr(options, "image_size", None)
    return int(side or DEFAULT_LONGEST_SIDE_PX)


class Trainer:
    """The loop and what it holds; see `train`."""

    def __init__(
        self,
        config: Config,
        films: FilmDataset,
        factors: npt.NDArray[np.float64],
        folder: RunFolder,
        data: str,
        device: torch.device,
        progress: Progress,
    ) -> None:
        self.config = config
        self.folder = folder
        self.progress = progress
        self.state = State(data)
        self.precision = choose_precision(config.precision, device)
        self.options = model_options(config)
        built: nn.Module = plugins.load("models", config.model.name).build(self.options, config.classes)
        self.model = lay_out(built.to(device), self.precision, device, training=True)
        decay = config.optim.ema_decay
        self.average = WeightAverage(self.model, decay) if decay is not None else None
        self.trainable = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.waited_s = 0.0
        self.steps, self.planned = 0, 0
        self.fabric = Fabric(
            accelerator=device.type,
            devices=[device.index or 0] if device.type == "cuda" else 1,
            precision="bf16-mixed" if self.precision == "bf16" else "32-true",
        )
        self.sampler = EpochSampler(factors, config.seed)
        loader: DataLoader[Any] = DataLoader(
            films,
            batch_size=config.schedule.batch_size,
            sampler=self.sampler,
            num_workers=config.data.workers,
            collate_fn=collate,
            worker_init_fn=start_worker,
            persistent_workers=config.data.workers > 0,
            pin_memory=device.type == "cuda",
            # Its own, or it would draw from the model's, and with worker processes less often than without.
            generator=torch.Generator(),
        )
        self.loader = self.fabric.setup_dataloaders(loader, use_distributed_sampler=False)
        self.fitted, self.optimizer = self.fabric.setup(self.model, build_optimizer(self.model, config.optim))

    def start(self, last: Checkpoint | None, listed: Callable[[Taken], None]) -> None:
        """Go on from the last checkpoint of this run, or take over the weights to start from."""
        if last is not None:
            self._restore(last)
            return
        if self.config.init.weights is not None:
            listed(self._take_over(self.config.init.weights))
        if self.average is not None:
            self.average.restart(self.model)

    def _restore(self, last: Checkpoint) -> None:
        """The state that `_save` wrote."""
        live = {n.removeprefix(LIVE_PREFIX): t for n, t in last.state.items() if n.startswith(LIVE_PREFIX)}
        if self.average is not None:
            checkpoints.load_weights(self.average.model, last)
        checkpoints.load_weights(self.model, replace(last, weights=live) if self.average is not None else last)
        restore_optimizer(self.optimizer, {n: t for n, t in last.state.items() if not n.startswith(LIVE_PREFIX)})
        self.state = State(**last.description.training)

    def _take_over(self, weights: str) -> Taken:
        """Load weights to start from; init.json in the run's folder says what was and was not taken."""
        config = self.config
        checkpoint = checkpoints.read(weights, model=config.model.name)
        taken = start_from(
            self.model, checkpoint, config.model.name, self.options, config.classes, strict=config.init.strict
        )
        files.write_json(self.folder.init, taken.record(), indent=1)
        return taken

    def run(self, val_set: Dataset, images: Path) -> None:
        """Train until the schedule, patience or the clock ends it."""
        curves = Curves(self.folder, self.state.epoch - bool(self.state.unjudged))
        self._plan()
        while self.state.unjudged or not self._finished():
            if not self.state.unjudged:
                self.state.unjudged = self._epoch()
                if self._due(val_set):
                    self._save(self.folder.pending, {})
            self._keep(self._validate(val_set, images), curves)

    @property
    def judged(self) -> nn.Module:
        """The weights that are validated and kept as the best: averaged ones if there are any."""
        return self.model if self.average is None else self.average.model

    def _due(self, val_set: Dataset) -> bool:
        """Whether the epoch just trained is validated."""
        every = self.config.schedule.evaluate_every
        return len(val_set) > 0 and (self.state.epoch % every == 0 or self._finished())

    def _finished(self) -> bool:
        state, schedule = self.state, self.config.schedule
        impatient = schedule.patience is not None and state.best_epoch > 0 and state.best_score >= 0
        return (
            state.epoch >= schedule.epochs
            or (schedule.minutes is not None and state.seconds >= 60 * schedule.minutes)
            or (impatient and state.epoch - state.best_epoch >= (schedule.patience or 0))
        )

    def _epoch(self) -> dict[str, float]:
        """Train for one epoch.

        Returns:
            The learning rate at its end, the mean of each loss over its steps, and the share of its time in which
            the next batch was not ready.
        """
        self._plan()
        # Seeding each epoch anew makes a resumed run draw what an uninterrupted one draws, with nothing to store.
        seed_everything(self.config.seed, self.state.epoch)
        self.fitted.train()
        sums: dict[str, float] = {}
        started, before = time.monotonic(), self.state.seconds
        self.waited_s = 0.0
        for index, batch in enumerate(self._batches()):
            set_lr(self.optimizer, self._lr_factor(index))
            for name, value in self._step(batch).items():
                sums[name] = sums.get(name, 0.0) + value / self.steps
            self.state.step += 1
            self.state.seconds = before + time.monotonic() - started
            self._report(f"loss {sums['loss'] * self.steps / (index + 1):.3f}")
        self.state.epoch += 1
        waited = self.waited_s / max(time.monotonic() - started, 1e-9)
        return {"lr": max(group["lr"] for group in self.optimizer.param_groups), **sums, WAIT_COLUMN: waited}

    def _plan(self) -> None:
        """Count the steps of the epoch that comes next, and those of the run as if all epochs to come were as long.

        Where films are repeated, epochs differ by a film, and may so by a step.
        """
        self.sampler.epoch = self.state.epoch
        self.steps = len(self.loader)
        self.planned = self.state.step + (self.config.schedule.epochs - self.state.epoch) * self.steps

    def _batches(self) -> Iterator[Batch]:
        """The epoch's batches, the time that each was waited for added up in `waited_s`."""
        try:
            asked = time.monotonic()
            for batch in self.loader:
                if isinstance(batch, DataError):
                    raise batch
                films, targets, names = batch
                self.waited_s += time.monotonic() - asked
                yield films, targets, names
                asked = time.monotonic()
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise VertinstError(
                "a process that prepares films was killed, most often because memory or shared memory ran out",
                fix="Go on with --resume --set data.workers=0, or give the container more shared memory.",
            ) from error

    def _lr_factor(self, index: int) -> float:
        minutes = self.config.schedule.minutes
        # Half a step on: the first step of a warm-up must not have a learning rate of 0.
        epochs_done = self.state.epoch + (index + 0.5) / self.steps
        return lr_factor(self.config.schedule, epochs_done, self.state.seconds / 60 / minutes if minutes else 0.0)

    def _step(self, batch: Batch) -> dict[str, float]:
        films, targets, names = batch
        try:
            losses: dict[str, Tensor] = self.fitted(films, targets)
            parts = torch.stack(list(losses.values()))
            total = parts.sum()
            self.optimizer.zero_grad()
            self.fabric.backward(total)
        except torch.OutOfMemoryError as error:
            raise VertinstError(
                f"the device's memory is too small for {len(names)} films at once",
                where=self.fabric.device,
                fix="Use a smaller --set schedule.batch_size or model.image_size.",
            ) from error
        norm = nn.utils.get_total_norm([p.grad for p in self.trainable if p.grad is not None])
        # All numbers of the step in one transfer: a GPU stands still for each.
        loss, *each, gradient = torch.cat((total[None], parts, norm[None])).tolist()
        values = {"loss": loss, **dict(zip(losses, each, strict=True))}
        self._check_finite(values, names)
        self._check_finite({"gradient": gradient}, names)
        limit = self.config.optim.clip_norm
        if limit is not None and gradient > limit:
            nn.utils.clip_grads_with_norm_(self.trainable, limit, norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model, self.state.step + 1)
        return values

    def _check_finite(self, values: dict[str, float], names: list[str]) -> None:
        wrong = ", ".join(f"{name} = {value}" for name, value in values.items() if not np.isfinite(value))
        if wrong:
            raise NonFiniteLossError(
                f"loss must be a finite number, got {wrong}",
                where=", ".join(names),
                fix=f"Look at these films and their regions; else lower optim.lr or set precision=32. {self._again()}",
            )

    def _again(self) -> str:
        """How to go on with other settings, which `resume` refuses."""
        if not self.folder.last.is_file():
            return "No epoch was finished: start again with --overwrite."
        return f"A new run can start from the last good epoch: --set init.weights={self.folder.last}."

    def _report(self, text: str) -> None:
        epochs = self.config.schedule.epochs
        best = f", best score {self.state.best_score:.3f}" if self.state.best_score >= 0 else ""
        # An epoch whose validation is under way counts as trained already.
        current = self.state.epoch + (not self.state.unjudged)
        now = f"training: epoch {current} of {epochs}, {text}{best}"
        self.progress(self.state.step, self.planned, now)

    def _validate(self, val_set: Dataset, images: Path) -> dict[str, Any] | None:
        if not self._due(val_set):
            return None
        started = time.monotonic()
        predictor = Predictor(
            self.judged,
            self.config.classes,
            name=self.config.model.name,
            weights="",
            versions=checkpoints.versions(),
            precision=self.precision,
            device=self.fabric.device,
        )
        try:
            metrics = validate(
                predictor,
                val_set,
                images,
                self.config.postprocess,
                # Told as part of the training, whose end is what the user waits for.
                progress=lambda done, total, text: self._report(f"{text} {done} of {total}"),
            )
        except CheckpointError as error:
            # Going on from it would only fail again: the last good epoch stays.
            self.folder.pending.unlink(missing_ok=True)
            raise NonFiniteLossError(
                f"training diverged in epoch {self.state.epoch}: {error.message}",
                where=self.folder.path,
                fix=f"Lower optim.lr, clip gradients (optim.clip_norm) or set precision=32. {self._again()}",
            ) from error
        self.state.seconds += time.monotonic() - started
        return metrics

    def _keep(self, metrics: dict[str, Any] | None, curves: Curves) -> None:
        """Write checkpoints and curves; the last checkpoint comes last, for it alone says that the epoch is done."""
        numbers = summary_numbers(metrics) if metrics else {}
        score = numbers.get("val_score")
        no_validation = metrics is None and self.state.best_score < 0
        better = score is not None and score > self.state.best_score
        if better:
            self.state.best_epoch, self.state.best_score = self.state.epoch, float(score or 0.0)
        if better or no_validation:
            checkpoints.save(self.folder.best, self.judged.state_dict(), self._description(numbers))
        row = {"epoch": self.state.epoch, "step": self.state.step, **self.state.unjudged, **numbers}
        curves.add({**row, "seconds": round(self.state.seconds, 2)})
        self.state.unjudged = {}
        self._save(self.folder.last, numbers)
        self.folder.pending.unlink(missing_ok=True)

    def _save(self, path: Path, numbers: dict[str, Any]) -> None:
        description = self._description(numbers, training=asdict(self.state))
        state = optimizer_tensors(self.optimizer)
        if self.average is not None:
            # The weights of the file are those that are judged and predicted with; training goes on from these.
            state |= {LIVE_PREFIX + name: tensor for name, tensor in self.model.state_dict().items()}
        checkpoints.save(path, self.judged.state_dict(), description, state=state)

    def _description(self, numbers: dict[str, Any], training: dict[str, Any] | None = None) -> Description:
        return Description(
            model=self.config.model.name,
            options=self.options.model_dump(mode="json"),
            classes=self.config.classes,
            config=self.config.model_dump(mode="json"),
            epoch=self.state.epoch,
            metrics=numbers,
            training=training or {},
        )


def _predict_validation(config: Config, folder: RunFolder, val_set: Dataset, images: Path, progress: Progress) -> None:
    if not len(val_set):
        return
    predictor = load_model(folder.best, precision=config.precision, device=config.device)
    films = [files.inside(images, record.file_name) for record in val_set.images]
    views = {record.file_name: view for record in val_set.images if (view := view_name(record.view))}
    predict_films(
        predictor,
        films,
        folder.val,
        options=config.postprocess,
        stated=Stated(views=views),
        overwrite=True,
        progress=progress,
        root=images,
    )
    write_metrics(evaluate(val_set, read_folder(folder.val)), folder.val / METRICS_NAME)
