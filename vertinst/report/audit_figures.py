"""Histograms of an audit as shapes and words for SVG, which the page's template draws in the colours of the page.

By hand, because a few bars need no drawing library: to import one and draw ten figures took longer than the rest of a
small conversion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

__all__ = ["FRAME", "Frame", "Histogram", "Layer", "plot_distributions"]


class Frame(NamedTuple):
    """Where a drawing has its axes, in units of the drawing, in which letters are 13 high; y downwards."""

    width: int = 480
    height: int = 250
    left: int = 52
    right: int = 454
    top: int = 10
    bottom: int = 208


FRAME = Frame()
_MAX_CLASSES = 6
_MAX_TICKS_Y, _MAX_TICKS_X = 5, 8
_MAX_LABEL = 60


class Layer(NamedTuple):
    """One class in a histogram.

    Attributes:
        label: Its name.
        total: Of all its values.
        path: SVG path of its bars, stacked on those of the classes before.
    """

    label: str
    total: int
    path: str


class Histogram(NamedTuple):
    """One histogram.

    Attributes:
        title: What it shows.
        alt: The same for those who do not see it.
        x_label: What the bins are.
        y_label: What is counted.
        layers: From the lowest.
        x_ticks: Places and texts.
        y_ticks: Places and texts.
    """

    title: str
    alt: str
    x_label: str
    y_label: str
    layers: list[Layer]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


class _Axis(NamedTuple):
    title: str
    x: str
    y: str
    logarithmic: bool = False
    percent: bool = False
    whole: bool = False


_AXES = {
    "area_share": _Axis("Area of the instances", "share of the film, logarithmic", "instances", True, percent=True),
    "longer_side_px": _Axis("Size of the instances", "longer side of the box, px, logarithmic", "instances", True),
    "width_over_height": _Axis("Aspect of the instances", "width over height, logarithmic", "instances", True),
    "objects_per_film": _Axis("Objects per film", "objects", "films", whole=True),
    "overlap": _Axis("Overlaps", "intersection over the smaller area", "pairs that share pixels", percent=True),
}


def plot_distributions(distributions: Mapping[str, Any]) -> list[Histogram]:
    """Lay out every distribution of an audit that has values.

    Args:
        distributions: As `audit` gives them: name -> `edges` and `counts` by class.
    """
    plots = []
    for name, axis in _AXES.items():
        entry = distributions[name]
        counts = _largest({label: values for label, values in entry["counts"].items() if sum(values)})
        if counts:
            plots.append(_lay_out(axis, entry["edges"], counts))
    return plots


def _largest(counts: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """The classes with most instances, the others as one."""
    ranked = sorted(counts, key=lambda label: -sum(counts[label]))
    if len(ranked) <= _MAX_CLASSES:
        return dict(counts)
    chosen = {label: counts[label] for label in ranked[: _MAX_CLASSES - 1]}
    rest = np.sum([counts[label] for label in ranked[_MAX_CLASSES - 1 :]], axis=0)
    return {**chosen, f"{len(ranked) - _MAX_CLASSES + 1} other classes": rest.tolist()}


def _lay_out(axis: _Axis, edges: list[float], counts: Mapping[str, list[int]]) -> Histogram:
    scale: Callable[[float], float] = math.log if axis.logarithmic else float
    low, high = scale(edges[0]), scale(edges[-1])
    span = (high - low) or 1.0
    xs = [FRAME.left + (FRAME.right - FRAME.left) * (scale(edge) - low) / span for edge in edges]
    top = max(map(sum, zip(*counts.values(), strict=True)))
    height = (FRAME.bottom - FRAME.top) / (1.05 * top)
    layers = []
    below = [0] * (len(edges) - 1)
    for label, values in counts.items():
        above = [b + v for b, v in zip(below, values, strict=True)]
        layers.append(Layer(_short(label), sum(values), _bars(xs, below, above, height)))
        below = above
    least = 1 if axis.whole else 0
    places = _powers(edges[0], edges[-1]) if axis.logarithmic else _steps(edges[0], edges[-1], _MAX_TICKS_X, least)
    x_ticks = [
        (
            round(FRAME.left + (FRAME.right - FRAME.left) * (scale(place) - low) / span, 1),
            _text(place, percent=axis.percent),
        )
        for place in places
    ]
    y_ticks = [(round(FRAME.bottom - place * height, 1), f"{place:,.0f}") for place in _steps(0, top, _MAX_TICKS_Y, 1)]
    return Histogram(axis.title, _alt(axis, edges, counts), axis.x, axis.y, layers, x_ticks, y_ticks)


def _bars(xs: list[float], below: list[int], above: list[int], height: float) -> str:
    """One rectangle a bin that is not empty, with a hair's breadth between neighbours."""
    return "".join(
        f"M{left:.1f} {FRAME.bottom - low * height:.1f}V{FRAME.bottom - high * height:.1f}"
        f"H{max(right - 0.5, left + 0.3):.1f}V{FRAME.bottom - low * height:.1f}Z"
        for left, right, low, high in zip(xs, xs[1:], below, above, strict=False)
        if high > low
    )


def _steps(low: float, high: float, most: int, least: float = 0) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten from `low` to `high`, at most `most` + 1, no closer than `least`."""
    # Edges that were rounded to the same number have no range.
    wanted = max((high - low) / most, least, 1e-9 * abs(high))
    power = 10.0 ** math.floor(math.log10(wanted))
    # 1 is wanted exactly where there are few counts: no step of 2 because of a rounding.
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= wanted * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten, over two of them also twice and five times them, over less than one plain steps."""
    if high < 10 * low:
        return _steps(low, high, _MAX_TICKS_X - 2)
    factors = (1, 2, 5) if high < 200 * low else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [p for p in (factor * 10.0**exponent for exponent in exponents for factor in factors) if low <= p <= high]


def _text(value: float, *, percent: bool) -> str:
    return f"{100 * value:.4g} %" if percent else f"{value:.6g}"


def _alt(axis: _Axis, edges: list[float], counts: Mapping[str, list[int]]) -> str:
    parts = []
    for label, values in counts.items():
        top = int(np.argmax(values))
        low, high = edges[top : top + 2]
        where = (
            # Bins of whole numbers lie around them.
            f"at {low + 0.5:g}"
            if axis.whole and high - low == 1
            else f"between {_text(low, percent=axis.percent)} and {_text(high, percent=axis.percent)}"
        )
        parts.append(f"{_short(label)}: {sum(values)}, most {where}")
    return f"{axis.title}, {axis.x}. {'; '.join(parts)}."


def _short(label: str) -> str:
    text = "".join(c if c.isprintable() else " " for c in label)
    return text if len(text) <= _MAX_LABEL else f"{text[: _MAX_LABEL - 1]}…"
