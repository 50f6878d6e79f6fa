"""Regions on their way into annotations: class, level, instance and mask of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vertinst.structures.conversion import ReadOptions, Skip
from vertinst.structures.rle import Rle
from vertinst.structures.spine import level_name

from ._classes import ClassReader, ticked, truth
from ._draw import draw
from ._shapes import RegionFault, place
from ._source import Entry, Options, Region

__all__ = ["Part", "PartReader", "instance_of", "named_level"]

_INSTANCE = ("instance", "instanz")


# Not frozen: of the time that a hundred thousand of them take, freezing is two thirds.
@dataclass(slots=True)
class Part:
    """One region, understood.

    Attributes:
        entry: Number of its entry among those of the film.
        region: As the reader gave it.
        instance: Parts of one entry and class with the same text belong together; "" is alone.
        category: Class; "" for a point, which has that of its instance.
        level: Level that the class value, or an option's label, names.
        ignore: Neither to be learnt nor scored.
        mask: None if it is a point.
        drawn: The mask is exactly the shape, a polygon, rasterised.
    """

    entry: int
    region: Region
    instance: str
    category: str
    level: str | None
    ignore: bool
    mask: Rle | None
    drawn: bool


@dataclass(frozen=True)
class PartReader:
    """Reads regions.

    Attributes:
        classes: Reads their classes.
        options: What the user wants.
    """

    classes: ClassReader
    options: ReadOptions
    _known: dict[tuple[int, str], tuple[str, str | None]] = field(default_factory=dict, init=False, repr=False)

    def read(
        self,
        number: int,
        entry: Entry,
        ordinary: Sequence[Rle | None],
        image_size: tuple[int, int],
        skips: list[Skip],
    ) -> Iterator[tuple[Region, Part | None]]:
        """Read the regions of one entry of a film, in their order.

        Args:
            number: Of the entry among those of the film.
            entry: The entry.
            ordinary: Masks of its regions, as far as `ordinary_masks` has drawn them.
            image_size: (height, width) px of the film.
            skips: What was left out or repaired is added to it.

        Yields:
            Each region with what was understood of it, or with None if it was left out.
        """
        for region, mask in zip(entry.regions, ordinary, strict=True):
            part = None
            repairs: list[str] = []
            try:
                part = self._part(number, entry.options, region, mask, image_size, repairs)
            except RegionFault as fault:
                skips.append(Skip(entry.file, entry.name, region.number, str(fault)))
            skips += [Skip(entry.file, entry.name, region.number, reason, repaired=True) for reason in repairs]
            yield region, part

    def _part(
        self,
        number: int,
        labels: Options,
        region: Region,
        ordinary: Rle | None,
        image_size: tuple[int, int],
        repairs: list[str],
    ) -> Part:
        instance = region.instance or instance_of(region.attributes, labels, self.options.instance_attribute)
        if region.shape.get("name") == "point":
            repairs += _point_repairs(region.shape, image_size)
            return Part(number, region, instance, "", None, ignore=False, mask=None, drawn=False)
        if region.mask is None and not region.shape:
            raise RegionFault("has no shape")
        category, level = self._class(region.attributes, labels)
        mask = ordinary if ordinary is not None else self._mask(region, image_size, repairs)
        drawn = ordinary is not None or _is_drawn(region.shape, repairs)
        ignore = "ignore" in region.attributes and truth(region.attributes, "ignore", labels)
        named = named_level(region.attributes, level, labels)
        return Part(number, region, instance, category, named, ignore, mask, drawn)

    def _class(self, attributes: Mapping[str, Any], labels: Options) -> tuple[str, str | None]:
        value = attributes.get(self.classes.attribute or "")
        if type(value) is not str or self.classes.attribute is None:
            return self.classes.read(attributes, labels)
        # The same few texts stand in all regions.
        key = (id(labels), value)
        if key not in self._known:
            self._known[key] = self.classes.read(attributes, labels)
        return self._known[key]

    def _mask(self, region: Region, image_size: tuple[int, int], repairs: list[str]) -> Rle:
        if region.mask is None:
            mask, found = draw(region.shape, image_size, self.options.line_width_px)
            repairs += found
            return mask
        height, width = region.mask["size"]
        if (height, width) != image_size:
            raise RegionFault(f"mask is {width} x {height} px, the film {image_size[1]} x {image_size[0]} px")
        return region.mask


def instance_of(attributes: Mapping[str, Any], labels: Options, wanted: str | None = None) -> str:
    """What joins the parts of one instance; "" for a region that stands alone.

    Args:
        attributes: Of the region.
        labels: What ids of options stand for.
        wanted: The attribute that says so; None takes the usual ones.
    """
    for name in (wanted,) if wanted is not None else _INSTANCE:
        if name in attributes and (choices := ticked(attributes, name, labels)):
            return ", ".join(texts[-1] for texts in choices)
    return ""


def _is_drawn(shape: Mapping[str, Any], repairs: list[str]) -> bool:
    return shape.get("name") == "polygon" and not any("itself" in reason for reason in repairs)


def _point_repairs(shape: Mapping[str, Any], image_size: tuple[int, int]) -> list[str]:
    # A point needs no class of its own, only a place.
    x, y = place(shape)
    inside = 0 <= x <= image_size[1] and 0 <= y <= image_size[0]
    return [] if inside else ["point lies outside of the film: kept"]


def named_level(attributes: Mapping[str, Any], level: str | None, labels: Options) -> str | None:
    """The level that something else than the text of `level` names: its option's label or tick, or the class.

    Args:
        attributes: Of the region.
        level: What the class value names.
        labels: What ids of options stand for.
    """
    choices = ticked(attributes, "level", labels) if "level" in attributes else []
    if not choices:
        return level
    texts = [text for choice in choices for text in choice]
    is_option = len(texts) == 2 or isinstance(attributes["level"], Mapping)
    return level_name(texts[0]) if is_option else None
