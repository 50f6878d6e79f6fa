"""COCO in and out (Lin et al. 2014, arXiv:1405.0312): the format in which data sets are kept between the commands."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from vertinst.collector import collector_paused
from vertinst.errors import DataError
from vertinst.files import read_json, write_pieces
from vertinst.structures import rle as rle_masks
from vertinst.structures.dataset import Annotation, Dataset, ImageRecord
from vertinst.structures.rle import check_size
from vertinst.version import __version__

from . import _json_fields as fields
from ._coco_masks import is_said, outlines_of, read_mask, segmentation_of

__all__ = ["read", "write"]


@collector_paused()
def write(dataset: Dataset, path: Path) -> None:
    """Write a COCO file; `read` gives the same data set again.

    Category ids count from 1 in the order of the categories, annotation ids from 1; image ids are those of the data
    set. `area` is the exact number of the mask's pixels and `bbox` (xywh px) its tight box. `segmentation` is polygons
    where these rasterise to exactly the mask, else RLE. `iscrowd` is 1 for annotations marked `ignore`: that is how
    COCO's own evaluation leaves a region out. What COCO has no field for is kept under names of ours: for images
    `patient`, `view`, `pixel_spacing_mm`, `pixel_spacing_source`, `attributes`, `source`, `unread`; for annotations
    `ignore`, `attributes`, `part_attributes`, `named_level`, `outlines` (where the segmentation does not
    say it) and `named_keypoints`; for the file `attribute_definitions`.

    Args:
        dataset: At least one image and one category.
        path: Written aside and renamed; an existing file is replaced.

    Raises:
        DataError: The data set has no image or no category, or an attribute that JSON cannot hold.
        VertinstError: The file cannot be written.
    """
    _refuse_empty(dataset, path)
    try:
        write_pieces(path, _pieces(dataset))
    except (ValueError, TypeError, RecursionError) as error:
        raise DataError("an attribute cannot be written as JSON", where=path, fix="Use text and numbers.") from error


@collector_paused()
def read(path: Path) -> Dataset:
    """Read a COCO file, ours or any other with masks.

    Masks may be polygons or RLE, compressed or not. Categories are taken in the order of their ids. Annotations with
    `iscrowd` or `ignore` are kept, marked `ignore`. `area` and `bbox` are not read: the mask says it better. Image ids
    are kept if all are integers from 1 on, else the images are numbered anew in their order. Polygons become outlines.
    File names are not followed here.

    Args:
        path: The file.

    Raises:
        DataError: The file is missing, no JSON, no COCO, empty, or an entry is broken; the entry is named by its id.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise DataError(
            "must be a COCO file with images, annotations and categories",
            where=path,
            fix="Make one with: vertinst convert-via FILE... --images DIR --out coco.json",
        )
    categories = _categories(content, path)
    images: dict[Any, ImageRecord] = {}
    for position, raw in enumerate(fields.list_of_dicts(content, "images", path)):
        key, image = _image(raw, f"{path}, image {position}")
        if key in images:
            raise DataError("image id must occur once", where=f"{path}, image id {key}", fix="Renumber the images.")
        images[key] = image
    grouped: dict[Any, list[Annotation]] = {key: [] for key in images}
    for image_id, annotation in _annotations(content, images, categories, path):
        grouped[image_id].append(annotation)
    keep = all(isinstance(key, int) and key >= 1 for key in images)
    records = tuple(
        replace(image, image_id=key if keep else number, annotations=tuple(grouped[key]))
        for number, (key, image) in enumerate(images.items(), start=1)
    )
    definitions = fields.mapping(content, "attribute_definitions", path)
    for kind in definitions:
        fields.mapping(definitions, kind, f"{path}, attribute_definitions")
    dataset = Dataset(tuple(categories.values()), records, definitions)
    _refuse_empty(dataset, path)
    return dataset


def _refuse_empty(dataset: Dataset, path: Path) -> None:
    for what, found in (("image", dataset.images), ("category", dataset.categories)):
        if not found:
            raise DataError(
                f"must have at least one {what}, got none", where=path, fix="Check where the data come from."
            )


def _pieces(dataset: Dataset) -> Iterator[str]:
    """The file film by film: as one text it would need as much memory again as the data set."""
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
    numbers = {name: number for number, name in enumerate(dataset.categories, start=1)}
    categories = [{"id": number, "name": name, "supercategory": ""} for name, number in numbers.items()]
    yield f'{{"info": {encode({"description": "written by vertinst", "version": __version__})}, '
    yield f'"categories": {encode(categories)}, "images": ['
    yield from _listed(encode(_image_fields(image)) for image in dataset.images)
    yield '], "annotations": ['
    ids = itertools.count(1)
    films = ([_annotation_fields(*a, ids, numbers) for a in _measured(image)] for image in dataset.images)
    yield from _listed(_encoded(annotations, encode)[1:-1] for annotations in films if annotations)
    yield "]"
    if dataset.attribute_definitions:
        yield f', "attribute_definitions": {encode(dict(dataset.attribute_definitions))}'
    yield "}\n"


def _encoded(value: Any, encode: Callable[[Any], str]) -> str:
    """JSON by orjson, in a tenth of the time; by `encode` what orjson refuses, or what it may have taken for null."""
    try:
        text = orjson.dumps(value)
    except TypeError:
        return encode(value)
    return encode(value) if b"null" in text else text.decode()


def _listed(items: Iterable[str]) -> Iterator[str]:
    for number, item in enumerate(items):
        yield ", " + item if number else item


def _image_fields(image: ImageRecord) -> dict[str, Any]:
    extras = {
        "patient": image.patient,
        "view": image.view,
        "pixel_spacing_mm": list(image.pixel_spacing_mm) if image.pixel_spacing_mm is not None else None,
        "pixel_spacing_source": image.pixel_spacing_source,
        "attributes": dict(image.attributes) or None,
        "source": dict(image.source) or None,
        "unread": [dict(region) for region in image.unread] or None,
    }
    size = {"width": image.width, "height": image.height}
    present = {name: value for name, value in extras.items() if value is not None}
    return {"id": image.image_id, "file_name": image.file_name, **size, **present}


def _measured(image: ImageRecord) -> Iterator[tuple[int, Annotation, int, list[float]]]:
    """Each annotation of a film with the film's id, its area and its box, xywh px."""
    masks = [a.mask for a in image.annotations]
    areas, boxes = rle_masks.areas(masks).tolist(), rle_masks.boxes_xywh(masks).tolist()
    return zip(itertools.repeat(image.image_id), image.annotations, areas, boxes, strict=False)


def _annotation_fields(
    image_id: int, annotation: Annotation, area: int, box: list[float], ids: Iterator[int], numbers: Mapping[str, int]
) -> dict[str, Any]:
    segmentation = segmentation_of(annotation)
    result: dict[str, Any] = {
        "id": next(ids),
        "image_id": image_id,
        "category_id": numbers[annotation.category],
        "segmentation": segmentation,
        "area": area,
        "bbox": box,
        "iscrowd": int(annotation.ignore),
        "ignore": int(annotation.ignore),
        "attributes": dict(annotation.attributes),
    }
    if not is_said(annotation, segmentation):
        result["outlines"] = [dict(outline) for outline in annotation.outlines]
    if annotation.part_attributes:
        result["part_attributes"] = [dict(part) for part in annotation.part_attributes]
    if annotation.named_level is not None:
        result["named_level"] = annotation.named_level
    if annotation.keypoints:
        result["named_keypoints"] = {name: list(point) for name, point in annotation.keypoints.items()}
    return result


def _categories(content: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Names by id, in the order of the ids."""
    found: dict[int, str] = {}
    for position, raw in enumerate(fields.list_of_dicts(content, "categories", path)):
        where = f"{path}, category {position}"
        number, name = fields.integer(raw, "id", where), fields.text(raw, "name", where)
        if number in found or name in found.values():
            raise DataError(f"category {name!r} must have an id and a name of its own", where=where, fix="Rename it.")
        found[number] = name
    return dict(sorted(found.items()))


def _image(raw: Mapping[str, Any], where: str) -> tuple[Any, ImageRecord]:
    """The id as found and the image, numbered 1 until all are known."""
    key = raw.get("id")
    if not isinstance(key, int | str) or isinstance(key, bool):
        key = fields.integer(raw, "id", where)
    file_name = fields.text(raw, "file_name", where)
    height, width = fields.integer(raw, "height", where), fields.integer(raw, "width", where)
    spacing = raw.get("pixel_spacing_mm")
    try:
        check_size((height, width))
        return key, ImageRecord(
            1,
            file_name,
            width,
            height,
            patient=fields.optional_text(raw, "patient", where),
            view=fields.optional_text(raw, "view", where),
            pixel_spacing_mm=_spacing(spacing, where) if spacing is not None else None,
            pixel_spacing_source=fields.optional_text(raw, "pixel_spacing_source", where),
            attributes=fields.mapping(raw, "attributes", where),
            source=fields.mapping(raw, "source", where),
            unread=tuple(fields.list_of_dicts(raw, "unread", where)) if "unread" in raw else (),
        )
    except DataError as error:
        raise DataError(error.message, where=where, fix=error.fix) from error


def _spacing(value: Any, where: str) -> tuple[float, float]:
    row, column = fields.number_pair(value, "pixel_spacing_mm", where)
    if row <= 0 or column <= 0:
        raise DataError("pixel_spacing_mm must be positive", where=where, fix="Correct it or remove it.")
    return row, column


def _annotations(
    content: Mapping[str, Any], images: Mapping[Any, ImageRecord], categories: Mapping[int, str], path: Path
) -> Iterator[tuple[Any, Annotation]]:
    seen: set[int] = set()
    for position, raw in enumerate(fields.list_of_dicts(content, "annotations", path)):
        number = fields.integer(raw, "id", f"{path}, annotation at position {position}")
        where = f"{path}, annotation {number}"
        if number in seen:
            raise DataError("annotation id must occur once", where=where, fix="Renumber the annotations.")
        seen.add(number)
        image_id = raw.get("image_id")
        if not isinstance(image_id, int | str | float) or isinstance(image_id, bool) or image_id not in images:
            raise DataError("image_id must be the id of an image of the file", where=where, fix="Add the image.")
        category_id = fields.integer(raw, "category_id", where)
        if category_id not in categories:
            known = ", ".join(map(str, categories))
            raise DataError(f"category_id must be one of {known}, got {category_id}", where=where, fix="Correct it.")
        yield image_id, _annotation(raw, categories[category_id], images[image_id].image_size, where)


def _annotation(raw: Mapping[str, Any], category: str, image_size: tuple[int, int], where: str) -> Annotation:
    segmentation = raw.get("segmentation")
    mask = read_mask(segmentation, image_size, where)
    points = fields.mapping(raw, "named_keypoints", where)
    outlines = fields.list_of_dicts(raw, "outlines", where) if "outlines" in raw else outlines_of(segmentation)
    return Annotation(
        category,
        mask,
        tuple(outlines),
        fields.mapping(raw, "attributes", where),
        {name: fields.number_pair(point, f"named_keypoints.{name}", where) for name, point in points.items()},
        fields.flag(raw, "iscrowd", where) or fields.flag(raw, "ignore", where),
        tuple(fields.list_of_dicts(raw, "part_attributes", where)) if "part_attributes" in raw else (),
        fields.optional_text(raw, "named_level", where),
        drawn=isinstance(segmentation, list) and "outlines" not in raw,
    )
