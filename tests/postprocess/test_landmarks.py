import numpy as np
import numpy.typing as npt
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from vertinst.data.phantom_style import PhantomStyle
from vertinst.data.phantom_take import draw_patient, film_regions
from vertinst.postprocess.contours import disturb, even_samples
from vertinst.postprocess.landmarks import corners_with_samples, find_corners, sample_corners
from vertinst.structures import Rle, rle
from vertinst.structures.measures import Orientation

Points = npt.NDArray[np.float64]

UP = Orientation(np.array([0.0, -1.0]), np.array([1.0, 0.0]))
SIZE = (300, 300)
WEDGE = np.array([[205.0, 100], [95, 108], [92, 195], [208, 200]])


def draw(*polygons: Points, size: tuple[int, int] = SIZE) -> Rle:
    return rle.polygons_to_rle(list(polygons), size)


def found(mask: Rle, orientation: Orientation = UP, *, sacral: bool = False) -> Points:
    corners = find_corners(mask, orientation, sacral=sacral)
    assert corners is not None
    return corners


def apart(a: Points, b: Points) -> float:
    return float(np.linalg.norm(a - b, axis=-1).max())


@pytest.mark.parametrize("size", [0.4, 1.0, 2.0])
@pytest.mark.parametrize(
    "corners",
    [
        [[205.0, 105], [95, 105], [95, 195], [205, 195]],
        [[205.0, 100], [95, 108], [92, 195], [208, 200]],
        [[195.0, 105], [105, 105], [90, 190], [210, 195]],
    ],
)
def test_corners_of_quadrilaterals(corners: list[list[float]], size: float) -> None:
    scaled = np.array(corners) * size
    blunt = shapely.Polygon(scaled).buffer(-6 * size).buffer(6 * size)
    rounded = np.array(blunt.exterior.coords[:-1])
    # Bodies are expected to have rims and blunt corners: of shapes without, the corners lie out by a fiftieth of the
    # depth.
    assert apart(found(draw(rounded, size=(600, 600))), scaled) < 0.02 * 110 * size + 0.5
    assert apart(found(draw(scaled, size=(600, 600))), scaled) < 0.025 * 110 * size + 0.5


@settings(max_examples=30, deadline=None)
@given(angle=st.floats(0, 2 * np.pi), mirrored=st.booleans())
def test_a_turned_or_mirrored_film_has_the_same_corners(angle: float, mirrored: bool) -> None:
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    if mirrored:
        turn = np.diag([-1.0, 1.0]) @ turn
    turned = Orientation(UP.up @ turn, UP.anterior @ turn)
    corners = (WEDGE - 150) @ turn + 150
    straight = (found(draw(WEDGE)) - 150) @ turn + 150
    # Two rasters of one body: over all angles, 0.5 px is usual and 1.2 px the most.
    assert apart(found(draw(corners), turned), straight) < 1.5


def test_masks_without_corners() -> None:
    line, dot = np.zeros((50, 50), dtype=bool), np.zeros((50, 50), dtype=bool)
    line[20:22, 5:45] = True
    dot[10:13, 10:13] = True
    for mask in (rle.empty((50, 50)), rle.encode(line), rle.encode(dot)):
        assert find_corners(mask, UP) is None
        assert sample_corners(mask, UP) is None


def test_small_and_odd_masks_have_finite_corners() -> None:
    rng = np.random.default_rng(3)
    for number in range(40):
        noise = rng.random((12, 12)) < rng.uniform(0.3, 1)
        corners = find_corners(rle.encode(np.kron(noise, np.ones((3, 3)))), UP, sacral=number % 2 == 0)
        assert corners is None or np.isfinite(corners).all()


def test_processes_and_loose_parts_are_no_part_of_the_body() -> None:
    process = np.array([[100.0, 140], [40, 150], [10, 190], [14, 200], [50, 175], [100, 165]])
    loose = np.array([[20.0, 220], [50, 225], [45, 250], [18, 245]])
    assert apart(found(draw(WEDGE, process, loose)), found(draw(WEDGE))) < 6


def test_waves_move_corners_little() -> None:
    even = even_samples(WEDGE, 400)
    waves = disturb(even, 20, sd_px=1.5, correlation_px=15, rng=np.random.default_rng(0))
    errors = [np.linalg.norm(found(draw(wave)) - WEDGE, axis=1) for wave in waves]
    assert np.median(errors) < 3


def test_samples_are_the_same_for_a_seed_and_spread_around_the_corners() -> None:
    mask = draw(WEDGE)
    corners, samples = corners_with_samples(mask, UP, count=40, seed=1) or (None, None)
    assert corners is not None
    assert samples is not None
    again, other = sample_corners(mask, UP, count=40, seed=1), sample_corners(mask, UP, count=40, seed=2)
    assert samples.shape == (40, 4, 2)
    assert np.array_equal(samples, again)
    assert not np.array_equal(samples, other)
    assert np.array_equal(corners, found(mask))
    assert np.linalg.norm(samples.mean(axis=0) - corners, axis=1).max() < 1.5
    assert 0.5 < samples.std(axis=0).mean() < 3


def test_a_whole_sacrum_has_the_endplate_of_its_first_body() -> None:
    first = np.array([[212.0, 110], [110, 90], [98, 170], [180, 186]])
    rest = np.array([[180.0, 186], [98, 170], [60, 240], [70, 280], [90, 285], [140, 250]])
    slope = Orientation(np.array([-0.4, -0.9165]), np.array([0.9165, -0.4]))
    assert apart(found(draw(first, rest), slope, sacral=True)[:2], first[:2]) < 10


def phantom_errors(noise_px: float) -> Points:
    """Distances (N, 4) of corners from the truth, of a few phantoms."""
    rng, errors = np.random.default_rng(1), []
    for number in range(1, 7):
        regions, truth = film_regions(draw_patient(2, number, PhantomStyle()), 2, 1, PhantomStyle())
        facing = np.array([1.0 if truth["facing"] == "right" else -1.0, 0.0])
        for region in regions:
            if region.level and region.visible > 0.999:
                outline = even_samples(region.outline, 400)
                outline = disturb(outline, 1, sd_px=noise_px, correlation_px=15, rng=rng)[0]
                mask = draw(outline, size=(truth["height"], truth["width"]))
                corners = found(mask, Orientation(UP.up, facing), sacral=region.category == "sacral")
                errors.append(np.linalg.norm(corners - truth["corners_px"][region.level], axis=1))
    return np.array(errors)


def test_corners_of_phantoms_are_near_the_truth() -> None:
    errors = phantom_errors(0.0)
    assert (errors < 4).mean() > 0.95
    noisy = phantom_errors(1.5)
    assert (noisy < 4).mean() > 0.88


def test_samples_spread_as_corners_of_outlines_with_that_noise_do() -> None:
    outline = even_samples(WEDGE, 400)
    size = np.sqrt(rle.area(draw(WEDGE)))
    drawn = disturb(outline, 60, sd_px=0.0147 * size, correlation_px=0.147 * size, rng=np.random.default_rng(0))
    scatter = np.stack([found(draw(one)) for one in drawn])
    told = sample_corners(draw(WEDGE), UP, count=60)
    assert told is not None

    def slope_sd(corners: Points) -> float:
        along = corners[:, 0] - corners[:, 1]
        return float(np.arctan2(along[:, 1], along[:, 0]).std())

    assert 0.9 < slope_sd(told) / slope_sd(scatter) < 1.5
