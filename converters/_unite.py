"""Parts of a film as its annotations: those of one instance together, with the points that belong to it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vertinst.structures import rle as rle_masks
from vertinst.structures.dataset import Annotation
from vertinst.structures.rle import Rle

from ._mask_polygons import simple_polygons
from ._parts import Part
from ._source import Region, tidy

__all__ = ["as_via", "unite"]

_POINTS = ("all_points_x", "all_points_y")
_POLYGON = {"name", *_POINTS}
_ALONE = "point of no instance: needs its `instance`"
_AMBIGUOUS = "point of an `instance` that is in several classes: left out"
_OTHER_LEVEL = "names another level than the other parts of its instance: theirs taken"
_POINT_NAMES = ("keypoint", "corner", "landmark", "ecke", "punkt", "point")


def unite(
    parts: Sequence[Part], image_size: tuple[int, int], homes: Mapping[tuple[int, str], int]
) -> tuple[tuple[Annotation, ...], list[tuple[Part, str, bool]]]:
    """Make annotations of a film's parts.

    Args:
        parts: In the order of the files; their masks of the film's size.
        image_size: (height, width) px.
        homes: Instances that are those of another entry; see `Repeats`.

    Returns:
        Annotations in the order of their first parts, and parts with what is to be said of them: points that belong to
        none or to several, which are left out, and parts whose level is not that of their instance, which are kept.
        Outlines of an annotation are in the order of its parts, its points after them.
    """
    groups: dict[tuple[Any, ...], list[Part]] = {}
    for number, part in enumerate(parts):
        if part.mask is not None:
            shared = (*_owner(part, homes), part.category) if part.instance else (number,)
            groups.setdefault(shared, []).append(part)
    owners: dict[tuple[int, str], list[list[Part]]] = {}
    for group in groups.values():
        if group[0].instance:
            owners.setdefault(_owner(group[0], homes), []).append(group)
    remarks: list[tuple[Part, str, bool]] = []
    for point in (p for p in parts if p.mask is None):
        own = owners.get(_owner(point, homes), []) if point.instance else []
        if len(own) == 1:
            own[0].append(point)
        else:
            remarks.append((point, _AMBIGUOUS if own else _ALONE, False))
    annotations = tuple(_single(g[0]) if len(g) == 1 else _several(g, image_size) for g in groups.values())
    for annotation, group in zip(annotations, groups.values(), strict=True):
        if len(group) > 1:
            remarks += [(part, _OTHER_LEVEL, True) for part in group if _level(part) not in (None, annotation.level)]
    return annotations, remarks


def as_via(region: Region) -> Iterator[dict[str, Any]]:
    """A region as VIA writes it; one that has a mask instead of a shape as polygons that cover the mask."""
    outlines: list[dict[str, Any]] = [dict(region.shape)]
    if region.mask is not None:
        outlines = [_polygon(*points.T.tolist()) for points in simple_polygons(region.mask)]
    for outline in outlines:
        yield {"shape_attributes": tidy(outline), "region_attributes": dict(region.attributes)}


def _polygon(xs: list[float], ys: list[float]) -> dict[str, Any]:
    return {"name": "polygon", "all_points_x": xs, "all_points_y": ys}


def _owner(part: Part, homes: Mapping[tuple[int, str], int]) -> tuple[int, str]:
    key = (part.entry, part.instance)
    return homes.get(key, part.entry), part.instance


def _level(part: Part) -> str | None:
    """Level that a part would have alone; points have none."""
    if part.mask is None:
        return None
    return Annotation(part.category, part.mask, attributes=part.region.attributes, named_level=part.level).level


def _single(part: Part) -> Annotation:
    return Annotation(
        part.category,
        _mask(part),
        (_outline(part.region.shape),) if part.region.mask is None else (),
        part.region.attributes,
        ignore=part.ignore,
        named_level=part.level,
        drawn=part.drawn,
    )


def _several(group: Sequence[Part], image_size: tuple[int, int]) -> Annotation:
    areas = [p for p in group if p.mask is not None]
    outlined = [p.region for p in group if p.region.mask is None]
    attributes: dict[str, Any] = {}
    for part in reversed(group):
        attributes |= part.region.attributes
    differ = any(p.region.attributes != attributes for p in group)
    return Annotation(
        group[0].category,
        rle_masks.union([_mask(p) for p in areas], image_size),
        tuple(_outline(region.shape) for region in outlined),
        attributes,
        _keypoints([p.region for p in group if p.mask is None]),
        ignore=any(p.ignore for p in group),
        part_attributes=tuple(region.attributes for region in outlined) if differ else (),
        named_level=next((p.level for p in group if p.level is not None), None),
        drawn=all(p.drawn for p in areas),
    )


def _mask(part: Part) -> Rle:
    assert part.mask is not None
    return part.mask


def _outline(shape: Mapping[str, Any]) -> Mapping[str, Any]:
    if shape.keys() == _POLYGON:
        return shape
    # Of a polygon that was drawn the two long lists are known to hold finite numbers.
    known = _POINTS if shape["name"] == "polygon" else ()
    return {tidy(key): value if key in known else tidy(value) for key, value in shape.items()}


def _keypoints(points: Sequence[Region]) -> dict[str, tuple[float, float]]:
    """Points by name; those without one, or with one that is taken, are numbered."""
    result: dict[str, tuple[float, float]] = {}
    names = [_point_name(region) for region in points]
    taken = set(names)
    for number, (name, region) in enumerate(zip(names, points, strict=True), start=1):
        if not name or name in result:
            name = _numbered(number, taken)
            taken.add(name)
        result[name] = (region.shape["cx"], region.shape["cy"])
    return result


def _point_name(region: Region) -> str:
    return next((str(region.attributes[n]) for n in _POINT_NAMES if region.attributes.get(n)), "")


def _numbered(number: int, taken: set[str]) -> str:
    name = f"point_{number}"
    return name if name not in taken else next(n for i in itertools.count(2) if (n := f"{name}_{i}") not in taken)
