"""Annotations taken apart into what other formats write: one shape or one mask each, with its attributes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from vertinst.errors import DataError
from vertinst.files import film_stem
from vertinst.structures import rle as rle_masks
from vertinst.structures.conversion import Skip
from vertinst.structures.dataset import Annotation, Dataset, ImageRecord
from vertinst.structures.rle import Rle

from ._draw import rasterise
from ._film_attributes import untold_fields
from ._shapes import RegionFault, trace
from ._source import as_mapping

__all__ = [
    "Piece",
    "film_attributes",
    "is_faithful",
    "output_names",
    "pieces",
    "refuse_empty",
    "unread_regions",
    "written_attributes",
]


@dataclass(frozen=True)
class Piece:
    """One shape or mask of an annotation.

    Attributes:
        category: Name of the class.
        shape: VIA shape, or None where there is a mask instead.
        mask: The mask, or None.
        attributes: All that must be written; the level among them.
        group: The same number for all pieces of one annotation, from 1; 0 if it stands alone.
    """

    category: str
    shape: Mapping[str, Any] | None
    mask: Rle | None
    attributes: Mapping[str, Any]
    group: int = 0


def pieces(image: ImageRecord, losses: list[Skip]) -> list[Piece]:
    """What to write of a film's annotations, in their order.

    The outlines are written where they give exactly the mask when they are read again, else the mask.

    Args:
        image: The film.
        losses: Told what cannot be written, and what is written otherwise than it stands in the data set.
    """
    result: list[Piece] = []
    for number, annotation in enumerate(image.annotations):
        if rle_masks.area(annotation.mask) == 0:
            losses.append(Skip("", image.file_name, number, "covers no pixel: left out"))
            continue
        shapes = _shapes(annotation)
        if any(shape.get("name") != "point" for shape, _ in shapes) and not is_faithful(annotation, image.image_size):
            shapes = [(shape, part) for shape, part in shapes if shape.get("name") == "point"]
            reason = "its outline alone does not give its mask: the mask is written"
            losses.append(Skip("", image.file_name, number, reason, repaired=True))
        has_outline = any(shape.get("name") != "point" for shape, _ in shapes)
        found: list[tuple[Mapping[str, Any] | None, Rle | None, dict[str, Any]]] = []
        if not has_outline:
            found.append((None, annotation.mask, written_attributes(annotation, annotation.attributes)))
        found += [(shape, None, written_attributes(annotation, part)) for shape, part in shapes]
        found += [(shape, None, written_attributes(annotation, part)) for shape, part in _named_points(annotation)]
        # An attribute that says `instance` would unite what is two annotations here.
        is_grouped = len(found) > 1 or bool({"instance", "instanz"} & annotation.attributes.keys())
        group = number + 1 if is_grouped else 0
        result += [Piece(annotation.category, *parts, group) for parts in found]
    return result


def is_faithful(annotation: Annotation, image_size: tuple[int, int]) -> bool:
    """Whether the outlines, read again, give exactly the mask."""
    masks = []
    try:
        for outline in annotation.outlines:
            if outline.get("name") != "point":
                masks.append(rasterise(trace(outline), image_size)[0])
    except RegionFault:
        return False
    return bool(masks) and bool(rle_masks.union(masks, image_size)["counts"] == annotation.mask["counts"])


def film_attributes(image: ImageRecord) -> dict[str, Any]:
    """A film's attributes, with patient, view and spacing among them, so that reading them again gives these."""
    untold = untold_fields(image, {})
    if "pixel_spacing_mm" in untold:
        untold["pixel_spacing_mm"] = list(untold["pixel_spacing_mm"])
    return untold | {name: value for name, value in image.attributes.items() if name not in untold}


def unread_regions(image: ImageRecord) -> list[dict[str, Any]]:
    """Regions of a film that are no annotations, each with a shape and attributes, whatever it holds."""
    keys = ("shape_attributes", "region_attributes")
    return [{key: dict(as_mapping(region, key)) for key in keys} for region in image.unread]


def written_attributes(annotation: Annotation, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes of an annotation or of one part of it, with what else a reader can only learn from them."""
    result = dict(attributes)
    if annotation.named_level is not None:
        # Elsewhere the option or the class value that named it means nothing.
        result["level"] = annotation.named_level
    if annotation.ignore and "ignore" not in result:
        result["ignore"] = True
    return result


def output_names(dataset: Dataset, suffix: str) -> dict[str, str]:
    """A file for each film, by film name: its own name with another suffix, sub-folders kept.

    Films whose file would be another film's too keep their own suffix (`a.png.json`).

    Raises:
        DataError: A film's name leads outside of a folder, names no file or a hidden one, or names the file of another
            film (`a.png` and `./a.png`).
    """
    whole = {image.file_name: _whole_name(image.file_name) for image in dataset.images}
    names = {film: film_stem(name) for film, name in whole.items()}
    while len(counts := Counter(names.values())) < len(names):
        shared = [film for film, name in names.items() if counts[name] > 1]
        if all(names[film] == whole[film] for film in shared):
            raise DataError("another film has the same name", where=shared[-1], fix="Correct the name in the file.")
        names |= {film: whole[film] for film in shared}
    return {film: f"{name}{suffix}" for film, name in names.items()}


def refuse_empty(dataset: Dataset, where: object) -> None:
    """Refuse to write a data set without a film.

    Raises:
        DataError: There is none.
    """
    if not dataset.images:
        raise DataError("must have at least one film, got none", where=where, fix="Check where the data come from.")


def _whole_name(file_name: str) -> str:
    path = PurePosixPath(file_name.replace("\\", "/"))
    if not path.name or path.name.startswith("."):
        raise DataError("file name must name a film, and none that is hidden", where=file_name, fix="Rename the film.")
    return path.as_posix()


def _shapes(annotation: Annotation) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    parts = annotation.part_attributes
    if len(parts) != len(annotation.outlines):
        parts = (annotation.attributes,) * len(annotation.outlines)
    return list(zip(annotation.outlines, parts, strict=True))


def _named_points(annotation: Annotation) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Keypoints that no point among the outlines stands for."""
    drawn = {(o.get("cx"), o.get("cy")) for o in annotation.outlines if o.get("name") == "point"}
    return [
        ({"name": "point", "cx": x, "cy": y}, {**annotation.attributes, "keypoint": name})
        for name, (x, y) in annotation.keypoints.items()
        if (x, y) not in drawn
    ]
