"""Shadows of implants: size, place, and what lies beyond the film."""

import numpy as np
import pytest

from vertinst.data import metal_shapes as shapes
from vertinst.data.metal_shapes import Shadow

SIZE = (120, 100)


def on_film(shadow: Shadow | None) -> tuple[np.ndarray, np.ndarray]:
    assert shadow is not None
    thickness, outline = np.zeros(SIZE), np.zeros(SIZE, dtype=bool)
    rows, columns = shadow.outline.shape
    place = np.s_[shadow.top : shadow.top + rows, shadow.left : shadow.left + columns]
    thickness[place], outline[place] = shadow.thickness, shadow.outline
    return thickness, outline


def test_a_rod_is_as_thick_as_a_bar_is() -> None:
    thickness, outline = on_film(shapes.rod(SIZE, np.array([[50.5, 20.0], [50.5, 60.0], [50.5, 100.0]]), 5.0))
    assert outline.sum() == pytest.approx(2 * 5 * 80 + np.pi * 25, rel=0.05)
    assert thickness[60, 50] == pytest.approx(np.sqrt(1 - 0.1**2))
    assert thickness[60, 53] == pytest.approx(np.sqrt(1 - 0.5**2))
    assert not outline[60, 56]
    assert not outline[:14].any()


def test_a_screw_has_a_thread_and_narrows_towards_its_tip() -> None:
    thickness, outline = on_film(shapes.screw(SIZE, np.array([20.0, 60.0]), np.array([80.0, 60.0]), 5.0, 6.0))
    assert not outline[:, :20].any()
    assert not outline[:, 81:].any()
    widths = outline.sum(axis=0)
    assert widths[21] < widths[40:78].min()
    assert set(widths[40:78]) >= {8, 9}
    upper = outline[:60].sum(axis=0)[40:76]
    lower = outline[61:].sum(axis=0)[40:76]
    # Half a turn apart.
    assert np.corrcoef(upper, lower)[0, 1] < np.corrcoef(upper, np.roll(lower, 3))[0, 1]
    assert thickness[60, 40:78].std() > 0.03


def test_a_cage_of_plastic_is_faint_but_for_its_markers() -> None:
    kinds = [
        on_film(
            shapes.cage(
                SIZE, np.array([50.0, 60.0]), np.array([1.0, 0.0]), (20.0, 8.0, 10.0), plastic=plastic, window=0.4
            )
        )
        for plastic in (True, False)
    ]
    (faint, outline), (metal, same) = kinds
    assert np.array_equal(outline, same)
    assert outline[60, 32:68].all()
    # Higher in front than behind.
    assert outline[:, 60].sum() > outline[:, 38].sum()
    assert faint[60, 44] < 0.2
    assert faint[60, 50] > 1
    assert metal[60, 50] < 0.5 * metal[60, 34]


def test_a_plate_has_holes_and_a_head_is_a_block() -> None:
    path = np.array([[50.5, 20.0], [50.5, 100.0]])
    thickness, outline = on_film(shapes.plate(SIZE, path, 10.0, np.array([[50.0, 60.0]])))
    assert outline.sum() == pytest.approx(20 * 80 + np.pi * 100, rel=0.05)
    assert thickness[60, 50] < 0.5 * thickness[40, 50]
    block, covered = on_film(shapes.head(SIZE, np.array([40.0, 60.0]), np.array([60.0, 60.0]), 8.0))
    assert covered.sum() == pytest.approx(20 * 15, rel=0.15)
    assert block[60, 45] > 1


def test_cement_and_wire() -> None:
    _, blob = on_film(shapes.cement(SIZE, np.array([50.0, 60.0]), np.full(12, 10.0)))
    assert blob.sum() == pytest.approx(np.pi * 100, rel=0.05)
    # A wire thinner than a pixel is seen without gaps.
    _, line = on_film(shapes.wire(SIZE, np.array([[10.3, 10.0], [14.7, 110.0]]), 0.3))
    assert line[12:108].any(axis=1).all()


def test_beyond_the_film_there_is_nothing_and_across_its_border_a_part() -> None:
    far = np.array([[300.0, 300.0], [340.0, 300.0]])
    assert shapes.rod(SIZE, far, 5.0) is None
    assert shapes.wire(SIZE, far, 1.0) is None
    assert shapes.plate(SIZE, far, 5.0, far) is None
    assert shapes.screw(SIZE, far[0], far[1], 5.0, 4.0) is None
    assert shapes.head(SIZE, far[0], far[1], 5.0) is None
    assert shapes.cement(SIZE, far[0], np.full(8, 9.0)) is None
    assert shapes.cage(SIZE, far[0], np.array([1.0, 0.0]), (9.0, 4.0, 4.0), plastic=True, window=0.5) is None
    _, outline = on_film(shapes.rod(SIZE, np.array([[50.0, -40.0], [50.0, 20.0]]), 5.0))
    assert outline[0].sum() == 9
