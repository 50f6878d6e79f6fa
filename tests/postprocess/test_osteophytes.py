import numpy as np
import numpy.typing as npt
import pytest

from vertinst.data.phantom_style import PhantomStyle
from vertinst.data.phantom_take import draw_patient, film_regions
from vertinst.postprocess.landmarks import find_corners
from vertinst.postprocess.osteophytes import find_osteophytes
from vertinst.structures import rle
from vertinst.structures.measures import CORNERS, Orientation

BODY = np.array([[205.0, 105], [95, 105], [95, 195], [205, 195]])
UP = Orientation(np.array([0.0, -1.0]), np.array([1.0, 0.0]))


def beak(corner: int) -> npt.NDArray[np.float64]:
    """A triangle that stands out from a corner along its endplate, 26 px long: a fifth more than what is counted."""
    x, y = BODY[corner]
    out, down = np.sign(x - 150), np.sign(150 - y)
    return np.array([[x - out, y], [x + 26 * out, y + 3 * down], [x - out, y + 16 * down]])


@pytest.mark.parametrize("corner", range(4))
def test_a_beak_is_found_at_its_corner_and_moves_the_corner_less_than_itself(corner: int) -> None:
    mask = rle.polygons_to_rle([BODY, beak(corner)], (300, 300))
    corners = find_corners(mask, UP)
    assert corners is not None
    (found,) = find_osteophytes(mask, corners)
    assert found.corner == CORNERS[corner]
    assert 60 < found.area_px2 < 320
    assert np.linalg.norm(np.array(found.centre_px) - BODY[corner]) < 20
    assert np.linalg.norm(corners - BODY, axis=1).max() < 10


def test_none_on_smooth_bodies() -> None:
    style = PhantomStyle()
    for number in range(1, 4):
        regions, truth = film_regions(draw_patient(4, number, style), 4, 1, style)
        ahead = np.array([1.0 if truth["facing"] == "right" else -1.0, 0.0])
        for region in regions:
            if region.category == "lumbar" and region.visible > 0.999:
                mask = rle.polygons_to_rle([region.outline], (truth["height"], truth["width"]))
                corners = find_corners(mask, Orientation(UP.up, ahead))
                assert corners is not None
                assert find_osteophytes(mask, corners) == ()


def test_none_on_a_rectangle_and_on_nothing() -> None:
    assert find_osteophytes(rle.polygons_to_rle([BODY], (300, 300)), BODY) == ()
    assert find_osteophytes(rle.empty((300, 300)), BODY) == ()
    assert find_osteophytes(rle.polygons_to_rle([BODY], (300, 300)), np.full((4, 2), np.nan)) == ()
