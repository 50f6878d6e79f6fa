"""COCO average precision, counted by hotcoco, which gives pycocotools' numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vertinst.structures import Annotation, Dataset, Instances, rle

__all__ = ["average_precision", "coco_results", "coco_truth"]

IouType = Literal["segm", "bbox"]


def average_precision(dataset: Dataset, predictions: Mapping[int, Instances], iou_type: IouType) -> dict[str, Any]:
    """Average precision as COCO defines it: mean over IoU 0.50:0.05:0.95, 101 recall points, 100 detections a film.

    Source: Lin et al. 2014, doi 10.1007/978-3-319-10602-1_48, and its evaluation code, pycocotools.

    Args:
        dataset: Truth; annotations marked `ignore` are COCO's crowd regions: what lies in them is neither right nor
            false. Masks are compared for `segm`; for `bbox` the tight boxes of the true masks.
        predictions: By image_id, with scores, category_ids from 1 in the order of `dataset.categories`. A film
            without an entry has no predictions. All scores belong in here, the low ones too.
        iou_type: `segm` or `bbox`.

    Returns:
        `AP`, `AP50`, `AP75` (mean over the classes with truth; None where there is none), `AR100`, `per_class`: for
        each class `AP` (None without truth), `annotated` and `predicted` counts; and
        `false_positives_of_absent_classes`, predictions of classes without truth, which AP does not see.
    """
    precision, recall = _evaluate(dataset, predictions, iou_type)
    per_class = {}
    for index, name in enumerate(dataset.categories):
        annotated = sum(a.category == name and not a.ignore for i in dataset.images for a in i.annotations)
        predicted = sum(int((p.category_ids == index + 1).sum()) for p in predictions.values())
        ap = _mean(precision[:, :, index]) if annotated else None
        per_class[name] = {"AP": ap, "annotated": annotated, "predicted": predicted}
    absent = [c["predicted"] for c in per_class.values() if not c["annotated"]]
    return {
        "AP": _mean(precision),
        "AP50": _mean(precision[0]),
        "AP75": _mean(precision[5]),
        "AR100": _mean(recall),
        "per_class": per_class,
        "false_positives_of_absent_classes": sum(absent),
    }


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    """Mean of what is defined (-1 stands for a class without truth); None where nothing is."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _evaluate(
    dataset: Dataset, predictions: Mapping[int, Instances], iou_type: IouType
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Precision (10 thresholds, 101 recalls, classes) and recall (10, classes), all areas, 100 detections."""
    results = coco_results(predictions)
    truth = coco_truth(dataset)
    if not results:
        # Nothing to match: zero wherever there is truth. Evaluators stumble over empty results.
        present = {a["category_id"] for a in truth["annotations"] if not a["iscrowd"]}
        value = np.array([0.0 if i + 1 in present else -1.0 for i in range(len(dataset.categories))])
        return np.broadcast_to(value, (10, 101, len(value))), np.broadcast_to(value, (10, len(value)))
    # Heavy, and needed for scoring only.
    from hotcoco import COCO, COCOeval

    reference = COCO(truth)
    evaluation = COCOeval(reference, reference.load_res(results), iou_type)
    evaluation.evaluate()
    evaluation.accumulate()
    counts: dict[str, Any] = evaluation.eval or {}
    return np.asarray(counts["precision"])[:, :, :, 0, -1], np.asarray(counts["recall"])[:, :, 0, -1]


def coco_truth(dataset: Dataset) -> dict[str, Any]:
    """COCO dictionary of what is needed to score: ids from 1, RLE with text counts, `ignore` as `iscrowd`."""
    annotations: list[dict[str, Any]] = []
    for image in dataset.images:
        for annotation in image.annotations:
            entry = _truth_entry(annotation, dataset.category_id(annotation.category))
            annotations.append({"id": len(annotations) + 1, "image_id": image.image_id, **entry})
    return {
        "images": [{"id": i.image_id, "width": i.width, "height": i.height} for i in dataset.images],
        "categories": [{"id": n, "name": name} for n, name in enumerate(dataset.categories, start=1)],
        "annotations": annotations,
    }


def _truth_entry(annotation: Annotation, category_id: int) -> dict[str, Any]:
    return {
        "category_id": category_id,
        "segmentation": rle.to_coco(annotation.mask),
        "area": rle.area(annotation.mask),
        "bbox": _xywh(rle.box_xyxy(annotation.mask)),
        "iscrowd": int(annotation.ignore),
    }


def coco_results(predictions: Mapping[int, Instances]) -> list[dict[str, Any]]:
    """COCO results of predictions by image_id; scores of instances without any count as 1."""
    results = []
    for image_id, instances in predictions.items():
        scores = np.ones(len(instances)) if instances.scores is None else instances.scores
        for index, mask in enumerate(instances.masks):
            entry = {
                "image_id": image_id,
                "category_id": int(instances.category_ids[index]),
                "segmentation": rle.to_coco(mask),
                "bbox": _xywh(instances.boxes[index]),
                "score": float(scores[index]),
            }
            results.append(entry)
    return results


def _xywh(box_xyxy: npt.NDArray[np.float32]) -> list[float]:
    left, top, right, bottom = (float(v) for v in box_xyxy)
    return [left, top, right - left, bottom - top]
