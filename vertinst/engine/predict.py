"""From films to instances with a trained model, and a folder of results for many films."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from vertinst import files
from vertinst.data.radiograph import FilmHeader, Tone, is_dicom, read_film, read_header
from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.ahead import in_batches, map_ahead
from vertinst.engine.compiled import compile_network
from vertinst.engine.fold import fold_batch_norm
from vertinst.engine.precision import Precision, choose_device, choose_precision, lay_out
from vertinst.errors import ConfigError, DataError, VertinstError
from vertinst.postprocess.merge import merged_classes
from vertinst.postprocess.pipeline import SpineOptions, build_spine
from vertinst.postprocess.stated import Stated, check_names
from vertinst.progress import Progress, silent, track
from vertinst.structures import Instances, Scale, Spine
from vertinst.structures.measures import VIEWS

__all__ = ["Predictor", "load_model", "predict_films"]

GPU_BATCH_SIZE = 8
# Reading and writing a film take several times as long as a GPU's work on it.
MAX_THREADS = 8

Pixels: TypeAlias = npt.NDArray[np.float32]
Film: TypeAlias = Path | Pixels


class Predictor:
    """A trained model that takes films and gives instances.

    Args:
        model: A model as `vertinst.models` describes it: in evaluation it gives `Instances`. It keeps its memory
            layout, for it may be in training. Its `options`, where it has them, may name the `film_tone` in which it
            wants films.
        classes: Names of its labels, from 1 in this order.
        name: Name of the model, for the record.
        weights: File name of the weights, for the record.
        versions: What wrote the weights, for the record.
        precision: `32` or `bf16`.
        device: Where to run.

    Attributes:
        classes: As given.
        precision: As given.
        tone: How films are read for the model, see `read_film`.
    """

    def __init__(
        self,
        model: nn.Module,
        classes: tuple[str, ...],
        *,
        name: str,
        weights: str,
        versions: Mapping[str, str],
        precision: Precision = "32",
        device: torch.device | None = None,
    ) -> None:
        self.classes = classes
        self.precision = precision
        self.device = device or torch.device("cpu")
        self.model = model.to(self.device)
        self.tone: Tone = getattr(getattr(model, "options", None), "film_tone", "window")
        self._record = {"model": name, "weights": weights, "weights_versions": dict(versions)}

    @property
    def batch_size(self) -> int:
        """Films that go through the network at once unless told otherwise: one on a processor, eight on a GPU."""
        return 1 if self.device.type == "cpu" else GPU_BATCH_SIZE

    @property
    def threads(self) -> int:
        """Threads that read and write films beside the network: one on a processor, which needs its cores itself."""
        return 1 if self.device.type == "cpu" else min(MAX_THREADS, os.cpu_count() or 1)

    def predict(self, films: Sequence[Film], *, batch_size: int | None = None) -> list[Instances]:
        """Find the instances on films; the next ones are read while the network computes.

        Args:
            films: Paths, or (H, W) float32 0..1 arrays as `read_film` gives them with the predictor's `tone`.
            batch_size: Films that are held and predicted at once, at least 1; None for the predictor's own. Those of
                one size go through the network together, so that what is found on a film does not depend on its
                company, but for rounding.

        Returns:
            For each film all detections with scores from the model's own low threshold up, best first;
            `category_ids` count from 1 in the order of `classes`; boxes clipped to the film; no mask is empty.

        Raises:
            DataError: A film cannot be read, or an array has another shape or holds NaN or infinity.
            VertinstError: The device's memory is too small for so many films at once.
        """
        size = batch_size or self.batch_size
        read = map_ahead(self._read, films, threads=1, ahead=size)
        return [found for batch in in_batches(read, size) for found in self._predict_batch(batch)]

    def _read(self, film: Film) -> Pixels:
        pixels = film if isinstance(film, np.ndarray) else read_film(Path(film), tone=self.tone).pixels
        if pixels.ndim != 2:
            raise DataError(f"film must have shape (H, W), got {pixels.shape}", fix="Give grey values 0..1.")
        if not np.isfinite(pixels).all():
            # Left alone, one such pixel spreads through the network, and nothing at all is found.
            raise DataError("film's grey values must be numbers, got NaN or infinity", fix="Give grey values 0..1.")
        return np.ascontiguousarray(pixels, dtype=np.float32)

    def _predict_batch(self, films: Sequence[Pixels]) -> list[Instances]:
        by_size: dict[tuple[int, ...], list[int]] = {}
        for index, film in enumerate(films):
            by_size.setdefault(film.shape, []).append(index)
        found: dict[int, Instances] = {}
        for indices in by_size.values():
            found.update(zip(indices, self._predict_alike([films[i] for i in indices]), strict=True))
        return [found[index] for index in range(len(films))]

    def _predict_alike(self, films: Sequence[Pixels]) -> list[Instances]:
        training = self.model.training
        self.model.eval()
        try:
            with torch.inference_mode(), self._autocast():
                tensors = [torch.from_numpy(film).to(self.device) for film in films]
                found: list[Instances] = self.model([tensor.expand(3, -1, -1) for tensor in tensors])
            return found
        except torch.OutOfMemoryError as error:
            raise VertinstError(
                f"the device's memory is too small for {len(films)} films at once",
                where=self.device,
                fix="Use a smaller --batch-size.",
            ) from error
        finally:
            self.model.train(training)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def provenance(self) -> dict[str, Any]:
        """What made a prediction: model, weights file (name only), classes, precision, device, versions."""
        return {
            **self._record,
            "classes": list(self.classes),
            "precision": self.precision,
            "device": self.device.type,
            "versions": checkpoints.versions(),
        }


def load_model(
    path: Path | str,
    *,
    precision: str = "auto",
    device: str = "auto",
    engine: str = "auto",
    compile: bool = False,
    noted: Callable[[str], None] = lambda sentence: None,
) -> Predictor:
    """Load a trained or exported model.

    Args:
        path: A weights file, a run folder (its best weights), or `demo` for the packaged small ones. A file of
            YOLACT's original implementation (`yolact_base_54_800000.pth`) is recognised; so is a folder made by
            `vertinst export-model`.
        precision: `auto` (bf16 where the hardware gains from it), `32` or `bf16`.
        device: `auto` (a GPU where there is one), `cpu` or `cuda`.
        engine: `torch`, `onnx` or `openvino`; `auto` takes what an exported folder is for, else torch. A trained model
            is converted for another engine on the spot.
        compile: With the engine torch, let torch.compile make one program of the network: the first films of a size
            then take up to minutes, the others less time than without. Asks for a C++ compiler.
        noted: Told what a foreign file was taken for.

    Raises:
        CheckpointError: The file is missing, broken, unknown or for a model this version does not have.
        ConfigError: No such precision, device or engine, or an engine that is not installed, or `compile` for what
            cannot be compiled.
    """
    # Not above: exported models are predictors too.
    from vertinst.engine import exported

    if engine not in ("auto", "torch") or exported.is_exported(path):
        if compile:
            raise ConfigError("only the engine torch compiles networks", fix="Leave --compile away.")
        return exported.load_exported(path, engine=engine, precision=precision, device=device, noted=noted)
    chosen = choose_device(device)
    checkpoint = checkpoints.read(path)
    if checkpoint.foreign:
        noted(checkpoint.taken_for())
    description = checkpoint.description
    model = checkpoints.build_model(checkpoint).eval()
    fold_batch_norm(model)
    numbers = choose_precision(precision, chosen)
    model = lay_out(model.to(chosen), numbers, chosen)
    if compile:
        compile_network(model, description.model, chosen)
    return Predictor(
        model,
        description.classes,
        name=description.model,
        weights=checkpoint.path.name,
        versions=description.versions,
        precision=numbers,
        device=chosen,
    )


def predict_films(
    predictor: Predictor,
    films: Sequence[Path],
    out: Path,
    *,
    options: SpineOptions,
    stated: Stated = Stated(),  # noqa: B008 - frozen
    overwrite: bool = False,
    progress: Progress = silent,
    root: Path | None = None,
    merged: str | Sequence[str] = "bone",
    class_masks: bool = False,
    batch_size: int | None = None,
    told: Callable[[str, Spine], None] = lambda _name, _spine: None,
) -> Path:
    """Predict films and write a results folder: labelled JSON, overlay and masks of each.

    While the network computes, threads read the films to come and write the results of those before.

    Args:
        predictor: The model.
        films: Film files.
        out: The folder; sub-folders of the films below `root` are kept in it.
        options: Of post-processing.
        stated: What the user says about the films: levels, view, scale. View and scale are else those of DICOM headers;
            a film that says no view is taken as lateral, one without a scale has no millimetres.
        overwrite: Delete what the folder holds.
        progress: Told after each film.
        root: Folder that the names in the results are relative to; the films' common folder if None.
        merged: Classes of the merged masks: `bone`, `bone+implants` or names.
        class_masks: Write a mask of each of the model's classes besides.
        batch_size: As for `Predictor.predict`.
        told: Called with the name and the spine of every film that was written, in the order of the films.

    Returns:
        `out`.

    Raises:
        OutputExistsError: The folder is not empty, or `overwrite` would delete films that are to be predicted.
        DataError: Two films would have the same results; or films could not be read, in which case all others have
            been written first and all of these are named; or a class of `merged` is unknown to the model; or an anchor
            is of none of the films.
    """
    from vertinst.report import results

    names = _names(films, root)
    check_names(stated.anchors, names)
    classes = merged_classes(merged, predictor.classes)
    unknown = options.suppression.unknown_classes(predictor.classes)
    if unknown:
        raise ConfigError(
            f"suppression.pairs names {', '.join(unknown)}, which is no class of the model",
            fix=f"Its classes are {', '.join(predictor.classes)}.",
        )
    apart = predictor.classes if class_masks else ()
    results.check_masks(out, names, apart)
    provenance = {**predictor.provenance(), "score_threshold": options.score_threshold}
    files.prepare_folder(out, overwrite=overwrite, inputs=films)

    def write(film: _Found | DataError) -> DataError | tuple[str, Spine]:
        if isinstance(film, DataError):
            return film
        spine = build_spine(
            film.instances,
            predictor.classes,
            options=options,
            anchor=stated.anchor_of(film.name),
            view=stated.view_of(film.name) or film.header.view or VIEWS[0],
            scale=stated.scale or film.scale,
        )
        results.write_film(out, film.name, film.pixels, spine, provenance, merged=classes, classes=apart)
        return film.name, spine

    size = batch_size or predictor.batch_size
    threads = predictor.threads
    written = map_ahead(write, _predict_each(predictor, names, size, threads), threads=threads, ahead=2 * threads)
    broken: list[DataError] = []
    for done in track(written, len(films), "predicting", progress):
        if isinstance(done, DataError):
            broken.append(done)
        else:
            told(*done)
    if broken:
        raise DataError(
            f"{len(broken)} of {len(films)} films could not be read; results of the others were written:\n"
            + "\n".join(f"{error.where}: {error.message}" for error in broken),
            where=out,
            fix="Export these films again and predict them alone.",
        )
    return out


class _Found(NamedTuple):
    """What was found on a film, the film as people see it, and what its header says."""

    name: str
    pixels: Pixels
    instances: Instances
    header: FilmHeader

    @property
    def scale(self) -> Scale | None:
        spacing, source = self.header.pixel_spacing_mm, self.header.pixel_spacing_source
        return Scale(*spacing, source) if spacing and source else None


class _Read(NamedTuple):
    """A film as people see it, as the network wants it, and what its header says."""

    shown: Pixels
    wanted: Pixels
    header: FilmHeader


def _predict_each(
    predictor: Predictor, films: Mapping[str, Path], size: int, threads: int
) -> Iterator[_Found | DataError]:
    """Films by name in their order, `size` of them predicted at once and as many read ahead; why one was not read."""

    def read(path: Path) -> _Read | DataError:
        try:
            shown = read_film(path).pixels
            # People see every film windowed, whatever the network wants.
            wanted = shown if predictor.tone == "window" else read_film(path, tone=predictor.tone).pixels
            # Other formats say neither scale nor view.
            return _Read(shown, wanted, read_header(path) if is_dicom(path) else FilmHeader(*shown.shape))
        except DataError as error:
            return error

    films_read = map_ahead(read, films.values(), threads=threads, ahead=size)
    for batch in in_batches(zip(films, films_read, strict=True), size):
        whole = [film.wanted for _, film in batch if not isinstance(film, DataError)]
        found = iter(predictor.predict(whole, batch_size=size))
        for name, film in batch:
            yield film if isinstance(film, DataError) else _Found(name, film.shown, next(found), film.header)


def _names(films: Sequence[Path], root: Path | None) -> dict[str, Path]:
    """Films by the name they have in the results: relative to the root, `/` between folders."""
    if not films:
        raise DataError("no film to predict", fix="Name films, or a folder that holds some.")
    absolute = [Path(os.path.abspath(f)) for f in films]
    base = Path(os.path.abspath(root)) if root else Path(os.path.commonpath([f.parent for f in absolute]))
    names: dict[str, Path] = {}
    stems: dict[str, str] = {}
    for path, full in zip(films, absolute, strict=True):
        if not full.is_relative_to(base):
            raise DataError("film must lie below the root folder", where=path, fix="Leave the root away.")
        name = full.relative_to(base).as_posix()
        stem = files.film_stem(name)
        if stem in stems:
            raise DataError(
                f"two films would have the same results: {stems[stem]} and {name}", fix="Rename one, or predict apart."
            )
        stems[stem] = name
        names[name] = path
    return names
