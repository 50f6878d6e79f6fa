"""Detections that a network doubles, breaks or lays over each other, by name."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vertinst.postprocess.fragments import one_for_each
from vertinst.postprocess.nms import suppress
from vertinst.postprocess.pipeline import SpineOptions, build_spine
from vertinst.postprocess.policy import Policy
from vertinst.structures import Instances, rle

CLASSES = ("lumbar", "sacral", "cage", "screw", "rod")
SIZE = (320, 160)


def outline(left, top, right, bottom):
    return np.array([[left, top], [right, top + 2], [right - 2, bottom], [left + 2, bottom - 2]], dtype=np.float64)


def instances(rows):
    """Rows of (box, class, score), each a slightly skew rectangle in its box; no box for an empty mask."""
    masks = [rle.polygons_to_rle([outline(*box)], SIZE) if box else rle.empty(SIZE) for box, _, _ in rows]
    return Instances.from_masks(SIZE, masks, [CLASSES.index(c) + 1 for _, c, _ in rows], [s for _, _, s in rows])


S1 = ((60, 250, 120, 300), "sacral", 0.97)
L5 = ((50, 200, 110, 240), "lumbar", 0.96)
L4 = ((45, 150, 105, 190), "lumbar", 0.95)
L3 = ((45, 100, 105, 140), "lumbar", 0.94)
L2 = ((50, 50, 110, 90), "lumbar", 0.93)
L1 = ((55, 5, 115, 42), "lumbar", 0.92)
FILM = [S1, L5, L4, L3, L2, L1]
UPPER, LOWER = ((45, 150, 105, 168), "lumbar", 0.9), ((45, 171, 105, 190), "lumbar", 0.8)


def left_of(rows, policy=None):
    """What is left of rows, by class and top of the box, from the head down; and the log."""
    found, log = one_for_each(instances(rows), CLASSES, policy or Policy(), score_threshold=0.5)
    parts = zip(found.boxes[:, 1].astype(int).tolist(), found.category_ids.tolist(), strict=True)
    return [f"{CLASSES[i - 1]} {top}" for top, i in sorted(parts)], log


WHOLE = ["lumbar 5", "lumbar 50", "lumbar 100", "lumbar 150", "lumbar 200", "sacral 250"]


def test_doubled_l4():
    left, log = left_of([*FILM, ((48, 147, 107, 187), "lumbar", 0.7)])
    assert left == WHOLE
    (event,) = log
    assert (event["event"], event["reason"], event["threshold"]) == ("suppressed", "iou", 0.5)
    assert (event["removed"]["score"], event["by"]["score"]) == (0.7, 0.95)


def test_l4_doubled_as_sacral():
    left, log = left_of([*FILM, ((48, 147, 107, 187), "sacral", 0.7)])
    assert left == WHOLE
    assert log[0]["removed"]["category"] == "sacral"


def test_two_overlapping_neighbours_stay():
    # They share a fifth of each, as where a film shows an endplate from the side.
    low, high = ((45, 142, 105, 190), "lumbar", 0.95), ((45, 100, 105, 152), "lumbar", 0.94)
    left, log = left_of([S1, L5, low, high, L2, L1])
    assert (left, log) == ([*WHOLE[:3], "lumbar 142", *WHOLE[4:]], [])


def test_a_vertebra_in_two_parts():
    left, log = left_of([S1, L5, UPPER, LOWER, L3, L2, L1])
    assert left == WHOLE
    assert [(event["event"], event["into"]["box"]) for event in log] == [("joined", [45, 150, 105, 190])]


def test_a_vertebra_in_two_parts_and_a_doubled_one_on_the_way_to_a_spine():
    rows = [S1, L5, UPPER, LOWER, ((45, 102, 105, 142), "lumbar", 0.6), L3, L2, L1]
    spine = build_spine(instances(rows), CLASSES)
    assert [v.level for v in spine.vertebrae] == ["S1", "L5", "L4", "L3", "L2", "L1"]
    assert spine.vertebrae[2].score == pytest.approx(0.9)
    assert [event["event"] for event in spine.log] == ["suppressed", "joined"]
    assert json.loads(json.dumps(spine.log)) == list(spine.log)
    apart = SpineOptions(suppression=Policy(join_fragments=False))
    assert not any(e["event"] == "joined" for e in build_spine(instances(rows), CLASSES, options=apart).log)


def test_two_parts_take_the_place_of_the_whole_that_scored_less():
    whole, candidate = ((46, 149, 106, 191), "lumbar", 0.6), ((44, 151, 106, 192), "lumbar", 0.3)
    left, log = left_of([S1, L5, UPPER, LOWER, whole, candidate, L3, L2, L1])
    assert left == WHOLE
    assert sorted(event["event"] for event in log) == ["joined", "suppressed", "suppressed"]


def test_a_joined_vertebra_suppresses_what_its_parts_did_not():
    across = ((46, 156, 104, 186), "lumbar", 0.3)
    left, log = left_of([S1, L5, UPPER, LOWER, across, L3, L2, L1])
    assert left == WHOLE
    assert [event["event"] for event in log] == ["joined", "suppressed"]
    assert log[1]["by"] == log[0]["into"]


def test_a_whole_vertebra_suppresses_its_parts():
    left, log = left_of([*FILM, UPPER, LOWER])
    assert left == WHOLE
    assert [(e["event"], e["reason"]) for e in log] == [("suppressed", "intersection_over_smaller")] * 2


def test_implants_on_bone_and_on_each_other_stay():
    screw, rod, cage = ((70, 160, 140, 170), "screw", 0.6), ((100, 90, 108, 249), "rod", 0.6), (*L4[:1], "cage", 0.6)
    left, log = left_of([*FILM, screw, rod, cage])
    assert sorted(left) == sorted([*WHOLE, "screw 160", "rod 90", "cage 150"])
    assert log == []


def test_cage_on_screw_stays_unless_the_settings_limit_it():
    rows = [(L4[0], "cage", 0.9), (L4[0], "screw", 0.8)]
    assert len(suppress(instances(rows), CLASSES).kept) == 2
    (event,) = suppress(instances(rows), CLASSES, Policy(pairs={"screw cage": {"iou": 0.7}})).log
    assert (event["removed"]["category"], event["by"]["category"], event["threshold"]) == ("screw", "cage", 0.7)


def test_empty_masks_are_left_out_and_said():
    assert len(left_of([(None, "lumbar", 0.9)] * 3)[0]) == 3
    spine = build_spine(instances([(None, "lumbar", 0.99), (None, "screw", 0.9)]), CLASSES)
    assert (spine.vertebrae, spine.implants, spine.candidates) == ((), (), ())
    assert [(event["event"], event["reason"]) for event in spine.log] == [("removed", "empty_mask")] * 2


@pytest.mark.parametrize("rows", [[], [L4]])
def test_none_and_one(rows):
    assert suppress(instances(rows), CLASSES) == (list(range(len(rows))), [])
    assert left_of(rows) == (["lumbar 150"] * len(rows), [])


def test_equal_scores_keep_the_larger_and_of_equals_one():
    small, large = ((47, 152, 104, 188), "lumbar", 0.9), (L4[0], "lumbar", 0.9)
    for rows in ([small, large], [large, small]):
        assert left_of(rows)[0] == ["lumbar 150"]
    assert left_of([large] * 4)[0] == ["lumbar 150"]


pile = st.lists(
    st.tuples(st.sampled_from([UPPER, LOWER, L4, L3]), st.integers(-4, 4), st.sampled_from([0.3, 0.6, 0.9])),
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(pile, st.randoms(use_true_random=False))
def test_order_never_matters(pile, random):
    moved = [(tuple(v + shift for v in box), name, score) for (box, name, _), shift, score in pile]
    rows = [S1, L5, L2, L1, *moved]
    (first, log), (second, other) = (
        one_for_each(instances(r), CLASSES, score_threshold=0.5) for r in (rows, random.sample(rows, len(rows)))
    )
    assert log == other
    assert first.boxes.tolist() == second.boxes.tolist()
    assert first.scores.tolist() == second.scores.tolist()
    assert [m["counts"] for m in first.masks] == [m["counts"] for m in second.masks]
