"""Vertebrae found, and vertebrae called by their right name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from vertinst.metrics.matching import Matches

__all__ = ["Recognition", "count_recognition", "total_recognition"]


class Recognition(NamedTuple):
    """Counts of vertebrae, of one film or many.

    Attributes:
        annotated: In the truth.
        found: Of these, matched by a prediction.
        with_level: Annotated ones whose level is annotated too.
        labelled: Of these, found and given that level; None where no level is annotated.
        false: Predictions that match no annotated vertebra.
    """

    annotated: int
    found: int
    with_level: int
    labelled: int | None
    false: int

    @property
    def found_rate(self) -> float | None:
        """Found over annotated; None where nothing is annotated."""
        return self.found / self.annotated if self.annotated else None

    @property
    def labelled_rate(self) -> float | None:
        """Labelled over with_level; None where no level is annotated."""
        return self.labelled / self.with_level if self.labelled is not None else None

    @property
    def all_levels_right(self) -> bool | None:
        """Whether every vertebra with an annotated level was found and named rightly; None where there is none."""
        return self.labelled == self.with_level if self.labelled is not None else None


def count_recognition(
    matches: Matches,
    truth_levels: Sequence[str | None],
    predicted_levels: Sequence[str],
    *,
    uncounted: Collection[int] = (),
) -> Recognition:
    """Count one film.

    Args:
        matches: Of its vertebrae; found is what they pair, whether called lumbar or sacral.
        truth_levels: By position in the truth; None where not annotated. Such a vertebra can be found, not labelled.
        predicted_levels: By position in the prediction. Relative ones (`+1`) are never right.
        uncounted: Positions in the prediction that are not false though they match nothing (in an ignored region).
    """
    with_level = sum(level is not None for level in truth_levels)
    right = sum(truth_levels[pair.truth] == predicted_levels[pair.predicted] for pair in matches.pairs)
    false = sum(index not in uncounted for index in matches.false)
    labelled = right if with_level else None
    return Recognition(len(truth_levels), len(matches.pairs), with_level, labelled, false)


def total_recognition(films: Iterable[Recognition]) -> Recognition:
    """Add up films; zeros for none."""
    counts = list(films)
    with_level = sum(film.with_level for film in counts)
    return Recognition(
        annotated=sum(film.annotated for film in counts),
        found=sum(film.found for film in counts),
        with_level=with_level,
        labelled=sum(film.labelled or 0 for film in counts) if with_level else None,
        false=sum(film.false for film in counts),
    )
