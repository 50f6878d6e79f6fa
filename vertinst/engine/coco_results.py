"""COCO results files of any tool, made into spines that can be scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vertinst import files
from vertinst.errors import DataError
from vertinst.postprocess.labelling import Anchor
from vertinst.postprocess.pipeline import SpineOptions, build_spine
from vertinst.structures import Dataset, ImageRecord, Implant, Instances, Rle, Spine, Vertebra, rle
from vertinst.structures.measures import VIEWS
from vertinst.structures.views import view_name

__all__ = ["spines_from_coco_results"]

_MAX_COORDINATE = 1e30


def spines_from_coco_results(
    path: Path,
    dataset: Dataset,
    *,
    options: SpineOptions = SpineOptions(),  # noqa: B008 - frozen
    anchor: Anchor | None = None,
    gt: Path | None = None,
) -> Mapping[str, Spine]:
    """Read a COCO results file: `[{"image_id", "category_id", "segmentation", "score", "bbox"?}, ...]`.

    Args:
        path: The JSON file. `bbox` (xywh px) may be absent: then it is the mask's.
        dataset: The annotated films.
        options: How instances become spines.
        anchor: What the user says about the levels, if anything.
        gt: The COCO annotation file from which the data set was read: ids are then those of this file, whatever they
            are. Without it they are those of the data set: categories from 1 in their order.

    Returns:
        One spine for every film of the data set by file name; a film without results has an empty one. Whatever is
        not part of the reading is among the candidates, so that average precision is that of the file.

    Raises:
        DataError: Not a results file, an entry that is incomplete or out of range, an unknown image or category.
    """
    entries = files.read_json(path)
    if not isinstance(entries, list):
        raise DataError(
            f"COCO results must be a list, got {type(entries).__name__}",
            where=path,
            fix="Give the file of results (a list of detections), not one of annotations.",
        )
    ids = _ids_of_dataset(dataset) if gt is None else _ids_of_file(gt, dataset)
    found: dict[str, list[_Detection]] = {image.file_name: [] for image in dataset.images}
    for number, entry in enumerate(entries):
        where = f"{path.name}, entry {number}"
        image = _image(entry, ids, where)
        found[image.file_name].append(_read_entry(entry, image, ids, where))
    return {
        image.file_name: _spine(image, _instances(image, found[image.file_name]), dataset.categories, options, anchor)
        for image in dataset.images
    }


def _spine(
    image: ImageRecord, instances: Instances, categories: tuple[str, ...], options: SpineOptions, anchor: Anchor | None
) -> Spine:
    """A spine that holds every detection: what the spine is not made of, suppressed or low, is a candidate."""
    view = view_name(image.view) or VIEWS[0]
    spine = build_spine(instances, categories, options=options, anchor=anchor, view=view, measured=False)
    assert instances.scores is not None
    # Masks pass through by reference; two detections may be equal in all else.
    named = {id(part.mask): part for part in spine.candidates}
    reading: tuple[Vertebra | Implant, ...] = (*spine.vertebrae, *spine.implants)
    used = {id(part.mask) for part in reading}
    candidates = [
        named.get(id(mask)) or Implant(categories[category - 1], float(score), box, mask)
        for mask, category, score, box in zip(
            instances.masks, instances.category_ids.tolist(), instances.scores, instances.boxes, strict=True
        )
        if id(mask) not in used
    ]
    return replace(spine, candidates=tuple(sorted(candidates, key=lambda part: -part.score)))


class _Detection(NamedTuple):
    mask: Rle
    category_id: int
    score: float
    box_xyxy: list[float]


class _Ids(NamedTuple):
    """What the ids in the results mean: films, and (category id in the data set, name)."""

    images: dict[Any, ImageRecord]
    categories: dict[Any, tuple[int, str]]


def _ids_of_dataset(dataset: Dataset) -> _Ids:
    categories: dict[Any, tuple[int, str]] = {n: (n, name) for n, name in enumerate(dataset.categories, start=1)}
    return _Ids({image.image_id: image for image in dataset.images}, categories)


def _ids_of_file(gt: Path, dataset: Dataset) -> _Ids:
    content = files.read_json(gt)
    records = {image.file_name: image for image in dataset.images}
    try:
        images = {raw["id"]: records[raw["file_name"]] for raw in content["images"]}
        names = {raw["id"]: raw["name"] for raw in content["categories"]}
        return _Ids(images, {key: (dataset.category_id(name), name) for key, name in names.items()})
    except (KeyError, TypeError) as error:
        raise DataError(
            "must be the COCO file of the annotated films", where=gt, fix="Give the file that the data set is from."
        ) from error


def _image(entry: Any, ids: _Ids, where: str) -> ImageRecord:
    needed = {"image_id", "category_id", "segmentation", "score"}
    if not isinstance(entry, dict) or not needed <= entry.keys():
        raise DataError(
            f"must be an object with {', '.join(sorted(needed))}", where=where, fix="Write the results with masks."
        )
    image_id = entry["image_id"]
    if not isinstance(image_id, int | str) or image_id not in ids.images:
        raise DataError(
            f"image_id must be one of the annotated films', got {image_id!r}",
            where=where,
            fix="Score against the annotation file whose images were predicted.",
        )
    return ids.images[image_id]


def _read_entry(entry: dict[str, Any], image: ImageRecord, ids: _Ids, where: str) -> _Detection:
    category_id, score = entry["category_id"], entry["score"]
    if not isinstance(category_id, int | str) or category_id not in ids.categories:
        known = ", ".join(f"{key} {name}" for key, (_, name) in ids.categories.items())
        raise DataError(
            f"category_id must be one of {known}, got {category_id!r}",
            where=where,
            fix="Use the category ids of the annotation file.",
        )
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        raise DataError(f"score must lie in 0..1, got {score!r}", where=where, fix="Give probabilities.")
    try:
        mask = rle.from_coco(entry["segmentation"], image.image_size)
    except DataError as error:
        raise DataError(error.message, where=where, fix="Write the masks at the size of the film.") from error
    box = _box_xyxy(entry.get("bbox"), mask, where)
    return _Detection(mask, ids.categories[category_id][0], float(score), box)


def _box_xyxy(bbox: Any, mask: Rle, where: str) -> list[float]:
    if bbox is None:
        return [float(v) for v in rle.box_xyxy(mask)]
    numbers = isinstance(bbox, list) and len(bbox) == 4 and all(isinstance(v, int | float) for v in bbox)
    # Compared, not converted: an integer of any length may stand here. Beyond it float32 has only infinity.
    if not numbers or not all(abs(v) < _MAX_COORDINATE for v in bbox):
        raise DataError("bbox must be [x, y, width, height]", where=where, fix="Write finite numbers, or leave it out.")
    x, y, width, height = bbox
    return [x, y, x + width, y + height]


def _instances(image: ImageRecord, found: Sequence[_Detection]) -> Instances:
    return Instances(
        image.image_size,
        np.array([detection.box_xyxy for detection in found], dtype=np.float32).reshape(-1, 4),
        tuple(detection.mask for detection in found),
        np.array([detection.category_id for detection in found], dtype=np.int64),
        np.array([detection.score for detection in found], dtype=np.float32),
    )
