import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vertinst.errors import DataError
from vertinst.postprocess.merge import label_map
from vertinst.report import lettering, overlay, overlay_text
from vertinst.report.outlines import inner_point
from vertinst.report.overlay_landmarks import main_angle
from vertinst.structures import Body, Implant, Instances, Measure, Spine, Vertebra, rle


def box_mask(size: tuple[int, int], box: tuple[int, int, int, int]) -> rle.Rle:
    mask = np.zeros(size, dtype=bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return rle.encode(mask)


def vertebra(level: str, size: tuple[int, int], box: tuple[int, int, int, int], **more: Any) -> Vertebra:
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


LEVELS = ("S1", "L5", "L4", "L3", "L2", "L1", "T12")


def measured(size, *, view="lateral", facing=1, values=None, **more):
    """A column of seven vertebrae whose front lies to the right (`facing` 1) or to the left."""
    height, width = size
    pitch, wide = height / 9, width / 6
    vertebrae = []
    for number, level in enumerate(LEVELS):
        top = height - (number + 1.6) * pitch
        box = (round(width / 2 - wide / 2), round(top), round(width / 2 + wide / 2), round(top + 0.75 * pitch))
        front, back = (box[2], box[0]) if facing > 0 else (box[0], box[2])
        corners = np.array([[front, box[1]], [back, box[1]], [back, box[3]], [front, box[3]]], dtype=np.float64)
        bone = vertebra(level, size, box, body=Body(corners, np.ones(4)))
        vertebrae.append(replace(bone, category="sacral") if level == "S1" else bone)
    named = {"lordosis_L1_S1_deg": Measure(41.4, 1.2)} if values is None else values
    return Spine(size, tuple(vertebrae), view=view, values=named, **more)


def test_endplates_and_corners_are_drawn_and_of_the_sacrum_the_upper_endplate_only():
    size = (600, 500)
    spine = measured(size, values={})
    without = replace(spine, vertebrae=tuple(replace(v, body=None) for v in spine.vertebrae))
    drawn = (overlay.draw(grey(size), spine) != overlay.draw(grey(size), without)).any(axis=2)
    sacrum, fifth = spine.vertebrae[:2]
    for bone, plates in ((sacrum, (True, False)), (fifth, (True, True))):
        corners = bone.body.corners_px.round().astype(int)
        for (x, y), (other, _), there in zip(corners[::2], corners[1::2], plates, strict=True):
            middle = drawn[y - 3 : y + 3, min(x, other) + 10 : max(x, other) - 10]
            assert middle.any(axis=0).mean() == there
    assert not drawn[:, :200].any()
    assert not drawn[:, 300:].any()


@pytest.mark.parametrize("facing", [1, -1])
def test_lordosis_is_written_in_front_of_the_spine(facing):
    size = (600, 500)
    spine = measured(size, facing=facing)
    angle = main_angle(spine, 1)
    assert angle.text == ("L1-S1", "41° ± 1°")
    assert all((segment[1, 0] - segment[0, 0]) * facing > 30 for segment in angle.lines)
    added = overlay.draw(grey(size), spine) != overlay.draw(grey(size), replace(spine, values={}))
    assert added[:, 310:].any() == (facing > 0)
    assert added[:, :190].any() == (facing < 0)
    assert not added[:, 210:290].any()


def test_lines_of_an_angle_stay_on_the_film():
    size = (600, 500)
    left = measured(size, facing=-1)
    shifted = replace(
        left, vertebrae=tuple(replace(v, body=Body(v.body.corners_px - [200, 0], np.ones(4))) for v in left.vertebrae)
    )
    assert all(segment[1, 0] > segment[0, 0] for segment in main_angle(shifted, 1).lines)


def test_cobb_angle_lies_between_the_outer_endplates_of_the_largest_curve():
    values = {
        "cobb_max_deg": Measure(23.4),
        "cobb_L5_S1_deg": Measure(2.0),
        "cobb_T12_L4_deg": Measure(23.4),
        "lordosis_L1_S1_deg": Measure(40.0),
    }
    spine = measured((600, 500), view="ap", values=values)
    angle = main_angle(spine, 1)
    assert angle.text == ("Cobb T12-L4", "23°")
    bodies = {v.level: v.body.corners_px for v in spine.vertebrae}
    np.testing.assert_array_equal(angle.lines[0][0], bodies["T12"][0])
    np.testing.assert_array_equal(angle.lines[1][0], bodies["L4"][3])


@pytest.mark.parametrize("values", [{}, {"cobb_T12_L4_deg": Measure(3.0), "cobb_max_deg": Measure(3.0)}])
def test_no_angle_without_its_measure(values):
    assert main_angle(measured((600, 500), values=values), 1) is None


def test_lordosis_of_the_whole_lumbar_spine_is_drawn_rather_than_of_its_lower_part():
    lower = {"lordosis_L4_S1_deg": Measure(25.0)}
    assert main_angle(measured((600, 500), values=lower), 1).text == ("L4-S1", "25°")
    both = lower | {"lordosis_L1_S1_deg": Measure(41.0)}
    assert main_angle(measured((600, 500), values=both), 1).text == ("L1-S1", "41°")


def test_no_angle_without_landmarks_of_its_levels():
    spine = measured((600, 500))
    assert main_angle(replace(spine, vertebrae=spine.vertebrae[1:]), 1) is None
    assert main_angle(measured((60, 50)), 1) is None


@pytest.mark.parametrize("size", [(100, 75), (300, 225), (300, 300), (500, 400), (1000, 700), (2400, 1800)])
@pytest.mark.parametrize("facing", [1, -1])
@pytest.mark.parametrize("flags", [(), ("possible_L6", "side_unsure", "gap_between_L3_L2", "no_sacrum")])
def test_no_text_lies_over_another_and_none_but_levels_on_bone(monkeypatch, size, facing, flags):
    spine = measured(size, facing=facing, flags=flags, construct="posterior instrumentation L3-S1, cages L4/5, L5/S1")
    written = []

    def write(image, block, left, top):
        written.append((block.text, lettering.write(image, block, left, top)))
        return written[-1][1]

    class Recorder:
        fit = staticmethod(lettering.fit)

    Recorder.write = staticmethod(write)
    monkeypatch.setattr(overlay_text, "lettering", Recorder)
    overlay.draw(grey(size), spine)
    for (_, one), (_, other) in itertools.combinations(written, 2):
        assert lettering.overlap_area(one, other) == 0
    bones = [tuple(int(v) for v in rle.box_xyxy(v.mask)) for v in spine.vertebrae]
    for text, place in written:
        if text not in LEVELS:
            assert sum(lettering.overlap_area(place, box) for box in bones) == 0, text
    assert len(written) == 7 + 1 + (max(size) > 100)


def test_notes_are_in_short_lines_and_the_rest_is_counted():
    notes = ["posterior instrumentation L3-S1", "no sacrum", "L5: low score", "L4: low score"]
    assert overlay_text._lines(notes, 4, 25) == [
        "posterior instrumentation",
        " L3-S1",
        "no sacrum",
        "L5: low score",
        "L4: low score",
    ]
    assert overlay_text._lines(notes, 2, 40) == ["posterior instrumentation L3-S1", "no sacrum", "and 2 more"]
    assert overlay_text._lines(notes, 0, 25) == ["4 notes"]
    assert overlay_text._lines(["no sacrum"], 0, 25) == ["1 note"]


def test_notes_begin_with_what_holds_for_the_film():
    size = (200, 200)
    bone = vertebra("L5", size, (50, 50, 90, 90), flags=("low_score", "touches_border"))
    rod = Implant("rod", 0.9, bone.box, bone.mask, ("touches_border",), ("S1", "L5", "L4"))
    screw = replace(rod, category="screw", flags=("outside_bone",), levels=())
    other = replace(screw, flags=("low_score",), levels=("L5",))
    cage = replace(rod, category="cage", levels=("L5", "L4"))
    spine = Spine(
        size, (bone,), (rod, cage, screw, other), flags=("possible_L6",), construct="posterior instrumentation L5-S1"
    )
    assert overlay_text._notes(spine) == [
        "possible L6",
        "posterior instrumentation L5-S1",
        "L5: low score, touches border",
        "rod L4-S1: touches border",
        "cage L4/5: touches border",
        "screw: outside bone",
        "screw L5: low score",
    ]
    assert overlay_text._notes(Spine(size)) == []


def test_corners_far_off_the_film_are_no_fault():
    size = (300, 200)
    corners = np.array([[1e30, -1e30], [0, 0], [50, 50], [-1e30, 1e30]])
    spine = Spine(size, (vertebra("L5", size, (50, 50, 90, 90), body=Body(corners, np.ones(4))),))
    assert overlay.draw(grey(size), spine).shape == (*size, 3)


def test_neither_picture_nor_label_map_unpacks_whole_films(monkeypatch):
    size = (400, 300)
    spine = Spine(size, (vertebra("L5", size, (100, 200, 200, 280)), vertebra("L4", size, (100, 80, 200, 160))))
    monkeypatch.setattr(rle, "decode", lambda mask: pytest.fail("time and memory are those of the film"))
    assert changed(overlay.draw(grey(size), spine))[201:279, 101:199].all()
    labels = label_map(spine)
    assert [int((labels == number).sum()) for number in (1, 2)] == [8000, 8000]
    assert inner_point(spine.vertebrae[0].mask) == (139.5, 239.5)
