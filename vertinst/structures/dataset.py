"""Annotated films: what every converter reads into and writes from. Nothing an annotator wrote is lost in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vertinst.errors import DataError
from vertinst.structures.instances import Instances
from vertinst.structures.rle import Rle, check_size
from vertinst.structures.spine import level_name

__all__ = ["BONE", "CLASSES", "IMPLANTS", "Annotation", "Dataset", "ImageRecord", "Outline"]

BONE = ("lumbar", "sacral")
IMPLANTS = ("cage", "screw", "rod")
CLASSES = BONE + IMPLANTS
"""The paper's classes, in the order in which they are numbered from 1."""

Outline = Mapping[str, Any]
"""A region's shape as its source wrote it, vertex by vertex (VIA: `shape_attributes`)."""


@dataclass(frozen=True, eq=False)
class Annotation:
    """One annotated instance.

    Attributes:
        category: Name of the class.
        mask: RLE of the image's size, the union of all parts.
        outlines: The shapes as found in the source, one per part, points among them; none if it had only a mask.
        attributes: Every attribute as found (of all parts; the first part wins where they differ).
        keypoints: Named points, xy px.
        ignore: Neither to be learnt nor scored.
        part_attributes: Attributes of each outline; empty if all of them have just `attributes`.
        named_level: The level where something else than the text of the attribute `level` names it: the class value,
            or the label of an option.
        drawn: All outlines are polygons, and the mask is known to be exactly these, rasterised.
    """

    category: str
    mask: Rle
    outlines: tuple[Outline, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    keypoints: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    ignore: bool = False
    part_attributes: tuple[Mapping[str, Any], ...] = ()
    named_level: str | None = None
    drawn: bool = False

    @property
    def level(self) -> str | None:
        """The vertebra's name (L5, S1) as annotated, spelt our way where it is a level (`Th12` is T12), or None."""
        if self.named_level is not None:
            return self.named_level
        level = self.attributes.get("level")
        text = str(level).strip() if isinstance(level, str | int) else ""
        return level_name(text) or text.upper() or None


@dataclass(frozen=True, eq=False)
class ImageRecord:
    """One film with its annotations.

    Attributes:
        image_id: Integer >= 1, unique in the data set.
        file_name: Relative to the image folder, `/` between folders, as the user gave it.
        width: px.
        height: px.
        patient: Pseudonym that groups films, or None when nothing names one.
        view: lateral, ap, or whatever the source says; None if it says nothing.
        pixel_spacing_mm: (row, column) spacing, or None; never without its source.
        pixel_spacing_source: Where the spacing comes from (`phantom`, `ImagerPixelSpacing` ...).
        attributes: Every attribute of the film as found.
        annotations: Possibly none.
        source: What the source wrote of the file itself, by its own names (VIA: `filename`, `size` in bytes).
        unread: Regions of the source that became no annotation, as VIA writes regions (`shape_attributes` and
            `region_attributes`), so that an export loses none of them.

    Raises:
        DataError: Size or id out of range, a mask of another size, a spacing without its source.
    """

    image_id: int
    file_name: str
    width: int
    height: int
    patient: str | None = None
    view: str | None = None
    pixel_spacing_mm: tuple[float, float] | None = None
    pixel_spacing_source: str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    annotations: tuple[Annotation, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    unread: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        check_size((self.height, self.width))
        if self.image_id < 1:
            raise DataError(f"image_id must be at least 1, got {self.image_id}", where=self.file_name, fix="Renumber.")
        if self.pixel_spacing_mm is not None and not self.pixel_spacing_source:
            raise DataError("pixel spacing must name its source", where=self.file_name, fix="Give the source.")
        for number, annotation in enumerate(self.annotations):
            if tuple(annotation.mask["size"]) != self.image_size:
                raise DataError(
                    f"mask must have size {self.image_size}, got {tuple(annotation.mask['size'])}",
                    where=f"{self.file_name}, annotation {number}",
                    fix="Check that the mask belongs to this film.",
                )

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) px."""
        return self.height, self.width


@dataclass(frozen=True, eq=False)
class Dataset:
    """Films and the classes annotated on them.

    Attributes:
        categories: Names of the classes; ids exist only at the edge and count from 1 in this order.
        images: Possibly none.
        attribute_definitions: Types, descriptions and options of the attributes as VIA 2 writes `_via_attributes`
            (`region` and `file`, each attribute name -> definition); empty if the source had none.

    Raises:
        DataError: A category, an image id or a file name occurs twice, or an annotation's class is not listed.
    """

    categories: tuple[str, ...]
    images: tuple[ImageRecord, ...] = ()
    attribute_definitions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unique: tuple[tuple[str, list[Any]], ...] = (
            ("category", list(self.categories)),
            ("image_id", [i.image_id for i in self.images]),
            ("file_name", [i.file_name for i in self.images]),
        )
        for what, values in unique:
            if len(set(values)) != len(values):
                twice = next(v for v in values if values.count(v) > 1)
                raise DataError(f"{what} must occur once, got {twice!r} twice", fix="Remove one of the two.")
        known = set(self.categories)
        for image in self.images:
            for annotation in image.annotations:
                if annotation.category not in known:
                    raise DataError(
                        f"class must be one of {', '.join(self.categories)}, got {annotation.category!r}",
                        where=image.file_name,
                        fix="Add it to the categories.",
                    )

    def __len__(self) -> int:
        return len(self.images)

    def category_id(self, name: str) -> int:
        """Id of a class, from 1.

        Raises:
            DataError: There is no such class.
        """
        try:
            return self.categories.index(name) + 1
        except ValueError:
            raise DataError(f"class must be one of {', '.join(self.categories)}, got {name!r}") from None

    def instances(self, image: ImageRecord, *, ignored: bool = False) -> Instances:
        """Truth of one film; annotations marked `ignore` only if asked for."""
        kept = [a for a in image.annotations if ignored or not a.ignore]
        ids = [self.category_id(a.category) for a in kept]
        return Instances.from_masks(image.image_size, [a.mask for a in kept], ids)

    def subset(self, image_ids: set[int]) -> Dataset:
        """The films with these ids, in their order; categories unchanged."""
        return replace(self, images=tuple(i for i in self.images if i.image_id in image_ids))

    def counts(self) -> dict[str, int]:
        """Annotated instances per class, classes without any included."""
        names = [a.category for i in self.images for a in i.annotations]
        values, numbers = np.unique(np.array(names, dtype=object).astype(str), return_counts=True)
        found = dict(zip(values.tolist(), numbers.tolist(), strict=True))
        return {name: int(found.get(name, 0)) for name in self.categories}
