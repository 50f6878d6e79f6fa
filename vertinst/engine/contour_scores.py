"""How well the contours of found objects agree with the annotated ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from vertinst.metrics._patches import cut_out
from vertinst.metrics.boundary_iou import patch_boundary_iou
from vertinst.metrics.hausdorff import patch_hausdorff_px
from vertinst.metrics.matching import Match, match_masks
from vertinst.structures import Annotation, Implant, Vertebra
from vertinst.structures.dataset import BONE

__all__ = ["ContourScore", "implant_contours", "mean_contours", "mean_contours_by_class", "score_contours"]


class ContourScore(NamedTuple):
    """Two contours of one object.

    Attributes:
        category: The truth's.
        boundary_iou: 0..1, see `metrics.boundary_iou`.
        hd95_px: At least 0, see `metrics.hausdorff`; None where a mask is empty.
    """

    category: str
    boundary_iou: float | None
    hd95_px: float | None


def score_contours(
    truth: Sequence[Annotation], predicted: Sequence[Vertebra | Implant], pairs: Iterable[Match], *, width: float
) -> list[ContourScore]:
    """Compare the contours of what was matched; what was missed has none.

    Args:
        truth: What `pairs` count.
        predicted: Likewise.
        pairs: Matches between the two.
        width: Of boundary IoU's band, a share of the film's diagonal.
    """
    scores = []
    for pair in pairs:
        patches = cut_out(truth[pair.truth].mask, predicted[pair.predicted].mask)
        scores.append(
            ContourScore(
                truth[pair.truth].category, patch_boundary_iou(patches, width=width), patch_hausdorff_px(patches)
            )
        )
    return scores


def implant_contours(
    truth: Sequence[Annotation], predicted: Sequence[Implant], *, iou_threshold: float, width: float
) -> list[ContourScore]:
    """Match implants, each class by itself, and compare their contours.

    Args:
        truth: Annotations that are not ignored; those of bone are passed over.
        predicted: Implants of the film.
        iou_threshold: As for vertebrae.
        width: As in `score_contours`.
    """
    scores = []
    for category in dict.fromkeys(a.category for a in truth if a.category not in BONE):
        annotated = [a for a in truth if a.category == category]
        found = [p for p in predicted if p.category == category]
        matches = match_masks([a.mask for a in annotated], [p.mask for p in found], iou_threshold=iou_threshold)
        scores += score_contours(annotated, found, matches.pairs, width=width)
    return scores


def mean_contours(scores: Iterable[ContourScore]) -> dict[str, Any]:
    """Means over objects, JSON-ready: `matched` (their number), `boundary_iou` and `hd95_px`, None for no object."""
    kept = list(scores)
    return {
        "matched": len(kept),
        "boundary_iou": _mean(s.boundary_iou for s in kept),
        "hd95_px": _mean(s.hd95_px for s in kept),
    }


def mean_contours_by_class(scores: Iterable[ContourScore]) -> Iterator[tuple[str, dict[str, Any]]]:
    """`mean_contours` of each class of which something was matched, in the order in which they come."""
    kept = list(scores)
    for category in dict.fromkeys(s.category for s in kept):
        yield category, mean_contours(s for s in kept if s.category == category)


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
