"""Attributes of VIA regions completed, so that reading these again gives the same annotations."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vertinst.errors import DataError
from vertinst.structures.dataset import Annotation, Dataset

from . import _via_definitions as definitions
from ._classes import ClassReader, choose_classes, ticked, truth
from ._parts import instance_of, named_level
from ._shapes import RegionFault
from ._source import Entry, Options, Region, as_mapping
from ._via_parts import Film, Part

__all__ = ["class_attribute", "name_all"]

Section = dict[str, dict[str, Any]]

_LEVELS = ("level", "höhe")


def class_attribute(dataset: Dataset, films: Sequence[Film], section: Section) -> tuple[str | None, ClassReader | None]:
    """See to it that an attribute names the class of every region: the source's own, completed where it is blank.

    Args:
        dataset: Whose categories become the options, where an attribute is added.
        films: Their regions get the attribute.
        section: Definitions of the region attributes; gets its definition.

    Returns:
        Name of the attribute, None if there is no annotation, and how it is read.
    """
    if not any(film.groups for film in films):
        return None, None
    options = _options(section)
    entries = [_entry(film, options) for film in films]
    regions = [(a.category, p) for f in films for a, parts in f.groups for p in parts if not p.is_point]
    present = dict.fromkeys(name for e in entries for r in e.regions for name in r.attributes)
    for requested in (None, *present):
        try:
            reader = choose_classes(entries, requested, None)
        except DataError:
            continue
        lacking = [(c, p) for c, p in regions if not _reads_as(c, p, reader, options)]
        if not lacking:
            return reader.attribute, reader
        if len(lacking) < len(regions) and _can_complete(lacking, reader.attribute, options):
            return _complete(lacking, reader, films, section)
    taken = present.keys() | section.keys()
    name = next(n for n in ("class", *(f"vertinst_class{n or ''}" for n in range(len(taken) + 1))) if n not in taken)
    definitions.define_classes(section, name, dataset.categories)
    for category, part in regions:
        part.attributes[name] = category
    options = _options(section)
    return name, choose_classes([_entry(film, options) for film in films], name, None)


def _can_complete(lacking: Sequence[tuple[str, Part]], name: str | None, options: Options) -> bool:
    """Whether regions lack the class only because the attribute is blank; a level is no place for a class."""
    if name is None or name.casefold() in _LEVELS:
        return False
    return not any(ticked(part.attributes, name, options) for _, part in lacking)


def _complete(
    lacking: Sequence[tuple[str, Part]], reader: ClassReader, films: Sequence[Film], section: Section
) -> tuple[str | None, ClassReader]:
    name = reader.attribute or ""
    labels = _options(section).region.get(name, {})
    for category, part in lacking:
        fitting = (i for i, label in labels.items() if category in (_class_of(label, reader), label))
        part.attributes[name] = definitions.choose(section, name, next(fitting, category))
    options = _options(section)
    return name, choose_classes([_entry(film, options) for film in films], name, None)


def _class_of(label: str, reader: ClassReader) -> str | None:
    found = reader.names.find(label)
    return found.category if found is not None else None


def _entry(film: Film, options: Options) -> Entry:
    written = [(p.shape, p.attributes) for _, parts in film.groups for p in parts]
    unread = [(as_mapping(r, "shape_attributes"), as_mapping(r, "region_attributes")) for r in film.image.unread]
    regions = tuple(Region(n, shape, attributes) for n, (shape, attributes) in enumerate([*written, *unread]))
    return Entry("", film.image.file_name, {}, regions, options)


def _options(section: Section) -> Options:
    return Options(region=definitions.labels_of(section), definitions={"region": section})


def _reads_as(category: str, part: Part, reader: ClassReader, options: Options) -> bool:
    """Whether a region's class is read again as this category, or is literally this one."""
    try:
        if reader.read(part.attributes, options)[0] == category:
            return True
    except RegionFault:
        pass
    named = ticked(part.attributes, reader.attribute, options) if reader.attribute is not None else []
    return len(named) == 1 and category in named[0]


def name_all(films: Iterable[Film], reader: ClassReader | None, section: Section) -> None:
    """Complete level, `ignore` and instance in the attributes of all regions.

    The level is added where nothing else names it, `ignore` where only the annotation says so. Regions of one
    annotation share a value of the instance attribute that no other annotation of the film has: their own, or a new
    one.

    Args:
        films: Their regions get the attributes.
        reader: How the class is read, from `class_attribute`.
        section: Complete definitions of the region attributes; options are added where one is needed.
    """
    options = _options(section)
    for film in films:
        for annotation, parts in film.groups:
            outlines = [p for p in parts if not p.is_point]
            if reader is not None and annotation.level is not None:
                _name_level(annotation, parts, reader, options, section)
            if any(truth(p.attributes, "ignore", options) for p in outlines) != annotation.ignore:
                for part in outlines:
                    part.attributes["ignore"] = definitions.choose(section, "ignore", "1" if annotation.ignore else "0")
        _name_instances(film, options, section)


def _name_level(
    annotation: Annotation, parts: Sequence[Part], reader: ClassReader, options: Options, section: Section
) -> None:
    merged: dict[str, Any] = {}
    for part in reversed(parts):
        merged |= part.attributes
    outlines = [part for part in parts if not part.is_point]
    levels = (_level(p.attributes, reader, options) for p in outlines)
    named = next((level for level in levels if level is not None), None)
    if replace(annotation, attributes=merged, named_level=named).level != annotation.level:
        for part in outlines:
            part.attributes["level"] = definitions.choose(section, "level", annotation.level or "")


def _level(attributes: Mapping[str, Any], reader: ClassReader, options: Options) -> str | None:
    """The level that something else than the text of `level` names, as it will be read."""
    try:
        by_class = reader.read(attributes, options)[1]
    except RegionFault:
        by_class = None
    return named_level(attributes, by_class, options)


def _name_instances(film: Film, options: Options, section: Section) -> None:
    unread = [as_mapping(r, "region_attributes") for r in film.image.unread]
    used = {instance_of(attributes, options) for attributes in unread}
    used |= {instance_of(p.attributes, options) for _, parts in film.groups for p in parts}
    claimed: set[tuple[str, str]] = set()
    claimed_values: set[str] = set()
    numbers = map(str, itertools.count(1))
    for annotation, parts in film.groups:
        values = {instance_of(p.attributes, options) for p in parts}
        value = values.pop() if len(values) == 1 else ""
        points = any(p.is_point for p in parts)
        clash = (value, annotation.category) in claimed or (points and value in claimed_values)
        if (value and clash) or (not value and len(parts) > 1):
            value = next(text for text in numbers if text not in used)
            for part in parts:
                part.attributes["instance"] = definitions.choose(section, "instance", value)
        used.add(value)
        claimed.add((value, annotation.category))
        claimed_values.add(value)
