import numpy as np
import pytest

from vertinst.postprocess.contours import SAMPLES, body_outline, disturb, even_samples, normals, opened
from vertinst.structures import rle

SQUARE = np.array([[10.0, 10], [110, 10], [110, 110], [10, 110]])


def test_even_samples_turn_clockwise_at_equal_steps() -> None:
    for outline in (SQUARE, SQUARE[::-1]):
        even = even_samples(outline, 80)
        steps = np.linalg.norm(np.roll(even, -1, axis=0) - even, axis=1)
        assert steps == pytest.approx(5.0)
        outward = ((even - 60) * normals(even)).sum(axis=1)
        assert (outward > 0).all()


def test_noise_has_its_deviation_and_its_length() -> None:
    angle = np.arange(512) / 512 * 2 * np.pi
    circle = 100 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    drawn = disturb(circle, 400, sd_px=1.5, correlation_px=15, rng=np.random.default_rng(0))
    off = np.linalg.norm(drawn, axis=2) - 100
    assert off.std() == pytest.approx(1.5, rel=0.05)
    lag = round(15 / (2 * np.pi * 100 / 512))
    shared = (off * np.roll(off, lag, axis=1)).mean() / (off**2).mean()
    assert shared == pytest.approx(np.exp(-0.5), abs=0.06)
    assert disturb(circle, 0, sd_px=1.5, correlation_px=15, rng=np.random.default_rng(0)).shape == (0, 512, 2)


def test_the_outline_is_that_of_the_largest_part_and_as_large() -> None:
    small = np.array([[150.0, 20], [160, 20], [160, 40], [150, 40]])
    outline = body_outline(rle.polygons_to_rle([SQUARE, small], (200, 200)))
    assert outline is not None
    assert outline.shape == (SAMPLES, 2)
    assert np.abs(outline.min(axis=0) - 10).max() < 1
    assert np.abs(outline.max(axis=0) - 110).max() < 1


def test_an_opening_keeps_what_a_disc_reaches() -> None:
    patch = np.zeros((60, 60), dtype=np.uint8)
    patch[10:50, 10:50] = 1
    patch[28:32, 50:58] = 1
    kept = opened(patch, 8.0)
    assert kept[30, 30] == 1
    assert kept[30, 55] == 0
    assert kept[10, 10] == 0
    assert opened(patch, 30.0).sum() == 0


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 60), (60, 3), (4, 80), (90, 5)])
def test_bodies_of_a_few_pixels_and_bars_are_no_exception(size) -> None:
    bar = np.zeros((100, 100), dtype=bool)
    bar[5 : 5 + size[0], 7 : 7 + size[1]] = True
    outline = body_outline(rle.encode(bar))
    if outline is not None:
        assert np.isfinite(outline).all()
        assert (outline.min(axis=0) >= [7, 5]).all()
        assert (outline.max(axis=0) <= [7 + size[1], 5 + size[0]]).all()
