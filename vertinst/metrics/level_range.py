"""Which predicted vertebrae lie beyond the annotated part of the spine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vertinst.postprocess.chain import along, centroids_xy, spacings_px, spine_axis
from vertinst.structures import Rle, rle

__all__ = ["COVER_LIMIT", "OVERLAP_LIMIT", "beyond_annotated"]

OVERLAP_LIMIT = 0.3
"""IoU with an annotated vertebra from which a prediction is a try at it. Outlines of whole neighbouring vertebrae
overlap each other with an IoU of up to 0.26 on antero-posterior projections."""

COVER_LIMIT = 0.75
"""The same for the intersection over the smaller area, which tells a piece of an annotated vertebra, or an outline
that swallows one, from a neighbour: those share up to 0.67, where the film cuts one of them."""


def beyond_annotated(truth: Sequence[Rle], predicted: Sequence[Rle]) -> list[int]:
    """Positions of predictions that cannot be judged, because nobody annotated that far.

    A network that finds a T11 where annotation ends at T12 is right; counted as an error it would cost accuracy. A
    prediction lies beyond when its centroid projects on the axis of the annotated chain further out than the
    outermost annotated centroid, by more than half the median spacing, and it overlaps every annotated vertebra by an
    IoU below `OVERLAP_LIMIT` and an intersection over the smaller area below `COVER_LIMIT`. Half a spacing, because
    the centroid of a poor outline of the last vertebra, or of a piece of it, may also lie a little further out.

    Args:
        truth: Masks of the annotated vertebrae, lumbar and sacral, without ignored ones. Fewer than two have no axis:
            then nothing lies beyond.
        predicted: Masks, none of them empty.

    Returns:
        Positions in `predicted`, rising.
    """
    filled = [mask for mask in truth if rle.area(mask) > 0]
    if len(filled) < 2 or not predicted:
        return []
    centroids = centroids_xy(filled)
    axis = spine_axis(centroids)
    positions = along(centroids, axis)
    margin = float(np.median(spacings_px(centroids[np.argsort(positions, kind="stable")]))) / 2
    places = along(centroids_xy(predicted), axis)
    outside = (places < positions.min() - margin) | (places > positions.max() + margin)
    alone = rle.iou(filled, predicted).max(axis=0) < OVERLAP_LIMIT
    alone &= rle.intersection_over_smaller(filled, predicted).max(axis=0) < COVER_LIMIT
    return [int(i) for i in np.flatnonzero(outside & alone)]
