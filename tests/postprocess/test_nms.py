import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vertinst.postprocess.nms import rank, suppress
from vertinst.postprocess.policy import PairRule, Policy
from vertinst.structures import Instances, rle

CLASSES = ("lumbar", "sacral", "cage", "screw", "rod")
SIZE = (20, 30)


def box_mask(left, top, right, bottom, size=SIZE):
    mask = np.zeros(size, dtype=bool)
    mask[top:bottom, left:right] = True
    return rle.encode(mask)


def instances(rows, size=SIZE):
    """Rows of (box, class id, score)."""
    masks = [box_mask(*box, size=size) for box, _, _ in rows]
    return Instances.from_masks(size, masks, [c for _, c, _ in rows], [s for _, _, s in rows])


def lumbar(**limits):
    return Policy(pairs={"lumbar lumbar": PairRule(**limits)})


def test_higher_score_stays_and_the_log_says_why():
    found = instances([((0, 0, 10, 10), 1, 0.6), ((0, 0, 10, 8), 1, 0.9)])
    result = suppress(found, CLASSES)
    assert result.kept == [1]
    assert result.log == [
        {
            "event": "suppressed",
            "removed": {"category": "lumbar", "score": 0.6, "box": [0, 0, 10, 10]},
            "by": {"category": "lumbar", "score": 0.9, "box": [0, 0, 10, 8]},
            "reason": "iou",
            "value": 0.8,
            "threshold": 0.5,
        }
    ]


def test_equality_keeps_both():
    found = instances([((0, 0, 10, 10), 1, 0.9), ((0, 0, 10, 5), 1, 0.8)])
    assert suppress(found, CLASSES, lumbar(iou=0.5)).kept == [0, 1]
    assert suppress(found, CLASSES, lumbar(iou=0.49)).kept == [0]


def test_piece_of_a_vertebra_goes_by_the_smaller_area():
    found = instances([((0, 0, 10, 10), 1, 0.9), ((2, 2, 6, 6), 1, 0.8)])
    result = suppress(found, CLASSES)
    assert result.kept == [0]
    assert (result.log[0]["reason"], result.log[0]["value"]) == ("intersection_over_smaller", 1.0)


def test_implants_lie_on_bone_and_on_each_other():
    box = (0, 0, 10, 10)
    assert suppress(instances([(box, c, 0.9) for c in (1, 3, 4, 5)]), CLASSES).kept == [0, 1, 2, 3]


def test_left_and_right_metal_on_a_lateral_film_are_two():
    overlapping = instances([((0, 0, 10, 10), 4, 0.9), ((0, 0, 10, 8), 4, 0.8)])
    same = instances([((0, 0, 10, 10), 4, 0.9), ((0, 0, 10, 9), 4, 0.8)])
    assert suppress(overlapping, CLASSES).kept == [0, 1]
    assert suppress(same, CLASSES).kept == [0]
    assert suppress(overlapping, CLASSES, Policy(pairs={"screw screw": {"iou": 0.79}})).kept == [0]


def test_a_bone_found_as_lumbar_and_as_sacral_is_one_bone():
    same = instances([((0, 0, 10, 10), 1, 0.7), ((0, 0, 10, 9), 2, 0.9)])
    inside = instances([((0, 0, 10, 10), 1, 0.7), ((0, 0, 10, 4), 2, 0.9)])
    neighbours = instances([((0, 0, 10, 10), 1, 0.7), ((0, 6, 10, 12), 2, 0.9)])
    assert suppress(same, CLASSES).kept == [1]
    assert suppress(inside, CLASSES).kept == [1]
    assert suppress(neighbours, CLASSES).kept == [1, 0]


def test_no_chains():
    # The middle one falls to the first; the third overlaps only the middle one and stays.
    found = instances([((0, 0, 10, 10), 1, 0.9), ((3, 0, 13, 10), 1, 0.8), ((6, 0, 16, 10), 1, 0.7)])
    assert suppress(found, CLASSES).kept == [0, 2]


def test_boxes_of_the_detections_do_not_matter():
    found = instances([((0, 0, 10, 10), 1, 0.9), ((0, 0, 10, 9), 1, 0.8)])
    elsewhere = found.boxes + np.array([[0], [15]], dtype=np.float32)
    moved = Instances(SIZE, elsewhere, found.masks, found.category_ids, found.scores)
    assert suppress(moved, CLASSES).kept == [0]


def test_a_policy_that_allows_all_switches_it_off():
    found = instances([((0, 0, 10, 10), c, 0.9) for c in (1, 1, 2, 4, 4)])
    off = suppress(found, CLASSES, Policy.allowing_all())
    assert (sorted(off.kept), off.log) == ([0, 1, 2, 3, 4], [])


def test_masks_are_compared_only_where_boxes_and_areas_leave_it_open(monkeypatch):
    compared = []
    iou = rle.iou
    monkeypatch.setattr(rle, "iou", lambda a, b: compared.append(len(b)) or iou(a, b))
    column = [((0, 4 * n, 10, 4 * n + 6), 1, 0.9 - 0.1 * n) for n in range(3)]
    suppress(instances([*column, ((0, 0, 10, 5), 2, 0.1), ((0, 0, 10, 5), 5, 0.1)]), CLASSES)
    # Neighbours share a third at most; only the piece of the first, a bone like it, has to be looked at.
    assert compared == [1]


@pytest.mark.parametrize("scored", [True, False])
def test_nothing(scored):
    assert suppress(Instances.empty(SIZE, scored=scored), CLASSES) == ([], [])


def test_truth_without_scores_ranks_by_area():
    found = Instances.from_masks(SIZE, [box_mask(0, 0, 5, 5), box_mask(0, 0, 9, 9)], [1, 1])
    assert rank(found) == [1, 0]


boxes = st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 6), st.integers(1, 6)).map(
    lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3])
)
rows = st.lists(st.tuples(boxes, st.integers(1, 3), st.sampled_from([0.5, 0.75, 1.0])), max_size=7)


@settings(max_examples=60, deadline=None)
@given(rows, st.randoms(use_true_random=False))
def test_order_never_matters(rows, random):
    shuffled = random.sample(rows, len(rows))
    a, b = instances(rows, (12, 12)), instances(shuffled, (12, 12))
    first, second = suppress(a, CLASSES), suppress(b, CLASSES)
    assert [rows[i] for i in first.kept] == [shuffled[i] for i in second.kept]
    assert first.log == second.log


def slow_suppress(found):
    """Greedy suppression on dense masks, straight from the rule."""
    dense = [rle.decode(mask) for mask in found.masks]
    kept = []
    for index in rank(found):
        for other in kept:
            a, b = dense[index], dense[other]
            shared = (a & b).sum()
            iou, smaller = shared / (a | b).sum(), shared / min(a.sum(), b.sum())
            ids = {int(found.category_ids[index]), int(found.category_ids[other])}
            if (ids == {3} and iou > 0.8) or (ids <= {1, 2} and (iou > 0.5 or smaller > 0.85)):
                break
        else:
            kept.append(index)
    return kept


@settings(max_examples=60, deadline=None)
@given(rows)
def test_against_dense_masks(rows):
    found = instances(rows, (12, 12))
    assert suppress(found, CLASSES).kept == slow_suppress(found)
