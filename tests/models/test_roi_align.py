"""RoIAlign on processors: torchvision's values and gradients, for ordinary boxes and for strange ones."""

import pytest
import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops import roi_align as kernel

from vertinst.models import _roi_align
from vertinst.models._roi_align import pool_pyramid, roi_align

HEIGHT, WIDTH, CELL = 13, 17, 16


def some_boxes(count: int, seed: int = 0) -> Tensor:
    """(R, 5): ordinary ones that reach over the edge, then a point, a line, one elsewhere, one that covers all."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor([350.0, 290.0]) - 40
    strange = [[0, 0, 0, 0], [30, 40, 30, 90], [900, 900, 990, 990], [-500, -400, 900, 700], [-16, -16, 0, 0]]
    boxes = torch.cat((corners.amin(1), corners.amax(1)), dim=1)
    boxes = torch.cat((boxes, torch.tensor(strange, dtype=torch.float32)))
    return torch.cat((torch.arange(len(boxes))[:, None] % 2, boxes), dim=1)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling_ratio", [0, 1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_and_gradients_are_torchvisions(aligned: bool, sampling_ratio: int, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 5, HEIGHT, WIDTH).contiguous(memory_format=layout)
    rois = some_boxes(30)
    inputs = [features.clone().requires_grad_() for _ in range(2)]
    expected = kernel(inputs[0], rois, 7, 1 / CELL, sampling_ratio or -1, aligned)
    found = roi_align(inputs[1], rois, 7, 1 / CELL, sampling_ratio=sampling_ratio, aligned=aligned)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=3e-6)
    gradient = torch.randn_like(expected)
    expected.backward(gradient)
    found.backward(gradient)
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-5, atol=3e-5)


def test_gradient_in_double_precision() -> None:
    features = torch.randn(2, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 1.0, 2, 20, 30], [1, -3, 4, 60, 44]], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: roi_align(x, rois, 2, 1 / 8, sampling_ratio=0, aligned=True), features)


def test_boxes_that_end_before_they_begin_are_zero_as_they_have_no_points() -> None:
    rois = torch.tensor([[0, 90.0, 90, 30, 40]])
    assert not roi_align(torch.ones(1, 2, 9, 9), rois, 3, 1 / CELL, sampling_ratio=0, aligned=True).any()


def test_no_boxes() -> None:
    features = torch.randn(1, 4, 8, 8, requires_grad=True)
    found = roi_align(features, torch.zeros(0, 5), 7, 1 / CELL, sampling_ratio=0, aligned=True)
    assert found.shape == (0, 4, 7, 7)
    found.sum().backward()
    assert features.grad is not None
    assert not features.grad.any()
    empty = pool_pyramid([features] * 4, [torch.zeros(0, 4)] * 2, 14, sampling_ratio=0, aligned=True)
    assert empty.shape == (0, 4, 14, 14)


def pyramid(batch: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(batch, 6, 256 >> i, 192 >> i).to(dtype) for i in range(4)]


def film_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 300
    return torch.cat((corner, corner + 8 * 2 ** (6 * torch.rand(count, 2, generator=generator))), dim=1)


def test_pyramid_is_torchvisions() -> None:
    levels, boxes = pyramid(2), [film_boxes(40, 0), film_boxes(25, 1)]
    theirs = MultiScaleRoIAlign([str(i) for i in range(4)], 7, 2)
    sizes = ImageList(torch.zeros(2, 3, 1024, 768), [(1024, 768)] * 2).image_sizes
    expected = theirs({str(i): level for i, level in enumerate(levels)}, boxes, sizes)
    found = pool_pyramid(levels, boxes, 7, sampling_ratio=2, aligned=False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=3e-6)


@pytest.mark.parametrize(("side", "level"), [(0, 0), (111.99, 0), (112, 1), (223.9, 1), (224, 2), (448, 3), (760, 3)])
def test_levels_of_boxes(side: float, level: int) -> None:
    levels = [torch.full((1, 1, 256 >> i, 192 >> i), i + 1.0) for i in range(4)]
    found = pool_pyramid(
        levels, [torch.tensor([[0.0, 0, side, side], [0, 0, 2, 2]])], 1, sampling_ratio=1, aligned=False
    )
    assert found[0].item() == level + 1
    assert found[1].item() == 1


def test_films_of_a_batch_and_levels_without_a_box() -> None:
    levels = [level.requires_grad_() for level in pyramid(2)]
    boxes = torch.tensor([[10.0, 20, 310, 250]])
    second = pool_pyramid(levels, [boxes[:0], boxes], 7, sampling_ratio=0, aligned=True)
    alone = pool_pyramid([level[1:] for level in levels], [boxes], 7, sampling_ratio=0, aligned=True)
    assert torch.equal(second, alone)
    second.sum().backward()
    assert levels[2].grad is not None
    assert not levels[2].grad[0].any()
    assert levels[2].grad[1].any()


def test_bf16_is_summed_in_float32() -> None:
    levels, boxes = pyramid(1, torch.bfloat16), [film_boxes(20, 0)]
    with torch.autocast("cpu", torch.bfloat16):
        found = pool_pyramid(levels, boxes, 7, sampling_ratio=0, aligned=True)
    exact = pool_pyramid([level.float() for level in levels], boxes, 7, sampling_ratio=0, aligned=True)
    assert torch.equal(found, exact.bfloat16())


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_what_gpus_compute_is_the_same(kind: torch.dtype) -> None:
    levels = [torch.randn(2, 3, 64 >> i, 64 >> i, dtype=kind) for i in range(4)]
    boxes = some_boxes(20)[:-5, 1:]
    how = {"sampling_ratio": 0, "aligned": True}
    rois = torch.cat(((torch.arange(20) >= 8)[:, None].to(boxes), boxes), dim=1)
    found = _roi_align._pyramid_kernel(levels, rois, _roi_align._level(boxes, 4), 7, 0, True)
    assert found.dtype == kind
    tolerance = {torch.float32: 3e-6, torch.float64: 1e-12, torch.bfloat16: 2e-2}[kind]
    torch.testing.assert_close(found, pool_pyramid(levels, [boxes[:8], boxes[8:]], 7, **how), rtol=0, atol=tolerance)
