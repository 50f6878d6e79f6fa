import math

import cv2
import numpy as np
import pytest
import shapely
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vertinst.errors import DataError
from vertinst.structures import rle

MASKS = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))
PAIRS = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9).flatmap(
    lambda shape: st.tuples(hnp.arrays(np.bool_, shape), hnp.arrays(np.bool_, shape))
)


def blob(seed: int, size: tuple[int, int] = (90, 70)) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=size)
    return cv2.GaussianBlur(noise, (0, 0), 4) > 0.02


@given(MASKS)
def test_encode_decode_is_the_identity(mask):
    encoded = rle.encode(mask)
    np.testing.assert_array_equal(rle.decode(encoded), mask)
    assert rle.area(encoded) == mask.sum()


@settings(max_examples=200, deadline=None)
@given(MASKS)
def test_decode_crop_is_the_tight_box_of_decode(mask):
    encoded = rle.encode(mask)
    patch, left, top = rle.decode_crop(encoded)
    right, bottom = left + patch.shape[1], top + patch.shape[0]
    assert rle.box_xyxy(encoded).tolist() == [left, top, right, bottom]
    np.testing.assert_array_equal(patch, mask[top:bottom, left:right])
    assert patch.sum() == mask.sum()


@given(MASKS)
def test_runs_add_up_and_rebuild_the_mask(mask):
    lengths = rle.runs(rle.encode(mask))
    values = np.arange(len(lengths)) % 2 == 1
    np.testing.assert_array_equal(np.repeat(values, lengths).reshape(mask.shape, order="F"), mask)


@given(PAIRS)
def test_set_operations_equal_dense_ones(pair):
    a, b = pair
    ra, rb = rle.encode(a), rle.encode(b)
    np.testing.assert_array_equal(rle.decode(rle.union([ra, rb], a.shape)), a | b)
    np.testing.assert_array_equal(rle.decode(rle.intersection(ra, rb)), a & b)
    np.testing.assert_array_equal(rle.decode(rle.complement(ra)), ~a)
    np.testing.assert_array_equal(rle.decode(rle.difference(ra, rb)), a & ~b)


@given(PAIRS)
def test_overlap_ratios_equal_dense_ones(pair):
    a, b = pair
    shared, either, smaller = (a & b).sum(), (a | b).sum(), min(a.sum(), b.sum())
    ra, rb = rle.encode(a), rle.encode(b)
    assert rle.iou([ra], [rb])[0, 0] == pytest.approx(shared / either if either else 0)
    assert rle.intersection_over_smaller([ra], [rb])[0, 0] == pytest.approx(shared / smaller if smaller else 0)


def test_overlap_of_nothing_has_the_shape_of_nothing():
    one = rle.empty((4, 4))
    assert rle.iou([], [one]).shape == (0, 1)
    assert rle.intersection_over_smaller([one], []).shape == (1, 0)


@given(MASKS, st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_paste_equals_a_dense_paste(patch, top, left, below, beside):
    size = (patch.shape[0] + top + below, patch.shape[1] + left + beside)
    dense = np.zeros(size, dtype=bool)
    dense[top : top + patch.shape[0], left : left + patch.shape[1]] = patch
    np.testing.assert_array_equal(rle.decode(rle.paste(patch, top, left, size)), dense)


@pytest.mark.parametrize("seed", range(8))
def test_polygons_give_the_mask_back_with_its_holes(seed):
    mask = blob(seed)
    rebuilt = np.zeros_like(mask)
    holes = np.zeros_like(mask)
    for part in rle.rle_to_polygons(rle.encode(mask)):
        rebuilt |= rle.decode(rle.polygons_to_rle([part.exterior], mask.shape))
        for hole in part.holes:
            holes |= rle.decode(rle.polygons_to_rle([hole], mask.shape))
    assert (rebuilt & holes).any() or not any(p.holes for p in rle.rle_to_polygons(rle.encode(mask)))
    np.testing.assert_array_equal(rebuilt & ~holes, mask)


def test_polygons_come_largest_first_and_not_at_all_for_an_empty_mask():
    mask = np.zeros((40, 40), dtype=bool)
    mask[2:5, 2:5] = True
    mask[10:30, 10:30] = True
    areas = [cv2.contourArea(p.exterior.astype(np.float32)) for p in rle.rle_to_polygons(rle.encode(mask))]
    assert len(areas) == 2
    assert areas[0] > areas[1]
    assert rle.rle_to_polygons(rle.empty((40, 40))) == []


def test_a_rectangle_has_its_exact_area_and_box():
    polygon = np.array([[3.0, 4.0], [13, 4], [13, 24], [3, 24]])
    mask = rle.polygons_to_rle([polygon], (50, 40))
    assert rle.area(mask) == 200
    np.testing.assert_array_equal(rle.box_xyxy(mask), [3, 4, 13, 24])


def test_overlapping_parts_are_counted_once_and_what_lies_outside_is_cut_off():
    square = np.array([[-10.0, -10], [10, -10], [10, 10], [-10, 10]])
    assert rle.area(rle.polygons_to_rle([square, square], (50, 40))) == 100


@pytest.mark.parametrize("polygon", [np.zeros((2, 2)), np.array([[0.0, 0], [1, np.nan], [2, 2]]), np.zeros((3, 3))])
def test_bad_polygons_are_refused(polygon):
    with pytest.raises(DataError, match=r"polygon must be \(V >= 3, 2\) finite"):
        rle.polygons_to_rle([polygon], (10, 10))


def test_a_polygon_as_large_as_a_hostile_file_makes_it_neither_crashes_nor_leaks():
    huge = np.array([[-1e300, -1e300], [1e300, -1e300], [1e300, 1e300], [-1e300, 1e300]])
    assert rle.area(rle.polygons_to_rle([huge], (10, 10))) == 100


def test_an_outline_that_would_take_gigabytes_is_refused():
    zigzag = np.array([[0.0, 0], [1e5, 1e5]] * 1000)
    with pytest.raises(DataError, match="outline must be at most 2000000 px long"):
        rle.polygons_to_rle([zigzag], (10, 10))


@given(MASKS)
def test_coco_forms_are_read_back(mask):
    encoded = rle.encode(mask)
    as_text = rle.to_coco(encoded)
    assert isinstance(as_text["counts"], str)
    uncompressed = {"size": list(mask.shape), "counts": rle.runs(encoded).tolist()}
    for form in (as_text, uncompressed):
        np.testing.assert_array_equal(rle.decode(rle.from_coco(form, mask.shape)), mask)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [10, 10], "counts": [50, 5000]}, "must add up to 100 pixels, got 5050"),
        ({"size": [10, 10], "counts": [-50, 150]}, "must add up to 100"),
        ({"size": [10, 11], "counts": [110]}, r"must have the image's size \[10, 10\]"),
        ({"size": [10, 10], "counts": "zzzz~~~~"}, "damaged"),
        ({"size": [10, 10], "counts": "Y"}, "damaged"),
        ({"size": [10, 10], "counts": "o" * 1_000_000 + "0"}, "damaged"),
        ("polygon", "must be polygons or an RLE"),
        ({"size": [10, float("inf")], "counts": [100]}, "RLE counts are damaged"),
        ({"size": 10, "counts": [100]}, "must be polygons or an RLE"),
        ({"size": [10, 10], "counts": [2**70]}, "RLE counts are damaged"),
        (
            {"size": [10, 10], "counts": [2**63 - 1, 2**63 - 1, 102]},
            "must add up to 100 pixels, got 18446744073709551716",
        ),
        ({"size": [10, 10], "counts": 10**12}, "counts must be a text or a list"),
        ({"size": [10, 10], "counts": None}, "counts must be a text or a list"),
        ([[10**400, 1, 2, 3, 4, 5]], "polygon coordinates are damaged"),
        ([[1, 2, 3]], "must be polygons or an RLE"),
        ([1, 2, 3, 4, 5, 6], "must be polygons or an RLE"),
        ([{}], "must be polygons or an RLE"),
    ],
)
def test_a_strangers_rle_is_checked_before_it_reaches_the_decoder(segmentation, message):
    with pytest.raises(DataError, match=message):
        rle.from_coco(segmentation, (10, 10))


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (-1, 5), (10**6, 10**6)])
def test_sizes_are_checked_before_memory_is_taken(size):
    with pytest.raises(DataError, match="image size must be at least 1 x 1"):
        rle.empty(size)


def wavy(center, radius, waves, depth, phase, vertices):
    """A smooth closed outline, about as round as a vertebra."""
    angle = np.arange(vertices) * (2 * np.pi / vertices)
    radii = radius * (1 + depth * np.sin(waves * angle + phase))
    return np.stack([center[0] + radii * np.cos(angle), center[1] + radii * np.sin(angle)], axis=1)


WAVY = st.builds(
    wavy,
    st.tuples(st.floats(60, 90), st.floats(60, 90)),
    st.floats(8, 40),
    st.integers(1, 4),
    st.floats(0, 0.25),
    st.floats(0, 6),
    st.integers(24, 80),
)


@settings(max_examples=150, deadline=None)
@given(WAVY, st.booleans())
def test_polygon_to_mask_to_polygon_moves_no_boundary_by_more_than_half_a_pixel(points, whole):
    # The rasteriser rounds to fifths of a pixel. Whole-numbered vertices, as VIA writes them, stay where they are, and
    # only what lies between them is rounded; others move as well.
    size = (150, 150)
    if whole:
        # Rounding vertices a pixel apart makes teeth of half a pixel, which no mask can hold.
        step = shapely.LinearRing(points).length / len(points)
        points = np.round(points[:: math.ceil(4 / step)])
    assume(shapely.Polygon(points).is_valid)
    mask = rle.polygons_to_rle([points], size)
    traced, *others = rle.rle_to_polygons(mask)
    assert not others
    assert not traced.holes
    before, after = shapely.LinearRing(points), shapely.LinearRing(traced.exterior)
    assert shapely.hausdorff_distance(before, after, densify=0.02) <= 0.5 + (0.05 if whole else 0.2)
    assert rle.polygons_to_rle([traced.exterior], size) == mask


@given(MASKS)
def test_outlines_are_simple_and_give_the_mask_back(mask):
    rebuilt = rle.empty(mask.shape)
    for part in rle.rle_to_polygons(rle.encode(mask)):
        assert all(shapely.Polygon(ring).is_valid for ring in (part.exterior, *part.holes))
        covered = rle.polygons_to_rle([part.exterior], mask.shape)
        covered = rle.difference(covered, rle.polygons_to_rle(part.holes, mask.shape))
        rebuilt = rle.union([rebuilt, covered], mask.shape)
    assert rebuilt == rle.encode(mask)


@given(st.lists(MASKS.map(lambda m: np.resize(m, (9, 11))), max_size=4))
def test_measures_of_many_are_those_of_each(masks):
    encoded = [rle.encode(m) for m in masks]
    assert rle.areas(encoded).tolist() == [rle.area(m) for m in encoded]
    corners = np.array([rle.box_xyxy(m) for m in encoded]).reshape(-1, 4)
    boxes = rle.boxes_xywh(encoded)
    assert boxes.shape == (len(masks), 4)
    np.testing.assert_array_equal(boxes, np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]]))


@pytest.mark.parametrize("count", [255, 256, 600])
def test_hundreds_of_masks_are_measured_and_united(count):
    masks = [rle.paste(np.ones((1, 1 + n % 3), dtype=bool), n // 30, n % 30, (40, 40)) for n in range(count)]
    assert rle.areas(masks).tolist() == [rle.area(m) for m in masks]
    assert rle.boxes_xywh(masks).tolist() == [rle.boxes_xywh([m])[0].tolist() for m in masks]
    together = np.any([rle.decode(m) for m in masks], axis=0)
    assert rle.union(masks, (40, 40)) == rle.encode(together)


@settings(max_examples=60)
@given(st.lists(WAVY | hnp.arrays(np.float64, (5, 2), elements=st.floats(-20, 170)), max_size=4))
def test_polygons_drawn_together_are_those_drawn_alone(polygons):
    size = (150, 120)
    together = rle.draw_each(polygons, size)
    assert together == [rle.polygons_to_rle([p], size) for p in polygons]
    # What covers no pixel has one spelling.
    assert [rle.area(m) == 0 for m in together] == [m == rle.empty(size) for m in together]


@given(PAIRS)
def test_complement_and_union_follow_the_laws_of_sets(pair):
    a, b = (rle.encode(m) for m in pair)
    size = a["size"]
    assert rle.complement(rle.complement(a)) == a
    assert rle.union([a, rle.complement(a)], size) == rle.complement(rle.empty(size))
    assert rle.intersection(a, b) == rle.complement(rle.union([rle.complement(a), rle.complement(b)], size))
    assert rle.union([rle.difference(a, b), rle.intersection(a, b)], size) == a
    assert rle.area(a) + rle.area(b) == rle.area(rle.union([a, b], size)) + rle.area(rle.intersection(a, b))
