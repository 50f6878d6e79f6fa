"""Masks from prototypes: the pixels of the dense formula, at the cost of the boxes."""

import tracemalloc
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from vertinst.errors import CheckpointError
from vertinst.models._yolact_masks import film_masks
from vertinst.structures import rle

Size = tuple[int, int]
side = st.integers(1, 40)
film_side = st.integers(1, 150)
MODES = [(crop, kind) for crop in ("film", "prototype") for kind in ("logit", "probability")]
ORIGINAL = {"crop": "prototype", "interpolate": "probability"}


def draw(seed: int, count: int, grid: Size, film: Size) -> tuple[Tensor, Tensor, Tensor]:
    """Prototypes, coefficients and boxes, a few of which reach beyond the film or lie beside it."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = torch.randn(4, *grid, generator=generator).relu()
    coefficients = torch.randn(count, 4, generator=generator) * 3
    height, width = film
    corners = (torch.rand(count, 2, 2, generator=generator) * 1.6 - 0.3) * torch.tensor([width, height])
    return prototypes, coefficients, torch.cat((corners.amin(1), corners.amax(1)), dim=1)


def enlarge(values: Tensor, film: Size) -> Tensor:
    return F.interpolate(values[None], film, mode="bilinear", align_corners=False)[0]


def cells(boxes: Tensor, grid: Size) -> Tensor:
    """(N, h, w) pixels of the prototypes that are less than one beyond boxes (N, 4), in their own pixels."""
    x, y = torch.arange(grid[1]), torch.arange(grid[0])[:, None]
    x1, y1, x2, y2 = boxes[:, :, None, None].unbind(1)
    return (x >= x1 - 1) & (x < x2 + 1) & (y >= y1 - 1) & (y < y2 + 1)


def whole_pixels(boxes: Tensor, film: Size) -> Tensor:
    """(N, H, W) pixels of the film that boxes (N, 4) touch."""
    x, y = torch.arange(film[1]), torch.arange(film[0])[:, None]
    x1, y1, x2, y2 = boxes[:, :, None, None].unbind(1)
    return (x >= x1.floor()) & (x < x2.ceil()) & (y >= y1.floor()) & (y < y2.ceil())


def dense(prototypes: Tensor, coefficients: Tensor, boxes: Tensor, film: Size, crop: str, kind: str) -> Tensor:
    """(N, H, W) values less their threshold, by the formulas on whole films."""
    grid = tuple(prototypes.shape[1:])
    scale = torch.tensor([grid[1] / film[1], grid[0] / film[0]] * 2)
    logits = torch.einsum("nk,khw->nhw", coefficients, prototypes)
    values = logits.sigmoid() if kind == "probability" else logits
    if (crop, kind) == ("prototype", "probability"):
        return enlarge(values * cells(boxes * scale, grid), film) - 0.5
    enlarged = enlarge(values, film) - (0.5 if kind == "probability" else 0.0)
    if crop == "film":
        return enlarged.where(whole_pixels(boxes, film), -1.0)
    # Half-way between two pixels of the prototypes the nearest changes.
    nearest = F.interpolate(cells(boxes * scale, grid)[None].float(), film, mode="nearest-exact")[0]
    return enlarged.where(nearest > 0, -1.0)


def check(found: list[rle.Rle], values: Tensor, *, unsure: float = 1e-5) -> None:
    assert len(found) == len(values)
    for mask, value in zip(found, values, strict=True):
        clear = (value.abs() > unsure).numpy()
        np.testing.assert_array_equal(rle.decode(mask)[clear], (value > 0).numpy()[clear])


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(MODES), st.integers(1, 4), side, side, film_side, film_side, st.integers(0, 99999))
def test_pixels_are_those_of_the_dense_formula(
    mode: tuple[Literal["film", "prototype"], Literal["logit", "probability"]],
    count: int,
    h: int,
    w: int,
    height: int,
    width: int,
    seed: int,
) -> None:
    prototypes, coefficients, boxes = draw(seed, count, (h, w), (height, width))
    film, scale = (height, width), (h / height, w / width)
    found = film_masks(prototypes, coefficients, boxes, film, scale, crop=mode[0], interpolate=mode[1])
    values = dense(prototypes, coefficients, boxes, film, *mode)
    if mode == ("prototype", "logit"):
        # A film's pixel whose centre lies between two of the prototypes' has no nearest.
        values = values.where(between(film, (h, w)), 0.0)
    check(found, values)


def between(film: Size, grid: Size) -> Tensor:
    """(H, W) False where a pixel's centre lies on the border of two pixels of the grid, up to rounding."""
    axes = []
    for pixels, cells_ in zip(film, grid, strict=True):
        position = (torch.arange(pixels, dtype=torch.float64) + 0.5) * cells_ / pixels
        axes.append((position - position.round()).abs() > 1e-4)
    return axes[0][:, None] & axes[1]


@pytest.mark.parametrize("crop", ["film", "prototype"])
def test_padding_of_the_prototypes_is_no_film(crop: Literal["film", "prototype"]) -> None:
    """Prototypes that reach further than the film give what the film's part of the dense formula gives."""
    prototypes, coefficients, boxes = draw(1, 5, (24, 32), (60, 90))
    boxes = boxes.clamp(min=0).minimum(torch.tensor([90.0, 60, 90, 60]))
    found = film_masks(prototypes, coefficients, boxes, (60, 90), (0.3, 0.3), crop=crop, interpolate="probability")
    values = torch.einsum("nk,khw->nhw", coefficients, prototypes).sigmoid()
    if crop == "prototype":
        values = values * cells(boxes * 0.3, (24, 32))
    enlarged = F.interpolate(values[None], scale_factor=1 / 0.3, mode="bilinear")[0, :, :60, :90] - 0.5
    if crop == "film":
        enlarged = enlarged.where(whole_pixels(boxes, (60, 90)), -1.0)
    check(found, enlarged)


def test_beyond_the_prototypes_their_border_goes_on() -> None:
    prototypes = torch.zeros(1, 2, 2)
    prototypes[0, 0, 0] = 1
    boxes = torch.tensor([[0.0, 0, 40, 40]])
    (mask,) = film_masks(prototypes - 0.5, torch.ones(1, 1), boxes, (40, 40), (0.1, 0.1))
    assert rle.box_xyxy(mask).tolist() == [0, 0, 10, 10]
    (mask,) = film_masks(0.5 - prototypes, torch.ones(1, 1), boxes, (40, 40), (0.1, 0.1))
    assert rle.box_xyxy(mask).tolist() == [0, 0, 40, 40]


@pytest.mark.parametrize("mode", MODES)
def test_an_expanded_box_cuts_where_a_larger_one_would(
    mode: tuple[Literal["film", "prototype"], Literal["logit", "probability"]],
) -> None:
    prototypes, coefficients, _ = draw(2, 1, (20, 16), (100, 90))
    narrow, wide = torch.tensor([[30.0, 40, 50, 60]]), torch.tensor([[25.0, 35, 55, 65]])
    arguments = {"crop": mode[0], "interpolate": mode[1]}
    scale = (0.2, 16 / 90)
    expanded = film_masks(prototypes, coefficients, narrow, (100, 90), scale, box_expansion=0.25, **arguments)
    assert expanded == film_masks(prototypes, coefficients, wide, (100, 90), scale, **arguments)
    assert expanded != film_masks(prototypes, coefficients, narrow, (100, 90), scale, **arguments)


@pytest.mark.parametrize("mode", MODES)
def test_nothing_and_boxes_beside_the_film(
    mode: tuple[Literal["film", "prototype"], Literal["logit", "probability"]],
) -> None:
    arguments = {"crop": mode[0], "interpolate": mode[1]}
    assert film_masks(torch.ones(3, 4, 4), torch.zeros(0, 3), torch.zeros(0, 4), (9, 7), (0.5, 0.5), **arguments) == []
    boxes = torch.tensor([[40.0, 2, 50, 6], [2, 40, 6, 50], [-50, 2, -40, 6], [1e9, 2, 2e9, 6], [6, 6, 2, 2]])
    masks = film_masks(torch.ones(3, 4, 4), torch.ones(5, 3), boxes, (8, 8), (0.5, 0.5), **arguments)
    assert masks == [rle.empty((8, 8))] * 5
    huge = torch.tensor([[-1e9, -1e9, 1e9, 1e9]])
    (mask,) = film_masks(torch.ones(3, 4, 4), torch.ones(1, 3), huge, (8, 8), (0.5, 0.5), **arguments)
    assert rle.area(mask) == 64


def test_a_box_without_area() -> None:
    line = torch.tensor([[4.0, 2, 4, 6]])
    arguments = (torch.ones(1, 8, 8), torch.full((1, 1), 9.0), line, (8, 8), (1.0, 1.0))
    assert film_masks(*arguments, crop="film") == [rle.empty((8, 8))]
    (mask,) = film_masks(*arguments, **ORIGINAL)
    assert rle.box_xyxy(mask).tolist() == [3, 1, 5, 7]


def test_a_value_on_the_threshold_is_outside() -> None:
    zeros = torch.zeros(2, 6, 6)
    box = torch.tensor([[0.0, 0, 30, 30]])
    for crop, kind in MODES:
        (mask,) = film_masks(zeros, torch.ones(1, 2), box, (30, 30), (0.2, 0.2), crop=crop, interpolate=kind)
        assert mask == rle.empty((30, 30))
    # From -1 to 1 over two pixels of the film: the one in the middle has the value 0.
    ramp = torch.tensor([[[-1.0], [1.0]]])
    (mask,) = film_masks(ramp, torch.ones(1, 1), torch.tensor([[0.0, 0, 1, 6]]), (6, 1), (1 / 3, 1.0))
    assert rle.decode(mask)[:, 0].tolist() == [False, False, False, True, True, True]
    odd = film_masks(ramp, torch.ones(1, 1), torch.tensor([[0.0, 0, 1, 3]]), (3, 1), (2 / 3, 1.0))
    assert rle.decode(odd[0])[:, 0].tolist() == [False, False, True]


@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(part: int, value: float) -> None:
    arguments = [torch.ones(3, 4, 4), torch.ones(1, 3), torch.tensor([[1.0, 1.0, 7.0, 7.0]])]
    arguments[part].flatten()[1] = value
    with pytest.raises(CheckpointError, match="outputs must be finite"):
        film_masks(*arguments, (8, 8), (0.5, 0.5))


def test_low_precision_and_channels_last_prototypes() -> None:
    prototypes, coefficients, boxes = draw(3, 4, (20, 16), (100, 90))
    low = [tensor.bfloat16() for tensor in (prototypes, coefficients)]
    rounded = film_masks(*low, boxes, (100, 90), (0.2, 16 / 90), **ORIGINAL)
    assert rounded == film_masks(*(tensor.float() for tensor in low), boxes, (100, 90), (0.2, 16 / 90), **ORIGINAL)
    last = prototypes[None].to(memory_format=torch.channels_last)[0].requires_grad_()
    check(
        film_masks(last, coefficients, boxes, (100, 90), (0.2, 16 / 90), **ORIGINAL),
        dense(prototypes, coefficients, boxes, (100, 90), "prototype", "probability"),
    )


def test_memory_is_that_of_the_boxes() -> None:
    prototypes = torch.ones(8, 138, 138)
    boxes = torch.tensor([[9000.0, 9000, 9400, 9400]]).expand(50, 4)
    tracemalloc.start()
    try:
        masks = film_masks(prototypes, torch.ones(50, 8), boxes, (18_000, 18_000), (138 / 18_000, 138 / 18_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert {rle.area(mask) for mask in masks} == {160_000}
    # One mask of the film's pixels would be 324 MB.
    assert peak < 3_000_000
