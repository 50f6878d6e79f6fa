"""Annotations as VIA regions, before anything is added to their attributes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vertinst.structures import rle as rle_masks
from vertinst.structures.conversion import Skip
from vertinst.structures.dataset import Annotation, ImageRecord
from vertinst.structures.rle import Rle

from ._draw import rasterise
from ._mask_polygons import Points, simple_polygons, thinned_polygons
from ._shapes import RegionFault, trace, trace_line

__all__ = ["Film", "Part", "regions_of"]

# VIA's regions have a place even where there is nothing to draw.
_NOWHERE = {"name": "polygon", "all_points_x": [0, 0, 0], "all_points_y": [0, 0, 0]}


@dataclass(frozen=True)
class Part:
    """One region to be written; its attributes are still completed."""

    shape: Mapping[str, Any]
    attributes: dict[str, Any]

    @property
    def is_point(self) -> bool:
        """Whether it is a landmark of an instance, not an outline."""
        return bool(self.shape.get("name") == "point")


@dataclass(frozen=True)
class Film:
    """The regions of one film.

    Attributes:
        image: The film.
        groups: Each annotation with its regions.
    """

    image: ImageRecord
    groups: tuple[tuple[Annotation, tuple[Part, ...]], ...]


def regions_of(image: ImageRecord, losses: list[Skip], tolerance_px: float = 0.0) -> Film:
    """The regions of a film as they are, before anything is added to their attributes.

    Outlines are written vertex by vertex with the attributes that each had. What the mask has beyond them is written as
    polygons, and all of it where there is no outline, or one that does not belong to the mask: it covers more, or
    nothing can be drawn of it. Keypoints that no point among the outlines stands for become points.
    An annotation without a pixel becomes a polygon of no area in the corner of the film, so that its attributes stay.

    Args:
        image: The film.
        losses: Told of outlines that were left out, and of polygons that were thinned.
        tolerance_px: See `thinned_polygons`, which polygons of masks without outlines pass through if it is above 0.
    """
    groups = []
    before = after = 0
    for number, annotation in enumerate(image.annotations):
        covered = _covered(annotation)
        polygons = _beyond(annotation, covered)
        is_drawn = any(o.get("name") != "point" for o in annotation.outlines)
        if covered is None and is_drawn:
            reason = "its outline does not belong to its mask: the mask's own is written"
            losses.append(Skip("", image.file_name, number, reason, repaired=True))
        if tolerance_px and not is_drawn:
            thin = thinned_polygons(polygons, tolerance_px)
            before, after = before + sum(map(len, polygons)), after + sum(map(len, thin))
            if len(thin) < len(polygons):
                reason = f"{len(polygons) - len(thin)} specks of less than the tolerance left out"
                losses.append(Skip("", image.file_name, number, reason, repaired=True))
            polygons = thin
        groups.append((annotation, tuple(_parts(annotation, polygons, keep=covered is not None))))
    if after < before:
        reason = f"masks without outlines drawn with {after} points for {before}, moved by at most {tolerance_px:g} px"
        losses.append(Skip("", image.file_name, None, reason, repaired=True))
    return Film(image, tuple(groups))


def _beyond(annotation: Annotation, covered: Rle | None) -> list[Points]:
    """Polygons of what the outlines do not cover."""
    if covered is annotation.mask:
        return []
    rest = annotation.mask if covered is None else rle_masks.difference(annotation.mask, covered)
    return simple_polygons(rest)


def _parts(annotation: Annotation, polygons: Sequence[Points], *, keep: bool) -> Iterator[Part]:
    """Regions of one annotation: its points, its outlines where they are to be kept, and the polygons."""
    own = annotation.part_attributes
    drawn = len(polygons)
    for number, outline in enumerate(annotation.outlines):
        is_point = outline.get("name") == "point"
        if is_point or keep:
            drawn += not is_point
            yield Part(dict(outline), dict(own[number] if number < len(own) else annotation.attributes))
    for points in polygons:
        shape = {"name": "polygon", "all_points_x": points[:, 0].tolist(), "all_points_y": points[:, 1].tolist()}
        yield Part(shape, dict(annotation.attributes))
    if not drawn:
        yield Part(dict(_NOWHERE), dict(annotation.attributes))
    there = [(o.get("cx"), o.get("cy")) for o in annotation.outlines if o.get("name") == "point"]
    for name, (x, y) in annotation.keypoints.items():
        if (x, y) in there:
            there.remove((x, y))
        else:
            yield Part({"name": "point", "cx": x, "cy": y}, {"keypoint": name})


def _covered(annotation: Annotation) -> Rle | None:
    """What of the mask the outlines cover.

    None if there is no outline, one that covers what the mask does not, or one that cannot be drawn.
    """
    outlines = [o for o in annotation.outlines if o.get("name") != "point"]
    if not outlines:
        return None
    if annotation.drawn:
        return annotation.mask
    size = (int(annotation.mask["size"][0]), int(annotation.mask["size"][1]))
    try:
        if any(_is_line(outline) for outline in outlines):
            # Its width is not known here: its mask is taken to be the annotation's.
            return annotation.mask
        union = rle_masks.union([rasterise(trace(outline), size)[0] for outline in outlines], size)
    except RegionFault:
        return None
    if union["counts"] == annotation.mask["counts"]:
        return annotation.mask
    return union if rle_masks.area(rle_masks.difference(union, annotation.mask)) == 0 else None


def _is_line(outline: Mapping[str, Any]) -> bool:
    """Whether an outline is an open line.

    Raises:
        RegionFault: It is one, but its numbers cannot be used.
    """
    if outline.get("name") != "polyline":
        return False
    trace_line(outline)
    return True
