import json

import numpy as np
import pytest
from pydantic import ValidationError

from vertinst.errors import DataError
from vertinst.postprocess.labelling import Anchor
from vertinst.postprocess.pipeline import SpineOptions, build_spine, relabel
from vertinst.structures import Instances, rle

CLASSES = ("lumbar", "sacral", "cage", "screw", "rod")
SIZE = (100, 60)


def box_mask(left, top, right, bottom):
    mask = np.zeros(SIZE, dtype=bool)
    mask[top:bottom, left:right] = True
    return rle.encode(mask)


def found(rows):
    """Rows of (box, class, score)."""
    ids = [CLASSES.index(c) + 1 for _, c, _ in rows]
    return Instances.from_masks(SIZE, [box_mask(*box) for box, _, _ in rows], ids, [s for _, _, s in rows])


ROWS = [
    ((20, 80, 40, 95), "sacral", 0.9),
    ((20, 60, 40, 75), "lumbar", 0.95),
    ((20, 40, 40, 55), "lumbar", 0.6),
    ((20, 20, 40, 35), "lumbar", 0.85),
    ((21, 41, 40, 55), "lumbar", 0.55),
    ((20, 4, 40, 16), "lumbar", 0.3),
    ((22, 54, 38, 60), "cage", 0.7),
    ((25, 62, 35, 66), "screw", 0.9),
    ((50, 0, 60, 10), "rod", 0.04),
]


def test_whole_way():
    spine = build_spine(found(ROWS), CLASSES)
    assert [v.level for v in spine.vertebrae] == ["S1", "L5", "L4", "L3"]
    assert [v.category for v in spine.vertebrae] == ["sacral", "lumbar", "lumbar", "lumbar"]
    assert [v.flags for v in spine.vertebrae] == [(), (), ("low_score", "duplicate_suppressed"), ()]
    assert [i.category for i in spine.implants] == ["screw", "cage"]
    assert [round(c.score, 2) for c in spine.candidates] == [0.3]
    assert spine.flags == ("levels_unsure", "side_unsure")
    assert [event["removed"]["score"] for event in spine.log] == [0.55]
    json.dumps(spine.log, allow_nan=False)


def test_order_of_the_input_never_matters():
    expected = build_spine(found(ROWS), CLASSES)
    random = np.random.default_rng(0)
    for _ in range(5):
        spine = build_spine(found(ROWS)[random.permutation(len(ROWS))], CLASSES)
        assert [(v.level, v.mask) for v in spine.vertebrae] == [(v.level, v.mask) for v in expected.vertebrae]
        assert [i.mask for i in spine.implants] == [i.mask for i in expected.implants]
        assert spine.log == expected.log


def test_thresholds_include_their_value():
    rows = [((20, 60, 40, 75), "lumbar", 0.7), ((20, 40, 40, 55), "lumbar", 0.3), ((20, 20, 40, 35), "lumbar", 0.1)]
    spine = build_spine(found(rows), CLASSES, options=SpineOptions(score_threshold=0.7, candidate_threshold=0.3))
    assert len(spine.vertebrae) == 1
    assert spine.vertebrae[0].flags == ()
    assert len(spine.candidates) == 1


def test_score_threshold_below_the_candidates_threshold():
    spine = build_spine(found(ROWS), CLASSES, options=SpineOptions(score_threshold=0.01))
    assert not spine.candidates
    assert len(spine.implants) == 3


def test_candidates_never_remove_what_is_kept():
    rows = [((20, 60, 40, 75), "lumbar", 0.5), ((20, 60, 40, 75), "lumbar", 0.49)]
    spine = build_spine(found(rows), CLASSES)
    assert len(spine.vertebrae) == 1
    assert not spine.candidates


@pytest.mark.parametrize("box", [(0, 40, 20, 50), (1, 40, 20, 50), (20, 1, 30, 9), (45, 40, 59, 50), (20, 90, 30, 100)])
def test_border(box):
    spine = build_spine(found([(box, "lumbar", 0.9)]), CLASSES)
    assert spine.vertebrae[0].flags == ("touches_border",)


def test_inside_is_not_border():
    assert build_spine(found([((2, 2, 58, 98), "lumbar", 0.9)]), CLASSES).vertebrae[0].flags == ()


def test_nothing():
    spine = build_spine(Instances.empty(SIZE), CLASSES)
    assert (spine.vertebrae, spine.implants, spine.candidates, spine.log) == ((), (), (), ())
    assert spine.flags == ("no_vertebra", "no_sacrum")


def test_empty_masks_are_removed_and_logged():
    rows = [((5, 5, 5, 5), "lumbar", 0.9), ((20, 60, 40, 75), "lumbar", 0.8)]
    spine = build_spine(found(rows), CLASSES, anchor=Anchor("L5", "lowest"))
    assert [v.level for v in spine.vertebrae] == ["L5"]
    assert spine.log[0]["reason"] == "empty_mask"


def test_most_instances():
    spine = build_spine(found(ROWS), CLASSES, options=SpineOptions(max_instances=2))
    assert [v.level for v in spine.vertebrae] == ["S1", "L5"]
    assert spine.log == ({"event": "removed", "count": 6, "reason": "max_instances"},)


def test_vertebrae_without_a_name_become_candidates():
    rows = [((5 + 6 * n, 70, 10 + 6 * n, 75), "sacral", 0.9) for n in range(6)]
    spine = build_spine(found(rows), CLASSES)
    assert len(spine.vertebrae) == 5
    assert spine.candidates[0].flags == ("beyond_levels",)
    assert spine.log[-1]["reason"] == "no_name_left"


def test_sacrum_on_the_wrong_side_is_flagged():
    rows = [*ROWS[:4], ((20, 4, 40, 16), "sacral", 0.75)]
    spine = build_spine(found(rows), CLASSES)
    assert [v.level for v in spine.vertebrae] == ["S1", "L5", "L4", "L3"]
    assert spine.candidates[0].flags == ("extra",)
    assert {"sacrum_on_both_sides", "extra_vertebra"} <= set(spine.flags)
    assert spine.log[-1]["event"] == "dropped"
    assert spine.log[-1]["removed"]["score"] == 0.75


def test_truth_and_foreign_classes_are_refused():
    truth = Instances.from_masks(SIZE, [box_mask(0, 0, 5, 5)], [1])
    with pytest.raises(DataError, match="must have scores"):
        build_spine(truth, CLASSES)
    with pytest.raises(DataError, match="category_ids must be at most 1, got 5"):
        build_spine(found(ROWS), ("lumbar",))


@pytest.mark.parametrize("setting", [{"score_threshold": 1.1}, {"max_instances": 0}, {"score": 0.5}])
def test_options_are_checked(setting):
    with pytest.raises(ValidationError, match=next(iter(setting))):
        SpineOptions(**setting)


def test_relabelled_vertebrae_are_still_known_to_be_doubled():
    spine = build_spine(found(ROWS), CLASSES)
    again = relabel(relabel(spine, anchor=Anchor("L4", "lowest")))
    assert [(v.level, v.flags) for v in again.vertebrae] == [(v.level, v.flags) for v in spine.vertebrae]
    assert again.log == spine.log
