import numpy as np
import pytest

from vertinst.metrics.level_range import beyond_annotated
from vertinst.structures import rle


def block(top, bottom, left=10):
    mask = np.zeros((200, 60), dtype=bool)
    mask[max(top, 0) : bottom, left : left + 30] = True
    return rle.encode(mask)


TRUTH = [block(80, 100), block(110, 130), block(140, 160)]


@pytest.mark.parametrize("turn", [lambda m: m, np.flipud, np.transpose])
def test_neighbours_beyond_the_ends_are_not_judged(turn):
    def turned(masks):
        return [rle.encode(np.ascontiguousarray(turn(rle.decode(m)))) for m in masks]

    predicted = [block(50, 70), block(82, 102), block(110, 130), block(170, 190), block(20, 40)]
    assert beyond_annotated(turned(TRUTH), turned(predicted)) == [0, 3, 4]


def test_overlap_of_whole_outlines_does_not_matter():
    assert beyond_annotated(TRUTH, [block(60, 85)]) == [0]


def test_tries_at_the_last_vertebra_are_judged():
    # A piece of it, one that swallows it, a poor outline.
    assert beyond_annotated(TRUTH, [block(80, 86), block(20, 100), block(60, 90)]) == []


def test_false_ones_beside_the_chain_are_judged():
    assert beyond_annotated(TRUTH, [block(100, 110, left=30)]) == []


def test_too_little_truth_for_an_axis():
    assert beyond_annotated(TRUTH[:1], [block(20, 40)]) == []
    assert beyond_annotated([], [block(20, 40)]) == []
    assert beyond_annotated(TRUTH, []) == []
