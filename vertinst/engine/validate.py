"""Validation while training: the model as it stands against the validation films, and one score to compare epochs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vertinst import files
from vertinst.data.radiograph import read_film
from vertinst.engine.ahead import in_batches, map_ahead
from vertinst.engine.evaluate import evaluate
from vertinst.engine.predict import Predictor
from vertinst.postprocess.pipeline import SpineOptions, build_spine
from vertinst.progress import Progress, silent, track
from vertinst.structures import Dataset, Instances
from vertinst.structures.measures import VIEWS
from vertinst.structures.views import view_name

__all__ = ["score", "summary_numbers", "validate"]


def validate(
    predictor: Predictor, dataset: Dataset, images: Path, options: SpineOptions, *, progress: Progress = silent
) -> dict[str, Any]:
    """Predict the films and score them.

    Args:
        predictor: The model as it stands.
        dataset: Truth; at least one film.
        images: Folder of the films.
        options: Of post-processing.
        progress: Told after each film.

    Returns:
        What `evaluate` gives.
    """
    names = [record.file_name for record in dataset.images]
    found = track(_found(predictor, names, images), len(names), "validating", progress)
    spines = {
        record.file_name: build_spine(
            instances, predictor.classes, options=options, view=view_name(record.view) or VIEWS[0], measured=False
        )
        for record, instances in zip(dataset.images, found, strict=True)
    }
    return evaluate(dataset, spines)


def _found(predictor: Predictor, names: Sequence[str], images: Path) -> Iterator[Instances]:
    """Instances of films in their order, as many films at once as the predictor takes, the next ones read meanwhile."""

    def read(name: str) -> npt.NDArray[np.float32]:
        return read_film(files.inside(images, name), tone=predictor.tone).pixels

    films = map_ahead(read, names, threads=predictor.threads, ahead=predictor.batch_size)
    for batch in in_batches(films, predictor.batch_size):
        yield from predictor.predict(batch)


def summary_numbers(metrics: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of `evaluate` that go into the curves, and `score`; None where one has no meaning."""
    summary = metrics["summary"]
    numbers = {
        "val_mean_iou": summary["mean_iou"],
        "val_found_rate": summary["vertebrae"]["found_rate"],
        "val_labelled_rate": summary["vertebrae"]["labelled_rate"],
        "val_mask_AP": metrics["ap"]["mask"]["AP"],
    }
    return {**numbers, "val_score": score(numbers)}


def score(numbers: Mapping[str, float | None]) -> float:
    """One number in 0..1 by which epochs are compared; more is better.

    The mean of those that have a meaning among: mean IoU of the merged bone mask, share of vertebrae found, share
    found and given their right level (none without annotated levels), mask AP. 0 if none has.
    """
    known = [value for value in numbers.values() if value is not None]
    return sum(known) / len(known) if known else 0.0
