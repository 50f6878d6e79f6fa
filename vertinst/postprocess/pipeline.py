"""From a network's instances to a spine: thresholds, suppression, levels, flags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from vertinst.errors import DataError
from vertinst.postprocess.chain import centroids_xy
from vertinst.postprocess.fragments import one_for_each
from vertinst.postprocess.implants import relate_implants
from vertinst.postprocess.labelling import Anchor, LabelOptions, Levels, label_levels, touches_border
from vertinst.postprocess.morphometry import measure
from vertinst.postprocess.nms import describe, rank
from vertinst.postprocess.orientation import find_orientation
from vertinst.postprocess.policy import Policy
from vertinst.structures import Implant, Instances, Scale, Spine, Vertebra, rle
from vertinst.structures.dataset import BONE
from vertinst.structures.measures import VIEWS
from vertinst.structures.spine import as_instances

__all__ = ["SpineOptions", "build_spine", "relabel"]

_OF_LABELLING = ("recovered", "dropped")
_DOUBLE = 0.3
"""Share of the smaller that an extra detection shares with a vertebra of the chain where it is its double."""
_REASONS = {"extra": "no_place_in_the_chain", "beyond_levels": "no_name_left"}


class SpineOptions(BaseModel):
    """How instances become a spine. Unknown keys are refused.

    Attributes:
        score_threshold: 0..1; instances at or above it are kept.
        candidate_threshold: 0..1; instances at or above it and below `score_threshold` are put aside as candidates,
            which average precision needs. Above `score_threshold` it means no candidates.
        suppression: How much two instances may overlap, by their classes; see `Policy`.
        labelling: How levels are counted; see `LabelOptions`.
        low_score: 0..1; vertebrae and implants kept with a score below it are flagged `low_score`.
        max_instances: At least 1; only so many of the best are looked at on a film.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    score_threshold: float = Field(default=0.5, ge=0, le=1)
    candidate_threshold: float = Field(default=0.05, ge=0, le=1)
    suppression: Policy = Policy()
    labelling: LabelOptions = LabelOptions()
    low_score: float = Field(default=0.7, ge=0, le=1)
    max_instances: int = Field(default=100, ge=1)


def build_spine(
    instances: Instances,
    categories: tuple[str, ...],
    *,
    options: SpineOptions = SpineOptions(),  # noqa: B008 - frozen
    anchor: Anchor | None = None,
    view: str = "lateral",
    scale: Scale | None = None,
    measured: bool = True,
) -> Spine:
    """Make a spine of everything that was found on one film. The order of the instances never matters.

    Lumbar and sacral instances become vertebrae, all other classes implants. Suppression goes by falling score, so
    candidates never remove what is kept.

    Args:
        instances: With scores; N = 0 gives an empty spine with its flags.
        categories: Names of the classes, in the order of the ids from 1.
        options: Thresholds.
        anchor: What the user says about the levels, if anything.
        view: `lateral` or `ap`.
        scale: Size of a pixel, or None where nobody states it: then nothing is given in millimetres.
        measured: False leaves out what scores do not look at: orientation, measures, where implants belong.

    Returns:
        The spine. Flags of a film: see `label_levels`; `extra_vertebra` (see below). Flags of an instance:
        `touches_border` (its mask comes so near to the film's edge that it may be cut), `low_score`,
        `recovered` (a candidate below the score threshold that fits into a gap of the chain), `duplicate_suppressed`
        (another kept detection of the same vertebra was removed). Bones at or above the threshold that are no vertebra
        of the chain become candidates with the flag `extra`, or `beyond_levels` where no name is left; other candidates
        have no flags.

    Raises:
        DataError: The instances have no scores, a class without a name, or the view is unknown.
    """
    return _build(instances, categories, options, anchor, view, scale, measured=measured)


def _build(
    instances: Instances,
    categories: tuple[str, ...],
    options: SpineOptions,
    anchor: Anchor | None,
    view: str,
    scale: Scale | None,
    *,
    measured: bool = True,
    earlier: Sequence[Mapping[str, Any]] = (),
) -> Spine:
    """`build_spine`, after what was suppressed `earlier`: events of a log, which may come from any file."""
    _check(instances, categories, view)
    found, log = _select(instances, categories, options)
    spine = _Film(found, categories, [*earlier, *log], options).spine(anchor, view, scale)
    return _with_anatomy(spine) if measured else spine


def _with_anatomy(spine: Spine) -> Spine:
    """The spine with its orientation, what the implants belong to, and its measures."""
    masks = [v.mask for v in spine.vertebrae]
    sacral = np.array([v.category == "sacral" for v in spine.vertebrae], dtype=bool)
    orientation = find_orientation(centroids_xy(masks), masks, sacral, spine.implants, spine.view)
    whole = measure(replace(spine, orientation=orientation))
    implants, construct = relate_implants(whole.vertebrae, whole.implants)
    return replace(whole, implants=implants, construct=construct)


def relabel(
    spine: Spine,
    *,
    options: SpineOptions = SpineOptions(),  # noqa: B008 - frozen
    anchor: Anchor | None = None,
    view: str | None = None,
    scale: Scale | None = None,
) -> Spine:
    """Name and measure a spine once more, with what the user says now; what was suppressed stays so.

    Args:
        spine: As `build_spine` made it.
        options: Thresholds.
        anchor: What the user says about the levels, if anything.
        view: `lateral` or `ap`; None for that of the spine.
        scale: Size of a pixel; None for that of the spine.
    """
    parts: list[Vertebra | Implant] = [*spine.vertebrae, *spine.implants, *spine.candidates]
    categories = tuple(sorted({part.category for part in parts}))
    instances = as_instances(parts, categories, spine.image_size)
    earlier = [event for event in spine.log if event.get("event") not in _OF_LABELLING]
    return _build(instances, categories, options, anchor, view or spine.view, scale or spine.scale, earlier=earlier)


class _Film:
    """What was found on one film and survived suppression, best first, with the log so far."""

    def __init__(
        self, found: Instances, categories: tuple[str, ...], log: Sequence[Mapping[str, Any]], options: SpineOptions
    ) -> None:
        assert found.scores is not None
        self.found, self.categories, self.options = found, categories, options
        self.names = [categories[i - 1] for i in found.category_ids]
        self.scores = found.scores
        # float32 0.7 is below 0.7: compare in the scores' own precision.
        self.kept = found.scores >= np.float32(options.score_threshold)
        self.log: list[dict[str, Any]] = [dict(event) for event in log]
        self.flags = [self._flags(i) if self.kept[i] else [] for i in range(len(found))]

    def spine(self, anchor: Anchor | None, view: str, scale: Scale | None) -> Spine:
        bone = [i for i, name in enumerate(self.names) if name in BONE]
        levels = label_levels(
            [self.found.masks[i] for i in bone],
            np.array([self.names[i] == "sacral" for i in bone], dtype=bool),
            self.scores[bone],
            self.kept[bone],
            anchor,
            self.options.labelling,
            view,
        )
        order = [bone[position] for position in levels.order]
        extra = [bone[position] for position in levels.extra]
        self._tell(order, extra, levels)
        vertebrae = tuple(
            Vertebra(level, **self._fields(i), confidence=confidence)
            for i, level, confidence in zip(order, levels.names, levels.confidence, strict=True)
        )
        metal = [i for i in np.flatnonzero(self.kept).tolist() if self.names[i] not in BONE]
        candidates = [i for i in range(len(self.found)) if i not in {*order, *metal}]
        return Spine(
            image_size=self.found.image_size,
            vertebrae=vertebrae,
            implants=tuple(Implant(**self._fields(i)) for i in metal),
            candidates=tuple(Implant(**self._fields(i)) for i in candidates),
            flags=(*levels.flags, *(["extra_vertebra"] if extra else [])),
            log=tuple(self.log),
            naming=levels.naming,
            view=view,
            scale=scale,
        )

    def _flags(self, index: int) -> list[str]:
        flags = ["touches_border"] if touches_border(self.found.masks[index]) else []
        return flags + (["low_score"] if self.scores[index] < np.float32(self.options.low_score) else [])

    def _tell(self, order: list[int], extra: list[int], levels: Levels) -> None:
        """Flags and log entries of what was taken up, dropped and doubled."""
        for index, level in zip(order, levels.names, strict=True):
            if not self.kept[index]:
                self.flags[index] = [*self._flags(index), "recovered"]
                what = describe(self.found, self.categories, index)
                self.log.append({"event": "recovered", "recovered": what, "level": level, "reason": "fits_gap"})
        flag = "beyond_levels" if "beyond_levels" in levels.flags else "extra"
        doubles = self._doubles(extra, order)
        for index in extra:
            self.flags[index].append(flag)
            event = {"event": "dropped", "removed": describe(self.found, self.categories, index)}
            if index in doubles:
                by = describe(self.found, self.categories, doubles[index])
                self.log.append({**event, "by": by, "reason": "doubles_a_vertebra"})
            else:
                self.log.append({**event, "reason": _REASONS[flag]})
        doubled = [event["by"] for event in self.log if self._tells_of_a_double(event)]
        for index in order:
            if describe(self.found, self.categories, index) in doubled:
                self.flags[index].append("duplicate_suppressed")

    def _tells_of_a_double(self, event: Mapping[str, Any]) -> bool:
        """Whether an event removed something above the threshold for the sake of another."""
        removed = event.get("removed")
        score = removed.get("score") if isinstance(removed, Mapping) else None
        return "by" in event and isinstance(score, int | float) and score >= self.options.score_threshold

    def _doubles(self, extra: list[int], order: list[int]) -> dict[int, int]:
        """Of the extra ones those that show a vertebra of the chain once more, and which."""
        if not extra or not order:
            return {}
        masks = self.found.masks
        shared = rle.intersection_over_smaller([masks[i] for i in extra], [masks[i] for i in order])
        best = shared.argmax(axis=1).tolist()
        return {i: order[k] for n, (i, k) in enumerate(zip(extra, best, strict=True)) if shared[n, k] > _DOUBLE}

    def _fields(self, index: int) -> dict[str, Any]:
        return {
            "category": self.names[index],
            "score": float(self.scores[index]),
            "box": self.found.boxes[index],
            "mask": self.found.masks[index],
            "flags": tuple(self.flags[index]),
        }


def _check(instances: Instances, categories: tuple[str, ...], view: str) -> None:
    if view not in VIEWS:
        raise DataError(f"view must be {' or '.join(VIEWS)}, got {view!r}", fix="Say how the film was taken.")
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
    """What is above the thresholds and survives suppression, pieces joined, best first, and the log."""
    assert instances.scores is not None
    lowest = np.float32(min(options.candidate_threshold, options.score_threshold))
    ordered = instances[[i for i in rank(instances) if instances.scores[i] >= lowest]]
    filled = np.flatnonzero(rle.areas(ordered.masks)).tolist()
    log: list[dict[str, Any]] = [
        {"event": "removed", "removed": describe(ordered, categories, i), "reason": "empty_mask"}
        for i in sorted(set(range(len(ordered))) - set(filled))
    ]
    if len(filled) > options.max_instances:
        left_out = len(filled) - options.max_instances
        log.append({"event": "removed", "count": left_out, "reason": "max_instances"})
    best = ordered[filled[: options.max_instances]]
    found, events = one_for_each(best, categories, options.suppression, score_threshold=options.score_threshold)
    return found, log + events
