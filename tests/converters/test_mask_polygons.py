"""Masks become simple polygons that cover exactly the same pixels."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from vertinst.converters._mask_polygons import simple_polygons, thinned_polygons
from vertinst.structures import rle


def check(mask):
    polygons = simple_polygons(rle.encode(mask))
    drawn = [rle.decode(rle.polygons_to_rle([p], mask.shape)) for p in polygons]
    # Exactly once: pieces neither leave out a pixel nor share one.
    assert (np.sum(drawn, axis=0, dtype=int) == mask).all() if drawn else not mask.any()
    assert all(shapely.Polygon(p).is_valid for p in polygons)
    return polygons


@settings(max_examples=150, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14)))
def test_any_mask_is_covered_exactly_by_valid_polygons(mask):
    check(mask)


def grid(size=120):
    return np.mgrid[:size, :size] + 0.5


def test_one_part_without_holes_is_one_polygon_of_few_vertices():
    rows, columns = grid()
    mask = (rows - 60) ** 2 / 50**2 + (columns - 55) ** 2 / 30**2 < 1
    (polygon,) = check(mask)
    assert len(polygon) < len(rle.rle_to_polygons(rle.encode(mask))[0].exterior)


@pytest.mark.parametrize("holes", [1, 3])
def test_holes_are_cut_open(holes):
    rows, columns = grid()
    mask = np.ones((120, 120), dtype=bool)
    for number in range(holes):
        mask &= (rows - 25 - 35 * number) ** 2 + (columns - 60) ** 2 > 12**2
    # One cut through the middle of all, for they lie below each other.
    assert len(check(mask)) == 2


def test_nothing_gives_no_polygon():
    assert simple_polygons(rle.empty((4, 5))) == []


def test_pixels_that_touch_at_a_corner_are_joined():
    mask = np.zeros((30, 30), dtype=bool)
    mask[5:15, 5:15] = mask[15, 15] = mask[4, 15:25] = True
    assert len(check(mask)) == 1


def test_large_film_is_not_decoded_as_a_whole():
    mask = rle.polygons_to_rle([np.array([[5, 5], [9, 5], [9, 9], [5, 9.0]])], (20_000, 20_000))
    (polygon,) = simple_polygons(mask)
    assert rle.polygons_to_rle([polygon], (20_000, 20_000)) == mask


@settings(max_examples=100, deadline=None)
@given(
    arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14)),
    st.sampled_from([1, 3]),
    st.floats(0.1, 6),
)
def test_thinned_outlines_stay_within_the_tolerance(grid, scale, tolerance):
    polygons = simple_polygons(rle.encode(np.kron(grid, np.ones((scale, scale), dtype=bool))))
    large = [p for n, p in enumerate(polygons) if n == 0 or shapely.Polygon(p).area >= np.pi * tolerance**2]
    thin = thinned_polygons(polygons, tolerance)
    assert len(thin) == len(large)
    for before, after in zip(large, thin, strict=True):
        assert shapely.Polygon(after).is_valid
        rings = shapely.linearrings(before), shapely.linearrings(after)
        assert shapely.hausdorff_distance(*rings, densify=0.05) <= tolerance + 1e-9
        assert rle.area(rle.polygons_to_rle([after], (60, 60))) > 0


def test_a_vertebra_gets_few_points():
    rows, columns = grid(300)
    mask = (abs(rows - 150) / 60) ** 4 + (abs(columns - 150 - (rows - 150) / 5) / 100) ** 4 < 1
    (exact,) = simple_polygons(rle.encode(mask))
    (thin,) = thinned_polygons([exact], 1.0)
    assert len(thin) * 3 < len(exact)
    assert rle.iou([rle.encode(mask)], [rle.polygons_to_rle([thin], mask.shape)])[0, 0] > 0.98
