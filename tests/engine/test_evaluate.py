import json

import numpy as np
import pytest
import shapely
from pydantic import ValidationError

from vertinst.engine.evaluate import EvaluateOptions, evaluate, write_metrics
from vertinst.errors import DataError
from vertinst.structures import Annotation, Dataset, ImageRecord, Implant, Spine, Vertebra, rle

CLASSES = ("lumbar", "sacral", "cage", "screw", "rod")
SIZE = (120, 50)
BOXES = {"S1": (10, 100, 30, 115), "L5": (10, 75, 30, 95), "L4": (10, 50, 30, 70), "L3": (10, 25, 30, 45)}
T12 = (10, 0, 30, 20)


def box_mask(left, top, right, bottom):
    mask = np.zeros(SIZE, dtype=bool)
    mask[top:bottom, left:right] = True
    return rle.encode(mask)


def annotation(category, box, level=None, ignore=False):
    return Annotation(category, box_mask(*box), attributes={"level": level} if level else {}, ignore=ignore)


def bone(level):
    return "sacral" if level.startswith("S") else "lumbar"


def film(number=1, levels=BOXES, extra=(), named=True):
    annotations = [annotation(bone(n), BOXES[n], n if named else None) for n in levels]
    return ImageRecord(number, f"{number}.png", SIZE[1], SIZE[0], patient="p", annotations=(*annotations, *extra))


def vertebra(level, box, score=0.9):
    mask = box_mask(*box)
    return Vertebra(level, bone(level), score, rle.box_xyxy(mask), mask)


def implant(category, box, score=0.9):
    mask = box_mask(*box)
    return Implant(category, score, rle.box_xyxy(mask), mask)


def spine(levels=BOXES, extra=(), **rest):
    return Spine(SIZE, (*(vertebra(n, BOXES[n]) for n in levels), *extra), **rest)


def score(images, spines, **options):
    metrics = evaluate(Dataset(CLASSES, tuple(images)), spines, options=EvaluateOptions(**options))
    json.dumps(metrics, allow_nan=False)
    return metrics


def test_truth_against_itself():
    metrics = score([film(1), film(2)], {"1.png": spine(), "2.png": spine()})
    summary = metrics["summary"]
    assert [summary[n] for n in ("pixel_accuracy", "mean_accuracy", "mean_iou", "frequency_weighted_iou")] == [1] * 4
    assert summary["vertebrae"] == {
        "annotated": 8, "found": 8, "with_level": 8, "labelled": 8, "false": 0, "found_rate": 1, "labelled_rate": 1,
    }  # fmt: skip
    assert summary["films_all_levels_right"] == {"films": 2, "right": 2, "rate": 1}
    assert metrics["ap"]["mask"]["AP"] == pytest.approx(1)
    assert metrics["ap"]["box"]["AP"] == pytest.approx(1)
    assert metrics["ap"]["per_class"]["rod"] == {"AP": None, "annotated": 0, "predicted": 0, "box_AP": None}
    assert (metrics["missing"], metrics["unknown"]) == ([], [])
    assert metrics["images"][0]["errors"] == []


def test_by_hand():
    # L5 found and called right, L4 called L3, L3 missed, one false; 20 x 20 pixels each, S1 20 x 15.
    predicted = spine(("S1", "L5"), extra=(vertebra("L3", BOXES["L4"]), vertebra("L2", (32, 30, 48, 50))))
    metrics = score([film()], {"1.png": predicted})
    entry = metrics["images"][0]
    shared, missed, false = 300 + 400 + 400, 400, 16 * 20
    background = 120 * 50 - shared - missed - false
    assert entry["pixel_accuracy"] == pytest.approx((shared + background) / 6000)
    iou = (background / (background + missed + false) + shared / (shared + missed + false)) / 2
    assert metrics["summary"]["mean_iou"] == entry["mean_iou"] == pytest.approx(iou)
    assert [entry[k] for k in ("annotated", "found", "with_level", "labelled", "false")] == [4, 3, 4, 2, 1]
    assert entry["all_levels_right"] is False
    assert entry["errors"] == [
        {"kind": "missed", "level": "L3"},
        {"kind": "wrong_level", "level": "L4", "predicted": "L3", "iou": 1.0},
        {"kind": "false", "predicted": "L2", "score": 0.9},
    ]


def test_contours_of_what_was_found_by_hand():
    # The film's diagonal is 130 px: bands of 3 px. L5 is right, L4 ends 4 px too low, L3 is missed; the cage is right,
    # the screw far off.
    shifted = (10, 54, 30, 74)
    truth = film(
        levels=("L5", "L4", "L3"),
        extra=(annotation("cage", (35, 50, 45, 60)), annotation("screw", (35, 0, 45, 10))),
    )
    found = Spine(
        SIZE,
        (vertebra("L5", BOXES["L5"]), vertebra("L4", shifted)),
        (implant("cage", (35, 50, 45, 60)), implant("screw", (35, 100, 45, 110))),
    )
    metrics = score([truth], {"1.png": found})
    a, b = (np.zeros(SIZE, dtype=bool) for _ in range(2))
    for mask, top in ((a, 50), (b, 54)):
        mask[top : top + 20, 10:30] = True
        mask[top + 3 : top + 17, 13:27] = False
    moved = (a & b).sum() / (a | b).sum()
    contours = metrics["summary"]["contours"]
    assert contours["matched"] == 2
    assert contours["boundary_iou"] == pytest.approx((1 + moved) / 2)
    assert contours["hd95_px"] == pytest.approx(4 / 2)
    assert contours["per_class"] == {
        "lumbar": {key: contours[key] for key in ("matched", "boundary_iou", "hd95_px")},
        "cage": {"matched": 1, "boundary_iou": 1, "hd95_px": 0},
    }
    assert metrics["images"][0]["contours"] == contours["per_class"]["lumbar"]
    narrow = score([truth], {"1.png": found}, boundary_width=0.001)["summary"]["contours"]
    assert narrow["boundary_iou"] < contours["boundary_iou"]
    assert narrow["hd95_px"] == contours["hd95_px"]


def test_contours_are_means_over_objects_and_not_over_films():
    images = [film(1), film(2, levels=("L5",))]
    found = {"1.png": spine(), "2.png": spine((), extra=(vertebra("L5", (10, 79, 30, 99)),))}
    metrics = score(images, found)
    assert metrics["summary"]["contours"]["hd95_px"] == pytest.approx(4 / 5)
    assert [entry["contours"]["hd95_px"] for entry in metrics["images"]] == [0, 4]


def test_truth_polygons_for_drawing():
    truth = score([film(levels=["L5"])], {"1.png": spine()})["images"][0]["truth"]
    assert [(t["level"], t["category"]) for t in truth] == [("L5", "lumbar")]
    (outline,) = truth[0]["polygons"]
    exact = rle.rle_to_polygons(box_mask(*BOXES["L5"]))[0].exterior
    apart = shapely.hausdorff_distance(shapely.LinearRing(outline), shapely.LinearRing(exact), densify=0.05)
    assert apart <= 0.75 + 0.1
    again = rle.polygons_to_rle([np.array(outline)], SIZE)
    assert rle.iou([again], [box_mask(*BOXES["L5"])])[0, 0] > 0.98


def test_missing_and_unknown_films():
    metrics = score([film(1), film(2)], {"1.png": spine(), "9.png": spine()})
    assert (metrics["missing"], metrics["unknown"]) == (["2.png"], ["9.png"])
    assert metrics["summary"]["vertebrae"]["found_rate"] == 0.5
    assert metrics["summary"]["films_all_levels_right"]["rate"] == 0.5
    assert metrics["images"][1]["found"] == 0
    share = 1500 / 6000
    assert metrics["images"][1]["mean_iou"] == pytest.approx((1 - share) / 2)
    assert metrics["ap"]["per_class"]["lumbar"]["predicted"] == 3


def test_nothing_annotated_and_nothing_found():
    metrics = score([film(levels=())], {"1.png": Spine(SIZE)})
    assert metrics["summary"]["mean_iou"] == 1
    assert metrics["summary"]["vertebrae"]["found_rate"] is None
    assert metrics["summary"]["films_all_levels_right"] == {"films": 0, "right": 0, "rate": None}
    assert metrics["summary"]["contours"] == {"matched": 0, "boundary_iou": None, "hd95_px": None, "per_class": {}}
    assert metrics["ap"]["mask"]["AP"] is None


def test_truth_without_levels_has_no_labelled_number():
    vertebrae = score([film(named=False)], {"1.png": spine()})["summary"]["vertebrae"]
    assert (vertebrae["found"], vertebrae["labelled"], vertebrae["labelled_rate"]) == (4, None, None)


def test_merged_classes():
    images = [film(extra=(annotation("cage", (35, 50, 45, 60)),))]
    found = {"1.png": spine(extra=(), implants=(implant("rod", (35, 0, 40, 20)),))}
    assert score(images, found)["summary"]["mean_iou"] == 1
    with_implants = score(images, found, merged="bone+implants")["summary"]["pixel_accuracy"]
    assert with_implants == pytest.approx(1 - (100 + 100) / 6000)
    assert score(images, found, merged=("rod",))["summary"]["pixel_accuracy"] == pytest.approx(1 - 100 / 6000)
    with pytest.raises(DataError, match=r"merged mask must be bone, .* among lumbar, .*got 'vertebra'"):
        score(images, found, merged=("vertebra",))


def test_data_without_bone_have_no_pixel_numbers():
    image = ImageRecord(1, "1.png", SIZE[1], SIZE[0], annotations=(annotation("cage", (35, 50, 45, 60)),))
    found = {"1.png": Spine(SIZE, implants=(implant("cage", (35, 50, 45, 60)),))}
    metrics = evaluate(Dataset(("cage",), (image,)), found)
    assert metrics["summary"]["mean_iou"] is None
    assert metrics["ap"]["mask"]["AP"] == pytest.approx(1)


def test_ignored_regions_are_counted_nowhere():
    images = [film(extra=(annotation("lumbar", T12, ignore=True),))]
    found = {"1.png": spine(extra=(vertebra("T12", (12, 2, 28, 20)),))}
    metrics = score(images, found)
    assert metrics["summary"]["mean_iou"] == 1
    assert metrics["summary"]["vertebrae"]["false"] == 0
    assert metrics["summary"]["vertebrae"]["annotated"] == 4
    assert metrics["ap"]["mask"]["AP"] == pytest.approx(1)
    # With half of it outside, it is judged.
    found = {"1.png": spine(extra=(vertebra("T12", (12, 2, 48, 20)),))}
    assert score(images, found)["summary"]["vertebrae"]["false"] == 1


def test_range_of_levels():
    found = {"1.png": spine(extra=(vertebra("L2", T12),), candidates=(implant("lumbar", T12, 0.3),))}
    everything = score([film()], found)
    assert everything["summary"]["vertebrae"]["false"] == 1
    assert everything["summary"]["pixel_accuracy"] == pytest.approx(1 - 400 / 6000)
    annotated = score([film()], found, level_range="annotated")
    assert annotated["summary"]["vertebrae"]["false"] == 0
    assert annotated["summary"]["pixel_accuracy"] == 1
    assert annotated["ap"]["per_class"]["lumbar"]["predicted"] == 3
    # Inside of the range nothing is forgiven.
    beside = {"1.png": spine(extra=(vertebra("L2", (32, 40, 48, 60)),))}
    assert score([film()], beside, level_range="annotated")["summary"]["vertebrae"]["false"] == 1


def test_candidates_count_for_average_precision_alone():
    found = {"1.png": spine(("S1", "L5", "L4"), candidates=(implant("lumbar", BOXES["L3"], 0.2),))}
    metrics = score([film()], found)
    assert metrics["summary"]["vertebrae"]["found"] == 3
    assert metrics["ap"]["mask"]["AP"] == pytest.approx(1)


def test_classes_that_only_the_model_knows_are_counted():
    image = ImageRecord(1, "1.png", SIZE[1], SIZE[0], annotations=(annotation("lumbar", BOXES["L5"], "L5"),))
    found = {"1.png": spine(("L5",), implants=(implant("rod", (35, 0, 40, 20)),))}
    metrics = evaluate(Dataset(("lumbar",), (image,)), found)
    assert metrics["ap"]["false_positives_of_absent_classes"] == 1
    assert metrics["ap"]["per_class"]["rod"]["predicted"] == 1


def test_threshold():
    found = {"1.png": spine((), extra=(vertebra("L5", (10, 75, 30, 90)),))}
    assert score([film(levels=["L5"])], found)["summary"]["vertebrae"]["found"] == 1
    assert score([film(levels=["L5"])], found, iou_threshold=0.8)["summary"]["vertebrae"]["found"] == 0


def test_faults_say_the_way_out():
    with pytest.raises(DataError, match="at least one film"):
        score([], {})
    with pytest.raises(DataError, match=r"for the annotated films \(e.g. '1.png'\), got e.g. 'folder/1.png'"):
        score([film()], {"folder/1.png": spine()})
    with pytest.raises(DataError, match=r"1.png: prediction must have the film's size \(120, 50\)"):
        score([film()], {"1.png": Spine((60, 25))})


@pytest.mark.parametrize(
    "setting", [{"merged": "bones"}, {"level_range": "some"}, {"iou_threshold": 0}, {"boundary_width": 0}, {"iou": 0.5}]
)
def test_options_are_checked(setting):
    with pytest.raises(ValidationError, match=next(iter(setting))):
        EvaluateOptions(**setting)


def test_progress_and_file(tmp_path):
    told = []
    dataset = Dataset(CLASSES, (film(1), film(2)))
    metrics = evaluate(dataset, {"1.png": spine()}, progress=lambda done, total, text: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]
    write_metrics(metrics, tmp_path / "metrics.json")
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(json.dumps(metrics))
