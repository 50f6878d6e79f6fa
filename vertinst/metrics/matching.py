"""Which prediction belongs to which truth: matched once, used by every metric of objects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vertinst.structures import Rle, rle

__all__ = ["Match", "Matches", "match_masks"]


class Match(NamedTuple):
    """A pair: position in the truth, position in the prediction, mask IoU 0..1."""

    truth: int
    predicted: int
    iou: float


class Matches(NamedTuple):
    """Result of `match_masks`: every position of either side occurs exactly once.

    Attributes:
        pairs: By position in the truth.
        missed: Positions in the truth without a prediction, rising.
        false: Positions in the prediction without a truth, rising.
    """

    pairs: list[Match]
    missed: list[int]
    false: list[int]


def match_masks(truth: Sequence[Rle], predicted: Sequence[Rle], *, iou_threshold: float = 0.5) -> Matches:
    """Pair masks one to one, the best IoU first, regardless of class and score.

    Args:
        truth: N masks, possibly none.
        predicted: M masks of the same size, possibly none.
        iou_threshold: 0..1; an IoU equal to it is enough. Masks without a common pixel never match.
    """
    iou = rle.iou(truth, predicted)
    rows, columns = np.nonzero((iou >= iou_threshold) & (iou > 0))
    # Equal IoUs go by position, so that the result is the same every time.
    best_first = np.lexsort((columns, rows, -iou[rows, columns]))
    free_truth, free_predicted = set(range(len(truth))), set(range(len(predicted)))
    pairs = []
    for row, column in zip(rows[best_first].tolist(), columns[best_first].tolist(), strict=True):
        if row in free_truth and column in free_predicted:
            pairs.append(Match(row, column, float(iou[row, column])))
            free_truth.remove(row)
            free_predicted.remove(column)
    return Matches(sorted(pairs), sorted(free_truth), sorted(free_predicted))
