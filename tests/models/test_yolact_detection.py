import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from vertinst.models._yolact_detection import Detections, select

WIDE_OPEN = {
    "kind": "fast",
    "score_threshold": 0.05,
    "second_threshold": True,
    "iou_threshold": 0.5,
    "top_k": 200,
    "max_detections": 100,
}


def choose(probabilities: torch.Tensor, boxes: torch.Tensor, **changes: object) -> Detections:
    return select(probabilities, boxes, **{**WIDE_OPEN, **changes})


def pairs(found: Detections) -> list[tuple[int, int]]:
    return list(zip(found.anchors.tolist(), found.labels.tolist(), strict=True))


def random_case(count: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 30
    boxes = torch.cat((corner, corner + 5 + torch.rand(count, 2, generator=generator) * 20), dim=1)
    return torch.randint(0, 12, (count, classes), generator=generator) / 12, boxes


def by_definition(probabilities: torch.Tensor, boxes: torch.Tensor, limit: float, top_k: int) -> set[tuple[int, int]]:
    kept = set()
    for column in range(probabilities.shape[1]):
        scores = probabilities[:, column]
        order = sorted(range(len(boxes)), key=lambda i: (-float(scores[i]), i))
        order = [i for i in order if float(scores[i]) > 0.05][:top_k]
        for rank, i in enumerate(order):
            if all(float(box_iou(boxes[i : i + 1], boxes[j : j + 1])) <= limit for j in order[:rank]):
                kept.add((i, column + 1))
    return kept


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 25),
    st.integers(1, 3),
    st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    st.integers(1, 30),
    st.integers(0, 9999),
)
def test_fast_nms_agrees_with_its_definition(count: int, classes: int, limit: float, top_k: int, seed: int) -> None:
    probabilities, boxes = random_case(count, classes, seed)
    found = choose(probabilities, boxes, iou_threshold=limit, top_k=top_k, max_detections=1000)
    assert set(pairs(found)) == by_definition(probabilities, boxes, limit, top_k)
    assert len(found.labels) == len(set(pairs(found)))
    assert (found.scores.diff() <= 0).all()
    assert torch.equal(found.scores, probabilities[found.anchors, found.labels - 1])


# b overlaps a and c; a and c hardly overlap.
ROW = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]])


def test_a_suppressed_box_still_suppresses_but_not_in_ordinary_nms() -> None:
    falling = torch.tensor([[0.9], [0.8], [0.7]])
    assert pairs(choose(falling, ROW)) == [(0, 1)]
    assert pairs(choose(falling, ROW, kind="ordinary")) == [(0, 1), (2, 1)]


def test_only_cross_class_nms_lets_classes_suppress_each_other() -> None:
    two_classes = torch.tensor([[0.7, 0.0], [0.0, 0.8], [0.9, 0.0]])
    assert pairs(choose(two_classes, ROW)) == [(2, 1), (1, 2), (0, 1)]
    assert pairs(choose(two_classes, ROW, kind="ordinary")) == [(2, 1), (1, 2), (0, 1)]
    assert pairs(choose(two_classes, ROW, kind="cross_class")) == [(2, 1)]


def test_the_second_threshold_drops_weak_classes_of_strong_anchors() -> None:
    probabilities = torch.tensor([[0.9, 0.02], [0.03, 0.01]])
    apart = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60]])
    assert pairs(choose(probabilities, apart)) == [(0, 1)]
    assert pairs(choose(probabilities, apart, second_threshold=False)) == [(0, 1), (0, 2)]


def test_equality_stays_in_fast_nms_and_goes_in_ordinary_nms() -> None:
    # The second box is half of the first: an IoU of 0.5; for ordinary NMS with sides counted in whole pixels too.
    scores = torch.tensor([[0.9], [0.8]])
    assert len(choose(scores, torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])).labels) == 2
    assert len(choose(scores, torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 4]]), kind="ordinary").labels) == 1
    assert len(choose(scores, torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 3.9]]), kind="ordinary").labels) == 2


@pytest.mark.parametrize("kind", ["fast", "cross_class", "ordinary"])
def test_cap_and_nothing(kind: str) -> None:
    probabilities, boxes = random_case(40, 2, 0)
    everything = choose(probabilities, boxes, kind=kind, iou_threshold=1.0, max_detections=1000)
    few = choose(probabilities, boxes, kind=kind, iou_threshold=1.0, max_detections=7)
    assert len(everything.labels) > 7
    assert torch.equal(few.scores, everything.scores[:7])
    for empty in (choose(probabilities * 0, boxes, kind=kind), choose(probabilities[:0], boxes[:0], kind=kind)):
        assert pairs(empty) == []
