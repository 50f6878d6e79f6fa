import json

import numpy as np
import pytest

from vertinst.engine.coco_results import spines_from_coco_results
from vertinst.engine.evaluate import evaluate
from vertinst.errors import DataError
from vertinst.postprocess.labelling import Anchor
from vertinst.postprocess.pipeline import SpineOptions
from vertinst.structures import Annotation, Dataset, ImageRecord, rle

CLASSES = ("lumbar", "sacral", "cage")
SIZE = (60, 40)
SQUARE = [[5.0, 30.0, 25.0, 30.0, 25.0, 45.0, 5.0, 45.0]]


def mask():
    return rle.polygons_to_rle([np.array(SQUARE[0]).reshape(-1, 2)], SIZE)


@pytest.fixture
def dataset():
    image = {"width": SIZE[1], "height": SIZE[0]}
    truth = (Annotation("lumbar", mask(), attributes={"level": "L5"}),)
    return Dataset(CLASSES, (ImageRecord(7, "a.png", annotations=truth, **image), ImageRecord(3, "b.png", **image)))


def entry(**changes):
    return {"image_id": 7, "category_id": 1, "segmentation": SQUARE, "score": 0.9, "bbox": [5, 30, 20, 15]} | changes


def read(tmp_path, content, dataset, **options):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    return spines_from_coco_results(path, dataset, **options)


@pytest.mark.parametrize("segmentation", [SQUARE, rle.to_coco(mask())])
def test_polygons_and_runs(tmp_path, dataset, segmentation):
    entries = [entry(segmentation=segmentation), entry(category_id=3, score=0.4)]
    spines = read(tmp_path, entries, dataset, anchor=Anchor("L5", "lowest"))
    assert set(spines) == {"a.png", "b.png"}
    (vertebra,) = spines["a.png"].vertebrae
    assert (vertebra.level, vertebra.category, vertebra.mask) == ("L5", "lumbar", mask())
    assert vertebra.box.tolist() == [5, 30, 25, 45]
    assert [c.category for c in spines["a.png"].candidates] == ["cage"]
    assert not spines["b.png"].vertebrae
    assert evaluate(dataset, spines)["summary"]["vertebrae"]["labelled"] == 1


def test_box_of_the_mask_where_none_is_given(tmp_path, dataset):
    without = entry()
    del without["bbox"]
    spines = read(tmp_path, [without], dataset)
    assert spines["a.png"].vertebrae[0].box.tolist() == rle.box_xyxy(mask()).tolist()


def test_average_precision_is_that_of_the_file(tmp_path):
    # Two rods in one line, as on lateral films: suppression takes one away, the file has found both.
    line = rle.to_coco(mask())
    truth = tuple(Annotation("cage", mask()) for _ in range(2))
    dataset = Dataset(CLASSES, (ImageRecord(7, "a.png", SIZE[1], SIZE[0], annotations=truth),))
    entries = [entry(category_id=3, segmentation=line, score=score) for score in (0.9, 0.02)]
    spines = read(tmp_path, entries, dataset)
    assert [part.score for part in spines["a.png"].implants] == pytest.approx([0.9])
    assert [part.score for part in spines["a.png"].candidates] == pytest.approx([0.02])
    assert evaluate(dataset, spines)["ap"]["mask"]["AP"] == pytest.approx(1)


def test_no_results_at_all(tmp_path, dataset):
    spines = read(tmp_path, [], dataset)
    assert evaluate(dataset, spines)["ap"]["mask"]["AP"] == 0


def test_options_reach_the_spine(tmp_path, dataset):
    spines = read(tmp_path, [entry(score=0.4)], dataset, options=SpineOptions(score_threshold=0.3))
    assert len(spines["a.png"].vertebrae) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"annotations": []}, "COCO results must be a list, got dict"),
        ([5], "entry 0: must be an object with category_id"),
        ([{"image_id": 7, "category_id": 1, "score": 1}], "must be an object with .*segmentation"),
        ([entry(), entry(image_id=8)], "entry 1: image_id must be one of the annotated films', got 8"),
        ([entry(image_id=[])], "image_id must be one of"),
        ([entry(category_id=0)], "category_id must be one of 1 lumbar, 2 sacral, 3 cage, got 0"),
        ([entry(category_id=4)], "category_id must be one of"),
        ([entry(score=1.2)], "score must lie in 0..1, got 1.2"),
        ([entry(score="high")], "score must lie in 0..1, got 'high'"),
        ([entry(score=float("nan"))], "score must lie in 0..1, got nan"),
        ([entry(bbox=[1, 2, 3])], "bbox must be"),
        ([entry(bbox=[1, 2, 3, float("inf")])], "bbox must be"),
        ([entry(bbox=[1, 2, 3, 10**400])], "bbox must be"),
        ([entry(bbox=[1, 2, 3, 1e300])], "bbox must be"),
        ([entry(segmentation={"size": [1e999, 10], "counts": [100]})], "entry 0: RLE counts are damaged"),
        ([entry(segmentation="x")], "segmentation must be polygons or an RLE"),
        ([entry(segmentation=[["x", 1, 2, 3, 4, 5]])], "segmentation must be polygons or an RLE"),
        ([entry(segmentation={"size": [10, 10], "counts": [100]})], "RLE must have the image's size"),
    ],
)
def test_faults(tmp_path, dataset, content, message):
    with pytest.raises(DataError, match=message):
        read(tmp_path, content, dataset)


def test_ids_of_a_strangers_file(tmp_path, dataset):
    gt = tmp_path / "gt.json"
    content = {
        "images": [{"id": "x", "file_name": "b.png"}, {"id": 0, "file_name": "a.png"}],
        "categories": [{"id": 40, "name": "cage"}, {"id": 0, "name": "lumbar"}],
    }
    gt.write_text(json.dumps(content))
    spines = read(tmp_path, [entry(image_id=0, category_id=0), entry(image_id="x", category_id=40)], dataset, gt=gt)
    assert spines["a.png"].vertebrae[0].category == "lumbar"
    assert spines["b.png"].implants[0].category == "cage"
    with pytest.raises(DataError, match="category_id must be one of 40 cage, 0 lumbar, got 1"):
        read(tmp_path, [entry(image_id=0)], dataset, gt=gt)
    gt.write_text("[]")
    with pytest.raises(DataError, match="must be the COCO file of the annotated films"):
        read(tmp_path, [], dataset, gt=gt)
