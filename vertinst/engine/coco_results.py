"""COCO results files of any tool, made into spines that can be scored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vertinst import files
from vertinst.errors import DataError
from vertinst.postprocess.labelling import Anchor
from vertinst.postprocess.pipeline import SpineOptions, build_spine
from vertinst.structures import Dataset, ImageRecord, Instances, Rle, Spine, rle

__all__ = ["spines_from_coco_results"]


def spines_from_coco_results(
    path: Path,
    dataset: Dataset,
    *,
    options: SpineOptions = SpineOptions(),  # noqa: B008 - frozen
    anchor: Anchor | None = None,
) -> Mapping[str, Spine]:
    """Read a COCO results file: `[{"image_id", "category_id", "segmentation", "score", "bbox"?}, ...]`.

    Args:
        path: The JSON file. `bbox` (xywh px) may be absent: then it is the mask's.
        dataset: The annotated films; image ids and category ids (from 1, in the order of its categories) are its own.
        options: How instances become spines.
        anchor: What the user says about the levels, if anything.

    Returns:
        One spine for every film of the data set by file name; a film without results has an empty one.

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
    images = {image.image_id: image for image in dataset.images}
    by_image: dict[int, list[tuple[Rle, int, float, Any]]] = {image_id: [] for image_id in images}
    for number, entry in enumerate(entries):
        where = f"{path.name}, entry {number}"
        image = _image(entry, images, where)
        by_image[image.image_id].append(_read_entry(entry, image, dataset, where))
    return {
        image.file_name: build_spine(
            _instances(image, by_image[image.image_id]), dataset.categories, options=options, anchor=anchor
        )
        for image in dataset.images
    }


def _image(entry: Any, images: Mapping[int, ImageRecord], where: str) -> ImageRecord:
    needed = {"image_id", "category_id", "segmentation", "score"}
    if not isinstance(entry, dict) or not needed <= entry.keys():
        raise DataError(
            f"must be an object with {', '.join(sorted(needed))}", where=where, fix="Write the results with masks."
        )
    image_id = entry["image_id"]
    if not isinstance(image_id, int) or image_id not in images:
        raise DataError(
            f"image_id must be one of the annotated films', got {image_id!r}",
            where=where,
            fix="Score against the annotation file whose images were predicted.",
        )
    return images[image_id]


def _read_entry(entry: dict[str, Any], image: ImageRecord, dataset: Dataset, where: str) -> tuple[Rle, int, float, Any]:
    category_id, score = entry["category_id"], entry["score"]
    if not isinstance(category_id, int) or not 1 <= category_id <= len(dataset.categories):
        known = ", ".join(f"{n} {name}" for n, name in enumerate(dataset.categories, start=1))
        raise DataError(
            f"category_id must be one of {known}, got {category_id!r}",
            where=where,
            fix="Use the category ids of the annotation file.",
        )
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        raise DataError(f"score must lie in 0..1, got {score!r}", where=where, fix="Give probabilities.")
    try:
        mask = rle.from_coco(entry["segmentation"], image.image_size)
    except (DataError, TypeError, ValueError) as error:
        message = error.message if isinstance(error, DataError) else "segmentation must be polygons or an RLE"
        raise DataError(message, where=where, fix="Write the masks at the size of the film.") from error
    return mask, category_id, float(score), _box_xyxy(entry.get("bbox"), mask, where)


def _box_xyxy(bbox: Any, mask: Rle, where: str) -> list[float]:
    if bbox is None:
        return [float(v) for v in rle.box_xyxy(mask)]
    numbers = isinstance(bbox, list) and len(bbox) == 4 and all(isinstance(v, int | float) for v in bbox)
    if not numbers or not all(math.isfinite(v) for v in bbox):
        raise DataError("bbox must be [x, y, width, height]", where=where, fix="Write finite numbers, or leave it out.")
    x, y, width, height = bbox
    return [x, y, x + width, y + height]


def _instances(image: ImageRecord, found: list[tuple[Rle, int, float, Any]]) -> Instances:
    return Instances(
        image.image_size,
        np.array([box for _, _, _, box in found], dtype=np.float32).reshape(-1, 4),
        tuple(mask for mask, _, _, _ in found),
        np.array([category_id for _, category_id, _, _ in found], dtype=np.int64),
        np.array([score for _, _, score, _ in found], dtype=np.float32),
    )
