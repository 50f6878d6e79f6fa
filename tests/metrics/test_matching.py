import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vertinst.metrics.matching import match_masks
from vertinst.structures import rle


def strip(start, end, length=20):
    mask = np.zeros((1, length), dtype=bool)
    mask[0, start:end] = True
    return rle.encode(mask)


def test_best_pairs_first_and_each_once():
    truth = [strip(0, 10), strip(10, 20)]
    predicted = [strip(0, 8), strip(0, 9), strip(12, 20)]
    matches = match_masks(truth, predicted)
    assert [(p.truth, p.predicted) for p in matches.pairs] == [(0, 1), (1, 2)]
    assert [p.iou for p in matches.pairs] == pytest.approx([0.9, 0.8])
    assert (matches.missed, matches.false) == ([], [0])


def test_equality_is_enough():
    assert len(match_masks([strip(0, 10)], [strip(0, 5)]).pairs) == 1
    assert not match_masks([strip(0, 10)], [strip(0, 4)]).pairs
    assert len(match_masks([strip(0, 10)], [strip(0, 4)], iou_threshold=0.4).pairs) == 1


def test_one_prediction_over_two_truths_finds_one():
    matches = match_masks([strip(0, 10), strip(2, 10)], [strip(1, 10)])
    assert len(matches.pairs) == 1
    assert matches.pairs[0].truth == 0
    assert matches.missed == [1]


def test_nothing():
    assert match_masks([], []) == ([], [], [])
    assert match_masks([strip(0, 3)], []) == ([], [0], [])
    assert match_masks([], [strip(0, 3)]) == ([], [], [0])
    assert match_masks([strip(0, 0)], [strip(0, 0)], iou_threshold=0) == ([], [0], [0])


strips = st.lists(arrays(bool, (2, 4)), max_size=4)


@settings(max_examples=60, deadline=None)
@given(strips, strips)
def test_one_to_one_and_nothing_left_that_could_match(truth, predicted):
    matches = match_masks([rle.encode(m) for m in truth], [rle.encode(m) for m in predicted])
    assert sorted([p.truth for p in matches.pairs] + matches.missed) == list(range(len(truth)))
    assert sorted([p.predicted for p in matches.pairs] + matches.false) == list(range(len(predicted)))
    for i in matches.missed:
        for j in matches.false:
            a, b = truth[i], predicted[j]
            assert not (a | b).any() or (a & b).sum() / (a | b).sum() < 0.5
