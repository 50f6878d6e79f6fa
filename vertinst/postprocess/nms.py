"""Suppression of doubled detections: greedy, by score, on masks."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

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
    scores = np.ones(len(instances)) if instances.scores is None else instances.scores

    def key(index: int) -> tuple[Any, ...]:
        mask = instances.masks[index]
        box = tuple(instances.boxes[index].tolist())
        return -float(scores[index]), -rle.area(mask), box, int(instances.category_ids[index]), mask["counts"]

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
    pairs of phantoms, 89 of 109 screws share an IoU above 0.5, 11 above 0.8.

    Args:
        instances: N of them, possibly none, in any order.
        categories: Names, in the order of the ids from 1.
        iou_threshold: 0..1; between bones, a mask IoU above it removes. At equality both stay.
        smaller_threshold: 0..1; between bones, an intersection over the smaller area above it removes.
            Outlines of whole neighbouring vertebrae share up to 0.67 of the smaller where the film cuts one of them.
        implant_iou_threshold: 0..1; within any other class, a mask IoU above it removes.
    """
    # Boxes of the masks, not of the detections: those may be anything.
    boxes = np.array([rle.box_xyxy(mask) for mask in instances.masks], dtype=np.float32).reshape(-1, 4)
    names = [categories[i - 1] for i in instances.category_ids]

    def failed(index: int, rival: int, iou: float) -> tuple[str, float, float] | None:
        if names[index] not in BONE:
            tests = [("iou", iou, implant_iou_threshold)]
        else:
            smaller = _over_smaller(iou, rle.area(instances.masks[index]), rle.area(instances.masks[rival]))
            tests = [("iou", iou, iou_threshold), ("intersection_over_smaller", smaller, smaller_threshold)]
        return next((test for test in tests if test[1] > test[2]), None)

    kept: list[int] = []
    log: list[dict[str, Any]] = []
    for index in rank(instances):
        rivals = [k for k in kept if _comparable(names[index], names[k])]
        rivals = [rivals[i] for i in np.flatnonzero(_boxes_meet(boxes[index], boxes[rivals]))]
        overlaps = rle.iou([instances.masks[index]], [instances.masks[k] for k in rivals])[0]
        failures = ((k, failed(index, k, iou)) for k, iou in zip(rivals, overlaps, strict=True))
        first = next(((k, failure) for k, failure in failures if failure), None)
        if first is None:
            kept.append(index)
        else:
            log.append(_event(instances, names, index, *first))
    return Suppression(kept, log)


def _comparable(first: str, second: str) -> bool:
    return first == second or (first in BONE and second in BONE)


def _over_smaller(iou: float, area: float, other: float) -> float:
    """Intersection over the smaller area; the intersection follows from the IoU and is a whole number."""
    shared = round(float(iou / (1 + iou) * (area + other)))
    return shared / max(min(area, other), 1)


def _boxes_meet(box: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
    return np.asarray((others[:, :2] < box[2:]).all(axis=1) & (others[:, 2:] > box[:2]).all(axis=1))


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
