"""Suppression of doubled detections: greedy, by score, on masks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vertinst.structures import Instances, rle
from vertinst.structures.dataset import BONE

__all__ = ["Suppression", "describe", "rank", "suppress"]


class Suppression(NamedTuple):
    """Result of `suppress`.

    Attributes:
        kept: Positions of the kept instances, best first.
        log: One JSON-ready dict per removed instance, best first: `event`, `removed` and `by` (each category, score,
            box xyxy px), `reason` (`iou` or `intersection_over_smaller`), `value`, `threshold`.
    """

    kept: list[int]
    log: list[dict[str, Any]]


def rank(instances: Instances) -> list[int]:
    """Positions from the best to the worst: by score, then area, box, class and runs.

    Only content decides, so that the order in which instances came never matters: what ties to the last is the same.
    Instances without scores count as equally sure.
    """
    scores = (np.ones(len(instances)) if instances.scores is None else instances.scores).tolist()
    boxes, areas = instances.boxes.tolist(), rle.areas(instances.masks).tolist()

    def key(index: int) -> tuple[Any, ...]:
        runs = instances.masks[index]["counts"]
        return -scores[index], -areas[index], boxes[index], int(instances.category_ids[index]), runs

    return sorted(range(len(instances)), key=key)


def suppress(
    instances: Instances,
    categories: tuple[str, ...],
    *,
    iou_threshold: float = 0.5,
    smaller_threshold: float = 0.85,
    implant_iou_threshold: float = 0.8,
) -> Suppression:
    """Keep the better of two instances that show one object.

    From the best score down, an instance is removed when one already kept overlaps it too much. Removed ones remove
    nothing, so there are no chains. Compared are instances of one class, and all bone with all bone: a bone found as
    lumbar and as sacral is one bone. Everything else may overlap: metal lies on bone. On lateral films the
    left screw or rod lies over the right one, so metal of one class has a threshold of its own: of the annotated
    pairs of phantoms, 89 of 109 screws share an IoU above 0.5, 11 above 0.8. With all thresholds 1 nothing is removed.

    Args:
        instances: N of them, possibly none, in any order.
        categories: Names, in the order of the ids from 1.
        iou_threshold: 0..1; between bones, a mask IoU above it removes. At equality both stay.
        smaller_threshold: 0..1; between bones, an intersection over the smaller area above it removes.
            Outlines of whole neighbouring vertebrae share up to 0.67 of the smaller where the film cuts one of them.
        implant_iou_threshold: 0..1; within any other class, a mask IoU above it removes.
    """
    names = [categories[i - 1] for i in instances.category_ids]
    # Of metal, a piece of a larger one may be another: nothing is above 1.
    limits = {
        name: _Limits(iou_threshold, smaller_threshold) if name in BONE else _Limits(implant_iou_threshold, 1.0)
        for name in set(names)
    }
    bounds = _Bounds(instances, names)
    kept: list[int] = []
    log: list[dict[str, Any]] = []
    for index in rank(instances):
        rivals = bounds.rivals(index, kept, limits[names[index]])
        overlaps = rle.iou([instances.masks[index]], [instances.masks[k] for k in rivals])[0]
        tests = (
            (k, bounds.failed(index, k, iou, limits[names[index]])) for k, iou in zip(rivals, overlaps, strict=True)
        )
        first = next(((k, failure) for k, failure in tests if failure), None)
        if first is None:
            kept.append(index)
        else:
            log.append(_event(instances, names, index, *first))
    return Suppression(kept, log)


class _Limits(NamedTuple):
    """What two instances of one object may share at most: IoU, and intersection over the smaller area."""

    iou: float
    over_smaller: float


class _Bounds:
    """Boxes and areas of masks, which tell of most pairs that they cannot share too much: only the others are compared.

    The boxes are those of the masks, not of the detections, which may be anything.
    """

    def __init__(self, instances: Instances, names: list[str]) -> None:
        corners = rle.boxes_xywh(instances.masks)
        self.starts, self.ends = corners[:, :2], corners[:, :2] + corners[:, 2:]
        self.areas = rle.areas(instances.masks)
        # All bone with all bone, everything else with its class.
        self.kinds = np.array([0 if name in BONE else i for name, i in zip(names, instances.category_ids, strict=True)])

    def rivals(self, index: int, kept: list[int], limits: _Limits) -> list[int]:
        """Those of `kept` that can share more than the limits with `index`, in their order."""
        others = np.array(kept, dtype=np.int64)
        others = others[self.kinds[others] == self.kinds[index]]
        sides = np.minimum(self.ends[others], self.ends[index]) - np.maximum(self.starts[others], self.starts[index])
        smaller = np.minimum(self.areas[others], self.areas[index])
        most = np.minimum(np.maximum(sides, 0).prod(axis=1), smaller)
        union = self.areas[others] + self.areas[index] - most
        possible = (most / np.maximum(union, 1) > limits.iou) | (most / np.maximum(smaller, 1) > limits.over_smaller)
        return [int(k) for k in others[possible]]

    def failed(self, index: int, rival: int, iou: float, limits: _Limits) -> tuple[str, float, float] | None:
        """The first test that two instances fail: its name, the value and the threshold."""
        area, other = float(self.areas[index]), float(self.areas[rival])
        # The intersection follows from the IoU, and is a whole number.
        shared = round(float(iou / (1 + iou) * (area + other)))
        tests = (
            ("iou", float(iou), limits.iou),
            ("intersection_over_smaller", shared / max(min(area, other), 1), limits.over_smaller),
        )
        return next((test for test in tests if test[1] > test[2]), None)


def _event(
    instances: Instances, names: list[str], index: int, rival: int, failed: tuple[str, float, float]
) -> dict[str, Any]:
    reason, value, threshold = failed
    return {
        "event": "suppressed",
        "removed": describe(instances, names, index),
        "by": describe(instances, names, rival),
        "reason": reason,
        "value": round(float(value), 4),
        "threshold": threshold,
    }


def describe(instances: Instances, names: list[str], index: int) -> dict[str, Any]:
    """Category, score and box (xyxy px) of one instance, JSON-ready, rounded for reading."""
    score = None if instances.scores is None else round(float(instances.scores[index]), 4)
    return {
        "category": names[index],
        "score": score,
        "box": [round(float(v), 1) for v in instances.boxes[index]],
    }
