"""Figures of a report, as SVG in data URIs: nothing to load, sharp at any size, one for light and one for dark."""

from __future__ import annotations

import base64
import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vertinst.errors import DataError
from vertinst.report.palette import COLOURS

__all__ = ["Curves", "Plot", "plot_curves", "read_curves"]

Series: TypeAlias = tuple[list[float], list[float]]

# Dashes tell lines apart without colour.
_DASHES = ("-", "--", "-.", ":")
_INK = {"light": "#333a42", "dark": "#c9d1d9"}
_MAX_ROWS = 1_000_000


class Curves(NamedTuple):
    """Columns of a `curves.csv` by name: epochs and values, gaps left out.

    Attributes:
        losses: Whatever has `loss` in its name.
        scores: The other numbers of the validation: whatever starts with `val`.
    """

    losses: dict[str, Series]
    scores: dict[str, Series]


class Plot(NamedTuple):
    """One figure, ready for the page.

    Attributes:
        title: What it shows.
        alt: The same for those who do not see it, with the last values.
        light: Data URI for a light page.
        dark: Data URI for a dark page.
    """

    title: str
    alt: str
    light: str
    dark: str


def read_curves(path: Path) -> Curves:
    """Read the curves of a training run: a CSV with a header and one row an epoch (or several).

    The column `epoch` gives the abscissa, without it the row's number from 1. Cells that are empty or no finite number
    are gaps. Columns that are neither loss nor score (time, learning rate), or hold no number, are left out.

    Raises:
        DataError: The file cannot be read as such a table.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row, _ in zip(csv.DictReader(file), range(_MAX_ROWS), strict=False)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"cannot be read as a CSV file: {error}", where=path, fix="Remove it, or train again to write it anew."
        ) from error
    columns: dict[str, Series] = {}
    for number, row in enumerate(rows, start=1):
        epoch = _number(row.get("epoch"))
        for name, cell in row.items():
            value = _number(cell)
            if isinstance(name, str) and value is not None:
                epochs, values = columns.setdefault(name, ([], []))
                epochs.append(float(number) if epoch is None else epoch)
                values.append(value)
    losses = {name: series for name, series in columns.items() if "loss" in name}
    scores = {name: series for name, series in columns.items() if name.startswith("val") and name not in losses}
    return Curves(losses, scores)


def _number(cell: object) -> float | None:
    try:
        value = float(str(cell))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def plot_curves(curves: Curves) -> list[Plot]:
    """Losses, and the validation's scores, over epochs; no figure for what there is none of."""
    plots = []
    if curves.losses:
        plots.append(_plot("Losses by epoch", curves.losses, "loss"))
    if curves.scores:
        plots.append(_plot("Validation by epoch", curves.scores, "score"))
    return plots


def _plot(title: str, lines: Mapping[str, Series], unit: str) -> Plot:
    ends = "; ".join(f"{_words(name)} ends at {values[-1]:.3g}" for name, (_, values) in lines.items())
    light, dark = (_draw(lines, unit, theme) for theme in ("light", "dark"))
    return Plot(title, f"{title}: {ends}.", light, dark)


def _words(name: str) -> str:
    return name.replace("/", " ").replace("_", " ").replace("iou", "IoU")


def _draw(lines: Mapping[str, Series], unit: str, theme: str) -> str:
    # A fixed salt: the same numbers give the same file.
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "vertinst", "font.size": 9}):
        # Figure, not pyplot: no global state, no display, nothing left open.
        figure = Figure(figsize=(6.4, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for number, (name, (epochs, values)) in enumerate(lines.items()):
            axes.plot(
                epochs,
                values,
                color=COLOURS[theme][number % 6],
                linestyle=_DASHES[number // 6 % len(_DASHES)],
                # One epoch is a point, which a line does not show.
                marker="o" if len(values) < 30 else None,
                markersize=3,
                linewidth=1.6,
                label=_words(name),
            )
        _style(figure, axes, unit, _INK[theme])
        return _data_uri(figure)


def _style(figure: Figure, axes: Axes, unit: str, ink: str) -> None:
    _frame(axes, "epoch", unit, ink)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    # From zero, and shares on their whole range: a cut axis makes small steps look large.
    axes.set_ylim(bottom=0, top=1 if unit == "score" and axes.get_ylim()[1] <= 1.1 else None)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, labelcolor=ink)


def _frame(axes: Axes, x_label: str, y_label: str, ink: str) -> None:
    """Labels, grid and edges in the page's ink."""
    axes.set_xlabel(x_label, color=ink)
    axes.set_ylabel(y_label, color=ink)
    # Also the small ticks of logarithmic axes.
    axes.tick_params(which="both", colors=ink)
    axes.grid(color=ink, alpha=0.18, linewidth=0.6)
    axes.set_axisbelow(True)
    for side, edge in axes.spines.items():
        edge.set_visible(side in ("left", "bottom"))
        edge.set_color(ink)


def _data_uri(figure: Figure) -> str:
    """A figure as SVG without a trace of when and by what it was drawn."""
    buffer = io.BytesIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
