"""Which vertebra is which: levels counted upward from the sacrum or from an anchor that the user gives."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from vertinst.errors import ConfigError
from vertinst.postprocess.chain import centroids_xy, extent_along, taper
from vertinst.postprocess.decoding import Chain, Detections, log_sum, perhaps_above, perhaps_sacrum, read_chains
from vertinst.structures import Naming, Rle, rle
from vertinst.structures.spine import LEVELS, are_neighbours, is_level, level_above

__all__ = ["Anchor", "LabelOptions", "Levels", "label_levels", "parse_anchor"]

_TOP_SEEN = 0.93
"""Where a chain ends: probability that it is at the highest annotated level."""
_TOP_MISSED = (0.03, 0.02)
"""One level below it, or more, though the film has room for another vertebra."""
_TOP_CUT = (0.10, 0.04, 0.02)
"""One, two, or more levels below it, because the film ends: lumbar films are taken so that they show T12."""
_TOP_EXCEEDED = 0.06
"""Each level above it: a vertebra that was not taught, or a false detection."""
_CUT_MARGIN = 0.01
"""Of the film's longer side."""
_ROOM = 0.35
"""Part of a spacing that a vertebra needs beyond its centre to be found."""
_ANCHOR = re.compile(
    r"\s*([SLT]\d{1,2}|C\d)\s*(?:=\s*(lowest|highest)|@\s*(\d{1,9}(?:\.\d+)?)\s*,\s*(\d{1,9}(?:\.\d+)?))\s*", re.I
)


class LabelOptions(BaseModel):
    """How levels are counted. Unknown keys are refused.

    Attributes:
        highest_level: Uppermost level that the annotators outlined wherever it was in view: T12 in the source's films.
            One vertebra more than that up to it hints at six lumbar vertebrae, one less at four. null where films were
            annotated as far as they reach: then neither can be told.
        six_lumbar: 0..1; share of people with six lumbar vertebrae.
        four_lumbar: 0..1; share of people with four.
        transition_probability: 0..1; from this probability on `possible_L6` and `possible_L4_only` are said.
        sure_probability: 0..1; films whose levels are less sure are flagged `levels_unsure`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    highest_level: str | None = Field(default="T12", pattern=r"^(L1|T12|T11|T10)$")
    six_lumbar: float = Field(default=0.05, ge=0, le=0.4)
    four_lumbar: float = Field(default=0.05, ge=0, le=0.4)
    transition_probability: float = Field(default=0.1, ge=0, le=1)
    sure_probability: float = Field(default=0.96, ge=0, le=1)


class Anchor(NamedTuple):
    """What the user knows of one vertebra.

    Attributes:
        level: Its name: S5 to C1, L6 or T13.
        position: `lowest`: of the chain of vertebrae that are not sacral it has the largest y. `highest`: the smallest,
            which means that the film lies upside down. Counting goes upward in the body from there in both cases.
            `at`: it lies at `point_px`.
        point_px: xy px, for `at`.
    """

    level: str
    position: str
    point_px: tuple[float, float] | None = None

    def __str__(self) -> str:
        if self.point_px is None:
            return f"{self.level}={self.position}"
        return f"{self.level}@{self.point_px[0]:g},{self.point_px[1]:g}"


class Levels(NamedTuple):
    """Result of `label_levels`; positions are those of the masks given.

    Attributes:
        order: Positions of the named vertebrae, from the sacrum up.
        names: Their levels, none twice.
        confidence: 0..1 for each that its level is right; None where nothing anchors the names.
        extra: Positions of kept detections that are no vertebra of the chain, or for which no name is left.
        flags: What holds for the whole film.
        naming: How sure all levels are, or None where nothing anchors them.
    """

    order: list[int]
    names: list[str]
    confidence: list[float | None]
    extra: list[int]
    flags: list[str]
    naming: Naming | None


def parse_anchor(text: str) -> Anchor:
    """Read `LEVEL=lowest`, `LEVEL=highest` or `LEVEL@X,Y` (a point on that vertebra, px), in any case.

    Raises:
        ConfigError: Anything else.
    """
    match = _ANCHOR.fullmatch(text)
    if match is None or not is_level(match[1].upper()):
        raise ConfigError(
            "anchor must be LEVEL=lowest, LEVEL=highest or LEVEL@X,Y with a level from S5 to C1, L6 or T13, "
            f"got {text[:60]!r}",
            fix="Write --anchor L5=lowest (or L5=highest where the film lies upside down, or L5@512,800 for a point).",
        )
    if match[2]:
        return Anchor(match[1].upper(), match[2].lower())
    return Anchor(match[1].upper(), "at", (float(match[3]), float(match[4])))


class _Reading(NamedTuple):
    """A chain with names: order from the sacrum up, how likely, and with how many lumbar vertebrae it was counted.

    `found` is the chain as it was found, `chain` the same, perhaps turned round.
    """

    order: tuple[int, ...]
    names: tuple[str, ...]
    found: Chain
    chain: Chain
    log_weight: float
    lumbar: int


def label_levels(
    masks: Sequence[Rle],
    sacral: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.floating],
    kept: npt.NDArray[np.bool_] | None = None,
    anchor: Anchor | None = None,
    options: LabelOptions = LabelOptions(),  # noqa: B008 - frozen
    view: str = "lateral",
) -> Levels:
    """Name the vertebrae of one film.

    The most likely chain of detections (see `decoding`) is counted from its sacral end, whichever way the film lies:
    L5, L4 ... Levels between two neighbours that lie too far apart are left out. Candidates fill such gaps. Six or four
    lumbar vertebrae are never counted out of themselves: names stay as with five, the film is flagged and the
    confidence falls. Without sacrum and anchor the names are `+1`, `+2` ... from the lowest on the film. An anchor
    wins over the sacrum.

    Args:
        masks: N masks of vertebrae and sacral parts, none of them empty; N = 0 is allowed.
        sacral: (N,) which of them are sacral.
        scores: (N,) 0..1.
        kept: (N,) which are at or above the score threshold; None for all. Others are candidates.
        anchor: What the user says about the chain, if anything.
        options: What is known of the annotation and of people.
        view: `lateral` or `ap`.

    Returns:
        Names and flags: `no_vertebra`, `no_sacrum`, `no_lumbar` (sacral instances alone: S1 is taken to be the
        upper one on the film), `anchor_disagrees_with_sacrum`, `anchor_missed` (no vertebra at its point),
        `sacrum_on_both_sides`, `sacrum_cut` (a small part of one at the film's edge), `gap_between_A_B`,
        `possible_L6`, `possible_L4_only`, `levels_unsure`, `beyond_levels`.
    """
    kept = np.ones(len(masks), dtype=bool) if kept is None else kept
    if not kept.any():
        return Levels([], [], [], [], ["no_vertebra", "no_sacrum"], None)
    # By their place on the film: what ties is then decided by content, never by the order in which it came.
    places = centroids_xy(masks)
    by_place = np.lexsort((scores, places[:, 0], places[:, 1]))
    ordered = [masks[i] for i in by_place.tolist()]
    found = _detections(ordered, sacral[by_place], np.asarray(scores, dtype=np.float64)[by_place], kept[by_place])
    levels = _Labelling(ordered, found, anchor, options, view).levels()
    return levels._replace(
        order=[int(by_place[i]) for i in levels.order], extra=[int(by_place[i]) for i in levels.extra]
    )


def _detections(
    masks: Sequence[Rle],
    sacral: npt.NDArray[np.bool_],
    scores: npt.NDArray[np.float64],
    kept: npt.NDArray[np.bool_],
) -> Detections:
    centroids = centroids_xy(masks)
    sizes = np.sqrt(rle.areas(masks).astype(np.float64))
    gaps, tapers = np.zeros((2, len(masks), len(masks)))
    for i in perhaps_sacrum(centroids, sacral, kept, scores):
        for j in perhaps_above(centroids, i):
            way = centroids[j] - centroids[i]
            length = float(np.linalg.norm(way))
            if length > 0:
                gaps[i, j] = extent_along(masks[j], way / length)[0] - extent_along(masks[i], way / length)[1]
                tapers[i, j] = taper(masks[i], way / length)
    cut = np.array([touches_border(mask) for mask in masks], dtype=bool)
    return Detections(centroids, sizes, sacral, scores, kept, cut, gaps, tapers)


def touches_border(mask: Rle) -> bool:
    """Whether a mask comes so near to the film's edge that it may be cut off; false for an empty one.

    That is within a pixel, or 1 % of the film's longer side: outlines of networks end a few pixels short of the edge.
    """
    left, top, right, bottom = rle.box_xyxy(mask).tolist()
    height, width = mask["size"]
    near = float(min(left, top, width - right, height - bottom))
    return bool(right > left and near <= max(1.0, _CUT_MARGIN * max(height, width)))


class _Labelling:
    """One film: all readings with names, and what follows from them."""

    def __init__(
        self, masks: Sequence[Rle], found: Detections, anchor: Anchor | None, options: LabelOptions, view: str
    ) -> None:
        self.masks, self.found, self.anchor, self.options, self.view = masks, found, anchor, options, view
        self.flags: list[str] = []
        self.target = self._anchored_detection()
        self.readings = self._readings()

    def levels(self) -> Levels:
        weights = self._weights()
        # Six or four are said and not counted: the names are those of the most likely reading with five.
        best = self.readings[max(range(len(weights)), key=lambda k: (self.readings[k].lumbar == 5, weights[k], -k))]
        flags = self._film_flags(best, weights)
        extra = [int(i) for i in np.flatnonzero(self.found.kept) if i not in best.order]
        if not _anchored(best.names):
            return Levels(list(best.order), list(best.names), [None] * len(best.order), extra, flags, None)
        confidence = [self._share(weights, i, name) for i, name in zip(best.order, best.names, strict=True)]
        naming = self._naming(best, weights)
        if naming.probability < self.options.sure_probability and (self.anchor is None or self.flags):
            flags.append("levels_unsure")
        return Levels(list(best.order), list(best.names), list(confidence), extra, flags, naming)

    def _readings(self) -> list[_Reading]:
        readings = [r for chain in read_chains(self.found, self.view) for r in self._named(chain)]
        if self.anchor is not None and self.anchor.position == "at":
            target, level = self.target, self.anchor.level
            hit = [r for r in readings if (target, level) in list(zip(r.order, r.names, strict=True))]
            readings = hit or readings
            self.flags += [] if hit else ["anchor_missed"]
        return readings

    def _named(self, found: Chain) -> list[_Reading]:
        """The reading with five lumbar vertebrae; where levels are counted from the sacrum also with six and four."""
        chain = self._upright(found)
        first = self._first_level(chain)
        if first is None:
            lowest = chain.steps[0] if chain.steps else 0
            names = tuple(f"+{step - lowest + 1}" for step in chain.steps)
            return [_Reading(chain.chain, names, found, chain, chain.score, 5)]
        counted = [(5, first)]
        if self.anchor is None and chain.chain and self.options.highest_level:
            counted += [(6, "L6"), (4, "L4")]
        return [self._reading(found, chain, lumbar, start) for lumbar, start in counted]

    def _upright(self, chain: Chain) -> Chain:
        """The chain, turned round where the anchor or the film's lower edge says that it begins at its other end."""
        if len(chain.chain) < 2:
            return chain
        rows = self.found.centroids[list(chain.chain), 1]
        lowest_first = bool(rows[0] >= rows[-1])
        position = self.anchor.position if self.anchor else ""
        wanted = {"lowest": True, "highest": False}.get(position, True if chain.sacrum is None else lowest_first)
        if wanted == lowest_first:
            return chain
        steps = tuple(chain.steps[-1] - step for step in reversed(chain.steps))
        return chain._replace(chain=tuple(reversed(chain.chain)), steps=steps)

    def _first_level(self, chain: Chain) -> str | None:
        """Level of the place next to the sacrum, by the anchor or the sacrum."""
        by_sacrum = "L5" if chain.sacrum is not None else None
        if self.anchor is None:
            return by_sacrum
        if self.anchor.point_px is None:
            return _below(self.anchor.level, chain.steps[0]) if chain.steps else by_sacrum
        if self.target in chain.chain:
            return _below(self.anchor.level, chain.steps[chain.chain.index(self.target)])
        below = dict(_sacral_places(chain))
        return level_above(self.anchor.level, 1 + below[self.target]) if self.target in below else by_sacrum

    def _anchored_detection(self) -> int | None:
        """The detection under the anchor's point, the smallest of several; else the nearest within half a body."""
        if self.anchor is None or self.anchor.point_px is None:
            return None
        point = np.array(self.anchor.point_px)
        column, row = (int(v) for v in point)
        height, width = self.masks[0]["size"]
        if row < height and column < width:
            pixel = rle.from_edges(np.array([column * height + row, column * height + row + 1]), (height, width))
            under = [i for i, mask in enumerate(self.masks) if rle.area(rle.intersection(mask, pixel))]
            if under:
                return min(under, key=lambda i: (not self.found.kept[i], self.found.sizes[i], i))
        distance = np.linalg.norm(self.found.centroids - point, axis=1)
        nearest = int(np.argmin(distance))
        return nearest if distance[nearest] < self.found.sizes[nearest] / 2 else None

    def _reading(self, found: Chain, chain: Chain, lumbar: int, first: str) -> _Reading:
        names = [level_above(first, step) for step in chain.steps]
        order = [i for i, name in zip(chain.chain, names, strict=True) if name]
        top = self._sacral_top(chain, first)
        places = reversed(_sacral_places(chain))
        below = [(i, name) for i, step in places if top and (name := level_above(top, -step))]
        order = [*(i for i, _ in below), *order]
        named = (*(n for _, n in below), *(n for n in names if n))
        weight = chain.score + self._count_weight(chain, lumbar)
        return _Reading(tuple(order), named, found, chain, weight, lumbar)

    def _sacral_top(self, chain: Chain, first: str) -> str | None:
        """Level of S1's place, where `first` is that of the place above: another where the user says so."""
        below = dict(_sacral_places(chain))
        if self.anchor is not None and self.target in below:
            # Any level: it may be a sacralised L5 that was found as sacral.
            return level_above(self.anchor.level, below[self.target])
        return level_above(first, -1) if first.startswith("S") else "S1"

    def _count_weight(self, chain: Chain, lumbar: int) -> float:
        """Log probability of a number of lumbar vertebrae, and of the chain's upper end with it."""
        options = self.options
        if options.highest_level is None or self.anchor is not None or chain.sacrum is None:
            return 0.0
        prior = {6: options.six_lumbar, 4: options.four_lumbar}
        share = prior.get(lumbar, 1 - sum(prior.values()))
        if not chain.chain:
            # Nothing tells which end of the sacrum is up: films that lie upside down are few.
            upper = min((i for i, _ in _sacral_places(chain)), key=lambda i: self.found.centroids[i, 1])
            return math.log(0.95 if upper == chain.sacrum else 0.05)
        expected = lumbar + {"L1": 0, "T12": 1, "T11": 2, "T10": 3}[options.highest_level]
        missing = expected - (chain.steps[-1] + 1)
        return math.log(max(share, 1e-9)) + math.log(self._end_probability(missing, chain))

    def _end_probability(self, missing: int, chain: Chain) -> float:
        """Probability that a chain ends so many vertebrae below the highest annotated one (negative: above)."""
        if missing < 0:
            return _TOP_EXCEEDED ** min(-missing, 3)
        if missing == 0:
            return _TOP_SEEN
        if self._room(chain) < 1:
            return _TOP_CUT[min(missing, 3) - 1]
        return _TOP_MISSED[min(missing, 2) - 1]

    def _room(self, chain: Chain) -> int:
        """How many further vertebrae the film has room for beyond the chain's upper end."""
        before = chain.chain[-2] if len(chain.chain) > 1 else chain.sacrum
        last = chain.chain[-1]
        if before is None:
            return 0
        start = self.found.centroids[last]
        way = start - self.found.centroids[before]
        length = float(np.linalg.norm(way))
        if length == 0:
            return 0
        levels = chain.steps[-1] - chain.steps[-2] if len(chain.steps) > 1 else chain.steps[-1] + 1
        height, width = self.masks[0]["size"]
        limits = [
            (edge - start[axis]) / way[axis]
            for axis, edges in ((0, (0, width)), (1, (0, height)))
            for edge in edges
            if way[axis]
        ]
        reach = min((t for t in limits if t > 0), default=0.0) * levels
        return max(0, int(reach - _ROOM))

    def _weights(self) -> npt.NDArray[np.float64]:
        logs = np.array([r.log_weight for r in self.readings])
        weights: npt.NDArray[np.float64] = np.exp(logs - log_sum(logs.tolist()))
        return weights

    def _share(self, weights: npt.NDArray[np.float64], position: int, name: str) -> float:
        """Mass of all readings that give a detection this name."""
        named = [(position, name) in zip(r.order, r.names, strict=True) for r in self.readings]
        # Rounding may take the sum of all a little above 1.
        return min(float(weights[named].sum()), 1.0)

    def _naming(self, best: _Reading, weights: npt.NDArray[np.float64]) -> Naming:
        """Mass of all readings that name the same vertebrae alike, and the next most likely other names."""
        by_names: dict[tuple[str, ...], float] = {}
        for reading, weight in zip(self.readings, weights, strict=True):
            named = dict(zip(reading.order, reading.names, strict=True))
            names = tuple(named.get(i, "") for i in best.order)
            by_names[names] = by_names.get(names, 0.0) + float(weight)
        probability = by_names.pop(best.names)
        following = max(by_names, key=lambda n: (by_names[n], n), default=())
        return Naming(
            min(probability, 1.0), following, by_names.get(following, 0.0), str(self.anchor) if self.anchor else None
        )

    def _film_flags(self, best: _Reading, weights: npt.NDArray[np.float64]) -> list[str]:
        has_sacrum = any(self.found.sacral[i] for i in best.order)
        flags = [*self.flags]
        flags += [] if has_sacrum else ["no_sacrum"]
        flags += [] if best.chain.chain else ["no_lumbar"]
        if self.anchor is not None and _disagrees(best):
            flags.append("anchor_disagrees_with_sacrum")
        sacral = [i for i, _ in _sacral_places(best.chain)]
        flags += ["sacrum_on_both_sides"] if self._sacrum_above(best.chain, {*best.order, *sacral}) else []
        flags += ["sacrum_cut"] if self._sacrum_cut(best.chain, sacral) else []
        names = list(best.names)
        flags += [f"gap_between_{a}_{b}" for a, b in pairwise(names) if not are_neighbours(a, b)]
        for lumbar, flag in ((6, "possible_L6"), (4, "possible_L4_only")):
            share = sum(w for w, r in zip(weights, self.readings, strict=True) if r.lumbar == lumbar)
            flags += [flag] if share >= self.options.transition_probability else []
        beyond = {*best.chain.chain, *sacral} - set(best.order)
        return [*flags, *(["beyond_levels"] if beyond else [])]

    def _sacrum_cut(self, chain: Chain, sacral: list[int]) -> bool:
        """Whether the one sacral part in view is less than the vertebra above it, and cut by the film's edge.

        A vertebra of which the film shows a part looks much like that; were it L5, every name would be one too low.
        """
        if self.anchor is not None or len(sacral) != 1 or not chain.chain:
            return False
        part = sacral[0]
        return bool(self.found.cut[part] and self.found.sizes[part] < self.found.sizes[chain.chain[0]])

    def _sacrum_above(self, chain: Chain, used: set[int]) -> bool:
        """Whether a kept sacral detection that has no place lies on the upper side of the chain's middle."""
        if chain.sacrum is None or not chain.chain:
            return False
        start = self.found.centroids[chain.sacrum]
        way = self.found.centroids[chain.chain[-1]] - start
        stray = [int(i) for i in np.flatnonzero(self.found.sacral & self.found.kept) if int(i) not in used]
        return any((self.found.centroids[i] - start) @ way > way @ way / 2 for i in stray)


def _disagrees(best: _Reading) -> bool:
    """Whether the anchor gives the sacrum, or the vertebra next to it, another level than the sacrum by itself."""
    if best.found.sacrum is None:
        return False
    named = dict(zip(best.order, best.names, strict=True))
    top = named.get(best.found.sacrum, "")
    if not top.startswith("S"):
        return True
    return bool(best.found.chain) and named.get(best.found.chain[0]) != level_above("L5", best.found.steps[0])


def _anchored(names: Sequence[str]) -> bool:
    return not any(name.startswith("+") for name in names)


def _sacral_places(chain: Chain) -> list[tuple[int, int]]:
    """Sacral detections of a reading from the uppermost down, and how many levels below S1's place each lies."""
    if chain.sacrum is None:
        return []
    lower = zip(chain.lower, chain.lower_steps, strict=True)
    return [(chain.sacrum, chain.sacral_steps), *((i, chain.sacral_steps + step) for i, step in lower)]


def _below(level: str, steps: int) -> str | None:
    """Level so many places below one of the lumbar chain: below L5 that is L6, since the sacrum is found as such."""
    if level in LEVELS and level[0] != "S" and LEVELS.index(level) - steps == LEVELS.index("S1"):
        return "L6"
    return level_above(level, -steps)
