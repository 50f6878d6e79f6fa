"""Matching, drawing, losses and detection of Mask R-CNN on numbers that can be worked out by hand."""

import math
from typing import Any

import pytest
import torch

from vertinst.models import _mask_rcnn_heads as heads
from vertinst.models import _mask_rcnn_rpn as rpn
from vertinst.models._mask_rcnn_options import Options

OURS = Options()
TORCHVISION = Options(preset="torchvision")
BOXES = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 30.0]])


def grid(*, rounded: bool) -> tuple[torch.Tensor, ...]:
    sizes = ((8, 6), (4, 3), (2, 2), (1, 1), (1, 1))
    return rpn.grid_anchors((32, 24), sizes, (5.5, 8, 16, 32, 64), (2.0, 1.0), torch.device("cpu"), rounded=rounded)


def test_anchors_lie_at_the_corners_of_cells() -> None:
    first = grid(rounded=False)[0]
    assert first.shape == (8 * 6 * 2, 4)
    assert first[0].tolist() == pytest.approx([-5.5 / math.sqrt(2), -2.75 / math.sqrt(2), 3.889, 1.945], abs=1e-3)
    assert first[3].tolist() == pytest.approx([4 - 2.75, -2.75, 4 + 2.75, 2.75])
    assert first[12].tolist() == pytest.approx((first[0] + torch.tensor([0, 4, 0, 4])).tolist())


def test_torchvision_rounds_anchors_and_takes_its_steps_from_the_sides() -> None:
    levels = grid(rounded=True)
    assert levels[0][1].tolist() == [-3, -3, 3, 3]
    # 24 px in 2 cells: steps of 12, not of the stride 16.
    assert levels[2][2].tolist()[0] - levels[2][0].tolist()[0] == 12


def test_anchors_stay_usable_in_training_after_inference_mode() -> None:
    rpn.grid_anchors.cache_clear()
    with torch.inference_mode():
        grid(rounded=False)
    weight = torch.ones(4, requires_grad=True)
    (grid(rounded=False)[0] * weight).sum().backward()


def test_every_truth_has_an_anchor() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6.5], [0, 0, 10, 2.9], [22, 20, 60, 32], [100, 100, 110, 110]])
    labels, truths = rpn.label_anchors(anchors, BOXES)
    # The best of the second truth is below the threshold, and counts all the same.
    assert labels.tolist() == [1, -1, 0, 1, 0]
    assert truths[0].tolist() == BOXES[0].tolist()
    assert truths[3].tolist() == BOXES[1].tolist()


def test_without_truths_all_anchors_are_background() -> None:
    labels, truths = rpn.label_anchors(BOXES, torch.zeros(0, 4))
    assert labels.tolist() == [0, 0]
    assert truths.shape == (2, 4)


@pytest.mark.parametrize(("count", "positives", "background"), [(4, 1, 3), (8, 2, 6), (100, 3, 20)])
def test_examples_are_drawn_by_share(count: int, positives: int, background: int) -> None:
    labels = torch.tensor([5] * 20 + [-1] * 7 + [1, 2, 3])
    chosen = rpn.sample(labels, count, 0.25, background=5)
    assert len(set(chosen.tolist())) == len(chosen)
    assert (labels[chosen[:positives]] < 5).all()
    assert (labels[chosen[positives:]] == 5).all()
    assert len(chosen) == positives + background
    assert (labels[chosen] != -1).all()


def outputs(logits: torch.Tensor, deltas: torch.Tensor) -> rpn.Outputs:
    return rpn.Outputs([logits], [deltas])


def test_proposals_are_clipped_whole_and_apart() -> None:
    anchors = torch.tensor([[-5.0, -5, 10, 10], [0, 0, 10, 9.5], [50, 50, 60, 60], [12, 0, 20, 10]])
    logits = torch.tensor([[1.0, 3.0, 9.0, 2.0]])
    ((boxes, kept),) = rpn.select_proposals(
        outputs(logits, torch.zeros(1, 4, 4)), [anchors], [(20, 30)], OURS, train=False
    )
    # The third lies outside and is clipped to nothing; the first is the second again.
    assert boxes.tolist() == [[0, 0, 10, 9.5], [12, 0, 20, 10]]
    assert kept.tolist() == [3, 2]


@pytest.mark.parametrize("train", [False, True])
def test_numbers_of_candidates_and_proposals_are_kept(train: bool) -> None:
    anchors = torch.tensor([[i * 20.0, 0, i * 20 + 10, 10] for i in range(30)])
    logits = torch.arange(30.0)[None]
    options = Options(rpn_candidates_train=20, rpn_proposals_train=7, rpn_candidates_test=5, rpn_proposals_test=9)
    given = rpn.Outputs([logits, logits - 4], [torch.zeros(1, 30, 4)] * 2)
    ((_, kept),) = rpn.select_proposals(given, [anchors] * 2, [(600, 600)], options, train=train)
    # NMS knows the levels apart.
    best = [29, 28, 27, 26, 25, 25, 24, 24, 23]
    assert kept.tolist() == (best[:7] if train else [29, 28, 27, 26, 25, 25, 24, 23, 22])


def test_proposal_losses_divide_as_each_does() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40], [50, 50, 60, 60]])
    labels = torch.tensor([[1, 0, -1]])
    truths = torch.tensor([[[1.0, 0, 11, 10], [0, 0, 1, 1], [0, 0, 1, 1]]])
    given = outputs(torch.tensor([[0.0, 0.0, 50.0]]), torch.zeros(1, 3, 4))
    objectness, box = rpn.losses(given, [anchors], labels, truths, OURS)
    assert float(objectness) == pytest.approx(2 * math.log(2) / 256)
    assert float(box) == pytest.approx(0.1 / 256)
    objectness, box = rpn.losses(given, [anchors], labels, truths, TORCHVISION)
    assert float(objectness) == pytest.approx(math.log(2))
    # Quadratic below 1/9.
    assert float(box) == pytest.approx(0.5 * 0.1**2 * 9 / 2)


def test_truths_are_proposals_too() -> None:
    drawn = heads.draw_proposals(torch.tensor([[0.0, 0, 10, 4.9], [0, 0, 10, 5]]), BOXES, torch.tensor([2, 0]), 3, 16)
    found = {(tuple(box), label) for box, label in zip(drawn.boxes.tolist(), drawn.labels.tolist(), strict=True)}
    background = found - {((0, 0, 10, 5), 2), ((0, 0, 10, 10), 2), ((20, 20, 40, 30), 0)}
    assert len(found) == 4
    assert [label for _, label in background] == [3]


def test_a_film_without_truths_gives_background_alone() -> None:
    drawn = heads.draw_proposals(BOXES, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 3, 16)
    assert drawn.labels.tolist() == [3, 3]


def test_box_losses_are_of_the_own_class() -> None:
    drawn = heads.Drawn(BOXES, torch.tensor([1, 3]), torch.tensor([0, 0]))
    deltas = torch.full((2, 12), 7.0)
    deltas[0, 4:8] = 0
    truths = [torch.tensor([[1.0, 0, 11, 10]])]
    classes, box = heads.box_losses(torch.zeros(2, 4), deltas, [drawn], truths, OURS)
    assert float(classes) == pytest.approx(math.log(4))
    # A tenth of the side, ten times the weight, two proposals.
    assert float(box) == pytest.approx(1.0 / 2)


def test_box_losses_find_the_truths_of_each_film() -> None:
    films = [
        heads.Drawn(BOXES, torch.tensor([0, 3]), torch.tensor([1, 0])),
        heads.Drawn(BOXES, torch.tensor([3, 3]), torch.tensor([0, 0])),
        heads.Drawn(BOXES, torch.tensor([3, 2]), torch.tensor([0, 0])),
    ]
    truths = [torch.tensor([[5.0, 5, 6, 6], [1, 0, 11, 10]]), torch.zeros(0, 4), torch.tensor([[20.0, 20, 40, 31]])]
    _, box = heads.box_losses(torch.zeros(6, 4), torch.zeros(6, 12), films, truths, OURS)
    # A shift of a tenth at ten times the weight; half a pixel down and a side of 11 for 10.
    assert float(box) == pytest.approx((1.0 + 10 * 0.05 + 5 * math.log(1.1)) / 6, rel=1e-5)


def test_mask_targets_are_what_covers_half_a_cell() -> None:
    masks = torch.zeros(2, 20, 20)
    masks[1, :, 10:] = 1
    boxes = torch.tensor([[0.0, 0, 20, 20], [9.4, 0, 13.4, 4]])
    wanted = heads.mask_targets(masks, boxes, torch.tensor([1, 1]), 4, OURS)
    assert wanted[0, 0].tolist() == [0, 0, 1, 1]
    assert wanted[1, 0].tolist() == [0, 1, 1, 1]
    assert heads.mask_targets(masks, boxes[:0], torch.zeros(0, dtype=torch.int64), 4, OURS).shape == (0, 4, 4)
    shares = heads.mask_targets(masks, boxes, torch.tensor([1, 1]), 4, TORCHVISION)
    assert ((shares > 0) & (shares < 1)).any()


def test_mask_targets_of_many_objects_are_those_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    masks = (torch.rand(7, 24, 20) > 0.5).to(torch.uint8)
    boxes = torch.rand(30, 4) * 8 + torch.tensor([0.0, 0, 10, 12])
    truth = torch.randint(7, (30,))
    alone = [
        heads.mask_targets(masks[of, None], box[None], torch.zeros(1), 5, TORCHVISION)
        for box, of in zip(boxes, truth, strict=True)
    ]
    held = []
    cut = heads.roi_align

    def record(part: torch.Tensor, *rest: Any, **how: Any) -> torch.Tensor:
        held.append(len(part))
        return cut(part, *rest, **how)

    monkeypatch.setattr(heads, "roi_align", record)
    monkeypatch.setattr(heads, "MASKS_AT_ONCE", 3)
    assert torch.equal(heads.mask_targets(masks, boxes, truth, 5, TORCHVISION), torch.cat(alone))
    assert held == [3, 3, 1]


def test_masks_without_objects_cost_nothing() -> None:
    logits = torch.zeros(0, 28, 28, requires_grad=True)
    assert heads.mask_loss(logits, torch.zeros(0, 28, 28)).item() == 0


def test_detections_of_one_class_stand_apart_and_of_two_may_overlap() -> None:
    logits = torch.tensor([[4.0, 0, 0], [3.0, 2.9, 0], [0, 0, 9]])
    proposals = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [30, 30, 40, 40]])
    found = heads.detect(logits, torch.zeros(3, 8), proposals, (35, 35), Options(score_threshold=0.05))
    assert found.labels.tolist() == [0, 1]
    assert found.boxes.tolist() == [[0, 0, 10, 10], [0, 0, 10, 9]]
    assert found.scores.tolist() == pytest.approx(torch.softmax(logits, 1)[[0, 1], [0, 1]].tolist())
    assert len(heads.detect(logits, torch.zeros(3, 8), proposals, (35, 35), Options(max_detections=1)).labels) == 1
    assert not len(heads.detect(logits[:0], torch.zeros(0, 8), proposals[:0], (35, 35), OURS).labels)
