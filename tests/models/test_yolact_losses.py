import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from vertinst.models._yolact_losses import (
    BACKGROUND,
    NEUTRAL,
    _pairwise_iou,
    boundary_weights,
    crop_to_boxes,
    focal_loss,
    mask_iou_loss,
    mask_loss,
    match_anchors,
    ohem_loss,
    semantic_loss,
    shrink_masks,
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


def test_of_equal_overlaps_the_first_anchor_is_taken() -> None:
    # Many times the same few anchors; of each a truth can take one, and its best has IoU 0.25.
    anchors = torch.tensor([[0.0, 0, 10, 10], [5, 5, 15, 15], [100, 100, 110, 110]]).repeat(400, 1)
    boxes = torch.tensor([[0.0, 0, 5, 5], [10, 10, 15, 15], [0, 0, 5, 5]])
    assert match_anchors(anchors, boxes, 0.5, 0.4)[:6].tolist() == [0, 1, BACKGROUND, 2, BACKGROUND, BACKGROUND]


@settings(deadline=None)
@given(st.integers(0, 9), st.integers(1, 60), st.integers(0, 10_000))
def test_overlaps_are_torchvisions(truths: int, count: int, seed: int) -> None:
    boxes, anchors = random_boxes(truths, seed), random_boxes(count, seed + 1)
    assert torch.equal(_pairwise_iou(boxes, anchors), box_iou(boxes, anchors))


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
    ohem_loss(logits, labels, 3.0).backward()
    used = logits.grad.abs().sum(dim=-1) > 0
    assert used.sum(dim=1).tolist() == [10 + 30, 6 + 18]
    assert not used[labels == NEUTRAL].any()
    background = -torch.log_softmax(logits.detach(), dim=-1)[0, 60:, 0]
    assert background[used[0, 60:]].min() >= background[~used[0, 60:]].max()


def test_class_loss_of_uniform_scores() -> None:
    labels = torch.zeros(1, 100, dtype=torch.int64)
    labels[0, :5] = 1
    # 5 positives and 15 negatives of -log(1/4), divided by 5.
    assert float(ohem_loss(torch.zeros(1, 100, 4), labels, 3.0)) == pytest.approx(4 * math.log(4))


def test_class_loss_with_too_few_anchors() -> None:
    assert float(ohem_loss(torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.int64), 3.0)) > 0
    assert float(ohem_loss(torch.zeros(1, 2, 4), torch.full((1, 2), NEUTRAL), 3.0)) == 0


def test_films_without_positives_bring_the_negatives_of_four() -> None:
    logits = torch.zeros(2, 50, 4, requires_grad=True)
    labels = torch.zeros(2, 50, dtype=torch.int64)
    labels[1, 0] = 3
    ohem_loss(logits, labels, 3.0).backward()
    assert (logits.grad.abs().sum(dim=-1) > 0).sum(dim=1).tolist() == [12, 4]


def test_focal_loss_by_hand() -> None:
    logits = torch.zeros(1, 3, 3, requires_grad=True)
    labels = torch.tensor([[0, 2, NEUTRAL]])
    loss = focal_loss(logits, labels)
    # Each of the two has p = 1/3; weights 0.75 and 0.25; one positive.
    assert loss.item() == pytest.approx((2 / 3) ** 2 * math.log(3))
    loss.backward()
    assert float(logits.grad[0, 2].abs().sum()) == 0.0
    assert float(focal_loss(torch.zeros(1, 4, 3), torch.zeros(1, 4).long())) == pytest.approx(
        4 * 0.75 * (2 / 3) ** 2 * math.log(3)
    )


@pytest.mark.parametrize("expansion", [0.0, 0.1])
def test_mask_loss_agrees_with_the_dense_form(expansion: float) -> None:
    generator = torch.Generator().manual_seed(1)
    prototypes = torch.rand(4, 20, 16, generator=generator)
    coefficients = torch.randn(5, 4, generator=generator)
    truth = torch.tensor([1, 0, 1, 2, 2])
    masks = torch.rand(3, 20, 16, generator=generator).round()
    boxes = torch.tensor([[1.3, 2.0, 9.0, 12.5], [0.0, 0.0, 16.0, 20.0], [3.0, 5.0, 6.0, 6.5]])
    sides = boxes[:, 2:] - boxes[:, :2]
    grown = torch.cat((boxes[:, :2] - expansion * sides, boxes[:, 2:] + expansion * sides), dim=1)
    probability = torch.sigmoid(torch.einsum("pk,khw->phw", coefficients, prototypes))
    dense = torch.nn.functional.binary_cross_entropy(probability, masks[truth], reduction="none")
    expected = (crop_to_boxes(dense, grown[truth]).sum(dim=(1, 2)) / sides[truth].prod(dim=1)).sum()
    loss = mask_loss(prototypes, coefficients, truth, masks, boxes, box_expansion=expansion)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_crops_keep_a_pixel_beyond_the_box() -> None:
    kept = crop_to_boxes(torch.ones(2, 6, 7), torch.tensor([[2.0, 3.0, 4.0, 4.5], [-9.0, -9.0, -2.0, 20.0]]))
    assert kept[0].nonzero().tolist() == [[row, column] for row in (2, 3, 4, 5) for column in (1, 2, 3, 4)]
    assert float(kept[1].sum()) == 0.0
    assert crop_to_boxes(torch.ones(0, 6, 7), torch.zeros(0, 4)).shape == (0, 6, 7)


def test_boundary_weights_lie_on_both_sides_of_the_contour() -> None:
    mask = torch.zeros(1, 7, 7)
    mask[0, :, :3] = 1
    weights = boundary_weights(mask, 2.0)
    assert weights[0, 0].tolist() == [1.0, 1.0, 3.0, 3.0, 1.0, 1.0, 1.0]
    prototypes, coefficients = torch.zeros(1, 7, 7), torch.zeros(1, 1)
    arguments = (prototypes, coefficients, torch.zeros(1).long(), mask, torch.tensor([[0.0, 0.0, 7.0, 7.0]]))
    assert float(mask_loss(*arguments)) == pytest.approx(math.log(2))
    assert float(mask_loss(*arguments, boundary_weight=2.0)) == pytest.approx(math.log(2) * (5 + 2 * 3) / 7)


def test_the_rescoring_loss_compares_with_the_iou_of_large_masks() -> None:
    masks = torch.zeros(2, 10, 10, requires_grad=True)
    targets = torch.zeros(2, 10, 10)
    targets[0, :, :5], targets[1, :5, :5] = 1, 1

    def network(found: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        # The second truth has 25 pixels, and is left out.
        assert labels.tolist() == [3]
        return found.sum() * 0 + torch.tensor([0.75])

    predicted = masks + 0.0
    predicted = predicted.index_put((torch.tensor([0]),), torch.ones(10, 10))
    loss = mask_iou_loss(predicted, targets, torch.tensor([3, 1]), network)
    assert float(loss) == pytest.approx(0.5 * 0.25**2)
    nothing = mask_iou_loss(predicted, targets * 0, torch.tensor([3, 1]), network)
    nothing.backward()
    assert float(nothing) == 0.0


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


def test_masks_on_a_coarser_grid() -> None:
    mask = torch.zeros(1, 6, 5)
    mask[0, :4, :2] = 1
    assert shrink_masks(mask, (8, 8), (2, 2), "soft").tolist() == [[[0.5, 0.0], [0.0, 0.0]]]
    # At the centre of the first cell, between columns 1 and 2, the interpolated mask is exactly a half: not above it.
    assert shrink_masks(mask, (8, 8), (2, 2), "binary").tolist() == [[[0.0, 0.0], [0.0, 0.0]]]
    mask[0, :4, 2] = 1
    assert shrink_masks(mask, (8, 8), (2, 2), "binary").tolist() == [[[1.0, 0.0], [0.0, 0.0]]]
    assert shrink_masks(torch.zeros(0, 6, 5), (8, 8), (3, 2), "soft").shape == (0, 3, 2)


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
