import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vertinst.metrics.average_precision import average_precision, coco_results, coco_truth
from vertinst.structures import Annotation, Dataset, ImageRecord, Instances, rle

CLASSES = ("lumbar", "sacral", "cage")
SIZE = (64, 80)


def disc(x, y, radius):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    return rle.encode((columns - x) ** 2 + (rows - y) ** 2 <= radius**2)


def random_data(seed, films=6, classes=2):
    """Truth and predictions that hit, miss, double and invent; every class but the last has truth."""
    random = np.random.default_rng(seed)
    images, predictions = [], {}
    for image_id in range(1, films + 1):
        annotations, masks, ids, scores = [], [], [], []
        for _ in range(random.integers(0, 7)):
            x, y, radius = random.uniform(0, 80), random.uniform(0, 64), random.uniform(3, 14)
            category = int(random.integers(classes))
            ignored = bool(random.random() < 0.2)
            annotations.append(Annotation(CLASSES[category], disc(x, y, radius), ignore=ignored))
            for _ in range(random.integers(0, 3)):
                dx, dy, dr = random.normal(0, 2, 3)
                masks.append(disc(x + dx, y + dy, max(radius + dr, 2)))
                ids.append(category + 1)
                scores.append(random.choice([0.3, 0.5, 0.7, random.random()]))
        for _ in range(random.integers(0, 3)):
            masks.append(disc(random.uniform(0, 80), random.uniform(0, 64), 5))
            ids.append(int(random.integers(1, classes + 1)))
            scores.append(random.random())
        images.append(ImageRecord(image_id, f"{image_id}.png", SIZE[1], SIZE[0], annotations=tuple(annotations)))
        predictions[image_id] = Instances.from_masks(SIZE, masks, ids, scores)
    return Dataset(CLASSES, tuple(images)), predictions


def peer(dataset, predictions, iou_type):
    """pycocotools' numbers: AP, AP50, AP75, AR100 and the AP of each class."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = coco_truth(dataset)
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(coco_results(predictions)), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    classes = [p[p > -1].mean() if (p > -1).any() else None for p in np.moveaxis(precision, 2, 0)]
    return [*evaluation.stats[[0, 1, 2, 8]], *classes]


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
@pytest.mark.parametrize("seed", range(4))
def test_equal_to_pycocotools(seed, iou_type):
    dataset, predictions = random_data(seed)
    ours = average_precision(dataset, predictions, iou_type)
    classes = [ours["per_class"][name]["AP"] for name in CLASSES]
    values = [ours["AP"], ours["AP50"], ours["AP75"], ours["AR100"], *classes]
    assert 0 < ours["AP"] < 1
    assert values == pytest.approx(peer(dataset, predictions, iou_type), abs=1e-9)


@pytest.mark.parametrize("iou_type", ["segm", "bbox"])
def test_truth_against_itself_is_one(iou_type):
    dataset, _ = random_data(1)
    itself = {image.image_id: dataset.instances(image) for image in dataset.images}
    result = average_precision(dataset, itself, iou_type)
    assert result["AP"] == result["AP50"] == result["AP75"] == result["AR100"] == pytest.approx(1.0)
    assert result["per_class"]["cage"] == {"AP": None, "annotated": 0, "predicted": 0}


@pytest.mark.parametrize("predictions", [{}, {1: Instances.empty(SIZE)}])
def test_no_predictions_score_zero(predictions):
    dataset, _ = random_data(1)
    result = average_precision(dataset, predictions, "segm")
    assert (result["AP"], result["AP50"], result["AR100"]) == (0.0, 0.0, 0.0)
    assert [c["AP"] for c in result["per_class"].values()] == [0.0, 0.0, None]


def test_no_truth_has_no_number_but_counts_false_positives():
    dataset = Dataset(CLASSES, (ImageRecord(1, "a.png", SIZE[1], SIZE[0]),))
    found = Instances.from_masks(SIZE, [disc(10, 10, 5), disc(40, 40, 5)], [3, 3], [0.9, 0.8])
    result = average_precision(dataset, {1: found}, "segm")
    assert (result["AP"], result["AP50"], result["AR100"]) == (None, None, None)
    assert result["per_class"]["cage"] == {"AP": None, "annotated": 0, "predicted": 2}
    assert result["false_positives_of_absent_classes"] == 2
    assert average_precision(dataset, {}, "segm")["AP"] is None
    assert average_precision(Dataset(CLASSES), {}, "bbox")["AP"] is None


def test_class_with_ignored_truth_only_has_no_number():
    image = ImageRecord(1, "a.png", SIZE[1], SIZE[0], annotations=(Annotation("cage", disc(10, 10, 5), ignore=True),))
    found = Instances.from_masks(SIZE, [disc(10, 10, 5)], [3], [0.9])
    result = average_precision(Dataset(CLASSES, (image,)), {1: found}, "segm")
    assert result["per_class"]["cage"] == {"AP": None, "annotated": 0, "predicted": 1}


def test_false_positive_in_an_ignored_region_costs_nothing():
    annotations = (Annotation("lumbar", disc(20, 20, 8)), Annotation("lumbar", disc(60, 40, 10), ignore=True))
    dataset = Dataset(CLASSES, (ImageRecord(1, "a.png", SIZE[1], SIZE[0], annotations=annotations),))
    found = Instances.from_masks(SIZE, [disc(60, 40, 4), disc(20, 20, 8)], [1, 1], [0.9, 0.8])
    assert average_precision(dataset, {1: found}, "segm")["AP"] == pytest.approx(1.0)
