import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from vertinst.models._yolact_losses import (
    BACKGROUND,
    NEUTRAL,
    class_loss,
    coverage,
    mask_loss,
    match_anchors,
    semantic_loss,
)


def random_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 80
    return torch.cat((corner, corner + 4 + torch.rand(count, 2, generator=generator) * 40), dim=1)


def test_matching_by_hand() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 4.5], [50, 50, 60, 60], [20, 20, 22, 22]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [19, 19, 29, 29]])
    # IoU with the first truth 1, 0.8, 0.45; the second truth overlaps one anchor by 0.04 and takes it all the same.
    assert match_anchors(anchors, boxes, 0.5, 0.4).tolist() == [0, 0, NEUTRAL, BACKGROUND, 1]
    # At equality an anchor is positive, and not background.
    assert match_anchors(anchors, boxes, 0.8, 0.45).tolist() == [0, 0, NEUTRAL, BACKGROUND, 1]


def test_matching_without_truth_is_all_background() -> None:
    assert match_anchors(random_boxes(7, 0), torch.zeros(0, 4), 0.5, 0.4).tolist() == [BACKGROUND] * 7


@settings(deadline=None)
@given(st.integers(1, 12), st.integers(12, 60), st.integers(0, 10_000))
def test_every_truth_has_an_anchor_and_best_pairs_win(truths: int, count: int, seed: int) -> None:
    boxes, anchors = random_boxes(truths, seed), random_boxes(count, seed + 1)
    assigned = match_anchors(anchors, boxes, 0.5, 0.4)
    assert set(range(truths)) <= set(assigned.tolist())
    iou = box_iou(boxes, anchors)
    remaining = iou.clone()
    for _ in range(truths):
        truth, anchor = divmod(int(remaining.argmax()), count)
        if float(iou[truth, anchor]) == 0.0:
            break
        assert int(assigned[anchor]) == truth
        remaining[truth], remaining[:, anchor] = -1, -1


def test_two_truths_with_the_same_box_share_the_anchors() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    assert sorted(match_anchors(anchors, boxes, 0.5, 0.4).tolist()) == [0, 1]


def test_three_hard_negatives_for_each_positive_and_no_neutral() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 200, 4, generator=generator, requires_grad=True)
    labels = torch.zeros(2, 200, dtype=torch.int64)
    labels[0, :10], labels[0, 10:60] = 2, NEUTRAL
    labels[1, :6] = 1
    class_loss(logits, labels, 3.0).backward()
    used = logits.grad.abs().sum(dim=-1) > 0
    assert used.sum(dim=1).tolist() == [10 + 30, 6 + 18]
    assert not used[labels == NEUTRAL].any()
    background = -torch.log_softmax(logits.detach(), dim=-1)[0, 60:, 0]
    assert background[used[0, 60:]].min() >= background[~used[0, 60:]].max()


def test_class_loss_of_uniform_scores() -> None:
    labels = torch.zeros(1, 100, dtype=torch.int64)
    labels[0, :5] = 1
    # 5 positives and 15 negatives of -log(1/4), divided by 5.
    assert float(class_loss(torch.zeros(1, 100, 4), labels, 3.0)) == pytest.approx(4 * math.log(4))


def test_class_loss_with_too_few_anchors() -> None:
    assert float(class_loss(torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.int64), 3.0)) > 0
    assert float(class_loss(torch.zeros(1, 2, 4), torch.full((1, 2), NEUTRAL), 3.0)) == 0


def test_mask_loss_agrees_with_the_dense_form() -> None:
    generator = torch.Generator().manual_seed(1)
    prototypes = torch.rand(4, 20, 16, generator=generator)
    coefficients = torch.randn(5, 4, generator=generator)
    truth = torch.tensor([1, 0, 1, 2, 2])
    masks = torch.rand(3, 20, 16, generator=generator).round()
    boxes = torch.tensor([[1.0, 2.0, 9.0, 12.0], [0.0, 0.0, 16.0, 20.0], [3.0, 5.0, 6.0, 6.0]])
    probability = torch.sigmoid(torch.einsum("pk,khw->phw", coefficients, prototypes))
    dense = torch.nn.functional.binary_cross_entropy(probability, masks[truth], reduction="none")
    expected = sum(
        float(dense[i, y1:y2, x1:x2].sum()) / ((y2 - y1) * (x2 - x1))
        for i, (x1, y1, x2, y2) in enumerate(boxes[truth].int().tolist())
    )
    assert float(mask_loss(prototypes, coefficients, truth, masks, boxes)) == pytest.approx(expected, rel=1e-5)


def test_mask_loss_of_tiny_and_outlying_boxes_is_finite() -> None:
    prototypes = torch.rand(2, 8, 8, requires_grad=True)
    boxes = torch.tensor([[3.2, 3.2, 3.3, 3.3], [7.9, 7.9, 20.0, 20.0], [-9.0, -9.0, -3.0, -3.0], [8.0, 8.0, 9.0, 9.0]])
    loss = mask_loss(prototypes, torch.ones(4, 2), torch.arange(4), torch.ones(4, 8, 8), boxes)
    loss.backward()
    assert math.isfinite(float(loss))
    assert torch.isfinite(prototypes.grad).all()


def test_mask_loss_without_objects_is_a_zero_that_can_be_differentiated() -> None:
    prototypes = torch.rand(2, 8, 8, requires_grad=True)
    loss = mask_loss(prototypes, torch.zeros(0, 2), torch.zeros(0).long(), torch.zeros(0, 8, 8), torch.zeros(0, 4))
    loss.backward()
    assert float(loss) == 0.0


def test_coverage_is_the_covered_fraction() -> None:
    mask = torch.zeros(1, 6, 5)
    mask[0, :4, :2] = 1
    assert coverage(mask, (8, 8), 4).tolist() == [[[0.5, 0.0], [0.0, 0.0]]]
    assert coverage(torch.zeros(0, 6, 5), (8, 8), 4).shape == (0, 2, 2)


def test_semantic_loss_takes_the_union_of_a_class() -> None:
    masks = torch.zeros(2, 4, 4)
    masks[0, :2], masks[1, 1:3] = 1, 1
    right = torch.full((1, 2, 4, 4), -20.0)
    right[0, 1, :3] = 20.0
    labels = [torch.tensor([2, 2])]
    assert float(semantic_loss(right, labels, [masks])) == pytest.approx(0.0, abs=1e-6)
    assert float(semantic_loss(torch.zeros(1, 2, 4, 4), labels, [masks])) == pytest.approx(2 * math.log(2))
    empty = semantic_loss(right, [torch.zeros(0).long()], [torch.zeros(0, 4, 4)])
    assert float(empty) == pytest.approx(20 * 12 / 16)
