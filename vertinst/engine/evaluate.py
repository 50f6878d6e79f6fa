"""Predictions against annotations: every number of `metrics.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vertinst import files
from vertinst.engine.coco_results import spines_from_coco_results
from vertinst.engine.contour_scores import mean_contours, mean_contours_by_class
from vertinst.engine.film_score import PIXEL_METRICS, EvaluateOptions, FilmScore, counts_and_rates
from vertinst.errors import DataError
from vertinst.metrics.average_precision import average_precision
from vertinst.metrics.recognition import Recognition, total_recognition
from vertinst.postprocess.merge import merged_classes
from vertinst.progress import Progress, silent, track
from vertinst.structures import Dataset, ImageRecord, Implant, Spine, Vertebra
from vertinst.structures.spine import as_instances
from vertinst.version import __version__

__all__ = [
    "PIXEL_METRICS",
    "SCHEMA_VERSION",
    "EvaluateOptions",
    "evaluate",
    "spines_from_coco_results",
    "write_metrics",
]

SCHEMA_VERSION = 1


def evaluate(
    dataset: Dataset,
    spines: Mapping[str, Spine],
    *,
    options: EvaluateOptions = EvaluateOptions(),  # noqa: B008 - frozen
    progress: Progress = silent,
) -> dict[str, Any]:
    """Score the predictions for a data set.

    Regions marked `ignore` are counted nowhere: their pixels are removed from both merged masks, predictions with
    more than half of their area in them are not false, and for average precision they are crowd regions. A film
    without a prediction counts as one on which nothing was found.

    Args:
        dataset: Truth.
        spines: Predictions by file name. Candidates count for average precision alone.
        options: Classes, range of levels, threshold.
        progress: Told after each film.

    Returns:
        JSON-ready (no NaN; None where a number has no meaning): `schema_version`, `vertinst`, `options`, `summary`
        (pixel metrics as means over the films; `vertebrae` counts and rates; `contours`: means over the vertebrae
        found, not over the films, and `per_class` over the objects of each class of the truth that were found, bone
        as lumbar or sacral alike, implants as their class; `films_all_levels_right`), `ap` (`mask`, `box`, `per_class`
        with the masks' AP), `images` (one per film, in the order of the data set), `missing` (films
        without a prediction) and `unknown` (predictions for films that are not in the data set). All shares 0..1,
        lengths in px.

    Raises:
        DataError: The data set is empty, no film is in both, a prediction has another size than its film, or a class
            of the merged mask is unknown.
    """
    _check_films(dataset, spines)
    # None at all, in data without bone, means no pixel metrics: two empty masks would look like success.
    classes = merged_classes(options.merged, dataset.categories)
    films = [
        FilmScore(image, spines.get(image.file_name), options, merged_classes=classes)
        for image in track(dataset.images, len(dataset), "scoring films", progress)
    ]
    recognition = [film.recognition for film in films]
    named = dict.fromkeys(image.patient for image in dataset.images if image.patient is not None)
    patients: dict[str | None, int] = {name: number for number, name in enumerate(named, start=1)}
    return {
        "schema_version": SCHEMA_VERSION,
        "vertinst": __version__,
        "options": options.model_dump(mode="json"),
        "summary": {
            **{name: _mean([film.pixels[name] for film in films]) for name in PIXEL_METRICS},
            "vertebrae": counts_and_rates(total_recognition(recognition)),
            "contours": _contours(films),
            "films_all_levels_right": _films_right(recognition),
        },
        "ap": _average_precisions(dataset, films),
        "images": [film.entry(patients.get(film.image.patient)) for film in films],
        "missing": [image.file_name for image in dataset.images if image.file_name not in spines],
        "unknown": sorted(set(spines) - {image.file_name for image in dataset.images}),
    }


def write_metrics(metrics: Mapping[str, Any], path: Path) -> None:
    """Write the result of `evaluate` as JSON, aside and renamed.

    Raises:
        VertinstError: The file cannot be written.
    """
    files.write_json(path, metrics, indent=1)


def _check_films(dataset: Dataset, spines: Mapping[str, Spine]) -> None:
    if not dataset.images:
        raise DataError("data set must hold at least one film, got none", fix="Give annotations with films.")
    common = [image for image in dataset.images if image.file_name in spines]
    if not common:
        predicted = f"e.g. {min(spines)!r}" if spines else "none"
        raise DataError(
            f"predictions must be for the annotated films (e.g. {dataset.images[0].file_name!r}), got {predicted}",
            fix="Predict the films of this data set; file names must agree, folders included.",
        )
    for image in common:
        size = tuple(spines[image.file_name].image_size)
        if size != image.image_size:
            raise DataError(
                f"prediction must have the film's size {image.image_size} (height, width), got {size}",
                where=image.file_name,
                fix="Predict on the very film that was annotated, neither resized nor cropped.",
            )


def _contours(films: Sequence[FilmScore]) -> dict[str, Any]:
    bone = [score for film in films for score in film.bone_contours]
    implants = [score for film in films for score in film.implant_contours]
    return {**mean_contours(bone), "per_class": dict(mean_contours_by_class([*bone, *implants]))}


def _films_right(films: Sequence[Recognition]) -> dict[str, Any]:
    judged = [film.all_levels_right for film in films if film.all_levels_right is not None]
    return {"films": len(judged), "right": sum(judged), "rate": sum(judged) / len(judged) if judged else None}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _average_precisions(dataset: Dataset, films: Sequence[FilmScore]) -> dict[str, Any]:
    found: list[tuple[ImageRecord, list[Vertebra | Implant]]] = [
        (film.image, [*film.vertebrae, *film.others]) for film in films
    ]
    # Classes that only the model knows: absent from the truth, their false positives are counted.
    extra = {part.category for _, parts in found for part in parts} - set(dataset.categories)
    widened = Dataset((*dataset.categories, *sorted(extra)), dataset.images)
    predictions = {image.image_id: as_instances(parts, widened.categories, image.image_size) for image, parts in found}
    mask = average_precision(widened, predictions, "segm")
    box = average_precision(widened, predictions, "bbox")
    per_class = mask.pop("per_class")
    for name, values in box.pop("per_class").items():
        per_class[name]["box_AP"] = values["AP"]
    absent = mask.pop("false_positives_of_absent_classes")
    del box["false_positives_of_absent_classes"]
    return {"mask": mask, "box": box, "per_class": per_class, "false_positives_of_absent_classes": absent}
