"""Masks that were predicted inside their boxes, put onto the film."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

from vertinst.structures.rle import Rle, empty, paste

__all__ = ["paste_roi_masks"]

MASK_THRESHOLD = 0.5


def paste_roi_masks(masks: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> list[Rle]:
    """Masks on the film; a pixel belongs to one where its probability is above a half.

    The probabilities are those of torchvision's `paste_masks_in_image`, which needs the whole film for each instance,
    twice; here the work is that of the boxes.

    Args:
        masks: (N, 1, m, m) float 0..1.
        boxes: (N, 4) xyxy px of the film.
        image_size: (H, W) of the film.

    Returns:
        N masks of the film's size.
    """
    padded, scale = expand_masks(masks.float(), padding=1)
    corners = expand_boxes(boxes, scale).long().tolist()
    return [_paste(mask, box, image_size) for mask, box in zip(padded, corners, strict=True)]


def _paste(mask: Tensor, box: list[int], image_size: tuple[int, int]) -> Rle:
    """One mask (1, m + 2, m + 2), its box in whole pixels, ends included."""
    x1, y1, x2, y2 = box
    top, bottom = max(y1, 0), min(y2 + 1, image_size[0])
    left, right = max(x1, 0), min(x2 + 1, image_size[1])
    if top >= bottom or left >= right:
        return empty(image_size)
    sides = (max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1))
    patch = F.interpolate(mask[None], size=sides, mode="bilinear", align_corners=False)[0, 0]
    inside = patch[top - y1 : bottom - y1, left - x1 : right - x1] > MASK_THRESHOLD
    return paste(inside.cpu().numpy(), top, left, image_size)
