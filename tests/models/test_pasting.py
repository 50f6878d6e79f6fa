"""Masks on the film: Detectron2's pixels, every one, without work for the empty rest."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from vertinst.models import _pasting
from vertinst.models._pasting import paste_roi_masks
from vertinst.structures import rle

HALF = np.float32(0.5)
Draw = Callable[[np.random.Generator, int], np.ndarray]

MASKS: dict[str, Draw] = {
    "any": lambda rng, m: rng.random((m, m)),
    "0 or 1": lambda rng, m: rng.integers(0, 2, (m, m)),
    "quarters": lambda rng, m: rng.integers(0, 5, (m, m)) / 4,
    "constant": lambda rng, m: np.full((m, m), rng.choice([0, np.nextafter(HALF, 0), HALF, np.nextafter(HALF, 1), 1])),
    "close to a half": lambda rng, m: HALF + rng.normal(size=(m, m)) * 10.0 ** rng.integers(-8, -2),
    "sure": lambda rng, m: 1 / (1 + np.exp(-100 * rng.normal(size=(m, m)))),
    "chequered": lambda rng, m: np.add.outer(np.arange(m), np.arange(m)) % 2,
}
BOXES: dict[str, Callable[[np.random.Generator, np.ndarray, int], np.ndarray]] = {
    "any": lambda rng, film, m: rng.uniform(-0.3, 1.3, (2, 2)) * film,
    "whole pixels": lambda rng, film, m: np.round(rng.uniform(-0.3, 1.3, (2, 2)) * film),
    "middles of pixels": lambda rng, film, m: np.floor(rng.uniform(-0.3, 1.3, (2, 2)) * film) + 0.5,
    "whole cells": lambda rng, film, m: (
        np.round(2 * rng.random(2) * film) / 2 + [[0], [m]] * rng.choice([0.25, 0.5, 1, 2, 3], 2)
    ),
    "less than a pixel": lambda rng, film, m: (
        rng.random(2) * film + [[0], [1]] * rng.random(2) * 0.1 ** rng.integers(7)
    ),
    "far beyond the film": lambda rng, film, m: rng.random((2, 2)) * [[-1], [1]] * 10.0 ** rng.integers(1, 9),
    "the film": lambda rng, film, m: np.stack((0 * film, film)),
}


def draw_masks(rng: np.random.Generator, kind: str, count: int, cells: int) -> Tensor:
    drawn = [MASKS[kind](rng, cells).astype(np.float32) for _ in range(count)]
    return torch.from_numpy(np.stack(drawn).clip(0, 1))


def draw_boxes(rng: np.random.Generator, kind: str, count: int, film: tuple[int, int], cells: int) -> Tensor:
    drawn = [BOXES[kind](rng, np.array(film[::-1], dtype=np.float64), cells) for _ in range(count)]
    corners = np.stack([np.concatenate((c.min(axis=0), c.max(axis=0))) for c in drawn]).astype(np.float32)
    # Detectron2 has left out boxes without area by now.
    corners[:, 2:] = np.maximum(corners[:, 2:], np.nextafter(corners[:, :2], np.inf))
    return torch.from_numpy(corners)


def sampled(mask: Tensor, box: Tensor, film: tuple[int, int]) -> np.ndarray:
    """What Detectron2 gives for one mask on a processor: torch's samples at the pixels within one of the box."""
    height, width = film
    x1, y1, x2, y2 = box
    left, top = (int((low.floor() - 1).clamp(min=0)) for low in (x1, y1))
    right, bottom = (int((high.ceil() + 1).clamp(max=side)) for high, side in ((x2, width), (y2, height)))
    pixels = torch.zeros(film, dtype=torch.bool)
    if left < right and top < bottom:
        x = (torch.arange(left, right, dtype=torch.float32) + 0.5 - x1) / (x2 - x1) * 2 - 1
        y = (torch.arange(top, bottom, dtype=torch.float32) + 0.5 - y1) / (y2 - y1) * 2 - 1
        grid = torch.stack(torch.broadcast_tensors(x, y[:, None]), dim=-1)
        pixels[top:bottom, left:right] = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0] >= 0.5
    return pixels.numpy()


@pytest.mark.parametrize("boxes", BOXES)
@pytest.mark.parametrize("masks", MASKS)
@settings(deadline=None, max_examples=8)
@given(
    count=st.integers(1, 3),
    height=st.integers(1, 120),
    width=st.integers(1, 120),
    cells=st.sampled_from([1, 2, 7, 14, 28]),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_pixel_is_the_one_that_torch_samples(
    masks: str, boxes: str, count: int, height: int, width: int, cells: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    values = draw_masks(rng, masks, count, cells)
    corners = draw_boxes(rng, boxes, count, (height, width), cells)
    pasted = paste_roi_masks(values[:, None], corners, (height, width))
    assert pasted == [rle.encode(sampled(*pair, (height, width))) for pair in zip(values, corners, strict=True)]


@pytest.mark.parametrize("boxes", BOXES)
@pytest.mark.parametrize("masks", MASKS)
def test_every_pixel_is_that_of_detectron2(masks: str, boxes: str) -> None:
    mask_ops = pytest.importorskip("detectron2.layers.mask_ops", reason="Detectron2 is not installed")
    rng = np.random.default_rng(0)
    film = (211, 173)
    values, corners = draw_masks(rng, masks, 20, 28), draw_boxes(rng, boxes, 20, film, 28)
    # It fails for boxes beside the film.
    x1, y1, x2, y2 = corners.T
    on_film = (x2 > 1) & (y2 > 1) & (x1 < film[1] - 1) & (y1 < film[0] - 1)
    values, corners = values[on_film], corners[on_film]
    expected = mask_ops.paste_masks_in_image(values, corners, film).numpy()
    assert paste_roi_masks(values, corners, film) == [rle.encode(mask) for mask in expected]


def test_exactly_a_half_belongs_to_the_mask() -> None:
    masks = torch.full((2, 28, 28), 0.5)
    masks[1] = np.nextafter(HALF, 0).item()
    half, less = paste_roi_masks(masks, torch.tensor([[2.0, 3, 58, 59]] * 2), (60, 60))
    assert rle.box_xyxy(half).tolist() == [3, 4, 57, 58]
    assert rle.area(less) == 0


def test_samples_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Were all columns sampled, every other test would still pass."""
    sizes = []
    sample = F.grid_sample

    def counted(masks: Tensor, grid: Tensor, *, align_corners: bool) -> Tensor:
        sizes.append(grid.numel() // 2)
        return sample(masks, grid, align_corners=align_corners)

    monkeypatch.setattr(_pasting.F, "grid_sample", counted)
    rng = np.random.default_rng(0)
    paste_roi_masks(draw_masks(rng, "any", 8, 28), torch.tensor([[100.3, 50.2, 420.7, 390.9]] * 8), (600, 500))
    assert 0 < sum(sizes) < 0.1 * 8 * 320 * 340


def test_pieces_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    film = (90, 70)
    masks, boxes = draw_masks(rng, "quarters", 9, 14), draw_boxes(rng, "whole pixels", 9, film, 14)
    whole = paste_roi_masks(masks, boxes, film)
    monkeypatch.setattr(_pasting, "COLUMNS_AT_ONCE", 10)
    monkeypatch.setattr(_pasting, "SAMPLES_AT_ONCE", 100)
    assert paste_roi_masks(masks, boxes, film) == whole


@pytest.mark.parametrize(
    "box",
    [
        [50.0, 3, 60, 9], [-30, 3, -20, 9], [3, 60, 9, 70], [3, -70, 9, -60],  # beside the film
        [5, 5, 5, 9], [5, 5, 9, 5], [9, 5, 5, 9],  # without area
        [float("nan"), 5, 9, 9], [float("inf"), 5, float("inf"), 9], [5, 5, float("inf"), 9], [5, float("-inf"), 9, 9],
    ],
)  # fmt: skip
def test_a_box_without_pixels_has_an_empty_mask(box: list[float]) -> None:
    boxes = torch.tensor([[2.0, 2, 9, 9], box, [2, 2, 9, 9]])
    first, mask, last = paste_roi_masks(torch.ones(3, 28, 28), boxes, (40, 30))
    assert mask == rle.empty((40, 30))
    assert first == last
    assert rle.area(first) == 49


def test_masks_that_are_no_numbers_are_outside() -> None:
    masks = torch.full((1, 28, 28), float("nan"))
    masks[:, :14] = 1
    box = torch.tensor([[2.0, 2, 58, 58]])
    (mask,) = paste_roi_masks(masks, box, (60, 60))
    assert mask == rle.encode(sampled(masks[0], box[0], (60, 60)))
    assert rle.area(mask) > 0


@pytest.mark.parametrize("shape", [(0, 28, 28), (0, 1, 28, 28)])
def test_no_masks(shape: tuple[int, ...]) -> None:
    assert paste_roi_masks(torch.zeros(shape), torch.zeros(0, 4), (40, 30)) == []


def test_gradients_and_precision_of_the_network_do_not_matter() -> None:
    masks = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0)).bfloat16()
    boxes = torch.tensor([[2.0, 2, 33.3, 36.6]] * 2)
    pasted = paste_roi_masks(masks.requires_grad_(), boxes.double().requires_grad_(), (40, 40))
    assert pasted == [rle.encode(sampled(mask.detach()[0].float(), boxes[0], (40, 40))) for mask in masks]


def test_memory_is_that_of_the_boxes() -> None:
    tracemalloc.start()
    try:
        masks = paste_roi_masks(torch.ones(9, 1, 28, 28), torch.tensor([[5.0, 5, 25, 35]] * 9), (20_000, 20_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [rle.area(mask) for mask in masks] == [600] * 9
    assert peak < 1_000_000
