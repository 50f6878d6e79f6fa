import numpy as np

from vertinst.postprocess.landmarks import find_corners, sample_corners
from vertinst.structures import rle
from vertinst.structures.measures import Orientation

UP = Orientation(np.array([0.0, -1.0]), np.array([1.0, 0.0]))


def test_a_rectangle_gives_its_corners() -> None:
    corners = np.array([[160.0, 50], [40, 50], [40, 140], [160, 140]])
    found = find_corners(rle.polygons_to_rle([corners], (200, 200)), UP)
    assert found is not None
    assert np.abs(found - corners).max() < 3


def test_masks_without_corners() -> None:
    line = np.zeros((50, 50), dtype=bool)
    line[20:22, 5:45] = True
    for mask in (rle.empty((50, 50)), rle.encode(line)):
        assert find_corners(mask, UP) is None
        assert sample_corners(mask, UP) is None
