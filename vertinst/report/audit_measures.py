"""Sizes and overlaps of annotated instances, as arrays over a whole data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vertinst.structures import Annotation, Dataset, ImageRecord, rle

__all__ = ["MAX_OVERLAP_OBJECTS", "Measures", "histogram", "measure", "summary"]

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

MAX_OVERLAP_OBJECTS = 500
"""Films with more objects are not searched for overlaps, whose number grows with the square."""


@dataclass(frozen=True, eq=False)
class Measures:
    """N instances (none marked `ignore`), in the order of the data set, and P pairs of them that share pixels.

    Attributes:
        film: (N,) place of the film in the data set.
        number: (N,) number of the annotation in its film, from 0.
        category: (N,) place of the class in the data set's categories.
        boxes_xyxy: (N, 4) px, right and bottom exclusive; zeros for an empty mask.
        area_px: (N,) pixels.
        film_size: (N, 2) height and width of the film, px.
        reach_xy: (N, 2) largest x and y of the outlines as the source wrote them, px; 0 where there is none.
        pairs: (P, 2) rows of two instances of one film, the earlier first.
        iou: (P,) intersection over union, above 0.
        over_smaller: (P,) intersection over the smaller area, above 0.
        not_compared: Films with more than `MAX_OVERLAP_OBJECTS` instances, by place in the data set.
    """

    film: Numbers
    number: Numbers
    category: Numbers
    boxes_xyxy: Floats
    area_px: Floats
    film_size: Floats
    reach_xy: Floats
    pairs: Numbers
    iou: Floats
    over_smaller: Floats
    not_compared: tuple[int, ...]

    @property
    def sides_px(self) -> Floats:
        """(N, 2) width and height of the boxes, px."""
        return self.boxes_xyxy[:, 2:] - self.boxes_xyxy[:, :2]

    @property
    def area_share(self) -> Floats:
        """(N,) area as share of the film's, 0..1."""
        share: Floats = self.area_px / self.film_size.prod(axis=1)
        return share


def measure(dataset: Dataset) -> Measures:
    """Measure every instance that is not marked `ignore`, and what those of one film share; none gives empty arrays."""
    place = {name: number for number, name in enumerate(dataset.categories)}
    keys: list[tuple[int, int, int]] = []
    parts: list[Floats] = [np.empty((0, 9))]
    pairs: list[Floats] = [np.empty((0, 4))]
    not_compared: list[int] = []
    for film, image in enumerate(dataset.images):
        kept = [(number, a) for number, a in enumerate(image.annotations) if not a.ignore]
        if not kept:
            continue
        annotations = [annotation for _, annotation in kept]
        rows = _rows(image, annotations)
        if len(kept) > MAX_OVERLAP_OBJECTS:
            not_compared.append(film)
        elif len(kept) > 1:
            pairs.append(_overlaps(annotations, rows, len(keys)))
        keys += [(film, number, place[annotation.category]) for number, annotation in kept]
        parts.append(rows)
    whole = np.array(keys, dtype=np.int64).reshape(-1, 3)
    real, shared = np.concatenate(parts), np.concatenate(pairs)
    return Measures(
        film=whole[:, 0],
        number=whole[:, 1],
        category=whole[:, 2],
        boxes_xyxy=real[:, :4],
        area_px=real[:, 4],
        film_size=real[:, 5:7],
        reach_xy=real[:, 7:9],
        pairs=shared[:, :2].astype(np.int64),
        iou=shared[:, 2],
        over_smaller=shared[:, 3],
        not_compared=tuple(not_compared),
    )


def _rows(image: ImageRecord, annotations: Sequence[Annotation]) -> Floats:
    """(N, 9) box, area, height and width of the film, reach."""
    masks = [annotation.mask for annotation in annotations]
    rows = np.empty((len(masks), 9))
    rows[:, :4] = rle.boxes_xywh(masks)
    rows[:, 2:4] += rows[:, :2]
    rows[:, 4] = rle.areas(masks)
    rows[:, 5:7] = image.image_size
    for row, annotation in zip(rows, annotations, strict=True):
        reach = [_reach(outline) for outline in annotation.outlines] or [(0.0, 0.0)]
        row[7:] = reach[0] if len(reach) == 1 else np.max(reach, axis=0)
    return rows


def _reach(outline: Mapping[str, Any]) -> tuple[float, float]:
    """Largest x and y of a polygon's points; 0 for other shapes, and for points that are no numbers."""
    try:
        return float(max(outline["all_points_x"])), float(max(outline["all_points_y"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        return 0.0, 0.0


def _overlaps(annotations: Sequence[Annotation], rows: Floats, first_row: int) -> Floats:
    """(P, 4) pairs of a film that share pixels: rows of the two, IoU, intersection over the smaller."""
    left, top, right, bottom, area = rows[:, :5].T
    wide = np.minimum.outer(right, right) > np.maximum.outer(left, left)
    high = np.minimum.outer(bottom, bottom) > np.maximum.outer(top, top)
    boxes_meet = np.triu(wide & high, 1)
    meeting = np.flatnonzero(boxes_meet.any(axis=0) | boxes_meet.any(axis=1))
    masks = [annotations[row].mask for row in meeting.tolist()]
    ratios = np.triu(rle.iou(masks, masks), 1)
    a, b = np.nonzero(ratios)
    iou, a, b = ratios[a, b], meeting[a], meeting[b]
    # Union is both areas less the intersection.
    shared = iou * (area[a] + area[b]) / (1 + iou)
    return np.stack([first_row + a, first_row + b, iou, shared / np.minimum(area[a], area[b])], axis=1)


def summary(values: Floats) -> dict[str, float] | None:
    """Smallest, largest, and quantiles, rounded to four digits; None for no values."""
    if not len(values):
        return None
    names = ("min", "p5", "p25", "median", "p75", "p95", "max")
    quantiles = np.quantile(values, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1))
    return {name: float(f"{value:.4g}") for name, value in zip(names, quantiles.tolist(), strict=True)}


def histogram(values: Floats, edges: Floats) -> list[int]:
    """How many values lie between the edges; what lies beyond goes to the first or the last bin."""
    clipped = np.clip(values, edges[0], edges[-1])
    return [int(count) for count in np.histogram(clipped, edges)[0]]
