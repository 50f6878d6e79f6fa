"""Dense masks of a film that take memory only where something is in them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

__all__ = ["blank_masks", "paste_roi_masks"]


def blank_masks(count: int, image_size: tuple[int, int], device: torch.device) -> Tensor:
    """Zeros of shape (count, 1, H, W), float32.

    On a processor pages of it take no memory until they are written to: a hundred instances on a film of ten
    megapixels are 4 GB, nearly all of them outside the instances' boxes.
    """
    shape = (count, 1, *image_size)
    if device.type == "cpu":
        # NumPy asks the system for zeroed pages; torch.zeros writes the zeros itself.
        return torch.from_numpy(np.zeros(shape, dtype=np.float32))
    return torch.zeros(shape, device=device)


def paste_roi_masks(masks: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Put masks that were predicted inside their boxes onto the film.

    The pixels are those of torchvision's `paste_masks_in_image`, which needs the whole film for each instance, twice.

    Args:
        masks: (N, 1, m, m) float 0..1.
        boxes: (N, 4) xyxy px of the film.
        image_size: (H, W) of the film.

    Returns:
        (N, 1, H, W) float32, zero away from the boxes.
    """
    padded, scale = expand_masks(masks.float(), padding=1)
    pasted = blank_masks(len(masks), image_size, masks.device)
    for index, (x1, y1, x2, y2) in enumerate(expand_boxes(boxes, scale).long().tolist()):
        sides = (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1))
        patch = F.interpolate(padded[index, None], size=sides, mode="bilinear", align_corners=False)[0, 0]
        top, bottom = max(y1, 0), min(y2 + 1, image_size[0])
        left, right = max(x1, 0), min(x2 + 1, image_size[1])
        pasted[index, 0, top:bottom, left:right] = patch[top - y1 : bottom - y1, left - x1 : right - x1]
    return pasted
