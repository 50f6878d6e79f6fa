"""The most likely chain of vertebrae among detections, with its probability: a beam search over all evidence.

A reading is a chain of detections from the sacrum up, each a level above the one before or, where vertebrae were
missed, several. Its score is a sum of log likelihood ratios, true vertebra against false detection: how sure the
network was, how well the next one lies where spacing and direction of the chain expect it, and how alike neighbours
are in size. Detections that are left out count nothing. The numbers below were set on phantoms
(`benchmarks/levels.py` measures what comes of them) and left wide, so that whole vertebrae, narrow discs and scoliosis
fit as well.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Chain", "Detections", "log_sum", "perhaps_above", "perhaps_sacrum", "read_chains", "spacing_per_size"]

Points = npt.NDArray[np.float64]

SPACING_PER_SIZE = 1.2
"""Distance of neighbouring centroids over the root of a body's area: about 36 mm over root of 34 x 27 mm2 (Panjabi et
al. 1992, rounded). The film's own ratio replaces it from a few neighbours on."""
_PSEUDO_RATIOS = 2

_SPACING_SD = 0.12
"""Of a spacing relative to the expected: narrow discs and fractures."""
_CUT_SHARE = 0.4
"""What the film's edge leaves of a vertebra has its centre up to half of one nearer: such deviations count less."""
_TURN_SD_DEG = 14.0
_FIRST_TURN_SD_DEG = 28.0
"""Where the chain leaves the sacrum its centroid may lie aside, all the more where the sacrum is one instance."""
_SIZE_LOG_SD = 0.11
_FALSE_SIZE_LOG_SD = 0.5
_FALSE_AREA = 30.0
"""Area in spacings squared over which false detections spread."""
_MISSED = 0.05
"""Probability that a vertebra was not found."""
_MAX_MISSED = 2
_SURE_SCORE = 3.0
"""Log odds at which a network's score counts no more: scores of 0.99 are not that rare on false detections."""
_LEAST_KEPT = 0.2
_SACRAL_MISSED = 0.35
"""One minus the part of their distance beyond which a sacral body is taken to be missed in between."""
_SACRAL_NEXT = 1.6
"""In that distance: so far off the next sacral body down is looked for."""
_SACRAL_STEP_SD = 0.25
_SACRAL_LEAST = 0.45
"""Share of the distance of neighbouring sacral bodies below which two detections are one."""


class _Sacrum(NamedTuple):
    """What the sacrum looks like: means and standard deviations; sizes are roots of areas over those of lumbar bodies.

    Attributes:
        s1_size: Of S1 alone.
        s2_size: Of S2 alone.
        whole_size: Where one instance holds more than S1: anything in this range.
        gap: Free distance between the outlines of S1 and L5, in spacings; negative where they overlap.
        step: Distance of the centroids of neighbouring sacral bodies, in spacings.
        taper: How much S1 tapers downwards (`chain.taper`), where lumbar bodies have 0 with the same deviation; None
            where it does not.
    """

    s1_size: tuple[float, float]
    s2_size: tuple[float, float]
    whole_size: tuple[float, float]
    gap: tuple[float, float]
    step: float
    taper: tuple[float, float] | None


_SACRA = {
    "lateral": _Sacrum((0.98, 0.08), (0.79, 0.06), (1.15, 2.2), (0.15, 0.14), 0.74, (0.19, 0.08)),
    # The sacrum leans towards the film: it is foreshortened, and S1 lies over L5.
    "ap": _Sacrum((1.15, 0.11), (0.92, 0.07), (1.35, 2.6), (-0.38, 0.25), 0.64, None),
}

_BESIDE_DEG = 75.0
"""Sacral detections at less than this angle with the way to the first lumbar vertebra are not below S1."""

_WRONG_CLASS = 0.01
"""Probability that S1 is found as a lumbar vertebra, or L5 as a sacral one."""
_SURE_SHAPE = 2.5
"""Log odds at which the shape counts no more."""

_LONGEST = 30
"""Vertebrae of a chain at most: more than there are names, so that more of them change nothing."""
_MOST_SACRA = 12
_MOST_ABOVE = 16
"""A film has five sacral bodies at most: of more detections only the surest, and only what lies nearest to them, are
tried as S1 and as L5, so that a hundred detections do not take seconds."""
_BEAM = 48
_READINGS = 160
"""Of more chains of one length, and of more readings, the less likely are dropped."""
_FORGET = 14.0
"""Partial and whole readings this much (in logarithms) below the best are not followed."""


class Detections(NamedTuple):
    """What the search looks at: N bones of one film, none of them empty.

    Attributes:
        centroids: (N, 2) xy px.
        sizes: (N,) px: root of the area.
        sacral: (N,) found as sacral.
        scores: (N,) 0..1.
        kept: (N,) at or above the score threshold; others may only fill gaps.
        cut: (N,) touch the film's edge, so that their size says nothing.
        gaps: (N, N) px: free distance between the outlines of two along the line of their centroids, negative where
            they overlap; only rows of `perhaps_sacrum` are looked at.
        tapers: (N, N) how much the one tapers away from the other (`chain.taper`); the same rows.
    """

    centroids: Points
    sizes: Points
    sacral: npt.NDArray[np.bool_]
    scores: Points
    kept: npt.NDArray[np.bool_]
    cut: npt.NDArray[np.bool_]
    gaps: Points
    tapers: Points


class Chain(NamedTuple):
    """One reading.

    Attributes:
        sacrum: Position of the uppermost sacral vertebra, or None.
        sacral_steps: Sacral vertebrae missed above it: 0 where it is S1, 1 where it is S2.
        chain: Positions of the others, from the sacrum up.
        steps: For each of the chain how many levels it lies above the first that could be there: 0 for the one next
            to the sacrum, rising.
        score: Log likelihood ratio; may be compared within a film.
        lower: Positions of further sacral vertebrae, from the uppermost down.
        lower_steps: For each of them how many levels it lies below `sacrum`.
    """

    sacrum: int | None
    sacral_steps: int
    chain: tuple[int, ...]
    steps: tuple[int, ...]
    score: float
    lower: tuple[int, ...] = ()
    lower_steps: tuple[int, ...] = ()


def perhaps_sacrum(
    centroids: Points, sacral: npt.NDArray[np.bool_], kept: npt.NDArray[np.bool_], scores: Points
) -> list[int]:
    """Positions of what may be the uppermost sacral vertebra, rising: sacral detections, kept ones if there are any.

    Beside kept ones also the detection of another class nearest to each: S1 may have been found as a lumbar vertebra.
    Of many sacral ones the surest.
    """
    found = np.flatnonzero(sacral & kept) if (sacral & kept).any() else np.flatnonzero(sacral)
    found = found[np.argsort(-scores[found], kind="stable")[:_MOST_SACRA]]
    others = np.flatnonzero(~sacral & kept)
    near = set()
    if len(others):
        for i in found[kept[found]]:
            near.add(int(others[np.linalg.norm(centroids[others] - centroids[i], axis=1).argmin()]))
    return sorted({*found.tolist(), *near})


def perhaps_above(centroids: Points, sacrum: int) -> list[int]:
    """Positions of what may lie next above a sacral body, rising: the nearest of all others."""
    distance = np.linalg.norm(centroids - centroids[sacrum], axis=1)
    nearest = np.argsort(distance, kind="stable")[: _MOST_ABOVE + 1]
    return sorted(int(i) for i in nearest if i != sacrum)


def spacing_per_size(centroids: Points, sizes: Points) -> float:
    """Distance to the nearest neighbour over its size, the median of a film and of two typical ones.

    Args:
        centroids: (N, 2) xy px; N = 0 and 1 give the typical ratio.
        sizes: (N,) px.
    """
    ratios = [SPACING_PER_SIZE] * _PSEUDO_RATIOS
    if len(centroids) > 1:
        distances = np.linalg.norm(centroids[:, None] - centroids[None], axis=2)
        np.fill_diagonal(distances, np.inf)
        ratios += (distances.min(axis=1) / np.maximum(sizes, 1e-9)).tolist()
    return float(np.median(ratios))


def read_chains(found: Detections, view: str = "lateral") -> list[Chain]:
    """The most likely readings, best first; at least one, which may be empty.

    `view` is `lateral` or `ap`: the sacrum looks different.

    Every reading begins and ends with a detection that is kept, but for the sacrum: where none is kept, a candidate may
    be it. Without a sacral detection chains start anywhere, and each is there in the direction in which it was found
    only: which end is the lower one is not decided here.
    """
    return _Search(found, _SACRA[view]).run()


class _Partial(NamedTuple):
    score: float
    sacrum: int | None
    sacral_steps: int
    chain: tuple[int, ...]
    steps: tuple[int, ...]


class _Search:
    """Tables of all pairs, and the beam."""

    def __init__(self, found: Detections, sacrum: _Sacrum) -> None:
        self.found, self.looks = found, sacrum
        self.lumbar = np.flatnonzero(~found.sacral)
        trusted = self.lumbar[found.kept[self.lumbar] & ~found.cut[self.lumbar]]
        trusted = trusted if len(trusted) else self.lumbar
        self.typical = float(np.median(found.sizes[trusted])) if len(trusted) else 0.0
        ratio = spacing_per_size(found.centroids[trusted], found.sizes[trusted])
        # One body's own size is worth little where the film cuts it or metal hides it.
        sizes = np.clip(found.sizes, 0.8 * self.typical, 1.25 * self.typical)
        self.spacing = ratio * (sizes[:, None] + sizes[None]) / 2
        odds = np.log(np.clip(found.scores, 1e-6, 1)) - np.log(np.clip(1 - found.scores, 1e-6, 1))
        # What the user's threshold keeps is worth something, however low that is set.
        lowest = np.where(found.kept, _LEAST_KEPT, -_SURE_SCORE)
        self.gain = np.clip(odds, lowest, _SURE_SCORE).tolist()
        offsets = found.centroids[None] - found.centroids[:, None]
        self.distance = np.linalg.norm(offsets, axis=2)
        self.angle = np.arctan2(offsets[..., 1], offsets[..., 0]).tolist()
        self.kept = found.kept.tolist()
        self.successors: dict[int, list[tuple[int, int, float]]] = {}
        self.below: dict[tuple[int, int | None], list[tuple[int, int]]] = {}

    def _pairs(self, i: int) -> list[tuple[int, int, float]]:
        """Where a chain may go from one detection: position, levels missed on the way, score without turning.

        The best first.
        """
        others = self.lumbar[(self.lumbar != i) & (self.distance[i, self.lumbar] > 0)]
        fits = self._alike(i, others) + np.array(self.gain)[others]
        cut = self.found.cut[others] | self.found.cut[i]
        pairs = []
        for missed in range(_MAX_MISSED + 1):
            off = (self.distance[i, others] / ((missed + 1) * self.spacing[i, others]) - 1) / _SPACING_SD
            off[cut & (off < 0)] *= _CUT_SHARE
            near = off**2 < 2 * _FORGET
            scores = (-0.5 * off**2 + fits + _place_prior(missed, _TURN_SD_DEG))[near].tolist()
            pairs += [(j, missed, score) for j, score in zip(others[near].tolist(), scores, strict=True)]
        return sorted(pairs, key=lambda pair: (-pair[2], pair[:2]))

    def _alike(self, i: int, others: npt.NDArray[np.int64]) -> Points:
        """Log likelihood ratios (N,) of neighbours against false detections, by their sizes."""
        change = np.log(self.found.sizes[others] / self.found.sizes[i])
        true = -0.5 * (change / _SIZE_LOG_SD) ** 2 - math.log(_SIZE_LOG_SD)
        false = -0.5 * (change / _FALSE_SIZE_LOG_SD) ** 2 - math.log(_FALSE_SIZE_LOG_SD)
        known = ~(self.found.cut[i] | self.found.cut[others])
        return np.where(known, np.maximum(true - false, -6.0), 0.0)

    def run(self) -> list[Chain]:
        beam = self._starts()
        whole: list[_Partial] = []
        best = top = -math.inf
        while beam and len(beam[0].chain) <= _LONGEST:
            beam.sort(key=_by_score)
            ended = [self._ended(p) for p in beam if self._may_end(p)]
            best = max(best, *(p.score for p in [*ended, *beam]))
            top = max([top, *(p.score for p in ended if p.chain or p.sacrum is not None)])
            whole += [p for p in ended if p.score >= top - _FORGET]
            beam = [p for p in beam[:_BEAM] if p.score > best - 2 * _FORGET]
            beam = self._all_extended(beam)
        whole.sort(key=_by_score)
        whole = [p for p in whole if p.chain or p.sacrum is not None] or whole
        top = whole[0].score
        return [self._chain(p) for p in whole[:_READINGS] if p.score >= top - _FORGET]

    def _chain(self, p: _Partial) -> Chain:
        lower = [] if p.sacrum is None else self._lower(p.sacrum, p.chain[0] if p.chain else None)
        return Chain(
            p.sacrum,
            p.sacral_steps,
            p.chain,
            p.steps,
            p.score,
            tuple(k for k, _ in lower),
            tuple(step for _, step in lower),
        )

    def _may_end(self, partial: _Partial) -> bool:
        """Chains end with a kept detection; without one above it nothing makes a lumbar detection S1."""
        if partial.chain:
            return bool(self.kept[partial.chain[-1]])
        return partial.sacrum is None or bool(self.found.sacral[partial.sacrum])

    def _ended(self, partial: _Partial) -> _Partial:
        """A reading as it is scored: where the sacrum is all there is, its lower parts count as well."""
        if partial.chain or partial.sacrum is None:
            return partial
        return partial._replace(score=partial.score + sum(self._below(k) for k, _ in self._lower(partial.sacrum, None)))

    def _starts(self) -> list[_Partial]:
        # An open start keeps the search alive where every sacral detection is a false one.
        starts = [_Partial(0.0, None, 0, (), ())]
        for i in perhaps_sacrum(self.found.centroids, self.found.sacral, self.found.kept, self.found.scores):
            if not self.found.sacral[i] and self.looks.taper is None:
                continue
            misnamed = 0.0 if self.found.sacral[i] else math.log(_WRONG_CLASS)
            for steps, score in enumerate(self._sacral_sizes(i)):
                total = self.gain[i] + math.log(_FALSE_AREA) / 2 + score + misnamed
                starts.append(_Partial(total, i, steps, (), ()))
        return starts

    def _looks_sacral(self, i: int, value: float) -> float:
        """Log likelihood ratio of a sacral against a lumbar body, by how it tapers downwards."""
        if self.looks.taper is None or self.found.cut[i]:
            return 0.0
        mean, sd = self.looks.taper
        ratio = 0.5 * (value / sd) ** 2 - 0.5 * ((value - mean) / sd) ** 2
        return max(-_SURE_SHAPE, min(_SURE_SHAPE, ratio))

    def _sacral_sizes(self, i: int) -> tuple[float, float]:
        """Scores of a sacral detection as S1 and as S2, by its size."""
        if self.typical == 0 or self.found.cut[i]:
            return 0.0, math.log(_MISSED)
        ratio = float(self.found.sizes[i]) / self.typical
        as_s1 = 0.7 * _normal(ratio, *self.looks.s1_size)
        low, high = self.looks.whole_size
        as_s1 += 0.3 / (high - low) if low <= ratio <= high else 0.0
        as_s2 = _normal(ratio, *self.looks.s2_size)
        return math.log(max(as_s1, 1e-3)), math.log(max(as_s2, 1e-3)) + math.log(_MISSED)

    def _all_extended(self, beam: Sequence[_Partial]) -> list[_Partial]:
        """All that are one longer, but for those that are not among the best `_READINGS` of their length."""
        longer: list[_Partial] = []
        best: list[float] = []
        for partial in beam:
            for one in self._extended(partial, best[0] if len(best) == _READINGS else -math.inf):
                longer.append(one)
                (heapq.heappush if len(best) < _READINGS else heapq.heappushpop)(best, one.score)
        return longer

    def _extended(self, partial: _Partial, least: float) -> list[_Partial]:
        """All that are one longer; those that score below `least` may be missing."""
        if partial.chain:
            return self._onwards(partial, least)
        if partial.sacrum is None:
            return [
                _Partial(partial.score + self.gain[i], None, 0, (int(i),), (0,)) for i in self.lumbar if self.kept[i]
            ]
        return self._from_sacrum(partial, partial.sacrum)

    def _from_sacrum(self, partial: _Partial, sacrum: int) -> list[_Partial]:
        mean, spread = self.looks.gap
        longer = []
        for j in self._above(sacrum):
            spacing = float(self.spacing[sacrum, j])
            if spacing == 0:
                continue
            below = self._looks_sacral(sacrum, float(self.found.tapers[sacrum, j]))
            below += sum(self._below(k) for k, _ in self._lower(sacrum, j))
            # Not computed means 0, which is what lumbar bodies have.
            below -= self._looks_sacral(j, -float(self.found.tapers[j, sacrum]))
            below += math.log(_WRONG_CLASS) if self.found.sacral[j] else 0.0
            for missed in range(_MAX_MISSED + 1):
                # Missed sacral bodies lie closer together than lumbar ones.
                expected = mean + missed + 1.16 * self.looks.step * partial.sacral_steps
                off = (float(self.found.gaps[sacrum, j]) / spacing - expected) / (spread * (1 + 0.3 * missed))
                score = partial.score - 0.5 * off**2 + _place_prior(missed, _FIRST_TURN_SD_DEG) + self.gain[j]
                if off**2 < 2 * _FORGET:
                    longer.append(_Partial(score + below, sacrum, partial.sacral_steps, (j,), (missed,)))
        return longer

    def _below(self, k: int) -> float:
        """What a sacral body in its place below S1 counts for, like one of the chain."""
        return float(self.gain[k]) + _place_prior(0, _TURN_SD_DEG) + math.log(_FALSE_SIZE_LOG_SD / _SIZE_LOG_SD)

    def _above(self, sacrum: int) -> list[int]:
        """What may be the first lumbar vertebra above S1: a lumbar detection, or a kept sacral one: a misnamed L5.

        The latter only where its shape can tell.
        """
        misnamed = self.found.sacral & self.found.kept & (self.looks.taper is not None)
        near = perhaps_above(self.found.centroids, sacrum)
        return [i for i in near if not self.found.sacral[i] or misnamed[i]]

    def _lower(self, sacrum: int, first: int | None) -> list[tuple[int, int]]:
        """Kept sacral detections below the uppermost: those on its far side of the chain, and how many levels below.

        Of several that may be the next one down, the one counts that lies best and is surest.
        """
        if (sacrum, first) not in self.below:
            self.below[sacrum, first] = self._lower_anew(sacrum, first)
        return self.below[sacrum, first]

    def _lower_anew(self, sacrum: int, first: int | None) -> list[tuple[int, int]]:
        others = [int(k) for k in np.flatnonzero(self.found.sacral & self.found.kept) if k not in (sacrum, first)]
        if first is not None:
            least = math.cos(math.radians(_BESIDE_DEG))
            others = [k for k in others if math.cos(self.angle[sacrum][k] - self.angle[sacrum][first]) < least]
        # Without a lumbar vertebra the sacral bodies' own size tells how far apart they lie.
        spacing = float(self.spacing[sacrum, sacrum]) or SPACING_PER_SIZE * float(self.found.sizes[sacrum])
        step = self.looks.step * spacing
        lower: list[tuple[int, int]] = []
        last, reached = sacrum, 0
        while others := self._further(others, sacrum, last, _SACRAL_LEAST * step):
            apart = self.distance[last, others] / step
            near = apart < max(_SACRAL_NEXT, float(apart.min()) + 1e-9)
            fits = np.array(self.gain)[others] - 0.5 * ((apart - 1) / _SACRAL_STEP_SD) ** 2
            best = int(np.argmax(np.where(near, fits, -np.inf)))
            reached += max(1, int(float(apart[best]) + _SACRAL_MISSED))
            last = others[best]
            lower.append((last, reached))
        return lower

    def _further(self, others: list[int], sacrum: int, last: int, least_px: float) -> list[int]:
        """Those that lie further down than `last` and not upon it."""
        reach = self.distance[sacrum, last]
        return [k for k in others if self.distance[sacrum, k] > reach and self.distance[last, k] >= least_px]

    def _onwards(self, partial: _Partial, least: float) -> list[_Partial]:
        last = partial.chain[-1]
        if last not in self.successors:
            self.successors[last] = self._pairs(last)
        before = partial.chain[-2] if len(partial.chain) > 1 else partial.sacrum
        spread = _TURN_SD_DEG if len(partial.chain) > 1 else _FIRST_TURN_SD_DEG
        longer = []
        for j, missed, score in self.successors[last]:
            if partial.score + score < least:
                break
            if j in partial.chain or j == partial.sacrum:
                continue
            turn = 0.0 if before is None else self._turn_deg(before, last, j)
            total = partial.score + score - 0.5 * (turn / spread) ** 2
            if total < least:
                continue
            steps = (*partial.steps, partial.steps[-1] + 1 + missed)
            longer.append(_Partial(total, partial.sacrum, partial.sacral_steps, (*partial.chain, j), steps))
        return longer

    def _turn_deg(self, before: int, last: int, following: int) -> float:
        turn = math.degrees(self.angle[last][following] - self.angle[before][last])
        return (turn + 180) % 360 - 180


def _by_score(partial: _Partial) -> tuple[float, int, int, tuple[int, ...], tuple[int, ...]]:
    sacrum = -1 if partial.sacrum is None else partial.sacrum
    return -partial.score, sacrum, partial.sacral_steps, partial.chain, partial.steps


def _place_prior(missed: int, turn_sd_deg: float) -> float:
    """Log of how much denser true neighbours lie at their place than false detections, and of having missed some."""
    reach = missed + 1
    ellipse = 2 * math.pi * (_SPACING_SD * reach) * (math.radians(turn_sd_deg) * reach)
    return math.log(_FALSE_AREA / ellipse) + missed * math.log(_MISSED)


def _normal(value: float, mean: float, sd: float) -> float:
    return math.exp(-0.5 * ((value - mean) / sd) ** 2) / (sd * math.sqrt(2 * math.pi))


def log_sum(values: Sequence[float]) -> float:
    """Logarithm of the sum of exponentials."""
    top = max(values)
    return top + math.log(sum(math.exp(v - top) for v in values))
