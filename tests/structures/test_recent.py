"""What is kept of masks: once for each, shared and therefore fixed, and never much of it."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vertinst.errors import DataError
from vertinst.structures import recent, rle


def square(place, size=(200, 300)):
    corners = np.array([[0, 0], [20, 0], [20, 30], [0, 30]], dtype=np.float64) + place
    return rle.polygons_to_rle([corners], size)


def test_a_mask_is_worked_out_once_whoever_asks():
    asked = []

    @recent.recent
    def length(mask):
        asked.append(mask)
        return len(mask["counts"])

    one = square((5, 5))
    assert length(one) == length(dict(one)) == len(one["counts"])
    assert len(asked) == 1
    length({**one, "size": [300, 200]})
    assert len(asked) == 2


def test_nothing_is_kept_of_huge_counts_and_only_so_many_of_others():
    asked = []

    @recent.recent
    def count(mask):
        asked.append(mask)
        return len(asked)

    huge = {"size": [1, 1], "counts": b"1" * (recent.LARGEST_BYTES + 1)}
    assert (count(huge), count(huge)) == (1, 2)
    for number in range(recent.MOST + 1):
        count({"size": [1, 1 + number], "counts": b"1"})
    count({"size": [1, 1], "counts": b"1"})
    assert len(asked) == 2 + recent.MOST + 2


def test_what_is_shared_cannot_be_changed():
    mask = square((5, 5))
    patch, _, _ = rle.decode_crop(mask)
    for array in (rle.runs(mask), patch, rle.rle_to_polygons(mask)[0].exterior):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    parts = rle.rle_to_polygons(mask)
    parts.clear()
    assert len(rle.rle_to_polygons(mask)) == 1


def test_masks_alike_but_for_the_films_size_differ():
    runs = np.array([0, 40, 160 - 40])
    tall, wide = (
        {"size": list(size), "counts": rle.from_edges(runs[:2], size)["counts"]} for size in ((40, 4), (4, 40))
    )
    assert tall["counts"] == wide["counts"]
    assert [rle.decode_crop(mask)[0].shape for mask in (tall, wide)] == [(40, 1), (4, 10)]
    assert [rle.rle_to_polygons(mask)[0].exterior.max() for mask in (tall, wide)] == [40, 10]


def test_threads_find_the_same():
    masks = [square((x, y)) for x in range(0, 250, 20) for y in range(0, 150, 9)]
    assert len(masks) > recent.MOST
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda mask: rle.decode_crop(mask)[1:], masks * 3))
    assert found == [tuple(rle.box_xyxy(mask)[:2].astype(int).tolist()) for mask in masks] * 3


def test_long_runs_are_read_and_longer_ones_refused():
    assert rle.runs({"size": [1, 1], "counts": b"PPPPPP?"}).tolist() == [15 * 2**30]
    assert rle.runs({"size": [1, 1], "counts": b""}).tolist() == []
    for damaged in (b"PPPPPPP?", b"PP", b"/", b"p"):
        with pytest.raises(DataError, match="damaged"):
            rle.runs({"size": [1, 1], "counts": damaged})
