"""Pieces of one vertebra, such as a screw that crosses it leaves, made one instance again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from vertinst.postprocess.chain import along, centroids_xy, spine_axis
from vertinst.postprocess.nms import describe, rank, suppress
from vertinst.postprocess.policy import Policy
from vertinst.structures import Instances, Rle, rle
from vertinst.structures.dataset import BONE

__all__ = ["join_fragments", "one_for_each"]

# Shares of a typical vertebra nearby, for which the upper median of the three nearest whole ones stands.
PIECE_AREA = (0.08, 0.7)
WHOLE_AREA = (0.6, 1.25)
WHOLE_EXTENT = (0.75, 1.2)
"""Along the spine and across it. Two neighbours and the disc between them are more than twice as long as one."""
MIN_FILL = 0.85
"""Of the convex hull, against what vertebrae nearby fill of theirs. A disc between two bodies leaves more empty."""
MAX_SHARED = 0.1
"""Of the areas of the pieces, what they may share. Two that share more are two readings of one place."""
MAX_PIECES = 3
# Of more small bones the surest are tried: five vertebrae in three parts each. All threes of a hundred take a minute.
_MOST_SMALL = 15
_NEAREST = 3
# Below this share of the film's upper quartile, a vertebra is no measure for others: it may be a piece itself.
_REFERENCE_AREA = 0.55
# Gap between the boxes of pieces, as a share of the side of a square of a typical vertebra's area.
_GAP = 0.3
# A cage lies between two vertebrae: what it fills is no hole in one.
_CROSSING = ("screw", "rod")

Points = npt.NDArray[np.float64]


class _Join(NamedTuple):
    """Pieces (by rank) that pass all tests; the least misfit goes first."""

    misfit: float
    pieces: tuple[int, ...]
    fill: float
    threshold: float


def one_for_each(
    instances: Instances,
    categories: tuple[str, ...],
    policy: Policy = Policy(),  # noqa: B008 - frozen
    *,
    score_threshold: float = 0.0,
) -> tuple[Instances, list[dict[str, Any]]]:
    """Make it one instance for each object: what is doubled goes (`suppress`), what is broken is joined.

    Args and order as for `join_fragments`, which see.

    Returns:
        What is left, best first, and what happened to the others, in the order in which it happened.
    """
    first = suppress(instances, categories, policy)
    found, joins = join_fragments(instances[first.kept], categories, policy, score_threshold=score_threshold)
    if not joins:
        return found, first.log
    # A whole vertebra overlaps what its pieces alone did not.
    again = suppress(found, categories, policy)
    return found[again.kept], first.log + joins + again.log


def join_fragments(
    instances: Instances,
    categories: tuple[str, ...],
    policy: Policy = Policy(),  # noqa: B008 - frozen
    *,
    score_threshold: float = 0.0,
) -> tuple[Instances, list[dict[str, Any]]]:
    """Make one instance of two or three that are pieces of one vertebra.

    Pieces are bones that lie close together and share little, each much smaller than a vertebra nearby. They are
    joined if the whole has the area of such a vertebra and its extent along the spine and across it, and fills its
    convex hull as well; pixels of screws and rods, which leave the gaps, count as filled. So two neighbours never
    pass, nor does a vertebra with a bit of the next; and two sacral instances, which S1 and S2 are, are never tried.
    Without two whole lumbar vertebrae besides there is no measure, and nothing is joined. What was joined is not
    joined again.

    The whole is the union of the masks, with its tight box, the best piece's class and the highest score.

    Args:
        instances: N of one film after suppression, in any order; N = 0 is allowed.
        categories: Names, in the order of the ids from 1.
        policy: Whether to join at all.
        score_threshold: 0..1; instances below it are neither joined nor a measure for others.

    Returns:
        All instances, best first, and a JSON-ready dict for each join: `event` (`joined`), `joined` (the pieces, best
        first, each category, score, box xyxy px), `into` (the whole), `reason` (`one_vertebra`), `value` (share of
        the hull that is filled, over the same of vertebrae nearby), `threshold`.
    """
    ordered = instances[rank(instances)]
    if not policy.join_fragments:
        return ordered, []
    film = _Film.of(ordered, [categories[i - 1] for i in ordered.category_ids.tolist()], score_threshold)
    joins = _choose(film)
    if not joins:
        return ordered, []
    masks = list(ordered.masks)
    for join in joins:
        masks[join.pieces[0]] = rle.union([ordered.masks[i] for i in join.pieces], ordered.image_size)
    boxes = ordered.boxes.copy()
    for first in (join.pieces[0] for join in joins):
        boxes[first] = rle.box_xyxy(masks[first])
    whole = Instances(ordered.image_size, boxes, tuple(masks), ordered.category_ids, ordered.scores)
    log = [
        {
            "event": "joined",
            "joined": [describe(ordered, categories, i) for i in join.pieces],
            "into": describe(whole, categories, join.pieces[0]),
            "reason": "one_vertebra",
            "value": round(join.fill, 4),
            "threshold": join.threshold,
        }
        for join in joins
    ]
    gone = {i for join in joins for i in join.pieces[1:]}
    left = whole[[i for i in range(len(whole)) if i not in gone]]
    return left[rank(left)], log


@dataclass(frozen=True, eq=False)
class _Film:
    """Bones of a film, best first, and the metal that may cross them.

    Attributes:
        masks: Of all instances.
        bones: Positions of bones.
        sacral: Of all instances, whether it is sacral.
        areas: Of all instances, px.
        whole: Positions of lumbar vertebrae that others may be measured by.
        metal: Pixels of screws and rods.
    """

    masks: tuple[Rle, ...]
    bones: list[int]
    sacral: list[bool]
    areas: npt.NDArray[np.int64]
    whole: list[int]
    metal: Rle

    @cached_property
    def centroids(self) -> Points:
        """(N, 2) xy px of all masks; NaN where one is empty."""
        return centroids_xy(self.masks)

    @classmethod
    def of(cls, ordered: Instances, names: Sequence[str], score_threshold: float) -> _Film:
        areas = rle.areas(ordered.masks)
        sure = areas > 0
        if ordered.scores is not None:
            sure &= ordered.scores >= np.float32(score_threshold)
        used = np.flatnonzero(sure).tolist()
        lumbar = [i for i in used if names[i] in BONE and names[i] != "sacral"]
        least = _REFERENCE_AREA * float(np.quantile(areas[lumbar], 0.75)) if lumbar else 0.0
        return cls(
            ordered.masks,
            [i for i in used if names[i] in BONE],
            [name == "sacral" for name in names],
            areas,
            [i for i in lumbar if areas[i] >= least],
            rle.union([ordered.masks[i] for i in used if names[i] in _CROSSING], ordered.image_size),
        )


def _choose(film: _Film) -> list[_Join]:
    """The joins that fit best, none of them with a piece of another, best pieces first."""
    found = [join for group in _groups(film) if (join := _test(film, group)) is not None]
    taken: set[int] = set()
    chosen = []
    for join in sorted(found):
        if not taken.intersection(join.pieces):
            taken.update(join.pieces)
            chosen.append(join)
    return sorted(chosen, key=lambda join: join.pieces)


def _groups(film: _Film) -> Iterator[tuple[int, ...]]:
    """Two or three small bones, each close to another of them, at most one sacral."""
    if len(film.whole) < 2:
        return
    largest = PIECE_AREA[1] * float(film.areas[film.whole].max())
    small = [i for i in film.bones if film.areas[i] <= largest][:_MOST_SMALL]
    if len(small) < 2:
        return
    corners = rle.boxes_xywh([film.masks[i] for i in small])
    starts, ends = corners[:, :2], corners[:, :2] + corners[:, 2:]
    gaps = np.maximum(starts[:, None] - ends[None], starts[None] - ends[:, None]).max(axis=2)
    close = gaps <= _GAP * np.sqrt(film.areas[film.whole].max())
    for count in range(2, MAX_PIECES + 1):
        for group in combinations(range(len(small)), count):
            pieces = tuple(small[i] for i in group)
            # Of two or three, all hang together if there are as many close pairs as all but one.
            near = sum(bool(close[a, b]) for a, b in combinations(group, 2))
            if near >= count - 1 and sum(film.sacral[i] for i in pieces) < 2 and _enough(film, pieces):
                yield pieces


def _enough(film: _Film, pieces: tuple[int, ...]) -> bool:
    """Whether the areas alone leave it open that the pieces are one vertebra, whichever it is measured by."""
    total, whole = float(film.areas[list(pieces)].sum()), film.areas[film.whole]
    return bool(WHOLE_AREA[0] * whole.min() <= total <= WHOLE_AREA[1] * whole.max() / (1 - MAX_SHARED))


def _test(film: _Film, pieces: tuple[int, ...]) -> _Join | None:
    """Whether the pieces are one vertebra, by vertebrae nearby."""
    others = [i for i in film.whole if i not in pieces]
    if len(others) < 2:
        return None
    centroids = film.centroids[others]
    middle = np.average(film.centroids[list(pieces)], axis=0, weights=film.areas[list(pieces)])
    distance = np.linalg.norm(centroids - middle, axis=1)
    nearest = np.argsort(distance, kind="stable")[:_NEAREST].tolist()
    typical = _upper_median(film.areas[[others[k] for k in nearest]])
    if not all(_within(film.areas[i] / typical, PIECE_AREA) for i in pieces):
        return None
    whole = rle.union([film.masks[i] for i in pieces], film.masks[pieces[0]]["size"])
    area = rle.area(whole)
    shared = 1 - area / float(film.areas[list(pieces)].sum())
    if shared > MAX_SHARED or not _within(area / typical, WHOLE_AREA):
        return None
    axis = spine_axis(np.concatenate([centroids[nearest], middle[None]]))
    hull, hulls = _hull(whole), [_hull(film.masks[others[k]]) for k in nearest]
    for direction in (axis, axis[::-1] * [-1, 1]):
        extent = np.ptp(along(hull, direction)) / _upper_median(np.array([np.ptp(along(h, direction)) for h in hulls]))
        if not _within(extent, WHOLE_EXTENT):
            return None
    nearby = [_fill(film.masks[others[k]], h, film.metal) for k, h in zip(nearest, hulls, strict=True)]
    fill = _fill(whole, hull, film.metal) / _upper_median(np.array(nearby))
    misfit = abs(float(np.log(area / typical))) + max(0.0, 1 - fill)
    return _Join(misfit, pieces, fill, MIN_FILL) if fill >= MIN_FILL else None


def _within(value: float, limits: tuple[float, float]) -> bool:
    return bool(limits[0] <= value <= limits[1])


def _upper_median(values: npt.NDArray[Any]) -> float:
    return float(np.sort(values)[len(values) // 2])


def _hull(mask: Rle) -> Points:
    """Convex hull (V, 2) xy px of a mask that is not empty."""
    points = np.concatenate([part.exterior for part in rle.rle_to_polygons(mask)])
    return np.asarray(cv2.convexHull(points.astype(np.float32)).reshape(-1, 2), dtype=np.float64)


def _fill(mask: Rle, hull: Points, metal: Rle) -> float:
    """Share of a mask's convex hull that it and the metal fill."""
    inside = rle.polygons_to_rle([hull], mask["size"])
    return rle.area(rle.intersection(inside, rle.union([mask, metal], mask["size"]))) / max(rle.area(inside), 1)
