import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vertinst.errors import DataError
from vertinst.report import lettering, overlay
from vertinst.structures import Implant, Instances, Spine, Vertebra, rle


def box_mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> rle.Rle:
    mask = np.zeros(size, dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return rle.encode(mask)


def vertebra(level: str, size: tuple[int, int], box: tuple[int, int, int, int], **more: tuple[str, ...]) -> Vertebra:
    mask = box_mask(size, box)
    return Vertebra(level, "lumbar", 0.9, rle.box_xyxy(mask), mask, **more)


def grey(size: tuple[int, int]) -> np.ndarray:
    return np.full(size, 100 / 255, dtype=np.float32)


def changed(image: np.ndarray) -> np.ndarray:
    return (image != 100).any(axis=2)


def test_nothing_found_is_the_grey_film():
    image = overlay.draw(grey((40, 30)), Spine((40, 30)))
    assert image.dtype == np.uint8
    assert image.shape == (40, 30, 3)
    assert not changed(image).any()


def test_only_masks_outlines_and_labels_change():
    size = (400, 300)
    spine = Spine(size, (vertebra("L5", size, (100, 200, 200, 280)), vertebra("L4", size, (100, 80, 200, 160))))
    touched = changed(overlay.draw(grey(size), spine))
    inside = np.zeros(size, dtype=bool)
    inside[197:283, 97:203] = True
    inside[77:163, 97:203] = True
    assert not touched[~inside].any()
    assert touched[201:279, 101:199].all()


def test_neighbours_have_different_colours_and_implants_their_own():
    size = (400, 300)
    boxes = [(100, 300 - 60 * n, 200, 350 - 60 * n) for n in range(5)]
    levels = ("S1", "L5", "L4", "L3", "L2")
    implant = box_mask(size, (40, 10, 60, 30))
    implants = (Implant("screw", 0.9, rle.box_xyxy(implant), implant),)
    spine = Spine(size, tuple(vertebra(n, size, b) for n, b in zip(levels, boxes, strict=True)), implants)
    image = overlay.draw(grey(size), spine)
    colours = [tuple(image[box[1] + 6, box[0] + 6]) for box in boxes]
    assert all(a != b for a, b in itertools.pairwise(colours))
    assert tuple(image[20, 50]) not in colours
    assert tuple(image[20, 50]) != (100, 100, 100)


def test_film_shows_through_the_colour():
    size = (200, 200)
    pixels = grey(size)
    pixels[100:, :] = 0.8
    image = overlay.draw(pixels, Spine(size, (vertebra("L5", size, (20, 20, 180, 180)),))).astype(int)
    assert (image[150, 30] > image[50, 30] + 50).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(8, 260), st.integers(8, 260), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_label_lies_inside_films_of_any_size(height, width, x, y, many_flags):
    left, top = int(x * (width - 4)), int(y * (height - 4))
    flags = tuple(f"a_rather_long_flag_number_{n}" for n in range(9 if many_flags else 0))
    size = (height, width)
    spine = Spine(size, (vertebra("T12", size, (left, top, left + 4, top + 4)),), flags=flags)
    assert overlay.draw(grey(size), spine).shape == (height, width, 3)
    block = lettering.fit(["T12"], 11, size)
    at = lettering.write(np.zeros((height, width, 3), dtype=np.uint8), block, left, top)
    assert 0 <= at[0] < at[2] <= width
    assert 0 <= at[1] < at[3] <= height


def test_whole_label_is_written_at_the_films_edge():
    size = (300, 300)
    whole = np.zeros((*size, 3), dtype=np.uint8)
    edge = whole.copy()
    block = lettering.fit(["T12"], 20, size)
    lettering.write(whole, block, 100, 100)
    lettering.write(edge, block, 299, 299)
    assert whole.sum() == edge.sum() > 0


def test_small_vertebra_is_labelled_beside_and_not_covered():
    size = (500, 500)
    bare = Spine(size, (), (Implant("screw", 0.5, np.zeros(4, np.float32), box_mask(size, (240, 240, 252, 252))),))
    labelled = Spine(size, (vertebra("T12", size, (240, 240, 252, 252)),))
    image = overlay.draw(grey(size), labelled)
    assert not (image[240:252, 240:252] == 255).all(axis=2).any()
    assert (changed(image) & ~changed(overlay.draw(grey(size), bare))).sum() > 100


def test_flags_are_written_away_from_the_spine():
    size = (300, 600)
    spine = Spine(size, (vertebra("L5", size, (0, 0, 300, 300), flags=("touches_border",)),), flags=("no_sacrum",))
    touched = changed(overlay.draw(grey(size), spine))
    assert touched[:, 400:].any()


def test_flags_do_not_hide_a_side_marker():
    size = (300, 300)
    pixels = grey(size)
    for rows, columns in ((slice(5, 20), slice(5, 20)), (slice(5, 20), slice(280, 295)), (slice(280, 295),) * 2):
        pixels[rows, columns] = 1
    image = overlay.draw(pixels, Spine(size, flags=("no_sacrum",)))
    assert changed(image)[270:, :30].any()
    for rows, columns in ((slice(5, 20), slice(5, 20)), (slice(5, 20), slice(280, 295)), (slice(280, 295),) * 2):
        assert (image[rows, columns] == 255).all()


def test_truth_is_dashed_white():
    size = (200, 200)
    truth = Instances.from_masks(size, [box_mask(size, (50, 50, 150, 150))], [1])
    image = overlay.draw(grey(size), Spine(size), truth=truth)
    assert not changed(image)[60:140, 60:140].any()
    edge = (image[49:52, 60:140] > 200).any(axis=(0, 2))
    assert 0.2 < edge.mean() < 0.9


@pytest.mark.parametrize("wrong", ["spine", "truth"])
def test_sizes_must_agree(wrong):
    spine = Spine((9, 9) if wrong == "spine" else (9, 8))
    truth = Instances.empty((8, 9), scored=False) if wrong == "truth" else None
    with pytest.raises(DataError, match=rf"{wrong} must have the film's size \(9, 8\)"):
        overlay.draw(grey((9, 8)), spine, truth=truth)


def test_empty_mask_is_named_but_not_filled():
    size = (100, 100)
    spine = Spine(size, (Vertebra("L5", "lumbar", 0.5, np.zeros(4, np.float32), rle.empty(size)),))
    assert changed(overlay.draw(grey(size), spine)).any()


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (2, 300), (300, 2)])
def test_flags_on_films_without_room_for_them(size):
    assert overlay.draw(grey(size), Spine(size, flags=("no_sacrum",))).shape == (*size, 3)
