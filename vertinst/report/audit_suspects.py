"""Annotations that a human should look at again, each with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from vertinst.report.audit_measures import Measures
from vertinst.structures import Annotation, Dataset, ImageRecord
from vertinst.structures.dataset import BONE
from vertinst.structures.spine import LEVELS

__all__ = ["FILM_RULES", "INSTANCE_RULES", "suspicious_films", "suspicious_instances"]

Floats = npt.NDArray[np.float64]

MAX_Z = 3.5
MIN_FOR_Z = 10
MIN_SPREAD = 0.1
MAX_OVERLAP = 0.5
# On lateral films the left ones lie over the right ones: only what is all but the same is suspicious.
_PAIRED, MAX_PAIRED_OVERLAP = ("screw", "rod"), 0.98
TINY_PX, TINY_SIDE_PX = 25, 3
_EDGES = ("left", "upper", "right", "lower")
BEYOND_SHARE = 0.05
CORNER_SHARE, MIN_IN_CORNER = 0.55, 4

INSTANCE_RULES = {
    "empty": "covers no pixel",
    "tiny": f"fewer than {TINY_PX} pixels, or less than {TINY_SIDE_PX} px wide or high",
    "overlap": f"more than {MAX_OVERLAP:.0%} of its area (of screws and rods {MAX_PAIRED_OVERLAP:.0%}) also belong to "
    "a larger one of its class",
    "area": f"share of the film far from the median of its class (robust z above {MAX_Z}, from {MIN_FOR_Z} instances; "
    "not if smaller and cut off by the film's edge)",
    "shape": f"width over height far from the median of its class (robust z above {MAX_Z}, from {MIN_FOR_Z} instances; "
    "not if at the film's edge)",
    "edge": "touches the edge of the film: cut off there, or clipped",
}
"""What is suspicious about an instance, the gravest first."""
FILM_RULES = {
    "outside": f"an outline leaves the film by more than {BEYOND_SHARE:.0%} of its size: annotated on another size?",
    "corner": f"all outlines in the upper left {CORNER_SHARE:.0%}: annotated on a smaller copy?",
    "repeated_level": "a vertebra's level is given twice",
    "level_order": "levels do not follow each other along the spine",
    "upside_down": "the sacral end of the spine is on top",
    "missing_level": "a level between two annotated ones is missing",
    "objects": f"number of objects far from the median of the films (robust z above {MAX_Z}, from {MIN_FOR_Z} films)",
}
"""What is suspicious about a film, the gravest first."""


def suspicious_instances(dataset: Dataset, measures: Measures) -> list[dict[str, Any]]:
    """Instances with what is suspicious about them, JSON-ready, in the order of the data set.

    Each has `image`, `annotation` (its number in the film, from 0), `class`, `level`, `box_xyxy` (px) and `reasons`:
    `kind` of `INSTANCE_RULES`, `text`, and `strength`, by which those of one kind compare.
    """
    reasons: dict[int, list[dict[str, Any]]] = {}
    for row, kind, text, strength in _reasons(dataset, measures):
        found = {"kind": kind, "text": text, "strength": float(f"{strength:.4g}")}
        reasons.setdefault(row, []).append(found)
    return [_instance(dataset, measures, row, reasons[row]) for row in sorted(reasons)]


def _instance(dataset: Dataset, measures: Measures, row: int, reasons: list[dict[str, Any]]) -> dict[str, Any]:
    image = dataset.images[measures.film[row]]
    number = int(measures.number[row])
    annotation = image.annotations[number]
    return {
        "image": image.file_name,
        "annotation": number,
        "class": annotation.category,
        # Another text than a level's may be anything, a name among it.
        "level": annotation.level if annotation.level in LEVELS else None,
        "box_xyxy": measures.boxes_xyxy[row].tolist(),
        "reasons": reasons,
    }


def _reasons(dataset: Dataset, measures: Measures) -> Iterator[tuple[int, str, str, float]]:
    """Row, kind, text and strength."""
    area, sides = measures.area_px, measures.sides_px
    for row in np.flatnonzero(area == 0).tolist():
        yield row, "empty", "covers no pixel", 1.0
    tiny = (area > 0) & ((area < TINY_PX) | (sides.min(axis=1, initial=np.inf) < TINY_SIDE_PX))
    for row in np.flatnonzero(tiny).tolist():
        width, height = sides[row]
        yield row, "tiny", f"{area[row]:.0f} pixels, {width:.0f} x {height:.0f} px", 1 / area[row]
    yield from _overlapping(dataset, measures)
    yield from _unlike_their_class(dataset, measures)
    at_edge = _edges(measures)
    for row in np.flatnonzero(at_edge.any(axis=1)).tolist():
        names = [name for name, is_at in zip(_EDGES, at_edge[row], strict=True) if is_at]
        yield row, "edge", f"touches the {' and the '.join(names)} edge", float(len(names))


def _unlike_their_class(dataset: Dataset, measures: Measures) -> Iterator[tuple[int, str, str, float]]:
    seen = np.flatnonzero(measures.area_px > 0)
    width, height = measures.sides_px[seen].T
    at_edge = _edges(measures)[seen].any(axis=1)
    category = measures.category[seen]
    share, aspect = measures.area_share[seen], width / height
    z, median = _by_class(np.log(share), category)
    for place in np.flatnonzero((np.abs(z) > MAX_Z) & ~(at_edge & (z < 0))).tolist():
        usual = f"median of {dataset.categories[category[place]]} {100 * np.exp(median[place]):.3g} %"
        text = f"{100 * share[place]:.3g} % of the film, {usual} (z {z[place]:+.1f})"
        yield int(seen[place]), "area", text, abs(float(z[place]))
    z, median = _by_class(np.log(aspect), category)
    for place in np.flatnonzero((np.abs(z) > MAX_Z) & ~at_edge).tolist():
        usual = f"median of {dataset.categories[category[place]]} {np.exp(median[place]):.3g}"
        text = f"width over height {aspect[place]:.3g}, {usual} (z {z[place]:+.1f})"
        yield int(seen[place]), "shape", text, abs(float(z[place]))


def _overlapping(dataset: Dataset, measures: Measures) -> Iterator[tuple[int, str, str, float]]:
    first, second = measures.pairs.T
    category = measures.category[first]
    same = category == measures.category[second]
    paired = np.array([name in _PAIRED for name in dataset.categories], dtype=bool)
    limit = np.where(paired[category], MAX_PAIRED_OVERLAP, MAX_OVERLAP) if len(paired) else 1.0
    for place in np.flatnonzero(same & (measures.over_smaller > limit)).tolist():
        a, b = measures.pairs[place].tolist()
        smaller, larger = (a, b) if measures.area_px[a] < measures.area_px[b] else (b, a)
        share = float(measures.over_smaller[place])
        name = dataset.categories[measures.category[a]]
        text = f"{share:.0%} of it lie in {name} number {measures.number[larger]} of the film"
        yield smaller, "overlap", text, share


def _edges(measures: Measures) -> npt.NDArray[np.bool_]:
    """(N, 4) whether an instance touches the edges of `_EDGES`."""
    height, width = measures.film_size.T
    left, top, right, bottom = measures.boxes_xyxy.T
    touches = np.stack([left <= 0, top <= 0, right >= width, bottom >= height], axis=1)
    return touches & (measures.area_px > 0)[:, None]


def _by_class(values: Floats, category: npt.NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Robust z of each value within its class, and the class's median; z is 0 in classes of few."""
    z, median = np.zeros(len(values)), np.zeros(len(values))
    order = np.argsort(category, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(category[order])) + 1):
        if len(members):
            z[members], median[members] = robust_z(values[members], MIN_SPREAD)
    return z, median


def robust_z(values: Floats, min_spread: float) -> tuple[Floats, float]:
    """How many robust standard deviations each value lies from the median, and the median.

    Source: Iglewicz and Hoaglin, "How to Detect and Handle Outliers" (1993): 0.6745 times the distance from the median
    over the median distance; they call what exceeds 3.5 an outlier.

    Args:
        values: (N,) N >= 1; below `MIN_FOR_Z` the result is 0.
        min_spread: The median distance counts as at least this: where nearly all values are alike, a small difference
            is none.
    """
    median = float(np.median(values))
    if len(values) < MIN_FOR_Z:
        return np.zeros(len(values)), median
    spread = max(min_spread, float(np.median(np.abs(values - median))))
    return 0.6745 * (values - median) / spread, median


def suspicious_films(dataset: Dataset, measures: Measures) -> list[dict[str, Any]]:
    """Films with what is suspicious about them, JSON-ready: `image`, `kind` of `FILM_RULES`, `text`; by kind."""
    found = [*_wrong_size(dataset, measures), *_levels(dataset, measures), *_numbers(dataset)]
    order = list(FILM_RULES)
    found.sort(key=lambda entry: order.index(entry["kind"]))
    return found


def _finding(image: ImageRecord, kind: str, text: str) -> dict[str, Any]:
    return {"image": image.file_name, "kind": kind, "text": text}


def _wrong_size(dataset: Dataset, measures: Measures) -> Iterator[dict[str, Any]]:
    starts = np.flatnonzero(np.diff(measures.film, prepend=-1))
    for rows in np.split(np.arange(len(measures.film)), starts[1:]):
        if not len(rows):
            continue
        image = dataset.images[measures.film[rows[0]]]
        x, y = measures.reach_xy[rows].max(axis=0).tolist()
        right, bottom = measures.boxes_xyxy[rows, 2:].max(axis=0).tolist()
        size = f"a film of {image.width} x {image.height} px"
        if x > image.width * (1 + BEYOND_SHARE) or y > image.height * (1 + BEYOND_SHARE):
            yield _finding(image, "outside", f"outlines reach to x = {x:.0f}, y = {y:.0f} on {size}")
        corner = 0 < right < CORNER_SHARE * image.width and 0 < bottom < CORNER_SHARE * image.height
        if corner and len(rows) >= MIN_IN_CORNER:
            yield _finding(image, "corner", f"outlines end at x = {right:.0f}, y = {bottom:.0f} on {size}")


def _numbers(dataset: Dataset) -> Iterator[dict[str, Any]]:
    annotated = [image for image in dataset.images if image.annotations]
    if not annotated:
        return
    counts = [len(image.annotations) for image in annotated]
    z, median = robust_z(np.array(counts, dtype=np.float64), 1.0)
    for image, count, value in zip(annotated, counts, z.tolist(), strict=True):
        if abs(value) > MAX_Z:
            yield _finding(image, "objects", f"{count} objects, median of the annotated films {median:g}")


def _levels(dataset: Dataset, measures: Measures) -> Iterator[dict[str, Any]]:
    bones = set(BONE) & {a.category for image in dataset.images for a in image.annotations} or set(dataset.categories)
    films: dict[int, list[tuple[str, float, float]]] = {}
    boxes = measures.boxes_xyxy.tolist()
    for film, number, box in zip(measures.film.tolist(), measures.number.tolist(), boxes, strict=True):
        annotation: Annotation = dataset.images[film].annotations[number]
        level = annotation.level
        if level in LEVELS and annotation.category in bones:
            films.setdefault(film, []).append((level, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2))
    for film, vertebrae in films.items():
        for kind, text in _of_one_spine(vertebrae):
            yield _finding(dataset.images[film], kind, text)


def _of_one_spine(vertebrae: list[tuple[str, float, float]]) -> Iterator[tuple[str, str]]:
    """Kind and text of what is wrong with levels at (x, y)."""
    counts = Counter(level for level, _, _ in vertebrae)
    repeated = [level for level in LEVELS if counts[level] > 1]
    if repeated:
        yield "repeated_level", ", ".join(f"{level} {counts[level]} times" for level in repeated)
    places = sorted(LEVELS.index(level) for level in counts)
    missing = [LEVELS[n] for n in range(places[0], places[-1]) if n not in places]
    if missing:
        yield "missing_level", f"{', '.join(missing)} between {LEVELS[places[0]]} and {LEVELS[places[-1]]}"
    if repeated or len(vertebrae) < 3:
        return
    xs, ys = [x for _, x, _ in vertebrae], [y for _, _, y in vertebrae]
    upright = max(ys) - min(ys) >= max(xs) - min(xs)
    downwards = [level for level, _, _ in sorted(vertebrae, key=lambda v: v[2] if upright else v[1])]
    order = [LEVELS.index(level) for level in downwards]
    if order not in (sorted(order), sorted(order, reverse=True)):
        yield "level_order", f"{'from above' if upright else 'from the left'}: {' '.join(downwards)}"
    elif upright and order == sorted(order):
        yield "upside_down", f"{downwards[0]} lies above {downwards[-1]}"
