"""Histograms of an audit, as SVG in data URIs, one for light and one for dark pages."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from vertinst.report.figures import COLOURS, INK, Plot, data_uri, frame

__all__ = ["plot_distributions"]

_MAX_CLASSES = 6
_MAX_LABEL = 30


class _Axis(NamedTuple):
    title: str
    x: str
    y: str
    logarithmic: bool = False
    percent: bool = False


_AXES = {
    "area_share": _Axis("Area of the instances", "share of the film, logarithmic", "instances", True, percent=True),
    "longer_side_px": _Axis("Size of the instances", "longer side of the box, px, logarithmic", "instances", True),
    "width_over_height": _Axis("Aspect of the instances", "width over height, logarithmic", "instances", True),
    "objects_per_film": _Axis("Objects per film", "objects", "films"),
    "overlap": _Axis("Overlaps", "intersection over the smaller area", "pairs that share pixels", percent=True),
}


def plot_distributions(distributions: Mapping[str, Any]) -> list[Plot]:
    """Draw every distribution of an audit that has values.

    Args:
        distributions: As `audit` gives them: name -> `edges` and `counts` by class.
    """
    plots = []
    for name, axis in _AXES.items():
        entry = distributions[name]
        counts = _largest({label: values for label, values in entry["counts"].items() if sum(values)})
        if counts:
            light, dark = (_draw(axis, entry["edges"], counts, theme) for theme in ("light", "dark"))
            plots.append(Plot(axis.title, _alt(axis, entry["edges"], counts), light, dark))
    return plots


def _largest(counts: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """The classes with most instances, the others as one."""
    ranked = sorted(counts, key=lambda label: -sum(counts[label]))
    if len(ranked) <= _MAX_CLASSES:
        return dict(counts)
    chosen = {label: counts[label] for label in ranked[: _MAX_CLASSES - 1]}
    rest = np.sum([counts[label] for label in ranked[_MAX_CLASSES - 1 :]], axis=0)
    return {**chosen, f"{len(ranked) - _MAX_CLASSES + 1} other classes": rest.tolist()}


def _alt(axis: _Axis, edges: list[float], counts: Mapping[str, list[int]]) -> str:
    parts = []
    for label, values in counts.items():
        top = int(np.argmax(values))
        low, high = (f"{100 * v:.3g} %" if axis.percent else f"{v:.3g}" for v in edges[top : top + 2])
        parts.append(f"{label}: {sum(values)}, most between {low} and {high}")
    return f"{axis.title}, {axis.x}. {'; '.join(parts)}."


def _draw(axis: _Axis, edges: list[float], counts: Mapping[str, list[int]], theme: str) -> str:
    # A fixed salt: the same numbers give the same file. Dollars in names are no formulas.
    with (
        matplotlib.rc_context(
            {"svg.fonttype": "path", "svg.hashsalt": "vertinst", "font.size": 9, "text.parse_math": False}
        ),
        warnings.catch_warnings(),
    ):
        # Names in letters that matplotlib's own font lacks are drawn as boxes; the tables have them in full.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # Fixed places: to look for the best ones takes half of the time.
        figure = Figure(figsize=(6.4, 3.4))
        several = len(counts) > 1
        axes = figure.add_axes((0.11, 0.32 if several else 0.16, 0.86, 0.65 if several else 0.81))
        colours = COLOURS[theme]
        below = np.zeros(len(edges) - 1)
        for number, (label, values) in enumerate(counts.items()):
            top = below + values
            # One shape a class: a shape a bar takes several times as long.
            axes.stairs(top, edges, baseline=below, fill=True, color=colours[number % 6], label=_short(label))
            below = top
        axes.set_ylim(0, 1.05 * below.max())
        frame(axes, axis.x, axis.y, INK[theme])
        if axis.logarithmic:
            axes.set_xscale("log")
            # Labels side by side, whatever the range.
            steps = (1, 2, 5) if edges[-1] < 100 * edges[0] else (1,)
            axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=12))
            axes.xaxis.set_minor_formatter(lambda value, _: "")
            axes.xaxis.set_major_formatter(FuncFormatter(_percent if axis.percent else _plain))
        elif axis.percent:
            axes.xaxis.set_major_formatter(FuncFormatter(_percent))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        if several:
            figure.legend(loc="lower center", ncols=3, frameon=False, labelcolor=INK[theme])
        return data_uri(figure)


def _short(label: str) -> str:
    # A leading underscore hides a line from matplotlib's legend.
    text = "".join(c if c.isprintable() else " " for c in label).lstrip("_ ") or "class"
    return text if len(text) <= _MAX_LABEL else f"{text[: _MAX_LABEL - 1]}…"


def _percent(value: float, _: float) -> str:
    return f"{100 * value:.3g} %"


def _plain(value: float, _: float) -> str:
    return f"{value:.6g}"
