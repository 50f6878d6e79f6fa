"""From a network's instances to a spine: thresholds, suppression, levels, flags."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from vertinst.errors import DataError
from vertinst.postprocess.labelling import Anchor, label_levels
from vertinst.postprocess.nms import describe, rank, suppress
from vertinst.structures import Implant, Instances, Rle, Spine, Vertebra, rle
from vertinst.structures.dataset import BONE

__all__ = ["SpineOptions", "build_spine"]


class SpineOptions(BaseModel):
    """How instances become a spine. Unknown keys are refused.

    Attributes:
        score_threshold: 0..1; instances at or above it are kept.
        candidate_threshold: 0..1; instances at or above it and below `score_threshold` are put aside as candidates,
            which average precision needs. Above `score_threshold` it means no candidates.
        nms_iou_threshold: 0..1; see `nms.suppress`. 1 switches this test off.
        nms_smaller_threshold: 0..1; see `nms.suppress`. 1 switches this test off.
        nms_implant_iou_threshold: 0..1; see `nms.suppress`. 1 switches this test off.
        low_score: 0..1; vertebrae and implants kept with a score below it are flagged `low_score`.
        max_instances: At least 1; only so many of the best are looked at on a film.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    score_threshold: float = Field(default=0.5, ge=0, le=1)
    candidate_threshold: float = Field(default=0.05, ge=0, le=1)
    nms_iou_threshold: float = Field(default=0.5, ge=0, le=1)
    nms_smaller_threshold: float = Field(default=0.85, ge=0, le=1)
    nms_implant_iou_threshold: float = Field(default=0.8, ge=0, le=1)
    low_score: float = Field(default=0.7, ge=0, le=1)
    max_instances: int = Field(default=100, ge=1)


def build_spine(
    instances: Instances,
    categories: tuple[str, ...],
    *,
    options: SpineOptions = SpineOptions(),  # noqa: B008 - frozen
    anchor: Anchor | None = None,
) -> Spine:
    """Make a spine of everything that was found on one film. The order of the instances never matters.

    Lumbar and sacral instances become vertebrae, all other classes implants. Suppression goes by falling score, so
    candidates never remove what is kept.

    Args:
        instances: With scores; N = 0 gives an empty spine with its flags.
        categories: Names of the classes, in the order of the ids from 1.
        options: Thresholds.
        anchor: What the user says about the levels, if anything.

    Returns:
        The spine. Flags of a film: see `label_levels`. Flags of an instance: `touches_border` (its mask comes within
        one pixel of the film's edge, so that it may be cut off), `low_score`, `out_of_order` (a sacral instance on
        the side of the lumbar chain where no sacrum can be). Vertebrae for which no name is left become candidates
        with the flag `beyond_levels`, whatever their score; other candidates have no flags.

    Raises:
        DataError: The instances have no scores, or a class without a name.
    """
    _check(instances, categories)
    found, log = _select(instances, categories, options)
    scores = np.zeros(0) if found.scores is None else found.scores
    names = [categories[i - 1] for i in found.category_ids]
    # float32 0.7 is below 0.7: compare in the scores' own precision.
    kept = scores >= np.float32(options.score_threshold)
    bone = [i for i in np.flatnonzero(kept).tolist() if names[i] in BONE]
    levels = label_levels(
        [found.masks[i] for i in bone],
        np.array([names[i] == "sacral" for i in bone], dtype=bool),
        scores[bone],
        anchor,
    )
    flags = [_flags(found.masks[i], scores[i], options) if kept[i] else [] for i in range(len(found))]
    for position in levels.out_of_order:
        flags[bone[position]].append("out_of_order")
    beyond = [bone[position] for position in levels.unnamed]
    for index in beyond:
        flags[index].append("beyond_levels")
    vertebrae = [
        Vertebra(level, **_fields(found, names, bone[position], flags))
        for position, level in zip(levels.order, levels.names, strict=True)
    ]
    implants = [i for i in np.flatnonzero(kept).tolist() if names[i] not in BONE]
    candidates = sorted([*beyond, *np.flatnonzero(~kept).tolist()])
    return Spine(
        image_size=found.image_size,
        vertebrae=tuple(vertebrae),
        implants=tuple(Implant(**_fields(found, names, i, flags)) for i in implants),
        candidates=tuple(Implant(**_fields(found, names, i, flags)) for i in candidates),
        flags=tuple(levels.flags),
        log=tuple(log),
    )


def _check(instances: Instances, categories: tuple[str, ...]) -> None:
    if instances.scores is None:
        raise DataError("instances must have scores, got truth", fix="Give predictions.")
    if len(instances) and instances.category_ids.max() > len(categories):
        raise DataError(
            f"category_ids must be at most {len(categories)}, got {instances.category_ids.max()}",
            fix="Give the classes of the model that made the predictions.",
        )


def _select(
    instances: Instances, categories: tuple[str, ...], options: SpineOptions
) -> tuple[Instances, list[dict[str, Any]]]:
    """What is above the thresholds and survives suppression, best first, and the log."""
    assert instances.scores is not None
    lowest = np.float32(min(options.candidate_threshold, options.score_threshold))
    ordered = instances[[i for i in rank(instances) if instances.scores[i] >= lowest]]
    names = [categories[i - 1] for i in ordered.category_ids]
    filled = [i for i, mask in enumerate(ordered.masks) if rle.area(mask) > 0]
    log: list[dict[str, Any]] = [
        {"event": "removed", "removed": describe(ordered, names, i), "reason": "empty_mask"}
        for i in sorted(set(range(len(ordered))) - set(filled))
    ]
    if len(filled) > options.max_instances:
        left_out = len(filled) - options.max_instances
        log.append({"event": "removed", "count": left_out, "reason": "max_instances"})
    best = ordered[filled[: options.max_instances]]
    result = suppress(
        best,
        categories,
        iou_threshold=options.nms_iou_threshold,
        smaller_threshold=options.nms_smaller_threshold,
        implant_iou_threshold=options.nms_implant_iou_threshold,
    )
    return best[result.kept], log + result.log


def _flags(mask: Rle, score: np.float32, options: SpineOptions) -> list[str]:
    flags = ["touches_border"] if _touches_border(mask) else []
    return flags + (["low_score"] if score < np.float32(options.low_score) else [])


def _touches_border(mask: Rle) -> bool:
    left, top, right, bottom = rle.box_xyxy(mask).tolist()
    height, width = mask["size"]
    return bool(left <= 1 or top <= 1 or right >= width - 1 or bottom >= height - 1)


def _fields(found: Instances, names: list[str], index: int, flags: list[list[str]]) -> dict[str, Any]:
    assert found.scores is not None
    return {
        "category": names[index],
        "score": float(found.scores[index]),
        "box": found.boxes[index],
        "mask": found.masks[index],
        "flags": tuple(flags[index]),
    }
