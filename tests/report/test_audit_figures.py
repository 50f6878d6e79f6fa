"""Histograms of an audit: what is drawn is what was counted."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vertinst.report.audit_figures import FRAME, plot_distributions

BAR = re.compile(r"M([\d.-]+) ([\d.-]+)V([\d.-]+)H([\d.-]+)V\2Z")
NONE = {"edges": [], "counts": {}}


def plots(**entries):
    names = ("area_share", "longer_side_px", "width_over_height", "objects_per_film", "overlap")
    return plot_distributions({name: entries.get(name, NONE) for name in names})


def bars(layer):
    return [tuple(map(float, bar)) for bar in BAR.findall(layer.path)]


def test_nothing_counted_is_nothing_drawn():
    assert plots() == []
    assert plots(objects_per_film={"edges": [-0.5, 0.5], "counts": {"films": [0]}}) == []


def test_bars_stack_and_are_as_high_as_their_counts():
    counts = {"lumbar": [2, 0, 4], "sacral": [1, 3, 0]}
    (plot,) = plots(overlap={"edges": [0.0, 0.2, 0.4, 1.0], "counts": counts})
    lower, upper = map(bars, plot.layers)
    assert len(lower) == len(upper) == 2
    unit = (lower[0][1] - lower[0][2]) / 2
    assert lower[1][1] - lower[1][2] == pytest.approx(4 * unit, abs=0.2)
    # The second class stands on the first, or on the ground.
    assert upper[0][1] == lower[0][2]
    assert upper[1][1] == FRAME.bottom == lower[0][1]
    assert [layer.total for layer in plot.layers] == [6, 4]
    # A bin three times as wide is drawn so.
    assert lower[1][3] - lower[1][0] == pytest.approx(3 * (lower[0][3] - lower[0][0]), abs=2)


def test_ticks_of_counts_are_whole_and_start_at_zero():
    (plot,) = plots(objects_per_film={"edges": [-0.5, 0.5, 1.5], "counts": {"films": [1, 2]}})
    assert [text for _, text in plot.y_ticks] == ["0", "1", "2"]
    assert [text for _, text in plot.x_ticks] == ["0", "1"]
    assert plot.y_ticks[0][0] == FRAME.bottom
    assert plot.alt == "Objects per film, objects. films: 3, most at 1."


def test_many_classes_become_few_and_long_names_short():
    counts = {f"{'x' * 90}{n}": [n + 1] for n in range(9)}
    (plot,) = plots(overlap={"edges": [0.0, 1.0], "counts": counts})
    assert len(plot.layers) == 6
    assert plot.layers[-1].label == "4 other classes"
    assert sum(layer.total for layer in plot.layers) == 45
    assert all(len(layer.label) <= 60 for layer in plot.layers)


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (0.012, 0.056, ["2 %", "3 %", "4 %", "5 %"]),
        (9.0, 450.0, ["10", "20", "50", "100", "200"]),
        (0.5, 90000.0, ["1", "10", "100", "1000", "10000"]),
    ],
)
def test_logarithmic_ticks(low, high, texts):
    edges = np.geomspace(low, high, 5).tolist()
    percent = texts[0].endswith("%")
    name = "area_share" if percent else "longer_side_px"
    (plot,) = plots(**{name: {"edges": edges, "counts": {"lumbar": [1, 2, 3, 4]}}})
    assert [text for _, text in plot.x_ticks] == texts


@given(
    low=st.floats(1e-8, 1e5),
    ratio=st.floats(1, 1e6),
    counts=st.lists(st.integers(0, 10**6), min_size=1, max_size=30).filter(any),
)
def test_everything_lies_within_the_axes(low, ratio, counts):
    edges = [float(f"{edge:.4g}") for edge in np.geomspace(low, low * ratio, len(counts) + 1)]
    (plot,) = plots(longer_side_px={"edges": edges, "counts": {"lumbar": counts}})
    assert len(bars(plot.layers[0])) == sum(count > 0 for count in counts)
    for left, bottom, top, right in bars(plot.layers[0]):
        assert FRAME.left <= left < right <= FRAME.right + 0.4
        assert FRAME.top <= top <= bottom == FRAME.bottom
    assert 0 < len(plot.y_ticks) <= 6
    assert len(plot.x_ticks) <= 9
    places = [place for place, _ in plot.x_ticks]
    assert places == sorted(places)
    assert all(FRAME.left - 0.1 <= place <= FRAME.right + 0.1 and math.isfinite(place) for place in places)
    assert all(FRAME.top <= place <= FRAME.bottom for place, _ in plot.y_ticks)
