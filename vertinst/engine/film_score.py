"""One film's prediction against its annotation: matched once, every number of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Literal

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from vertinst.engine.contour_scores import implant_contours, mean_contours, score_contours
from vertinst.metrics.boundary_iou import WIDTH
from vertinst.metrics.confusion import binary_confusion
from vertinst.metrics.frequency_weighted_iou import frequency_weighted_iou
from vertinst.metrics.level_range import beyond_annotated
from vertinst.metrics.matching import match_masks
from vertinst.metrics.mean_accuracy import mean_accuracy
from vertinst.metrics.mean_iou import mean_iou
from vertinst.metrics.pixel_accuracy import pixel_accuracy
from vertinst.metrics.recognition import Recognition, count_recognition
from vertinst.postprocess.merge import union_of
from vertinst.structures import ImageRecord, Implant, Rle, Spine, Vertebra, rle
from vertinst.structures.dataset import BONE

__all__ = ["PIXEL_METRICS", "EvaluateOptions", "FilmScore", "counts_and_rates"]

PIXEL_METRICS = {
    "pixel_accuracy": pixel_accuracy,
    "mean_accuracy": mean_accuracy,
    "mean_iou": mean_iou,
    "frequency_weighted_iou": frequency_weighted_iou,
}


class EvaluateOptions(BaseModel):
    """How predictions are scored. Unknown keys are refused.

    Attributes:
        merged: Classes of the merged mask: `bone` (lumbar and sacral), `bone+implants`, or names of classes.
        level_range: `all`, or `annotated`: predicted vertebrae beyond the annotated part of the spine are left out of
            every number (see `metrics.level_range`).
        iou_threshold: Above 0 to 1; from this mask IoU on a vertebra counts as found.
        boundary_width: Above 0 to 1; width of boundary IoU's band as a share of the film's diagonal.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    merged: Literal["bone", "bone+implants"] | tuple[str, ...] = "bone"
    level_range: Literal["all", "annotated"] = "all"
    iou_threshold: float = Field(default=0.5, gt=0, le=1)
    boundary_width: float = Field(default=WIDTH, gt=0, le=1)


class FilmScore:
    """Truth and prediction of one film, matched and counted once.

    Attributes:
        image: The annotated film.
        vertebrae: Predicted vertebrae that are judged.
        others: Implants and candidates that average precision judges.
        matches: Between the annotated vertebrae and `vertebrae`.
        recognition: Counts of vertebrae.
        bone_contours: Contours of the vertebrae that were found.
        implant_contours: Contours of the implants that were found.
        pixels: Pixel metrics of the merged mask by name.

    Args:
        image: The annotated film.
        spine: Its prediction, or None: nothing was found.
        options: Range of levels, threshold.
        merged_classes: Classes of the merged mask; without any the pixel metrics are None.
    """

    def __init__(
        self, image: ImageRecord, spine: Spine | None, options: EvaluateOptions, *, merged_classes: Collection[str]
    ) -> None:
        self.image = image
        spine = spine or Spine(image.image_size)
        counted = [a for a in image.annotations if not a.ignore]
        self._truth = [a for a in counted if a.category in BONE]
        ignore = rle.union([a.mask for a in image.annotations if a.ignore], image.image_size)
        self.vertebrae, self.others = _in_range(spine, [a.mask for a in self._truth], options)
        self.matches = match_masks(
            [a.mask for a in self._truth], [v.mask for v in self.vertebrae], iou_threshold=options.iou_threshold
        )
        self._uncounted = [i for i in self.matches.false if _mostly_inside(self.vertebrae[i].mask, ignore)]
        self.recognition = count_recognition(
            self.matches,
            [a.level for a in self._truth],
            [v.level for v in self.vertebrae],
            uncounted=self._uncounted,
        )
        width = options.boundary_width
        self.bone_contours = score_contours(self._truth, self.vertebrae, self.matches.pairs, width=width)
        self.implant_contours = implant_contours(
            counted, spine.implants, iou_threshold=options.iou_threshold, width=width
        )
        confusion = binary_confusion(
            union_of(counted, image.image_size, classes=merged_classes),
            union_of((*self.vertebrae, *spine.implants), image.image_size, classes=merged_classes),
            ignore=ignore,
        )
        self.pixels = {name: metric(confusion) if merged_classes else None for name, metric in PIXEL_METRICS.items()}

    def entry(self, patient: int | None) -> dict[str, Any]:
        """The film's part of `metrics.json`.

        Args:
            patient: Number that groups the films of one patient: what the annotation calls patients may be names,
                and stays out of every output.
        """
        return {
            "file_name": self.image.file_name,
            "patient": patient,
            "view": self.image.view,
            **self.pixels,
            **counts_and_rates(self.recognition),
            "contours": mean_contours(self.bone_contours),
            "all_levels_right": self.recognition.all_levels_right,
            "truth": [
                {"level": a.level, "category": a.category, "polygons": _outlines(a.mask)}
                for a in self.image.annotations
                if not a.ignore
            ],
            "errors": self._errors(),
        }

    def _errors(self) -> list[dict[str, Any]]:
        """What went wrong on a film: `missed`, `wrong_level` and `false` vertebrae."""
        matches = self.matches
        errors: list[dict[str, Any]] = [{"kind": "missed", "level": self._truth[i].level} for i in matches.missed]
        for pair in matches.pairs:
            level, predicted = self._truth[pair.truth].level, self.vertebrae[pair.predicted].level
            if level is not None and level != predicted:
                errors.append(
                    {"kind": "wrong_level", "level": level, "predicted": predicted, "iou": round(pair.iou, 4)}
                )
        for index in matches.false:
            if index not in self._uncounted:
                vertebra = self.vertebrae[index]
                errors.append({"kind": "false", "predicted": vertebra.level, "score": round(vertebra.score, 4)})
        return errors


def counts_and_rates(recognition: Recognition) -> dict[str, Any]:
    """Counts of vertebrae with their rates, JSON-ready."""
    return {
        **recognition._asdict(),
        "found_rate": recognition.found_rate,
        "labelled_rate": recognition.labelled_rate,
    }


def _in_range(spine: Spine, truth: Sequence[Rle], options: EvaluateOptions) -> tuple[list[Vertebra], list[Implant]]:
    """Vertebrae that are judged, and all other instances that average precision judges."""
    others = list(spine.candidates)
    if options.level_range == "all":
        return list(spine.vertebrae), [*spine.implants, *others]
    beyond = set(beyond_annotated(truth, [v.mask for v in spine.vertebrae]))
    vertebrae = [v for i, v in enumerate(spine.vertebrae) if i not in beyond]
    bone = [c for c in others if c.category in BONE]
    left_out = {id(bone[i]) for i in beyond_annotated(truth, [c.mask for c in bone])}
    return vertebrae, [*spine.implants, *(c for c in others if id(c) not in left_out)]


def _mostly_inside(mask: Rle, region: Rle) -> bool:
    return 2 * rle.area(rle.intersection(mask, region)) > rle.area(mask)


def _outlines(mask: Rle) -> list[list[list[float]]]:
    """Exteriors for drawing, xy px to 0.1, within 0.75 px of the mask's stairs; holes are not drawn."""
    exteriors = [part.exterior.astype(np.float32) for part in rle.rle_to_polygons(mask)]
    smooth = [cv2.approxPolyDP(exterior, 0.75, closed=True).reshape(-1, 2) for exterior in exteriors]
    return [[[round(float(x), 1), round(float(y), 1)] for x, y in outline] for outline in smooth]
