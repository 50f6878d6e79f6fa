"""Suppression of doubled detections: greedy, by score, on masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vertinst.postprocess.policy import Policy
from vertinst.structures import Instances, rle

__all__ = ["Suppression", "describe", "rank", "suppress"]

# Pairs whose boxes are compared at once: bounds the memory for thousands of instances.
_PAIRS_AT_ONCE = 200_000
# So many instances at most are taken at once that may remove each other.
_WIDEST = 16

Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]
Values = npt.NDArray[np.float64]


class Suppression(NamedTuple):
    """Result of `suppress`.

    Attributes:
        kept: Positions of the kept instances, best first.
        log: One JSON-ready dict per removed instance, best first: `event`, `removed` and `by` (each category, score,
            box xyxy px), `reason` (`iou` or `intersection_over_smaller`), `value`, `threshold`.
    """

    kept: list[int]
    log: list[dict[str, Any]]


class _Removal(NamedTuple):
    """One that goes, and why; positions by rank."""

    removed: int
    by: int
    reason: str
    value: float
    threshold: float


def rank(instances: Instances) -> list[int]:
    """Positions from the best to the worst: by score, then area, box, class and runs.

    Only content decides, so that the order in which instances came never matters: what ties to the last is the same.
    Instances without scores count as equally sure.
    """
    return _rank(instances, rle.areas(instances.masks))


def _rank(instances: Instances, areas: npt.NDArray[np.int64]) -> list[int]:
    scores = np.ones(len(instances)) if instances.scores is None else instances.scores
    order = np.lexsort((-areas, -scores))
    tied = np.diff(scores[order]) == 0
    if not (tied & (np.diff(areas[order]) == 0)).any():
        return [int(index) for index in order.tolist()]
    runs = [mask["counts"] for mask in instances.masks]
    boxes, ids = instances.boxes.tolist(), instances.category_ids.tolist()
    keys = list(zip((-scores).tolist(), (-areas).tolist(), boxes, ids, runs, strict=True))
    return sorted(range(len(instances)), key=keys.__getitem__)


def suppress(
    instances: Instances,
    categories: tuple[str, ...],
    policy: Policy = Policy(),  # noqa: B008 - frozen
) -> Suppression:
    """Keep the better of two instances that show one object.

    From the best score down, an instance is removed when one already kept overlaps it by more than the policy allows
    their classes. Removed ones remove nothing, so there are no chains. The masks decide: the boxes of the detections
    may be anything.

    Masks are compared only where their boxes and areas leave it open, and where neither of the two is gone already.

    Args:
        instances: N of them, possibly none, in any order.
        categories: Names, in the order of the ids from 1.
        policy: Limits for each pair of classes; at equality both stay.
    """
    areas = rle.areas(instances.masks)
    order = _rank(instances, areas)
    ranked = _Ranked(instances, order, areas, categories, policy)
    removals = sorted(ranked.removals())
    gone = {removal.removed for removal in removals}
    told = _described(instances, categories) if removals else []
    log = [
        {
            "event": "suppressed",
            "removed": told[order[removal.removed]],
            "by": told[order[removal.by]],
            "reason": removal.reason,
            "value": round(removal.value, 4),
            "threshold": removal.threshold,
        }
        for removal in removals
    ]
    return Suppression([index for place, index in enumerate(order) if place not in gone], log)


class _Pairs(NamedTuple):
    """Pairs of instances by rank, (P,) each, sorted by the better one, then by the worse."""

    better: Places
    worse: Places

    def where(self, chosen: Flags) -> _Pairs:
        return _Pairs(self.better[chosen], self.worse[chosen])


class _Ranked:
    """Masks by rank, and what their classes may share."""

    def __init__(
        self,
        instances: Instances,
        order: list[int],
        areas: npt.NDArray[np.int64],
        categories: tuple[str, ...],
        policy: Policy,
    ) -> None:
        self.masks = [instances.masks[i] for i in order]
        self.areas = areas[order]
        self.ids = instances.category_ids[order] - 1
        self.iou_limits, self.smaller_limits = policy.limits(categories)

    def removals(self) -> list[_Removal]:
        """Everything that goes."""
        found: list[_Removal] = []
        alive = np.ones(len(self.masks), dtype=np.bool_)
        pairs, width = self._possible(), 1
        while len(pairs.better):
            # Whatever is the worse one in no pair stays for sure; the best of the others may have to wait for each
            # other. Where little goes they are taken by more and more: a mask is unpacked whenever it is asked for.
            waits = np.zeros_like(alive)
            waits[pairs.worse] = True
            leaders = _listed(pairs.better, len(alive))[0]
            now = ~waits[pairs.better] | (pairs.better <= leaders[:width][-1])
            compared = pairs.where(now)
            gone = self._compare(compared, alive)
            found += gone
            width = 1 if 2 * len(gone) >= len(_listed(compared.worse, len(alive))[0]) else min(2 * width, _WIDEST)
            pairs = pairs.where(~now & alive[pairs.better] & alive[pairs.worse])
        return found

    def _possible(self) -> _Pairs:
        """Pairs that the boxes of their masks and their areas do not keep from sharing more than the limits."""
        # Contiguous, and a row for each side: this is most of the work where nothing meets.
        left, top, width, height = rle.boxes_xywh(self.masks).T.astype(np.int64, order="C")
        sides = (left, left + width), (top, top + height)
        better, worse = _meeting(sides)
        across, down = (
            np.minimum(high[better], high[worse]) - np.maximum(low[better], low[worse]) for low, high in sides
        )
        smaller, sums = self._areas(better, worse)
        most = np.minimum(across * down, smaller)
        iou_limits, smaller_limits = self._limits(better, worse)
        possible = (most > iou_limits * (sums - most)) | (most > smaller_limits * smaller)
        return _Pairs(better, worse).where(possible)

    def _areas(self, better: Places, worse: Places) -> tuple[Values, Values]:
        """The smaller area of each pair, and the sum of both."""
        first, second = self.areas[better].astype(np.float64), self.areas[worse].astype(np.float64)
        return np.minimum(first, second), first + second

    def _limits(self, better: Places, worse: Places) -> tuple[Values, Values]:
        classes = self.ids[better], self.ids[worse]
        return self.iou_limits[classes], self.smaller_limits[classes]

    def _compare(self, pairs: _Pairs, alive: Flags) -> list[_Removal]:
        """Go through pairs from the best down; what is removed is alive no more."""
        rows, row = _listed(pairs.better, len(alive))
        columns, column = _listed(pairs.worse, len(alive))
        iou = rle.iou([self.masks[i] for i in rows], [self.masks[j] for j in columns])[row, column]
        smaller, sums = self._areas(*pairs)
        # The intersection follows from the IoU, and is a whole number.
        over_smaller = np.rint(iou / (1 + iou) * sums) / smaller
        iou_limits, smaller_limits = self._limits(*pairs)
        by_iou = iou > iou_limits
        failed = by_iou | (over_smaller > smaller_limits)
        names = ["iou" if first else "intersection_over_smaller" for first in by_iou[failed].tolist()]
        values, limits = np.where(by_iou, [iou, iou_limits], [over_smaller, smaller_limits])[:, failed].tolist()
        better, worse = (side.tolist() for side in pairs.where(failed))
        found: list[_Removal] = []
        for removal in map(_Removal, worse, better, names, values, limits):
            if alive[removal.by] and alive[removal.removed]:
                alive[removal.removed] = False
                found.append(removal)
        return found


def _listed(places: Places, count: int) -> tuple[Places, Places]:
    """The different ones of some places below a count, rising, and for each place where in these it is."""
    marked = np.zeros(count, dtype=np.bool_)
    marked[places] = True
    return np.flatnonzero(marked), (np.cumsum(marked) - 1)[places]


def _meeting(sides: Sequence[tuple[Places, Places]]) -> _Pairs:
    """Pairs whose boxes share a pixel, by the lower and upper bounds (N,) of the boxes along each axis."""
    count = len(sides[0][0])
    step = max(1, _PAIRS_AT_ONCE // max(count, 1))
    places = np.arange(count)
    found: list[Places] = [np.zeros((2, 0), dtype=np.int64)]
    for first in range(0, count, step):
        rows = slice(first, first + step)
        meets = places[rows, None] < places
        for low, high in sides:
            meets &= low[rows, None] < high
            meets &= low < high[rows, None]
        better, worse = np.divmod(np.flatnonzero(meets), count)
        found.append(np.stack([better + first, worse]))
    return _Pairs(*np.concatenate(found, axis=1))


def describe(instances: Instances, categories: tuple[str, ...], index: int) -> dict[str, Any]:
    """Category, score and box (xyxy px) of one instance, JSON-ready, rounded for reading."""
    return _described(instances[[index]], categories)[0]


def _described(instances: Instances, categories: tuple[str, ...]) -> list[dict[str, Any]]:
    count = len(instances)
    scores = [None] * count if instances.scores is None else instances.scores.astype(np.float64).round(4).tolist()
    boxes = instances.boxes.astype(np.float64).round(1).tolist()
    return [
        {"category": categories[i - 1], "score": score, "box": box}
        for i, score, box in zip(instances.category_ids.tolist(), scores, boxes, strict=True)
    ]
