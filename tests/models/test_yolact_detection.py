import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import box_iou

from vertinst.models._yolact_detection import assemble_masks, fast_nms, paste_masks
from vertinst.structures import rle


def slow_fast_nms(
    boxes: torch.Tensor, scores: torch.Tensor, labels: torch.Tensor, limit: float, top_k: int
) -> set[int]:
    kept = set()
    for label in set(labels.tolist()):
        order = sorted((i for i in range(len(boxes)) if labels[i] == label), key=lambda i: (-float(scores[i]), i))[
            :top_k
        ]
        for rank, i in enumerate(order):
            if all(float(box_iou(boxes[i : i + 1], boxes[j : j + 1])) <= limit for j in order[:rank]):
                kept.add(i)
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
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 30
    boxes = torch.cat((corner, corner + 5 + torch.rand(count, 2, generator=generator) * 20), dim=1)
    scores = torch.randint(0, 12, (count,), generator=generator) / 12
    labels = torch.randint(1, classes + 1, (count,), generator=generator)
    kept = fast_nms(boxes, scores, labels, limit, top_k)
    assert set(kept.tolist()) == slow_fast_nms(boxes, scores, labels, limit, top_k)
    assert (scores[kept].diff() <= 0).all()
    assert len(kept) == len(set(kept.tolist()))


def test_a_suppressed_box_still_suppresses() -> None:
    # b overlaps a and c; a and c hardly overlap: ordinary suppression would keep c.
    boxes = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]])
    assert fast_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.ones(3).long(), 0.5, 10).tolist() == [0]
    assert fast_nms(boxes, torch.tensor([0.7, 0.8, 0.9]), torch.tensor([1, 2, 1]), 0.5, 10).tolist() == [2, 1, 0]


@pytest.mark.parametrize("factor", [1, 2, 4, 3.5])
def test_pasting_is_interpolation_of_the_whole_mask_cropped(factor: float) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(2, 12, 10, generator=generator)
    size = (int(12 * factor), int(10 * factor))
    boxes = torch.tensor([[0.0, 0.0, size[1], size[0]], [2.3, 3.7, 7.1, 9.2]])
    pasted = paste_masks(masks, boxes, size, (12 / size[0], 10 / size[1]))
    whole = torch.nn.functional.interpolate(masks[:, None], size=size, mode="bilinear", align_corners=False)
    sure = ((whole - 0.5).abs() > 1e-5)[:, 0].numpy()
    expected = (whole > 0.5)[:, 0].numpy()
    inside = np.zeros_like(expected)
    inside[0] = True
    inside[1, 3:10, 2:8] = True
    for mask, truth, clear in zip(pasted, expected & inside, sure, strict=True):
        np.testing.assert_array_equal(rle.decode(mask)[clear], truth[clear])


def test_pasting_nothing_and_outside() -> None:
    assert paste_masks(torch.zeros(0, 4, 4), torch.zeros(0, 4), (9, 7), (0.5, 0.5)) == []
    outside = paste_masks(torch.ones(1, 4, 4), torch.tensor([[20.0, 20.0, 30.0, 30.0]]), (9, 7), (0.5, 0.5))
    assert outside == [rle.empty((9, 7))]


def test_masks_are_sigmoids_of_combined_prototypes() -> None:
    prototypes = torch.tensor([[[1.0, 0.0]], [[0.0, 2.0]]])
    masks = assemble_masks(prototypes, torch.tensor([[1.0, -1.0]]))
    assert torch.allclose(masks, torch.sigmoid(torch.tensor([[[1.0, -2.0]]])))
    assert assemble_masks(prototypes, torch.zeros(0, 2)).shape == (0, 1, 2)
