"""Masks as COCO run-length encodings: the one rasteriser, the one polygoniser, and set operations on runs.

An RLE counts pixels down the columns, first those outside the mask. Coordinates are COCO's: the pixel in column i and
row j covers [i, i + 1) x [j, j + 1). Masks may have any number of parts and holes, or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from vertinst.errors import DataError
from vertinst.structures.recent import recent

__all__ = [
    "MAX_PIXELS",
    "Polygon",
    "Rle",
    "area",
    "areas",
    "box_xyxy",
    "boxes_xywh",
    "complement",
    "decode",
    "decode_crop",
    "difference",
    "draw_each",
    "empty",
    "encode",
    "from_coco",
    "from_edges",
    "intersection",
    "intersection_over_smaller",
    "iou",
    "paste",
    "polygons_to_rle",
    "rle_to_polygons",
    "runs",
    "to_coco",
    "union",
]

Rle: TypeAlias = dict[str, Any]
"""COCO's compressed form: `{"size": [height, width], "counts": bytes}`."""

# The rasteriser walks along an outline in steps of a fifth of a pixel and keeps them all: about 200 MB at this length.
MAX_OUTLINE_PX = 2_000_000.0
# So many chunks of five bits hold every run that an image of `MAX_PIXELS` can have, and no sum of them is too large.
MAX_CHUNKS = 7
_MERGED_AT_ONCE = 16
# Crops up to this size are kept for the next who asks.
_SMALL_PX = 2**18
# 20,000 x 20,000: far above any film, far below what would exhaust a workstation as one bool mask.
MAX_PIXELS = 400_000_000


class Polygon(NamedTuple):
    """One connected part of a mask.

    Attributes:
        exterior: (V, 2) float64 xy px, V >= 3, not closed.
        holes: Holes likewise, possibly none.
    """

    exterior: npt.NDArray[np.float64]
    holes: tuple[npt.NDArray[np.float64], ...]


def check_size(image_size: Sequence[int]) -> tuple[int, int]:
    """Return (height, width) as ints, refusing sizes below 1 or above `MAX_PIXELS` in all.

    Raises:
        DataError: The size is out of range.
    """
    height, width = (int(v) for v in image_size)
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise DataError(
            f"image size must be at least 1 x 1 and at most {MAX_PIXELS} pixels, got {height} x {width}",
            fix="Check the width and height in the file.",
        )
    return height, width


def empty(image_size: Sequence[int]) -> Rle:
    """RLE of a mask without any pixel, for an image of (height, width)."""
    height, width = check_size(image_size)
    return _from_runs(np.array([height * width]), (height, width))


def encode(mask: npt.NDArray[Any]) -> Rle:
    """Encode a dense mask (H, W); whatever is not zero belongs to it."""
    check_size(mask.shape)
    return dict(coco_mask.encode(np.asfortranarray(mask, dtype=bool).view(np.uint8)))


def decode(rle: Rle) -> npt.NDArray[np.bool_]:
    """Dense mask (H, W) bool of an RLE."""
    check_size(rle["size"])
    return np.asarray(coco_mask.decode(rle), dtype=np.uint8).view(np.bool_)


def decode_crop(rle: Rle) -> tuple[npt.NDArray[np.bool_], int, int]:
    """The mask within its tight box; work and memory are those of the box.

    Returns:
        (h, w) bool, read-only, left and top of the box, px; (0, 0) bool, 0 and 0 for an empty mask.
    """
    left, top, right, bottom = _bounds(rle)
    crop = _small_crop if (bottom - top) * (right - left) <= _SMALL_PX else _crop
    return crop(rle), left, top


def _crop(rle: Rle) -> npt.NDArray[np.bool_]:
    left, top, right, bottom = _bounds(rle)
    height, width = bottom - top, right - left
    if width <= 0:
        return np.zeros((0, 0), dtype=np.bool_)
    ends = np.cumsum(runs(rle))
    # Pixels go down the columns. A run that goes on in the next column fills the box from top to bottom there, so that
    # in the box its pixels follow each other too.
    changes = np.zeros(height * width + 1, dtype=np.int8)
    for positions, change in ((ends[:-1:2], 1), (ends[1::2] - 1, -1)):
        columns, rows = np.divmod(positions, int(rle["size"][0]))
        changes[(columns - left) * height + rows - top + (change < 0)] += change
    inside = np.cumsum(changes[:-1], dtype=np.int8).view(np.bool_)
    inside.flags.writeable = False
    return inside.reshape(width, height).T


_small_crop = recent(_crop)


@recent
def _bounds(rle: Rle) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the tight box."""
    x, y, width, height = coco_mask.toBbox(rle).astype(np.int64).tolist()
    return x, y, x + width, y + height


@recent
def runs(rle: Rle) -> npt.NDArray[np.int64]:
    """Lengths of the runs, outside first, read-only; they add up to H x W. Packing: pycocotools' maskApi.c.

    Raises:
        DataError: The counts are not a valid packing.
    """
    packed = np.frombuffer(rle["counts"], dtype=np.uint8).astype(np.int64) - 48
    if packed.size == 0:
        return packed
    ends = np.flatnonzero((packed & 32) == 0)
    chunks = np.diff(ends, prepend=-1)
    if packed.min() < 0 or packed.max() > 63 or packed[-1] & 32 or chunks.max() > MAX_CHUNKS:
        raise DataError("RLE counts are damaged", fix="Write the masks again.")
    starts = ends + 1 - chunks
    places = np.arange(len(packed)) - np.repeat(starts, chunks)
    lengths = np.add.reduceat((packed & 31) << (5 * places), starts)
    lengths -= np.where(packed[ends] & 16, np.int64(1) << (5 * chunks), 0)
    # From the fourth run on, the packing stores the difference to the run before the last.
    for first in (1, 2):
        lengths[first::2] = np.cumsum(lengths[first::2])
    lengths.flags.writeable = False
    return lengths


def _from_runs(lengths: npt.NDArray[np.int64], image_size: tuple[int, int]) -> Rle:
    if (lengths[1:] == 0).any():
        lengths = _without_empty(lengths)
    return dict(coco_mask.frPyObjects({"size": list(image_size), "counts": lengths}, *image_size))


def _without_empty(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The same runs in their only form: pycocotools' set operations write past their memory where a run is empty."""
    kept = np.flatnonzero(lengths)
    inside = kept % 2
    starts = np.flatnonzero(np.diff(inside, prepend=-1))
    joined = np.add.reduceat(lengths[kept], starts)
    return np.concatenate([np.zeros(1, dtype=np.int64), joined]) if inside[0] else joined


def from_coco(segmentation: Any, image_size: Sequence[int]) -> Rle:
    """Read a COCO `segmentation` from a stranger's file: polygons, uncompressed or compressed RLE.

    Args:
        segmentation: A list of flat polygons, or a dict with `size` and `counts`.
        image_size: (height, width) of the image.

    Raises:
        DataError: Wrong type, a size other than the image's, runs that do not add up to the image.
    """
    height, width = check_size(image_size)
    try:
        if isinstance(segmentation, list):
            polygons = [np.asarray(p, dtype=np.float64).reshape(-1, 2) for p in segmentation]
            return polygons_to_rle(polygons, (height, width))
        return _from_coco_runs(segmentation, (height, width))
    except OverflowError as error:
        # An infinity, or an integer of any length.
        what = "polygon coordinates" if isinstance(segmentation, list) else "RLE counts"
        raise DataError(f"{what} are damaged", fix="Write the file again.") from error
    except (TypeError, ValueError, IndexError) as error:
        raise DataError("segmentation must be polygons or an RLE of the image", fix="Write the file again.") from error


def _from_coco_runs(segmentation: Any, image_size: tuple[int, int]) -> Rle:
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise DataError("segmentation must be polygons or an RLE with size and counts", fix="Write the file again.")
    height, width = image_size
    if [int(v) for v in segmentation["size"]] != [height, width]:
        raise DataError(
            f"RLE must have the image's size [{height}, {width}], got {segmentation['size']}",
            fix="Check that the masks belong to this image.",
        )
    counts = segmentation["counts"]
    if isinstance(counts, list):
        lengths = np.asarray(counts, dtype=np.int64)
    elif isinstance(counts, str | bytes):
        raw = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
        lengths = runs({"size": [height, width], "counts": raw})
    else:
        # Anything else is never made into bytes: of an integer that would take as many of them.
        raise DataError("RLE counts must be a text or a list of integers", fix="Write the file again.")
    # Python's integers: numpy's sum could wrap around to the right one.
    total = sum(lengths.tolist())
    if lengths.size and (lengths.min() < 0 or total != height * width):
        raise DataError(f"RLE runs must add up to {height * width} pixels, got {total}", fix="Write the masks again.")
    # pycocotools does not check that runs fit the image before it writes: only counts checked here reach it.
    return _from_runs(lengths, image_size) if lengths.size else empty(image_size)


def to_coco(rle: Rle) -> dict[str, Any]:
    """RLE with its counts as text, as JSON wants it."""
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")}


def polygons_to_rle(polygons: Sequence[npt.NDArray[np.float64]], image_size: Sequence[int]) -> Rle:
    """Rasterise the union of simple polygons: the one rasteriser (pycocotools').

    Args:
        polygons: Each (V, 2) float xy px, V >= 3, open or closed. None gives the empty mask. What lies outside of the
            image is cut off.
        image_size: (height, width).

    Raises:
        DataError: A polygon has fewer than three points, a coordinate that is not finite, or an outline longer than
            `MAX_OUTLINE_PX`.
    """
    height, width = check_size(image_size)
    flat = []
    for polygon in polygons:
        if polygon.ndim != 2 or polygon.shape[0] < 3 or polygon.shape[1] != 2 or not np.isfinite(polygon).all():
            raise DataError(
                f"polygon must be (V >= 3, 2) finite numbers, got shape {polygon.shape}", fix="Draw the region again."
            )
        # The rasteriser works in 32-bit integers at five times the size: bound what a hostile file may ask of it.
        clipped = np.clip(polygon, -1e5, 1e5).astype(np.float64)
        length = np.abs(np.diff(clipped, axis=0, append=clipped[:1])).max(axis=1).sum()
        if length > MAX_OUTLINE_PX:
            raise DataError(
                f"outline must be at most {MAX_OUTLINE_PX:.0f} px long, got {length:.0f}", fix="Draw the region again."
            )
        flat.append(clipped.ravel().tolist())
    if not flat:
        return empty((height, width))
    return dict(coco_mask.merge(coco_mask.frPyObjects(flat, height, width)))


def draw_each(polygons: Sequence[npt.NDArray[np.float64]], image_size: tuple[int, int]) -> list[Rle]:
    """Rasterise simple polygons, one mask for each, as `polygons_to_rle` would, but unchecked and many at a time.

    Args:
        polygons: Each (V, 2) float64 xy px, V >= 3, known to be finite, within +-1e5 and no longer than
            `MAX_OUTLINE_PX`. Possibly none.
        image_size: (height, width), known to be in range.
    """
    flat = [polygon.ravel() for polygon in polygons]
    return list(coco_mask.frPyObjects(flat, *image_size)) if flat else []


def rle_to_polygons(rle: Rle) -> list[Polygon]:
    """Outlines of a mask: the one polygoniser. Rasterised again they give the same mask.

    They run through the middles of the sides that pixels of the mask share with others: between two neighbouring
    centres, one inside and one outside, that is nowhere more than half a pixel from where the edge really was. (Add
    0.2 px for a polygon that the rasteriser has drawn: it rounds to fifths.) None of them crosses or touches itself.

    Returns:
        One `Polygon` per 8-connected part, largest first, read-only; none for an empty mask.
    """
    return list(_polygons(rle))


@recent
def _polygons(rle: Rle) -> tuple[Polygon, ...]:
    patch, left, top = decode_crop(rle)
    if not patch.size:
        return ()
    doubled = np.repeat(np.repeat(patch.view(np.uint8), 2, axis=0), 2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(2 * left, 2 * top))
    outlines = [_through_sides(contour.reshape(-1, 2)) for contour in contours]
    holes: dict[int, list[npt.NDArray[np.float64]]] = {}
    for outline, (_, _, _, parent) in zip(outlines, hierarchy[0], strict=True):
        if parent >= 0:
            holes.setdefault(int(parent), []).append(outline)
    parts = [
        Polygon(outline, tuple(holes.get(index, ())))
        for index, (outline, (_, _, _, parent)) in enumerate(zip(outlines, hierarchy[0], strict=True))
        if parent < 0
    ]
    return tuple(sorted(parts, key=lambda part: -cv2.contourArea(part.exterior.astype(np.float32))))


def _through_sides(contour: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Middles of the sides of pixels along a contour that was followed on a mask of twice the size."""
    # Odd and even pixels of the doubled mask lie left and right of the middles of pixels: their corners are these.
    corners = (contour + 1) // 2
    steps = np.roll(corners, -1, axis=0) - corners
    lengths = np.abs(steps).sum(axis=1)
    corners, steps, lengths = corners[lengths > 0], steps[lengths > 0], lengths[lengths > 0]
    half = steps / (2 * lengths[:, None])
    middles = np.stack([corners + half, corners + steps - half], axis=1).reshape(-1, 2)
    # The first and the last side of a straight run are the same where it is one pixel long.
    kept: npt.NDArray[np.float64] = middles[np.stack([lengths > 0, lengths > 1], axis=1).ravel()]
    kept.flags.writeable = False
    return kept


def area(rle: Rle) -> int:
    """Number of pixels."""
    return int(coco_mask.area(rle))


def areas(masks: Sequence[Rle]) -> npt.NDArray[np.int64]:
    """Number of pixels of each mask, (N,)."""
    # pycocotools 2.0.11 holds the number of masks in a byte.
    blocks = (list(masks[start : start + 255]) for start in range(0, len(masks), 255))
    return np.concatenate([np.zeros(0, dtype=np.int64), *(coco_mask.area(block).astype(np.int64) for block in blocks)])


def boxes_xywh(masks: Sequence[Rle]) -> npt.NDArray[np.float64]:
    """Tight boxes (N, 4) xywh px, as COCO wants them; zeros for an empty mask."""
    return np.asarray(coco_mask.toBbox(list(masks)), dtype=np.float64) if masks else np.zeros((0, 4))


def box_xyxy(rle: Rle) -> npt.NDArray[np.float32]:
    """Tight box (4,) float32 xyxy px, right and bottom exclusive; zeros for an empty mask."""
    x, y, width, height = coco_mask.toBbox(rle)
    return np.array([x, y, x + width, y + height], dtype=np.float32)


def union(masks: Sequence[Rle], image_size: Sequence[int]) -> Rle:
    """Pixels in any of the masks; the empty mask for none."""
    parts = list(masks)
    # pycocotools adds one mask after the other to all before: of thousands that takes quadratic time.
    while len(parts) > _MERGED_AT_ONCE:
        blocks = range(0, len(parts), _MERGED_AT_ONCE)
        parts = [coco_mask.merge(parts[start : start + _MERGED_AT_ONCE]) for start in blocks]
    return dict(coco_mask.merge(parts)) if parts else empty(image_size)


def intersection(a: Rle, b: Rle) -> Rle:
    """Pixels in both."""
    return dict(coco_mask.merge([a, b], intersect=True))


def complement(rle: Rle) -> Rle:
    """Pixels outside."""
    lengths = runs(rle)
    flipped = lengths[1:] if lengths[0] == 0 else np.concatenate([[0], lengths])
    height, width = rle["size"]
    return _from_runs(flipped, (int(height), int(width)))


def difference(a: Rle, b: Rle) -> Rle:
    """Pixels in `a` and not in `b`."""
    return intersection(a, complement(b))


def iou(a: Sequence[Rle], b: Sequence[Rle]) -> npt.NDArray[np.float64]:
    """Intersection over union of all pairs, (len(a), len(b)) float64; 0 where both are empty."""
    return _pairwise(a, b, over_first=False)


def intersection_over_smaller(a: Sequence[Rle], b: Sequence[Rle]) -> npt.NDArray[np.float64]:
    """Intersection over the smaller area of all pairs, (len(a), len(b)) float64; 0 where one is empty."""
    # With COCO's `iscrowd` pycocotools divides by the area of the first: the intersection follows.
    shared = _pairwise(a, b, over_first=True) * np.array([area(m) for m in a], dtype=np.float64).reshape(-1, 1)
    smaller = np.minimum.outer([area(m) for m in a], [area(m) for m in b]).astype(np.float64)
    return np.divide(shared, smaller, out=np.zeros_like(shared), where=smaller > 0)


def _pairwise(a: Sequence[Rle], b: Sequence[Rle], *, over_first: bool) -> npt.NDArray[np.float64]:
    if not a or not b:
        return np.zeros((len(a), len(b)))
    ratios = np.asarray(coco_mask.iou(list(a), list(b), [int(over_first)] * len(b)), dtype=np.float64)
    return np.nan_to_num(ratios.reshape(len(a), len(b)))


def paste(patch: npt.NDArray[np.bool_], top: int, left: int, image_size: Sequence[int]) -> Rle:
    """RLE of a patch placed in an otherwise empty image; work and memory are those of the patch.

    Args:
        patch: (h, w) bool, wholly inside of the image.
        top: Row of its first row.
        left: Column of its first column.
        image_size: (height, width).
    """
    height, width = check_size(image_size)
    rows, columns = patch.shape
    if rows == 0 or columns == 0 or not patch.any():
        return empty((height, width))
    columns_first = np.zeros((columns, rows + 2), dtype=np.int8)
    columns_first[:, 1:-1] = patch.T
    column, row = np.nonzero(np.diff(columns_first, axis=1))
    return from_edges((column + left).astype(np.int64) * height + row + top, (height, width))


def from_edges(edges: npt.NDArray[np.int64], image_size: Sequence[int]) -> Rle:
    """RLE by the places where the mask begins and ends.

    Args:
        edges: (2 K,) int64, never falling and at most height x width: by turns the first pixel of a run and the one
            after its last, counted down the columns. Runs of no pixel, and runs that touch, are fine; none gives the
            empty mask.
        image_size: (height, width).
    """
    height, width = check_size(image_size)
    bounds = np.concatenate(([0], edges, [height * width]))
    return _from_runs(bounds[1:] - bounds[:-1], (height, width))
