"""Masks on the film: torchvision's pixels, without memory for the empty rest."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.models.detection.roi_heads import paste_masks_in_image

from vertinst.models import mask_rcnn
from vertinst.models._pasting import blank_masks, paste_roi_masks


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 6), st.integers(1, 90), st.integers(1, 90), st.integers(0, 9999))
def test_pixels_are_those_of_torchvision(count: int, height: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor([width, height])
    boxes = torch.cat((corners.amin(1), corners.amax(1)), dim=1)
    masks = torch.rand(count, 1, 28, 28, generator=generator)
    pasted = paste_roi_masks(masks, boxes, (height, width))
    assert torch.equal(pasted, paste_masks_in_image(masks, boxes, (height, width)))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_blank_masks_take_no_memory_until_written() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    before = resident()
    masks = blank_masks(60, (3000, 2500), torch.device("cpu"))
    masks[7, 0, 100:200, 100:200] = 1
    assert masks.shape == (60, 1, 3000, 2500)
    assert masks[7].sum() == 10_000
    # 1.8 GB in pages of 4 KB at least.
    assert resident() - before < 10_000


def test_mask_rcnn_takes_no_memory_for_the_empty_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    zeros = np.zeros

    def watch(shape: tuple[int, ...], dtype: type) -> np.ndarray:
        shapes.append(shape)
        return zeros(shape, dtype=dtype)

    monkeypatch.setattr("vertinst.models._pasting.np.zeros", watch)
    options = mask_rcnn.Options(
        backbone="resnet18", image_size=64, channels=8, box_head_width=8, rpn_proposals_test=20, score_threshold=0.0
    )
    model = mask_rcnn.build(options, ("a",)).eval()
    with torch.inference_mode():
        found = model([torch.rand(3, 90, 70)])[0]
    assert len(found["boxes"]) > 0
    assert shapes == [tuple(found["masks"].shape)]
    assert found["masks"].shape[1:] == (1, 90, 70)
