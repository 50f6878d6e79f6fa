"""Masks on the film: torchvision's pixels, without work for the empty rest."""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image

from vertinst.models._pasting import paste_roi_masks
from vertinst.structures import rle


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 6), st.integers(1, 90), st.integers(1, 90), st.integers(0, 9999))
def test_pixels_are_those_of_torchvision(count: int, height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor([width, height])
    boxes = torch.cat((corners.amin(1), corners.amax(1)), dim=1)
    masks = torch.rand(count, 1, 28, 28, generator=generator)
    pasted = paste_roi_masks(masks, boxes, (height, width))
    expected = paste_masks_in_image(masks, boxes, (height, width)) > 0.5
    assert len(pasted) == count
    for mask, truth in zip(pasted, expected[:, 0].numpy(), strict=True):
        np.testing.assert_array_equal(rle.decode(mask), truth)


@pytest.mark.parametrize("box", [[50.0, 3, 60, 9], [-30, 3, -20, 9], [3, 60, 9, 70], [3, -70, 9, -60]])
def test_a_box_beside_the_film_has_an_empty_mask(box: list[float]) -> None:
    (mask,) = paste_roi_masks(torch.ones(1, 1, 28, 28), torch.tensor([box]), (40, 30))
    assert mask == rle.empty((40, 30))


def test_memory_is_that_of_the_boxes() -> None:
    tracemalloc.start()
    try:
        masks = paste_roi_masks(torch.ones(9, 1, 28, 28), torch.tensor([[5.0, 5, 25, 35]] * 9), (20_000, 20_000))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert all(600 < rle.area(mask) < 700 for mask in masks)
    assert peak < 1_000_000
