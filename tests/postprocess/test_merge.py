import json

import numpy as np
import pytest

from vertinst.postprocess.merge import class_masks, label_map, merged_mask, overlaps, union_of
from vertinst.structures import Annotation, Implant, Spine, Vertebra, rle
from vertinst.structures.dataset import BONE, IMPLANTS

SIZE = (6, 8)


def box_mask(left, top, right, bottom):
    mask = np.zeros(SIZE, dtype=bool)
    mask[top:bottom, left:right] = True
    return rle.encode(mask)


def vertebra(level, score, box):
    mask = box_mask(*box)
    return Vertebra(level, "sacral" if level[0] == "S" else "lumbar", score, rle.box_xyxy(mask), mask)


def implant(category, score, box):
    mask = box_mask(*box)
    return Implant(category, score, rle.box_xyxy(mask), mask)


@pytest.fixture
def spine():
    vertebrae = (vertebra("S1", 0.9, (0, 3, 4, 6)), vertebra("L5", 0.8, (0, 0, 4, 4)))
    implants = (implant("cage", 0.6, (3, 2, 6, 4)),)
    return Spine(SIZE, vertebrae, implants, candidates=(implant("lumbar", 0.3, (6, 0, 8, 6)),))


def test_merged_mask_is_bone_by_default(spine):
    assert rle.area(merged_mask(spine)) == 24
    assert rle.area(merged_mask(spine, BONE + IMPLANTS)) == 24 + 4
    assert rle.area(merged_mask(spine, ("sacral",))) == 12
    assert rle.area(merged_mask(spine, ("rod",))) == 0


def test_union_takes_annotations_too():
    parts = [Annotation("lumbar", box_mask(0, 0, 2, 2)), Annotation("rod", box_mask(4, 4, 5, 5))]
    assert rle.area(union_of(parts, SIZE)) == 4
    assert rle.area(union_of([], SIZE)) == 0


def test_label_map_resolves_overlaps_by_score_and_metal_lies_over_bone(spine):
    labels = label_map(spine)
    assert labels.dtype == np.uint8
    expected = np.zeros(SIZE, dtype=int)
    expected[0:4, 0:4] = 2
    expected[3:6, 0:4] = 1
    expected[2:4, 3:6] = 3
    np.testing.assert_array_equal(labels, expected)


def test_label_map_at_equal_scores_keeps_the_lower_number():
    both = Spine(SIZE, (vertebra("L5", 0.8, (0, 0, 4, 4)), vertebra("L4", 0.8, (0, 0, 4, 4))))
    assert set(np.unique(label_map(both))) == {0, 1}


def test_label_map_of_nothing_and_of_many():
    assert not label_map(Spine(SIZE)).any()
    many = Spine(SIZE, implants=tuple(implant("screw", 0.5, (0, 0, 1, 1)) for _ in range(300)))
    labels = label_map(many)
    assert labels.dtype == np.uint16
    assert labels[0, 0] == 1


def test_class_masks_are_of_what_was_found_and_may_overlap():
    vertebrae = (vertebra("L5", 0.8, (0, 0, 4, 4)), vertebra("L4", 0.7, (2, 2, 6, 6)))
    spine = Spine(SIZE, vertebrae, (implant("wire", 0.9, (7, 0, 8, 1)), implant("screw", 0.5, (0, 0, 2, 2))))
    masks = class_masks(spine)
    assert list(masks) == ["lumbar", "screw", "wire"]
    assert [rle.area(mask) for mask in masks.values()] == [16 + 16 - 4, 4, 1]
    assert class_masks(Spine(SIZE)) == {}


def test_class_masks_leave_candidates_out(spine):
    assert {name: rle.area(mask) for name, mask in class_masks(spine).items()} == {
        "lumbar": 16,
        "sacral": 12,
        "cage": 6,
    }


def test_overlaps_say_who_and_how_much_and_whose_the_pixels_are(spine):
    found = overlaps(spine)
    assert json.loads(json.dumps(found)) == [
        {
            "first": {"label": 1, "name": "S1", "category": "sacral", "score": 0.9},
            "second": {"label": 2, "name": "L5", "category": "lumbar", "score": 0.8},
            "area_px2": 4,
            "wins": "first",
        },
        {
            "first": {"label": 1, "name": "S1", "category": "sacral", "score": 0.9},
            "second": {"label": 3, "name": "cage", "category": "cage", "score": 0.6},
            "area_px2": 1,
            "wins": "second",
        },
        {
            "first": {"label": 2, "name": "L5", "category": "lumbar", "score": 0.8},
            "second": {"label": 3, "name": "cage", "category": "cage", "score": 0.6},
            "area_px2": 2,
            "wins": "second",
        },
    ]


def test_overlaps_agree_with_the_label_map_of_the_two():
    rng = np.random.default_rng(0)
    for _ in range(30):
        low, size = rng.integers(0, 4, (3, 2)), rng.integers(1, 5, (3, 2))
        boxes = [(*a, *np.minimum(a + b, (8, 6))) for a, b in zip(low, size, strict=True)]
        first, second = vertebra("L5", rng.choice([0.5, 0.7]), boxes[0]), vertebra("L4", 0.5, boxes[1])
        spine = Spine(SIZE, (first, second), (implant("screw", 0.6, boxes[2]),))
        found = {(o["first"]["label"], o["second"]["label"]): o for o in overlaps(spine)}
        parts = (first, second, spine.implants[0])
        for (a, b), alone in {
            (1, 2): Spine(SIZE, (first, second)),
            (1, 3): Spine(SIZE, (first,), spine.implants),
            (2, 3): Spine(SIZE, (second,), spine.implants),
        }.items():
            shared = rle.decode(parts[a - 1].mask) & rle.decode(parts[b - 1].mask)
            assert ((a, b) in found) == shared.any()
            if shared.any():
                assert found[a, b]["area_px2"] == shared.sum()
                assert set(label_map(alone)[shared]) == {1 if found[a, b]["wins"] == "first" else 2}


def test_overlaps_of_nothing_one_and_empty_masks():
    assert overlaps(Spine(SIZE)) == []
    assert overlaps(Spine(SIZE, (vertebra("L5", 0.8, (0, 0, 4, 4)),))) == []
    nothing = vertebra("L4", 0.8, (0, 0, 0, 0))
    assert overlaps(Spine(SIZE, (vertebra("L5", 0.8, (0, 0, 4, 4)), nothing))) == []
