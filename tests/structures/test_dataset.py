import numpy as np
import pytest

from vertinst.errors import DataError
from vertinst.structures import Annotation, Dataset, ImageRecord, Spine, Vertebra, rle
from vertinst.structures.spine import LEVELS, level_above, level_name

MASK = rle.paste(np.ones((4, 4), dtype=bool), 1, 1, (20, 30))


def film(image_id: int = 1, name: str = "a.png", **changes) -> ImageRecord:
    return ImageRecord(image_id, name, width=30, height=20, **changes)


def test_ids_count_from_one_in_the_order_of_the_names():
    dataset = Dataset(("lumbar", "sacral"), (film(annotations=(Annotation("sacral", MASK),)),))
    assert dataset.category_id("lumbar") == 1
    assert dataset.instances(dataset.images[0]).category_ids.tolist() == [2]
    with pytest.raises(DataError, match="class must be one of lumbar, sacral, got 'rod'"):
        dataset.category_id("rod")


def test_ignored_annotations_are_truth_only_if_asked_for():
    dataset = Dataset(("lumbar",), (film(annotations=(Annotation("lumbar", MASK, ignore=True),)),))
    assert len(dataset.instances(dataset.images[0])) == 0
    assert len(dataset.instances(dataset.images[0], ignored=True)) == 1


def test_counts_name_absent_classes_too():
    dataset = Dataset(("lumbar", "rod"), (film(annotations=(Annotation("lumbar", MASK),)), film(2, "b.png")))
    assert dataset.counts() == {"lumbar": 1, "rod": 0}
    assert Dataset(("lumbar",)).counts() == {"lumbar": 0}
    assert len(dataset.subset({2})) == 1


@pytest.mark.parametrize(
    ("categories", "images", "message"),
    [
        (("lumbar", "lumbar"), (), "category must occur once, got 'lumbar' twice"),
        (("lumbar",), (film(), film(name="b.png")), "image_id must occur once, got 1 twice"),
        (("lumbar",), (film(), film(2)), "file_name must occur once, got 'a.png' twice"),
        (("rod",), (film(annotations=(Annotation("lumbar", MASK),)),), "class must be one of rod, got 'lumbar'"),
    ],
)
def test_contradictions_are_refused(categories, images, message):
    with pytest.raises(DataError, match=message):
        Dataset(categories, images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": 0}, "image_id must be at least 1, got 0"),
        ({"width": 31, "annotations": (Annotation("lumbar", MASK),)}, r"mask must have size \(20, 31\)"),
        ({"pixel_spacing_mm": (0.2, 0.2)}, "pixel spacing must name its source"),
        ({"height": 0}, "image size must be at least 1 x 1"),
    ],
)
def test_impossible_films_are_refused(changes, message):
    fields = {"image_id": 1, "file_name": "a.png", "width": 30, "height": 20}
    with pytest.raises(DataError, match=message):
        ImageRecord(**(fields | changes))


def test_annotated_levels_are_read_as_people_write_them():
    assert Annotation("lumbar", MASK, attributes={"level": " l5 "}).level == "L5"
    assert Annotation("lumbar", MASK, attributes={"level": ""}).level is None
    assert Annotation("lumbar", MASK, attributes={"level": "Th12"}).level == "T12"
    assert Annotation("lumbar", MASK, attributes={"level": "LWK 3"}).level == "L3"
    assert Annotation("lumbar", MASK, attributes={"level": "bwk_9"}).level == "T9"
    assert Annotation("lumbar", MASK, attributes={"level": "l6"}).level == "L6"
    assert Annotation("lumbar", MASK, attributes={"level": {"L5": True}}).level is None


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_is_its_own_name(level):
    assert level_name(level) == level_name(level.lower()) == level


@pytest.mark.parametrize("text", ["", "L", "5", "L7", "T14", "S0", "X1", "L5 L4", "+1", "L٥ x"])
def test_what_is_no_level_has_no_name(text):
    assert level_name(text) is None


def test_levels_are_counted_upward():
    assert level_above("S1") == "L5"
    assert level_above("L1") == "T12"
    assert level_above("L5", -1) == "S1"
    assert level_above("C1") is None
    assert LEVELS.index("L5") < LEVELS.index("L1") < LEVELS.index("T12")
    with pytest.raises(DataError, match="level must be one of S5 to C1, got 'L7'"):
        level_above("L7")


def test_a_spine_never_holds_a_level_twice():
    vertebra = Vertebra("L5", "lumbar", 0.9, rle.box_xyxy(MASK), MASK)
    with pytest.raises(DataError, match="a level must occur once, got L5, L5"):
        Spine((20, 30), (vertebra, vertebra))
    with pytest.raises(DataError, match=r"level must be like L5 or \+1, got 'X'"):
        Vertebra("X", "lumbar", 0.9, rle.box_xyxy(MASK), MASK)


@pytest.mark.parametrize(
    ("level", "steps", "expected"),
    [("L6", 0, "L6"), ("L6", 1, "L5"), ("L6", 2, "L4"), ("L6", -1, "S1"), ("T13", 1, "T12"), ("T13", -2, "L2")],
)
def test_the_levels_that_few_people_have_lie_between_two_others(level, steps, expected):
    assert level_name(level) == level
    assert level_above(level, steps) == expected
