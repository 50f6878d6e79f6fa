import numpy as np
import pytest

from vertinst.postprocess.merge import label_map, merged_mask, union_of
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
