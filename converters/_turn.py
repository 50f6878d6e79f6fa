"""Annotations drawn on a film as it is stored, turned with the film to where its EXIF orientation puts it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from vertinst.data.radiograph import TURNS
from vertinst.structures import rle as rle_masks
from vertinst.structures.rle import Rle

from ._source import Region

__all__ = ["turn", "turn_mask", "turn_regions"]

_LISTS = ("all_points_x", "all_points_y")
_SINGLE = ("x", "y", "width", "height", "cx", "cy", "r", "rx", "ry", "theta")


def turn(shape: Mapping[str, Any], orientation: int, stored_size: tuple[int, int]) -> dict[str, Any]:
    """A VIA shape on the upright film that covers what `shape` covers on the stored one.

    Exact: coordinates are mirrored and swapped, and whole numbers stay whole. Rectangles keep the sign of their sizes
    and outlines the order of their points; an ellipse gets its radii swapped rather than another quarter turn in
    `theta`. A shape with something else than numbers where they belong is left alone: nothing can be drawn of it.

    Args:
        shape: `shape_attributes` as found in a file; may be anything.
        orientation: EXIF orientation, 1..8.
        stored_size: (height, width) px of the film as stored.

    Returns:
        The shape with all its other keys.
    """
    lists = [shape[key] for key in _LISTS if key in shape]
    single = [shape[key] for key in _SINGLE if key in shape]
    if not (all(isinstance(values, list) for values in lists) and all(map(_is_number, chain(single, *lists)))):
        return dict(shape)
    height, width = stored_size
    quarters, mirrored = TURNS[orientation]
    swapped = quarters % 2 == 1
    # Along each axis as stored: whether the upright film counts it from its other end.
    from_right = quarters in (1, 2)
    from_bottom = quarters in (2, 3)
    # After a quarter turn, what is left to right was top to bottom.
    if mirrored and swapped:
        from_bottom = not from_bottom
    elif mirrored:
        from_right = not from_right
    turned = dict(shape)
    for x, y in (("all_points_x", "all_points_y"), ("x", "y"), ("cx", "cy")):
        if x in shape and y in shape:
            along = _flip(shape[x], width, shape.get("width", 0) if x == "x" else 0) if from_right else shape[x]
            down = _flip(shape[y], height, shape.get("height", 0) if x == "x" else 0) if from_bottom else shape[y]
            turned[x], turned[y] = (down, along) if swapped else (along, down)
    if swapped:
        for one, other in (("width", "height"), ("rx", "ry")):
            if one in shape and other in shape:
                turned[one], turned[other] = shape[other], shape[one]
    if mirrored and shape.get("theta"):
        turned["theta"] = -shape["theta"]
    return turned


def turn_mask(mask: Rle, orientation: int) -> Rle:
    """Mask of the stored film as it lies on the upright one."""
    quarters, mirrored = TURNS[orientation]
    upright = np.rot90(rle_masks.decode(mask), quarters)
    return rle_masks.encode(upright[:, ::-1] if mirrored else upright)


def turn_regions(regions: Sequence[Region], orientation: int, stored_size: tuple[int, int]) -> tuple[Region, ...]:
    """Regions drawn on the stored film, on the upright one; masks of another size than the stored are left alone."""
    return tuple(
        replace(
            region,
            shape=turn(region.shape, orientation, stored_size),
            mask=turn_mask(region.mask, orientation)
            if region.mask is not None and tuple(region.mask["size"]) == stored_size
            else region.mask,
        )
        for region in regions
    )


def _flip(value: Any, length: int, size: Any) -> Any:
    """A coordinate, or a list of them, counted from the other end; of an extent, where it now starts."""
    return [length - v for v in value] if isinstance(value, list) else length - (value + size)


def _is_number(value: Any) -> bool:
    # Compared, not converted: an integer of any length may stand here. NaN is not below anything.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
