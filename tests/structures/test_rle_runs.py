"""Masks have one form only: an empty run inside would make pycocotools write past its memory."""

import numpy as np
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays

from vertinst.structures import rle

SHAPE = (4, 5)
DENSE = arrays.arrays(np.bool_, SHAPE)


@settings(max_examples=200, deadline=None)
@given(a=DENSE, b=DENSE)
def test_pasted_masks_can_be_merged(a, b):
    pasted = [rle.paste(mask, 0, 0, SHAPE) for mask in (a, b)]
    assert [m["counts"] for m in pasted] == [rle.encode(mask)["counts"] for mask in (a, b)]
    assert (rle.decode(rle.union(pasted, SHAPE)) == (a | b)).all()
    assert (rle.decode(rle.intersection(*pasted)) == (a & b)).all()
    shared, together = (a & b).sum(), (a | b).sum()
    assert rle.iou(pasted[:1], pasted[1:])[0, 0] == (shared / together if together else 0)


def test_empty_runs_of_strangers_are_joined():
    runs = [0, 0, 3, 0, 0, 2, 5, 0, 10, 0]
    found = rle.from_coco({"size": list(SHAPE), "counts": runs}, SHAPE)
    assert rle.runs(found).tolist() == [3, 2, 15]
    assert (rle.decode(found) == rle.decode(rle.from_coco({"size": list(SHAPE), "counts": [3, 2, 15]}, SHAPE))).all()
    full = rle.from_coco({"size": list(SHAPE), "counts": [0, 0, 0, 20, 0]}, SHAPE)
    assert rle.area(full) == 20
