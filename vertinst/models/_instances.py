"""The answer of every model in evaluation: `Instances`, with masks as runs on the film."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from vertinst.structures import Instances
from vertinst.structures.rle import Rle, areas

__all__ = ["to_instances"]


def to_instances(
    boxes: Tensor, labels: Tensor, scores: Tensor, masks: Sequence[Rle], image_size: tuple[int, int]
) -> Instances:
    """Detections of one film, best first; equal scores keep their order, empty masks are left out.

    Args:
        boxes: (N, 4) xyxy px of the film, clipped to it here.
        labels: (N,) integers from 1.
        scores: (N,) float, clipped to 0..1 here.
        masks: N masks of the film's size.
        image_size: (H, W) px.

    Raises:
        DataError: There are not N of each, or a mask has another size.
    """
    height, width = image_size
    limits = np.array([width, height, width, height], dtype=np.float32)
    confidence = scores.detach().float().cpu().numpy()
    found = Instances(
        image_size,
        np.clip(boxes.detach().float().cpu().numpy().reshape(-1, 4), 0, limits),
        tuple(masks),
        labels.detach().cpu().numpy().astype(np.int64),
        np.clip(confidence, 0, 1),
    )
    order = np.argsort(-confidence, kind="stable")
    return found[order[areas(masks)[order] > 0]]
