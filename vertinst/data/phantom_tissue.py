"""Soft tissue of a phantom: line integrals through skin, muscle, abdomen, bowel gas and lung."""

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from vertinst.data.phantom_anatomy import Anatomy
from vertinst.data.phantom_projection import View
from vertinst.data.phantom_solids import Points

SOFT_PER_MM = 0.0190
_COARSE = 4
Field = NDArray[np.float32]


def tissue_integral(rng: Generator, anatomy: Anatomy, view: View) -> Field:
    """Line integrals of attenuation through everything soft, (H, W) float32.

    Drawn on a grid four times coarser than the film, because soft tissue has no fine detail.
    """
    x, y = _patient_grid(view)
    frontal = anatomy.variant.view == "ap"
    half_thickness, depth_share = _trunk(rng, anatomy, x, y)
    thickness = 2 * half_thickness * _bulge(depth_share)
    for cells, share in ((4, 0.03), (9, 0.022), (26, 0.012)):
        thickness *= 1 + share * _clouds(rng, x.shape, cells)
    thickness += _psoas(anatomy, x, y) if frontal else _muscle(anatomy, x, y)
    thickness -= _both_lungs(rng, anatomy, x, y) if frontal else _lung(rng, anatomy, x, y)
    bowel = x if frontal else x - _axis(anatomy, y)
    thickness -= np.minimum(_gas(rng, bowel, y, (-130, 130) if frontal else (28, 150)), 0.45 * np.maximum(thickness, 0))
    coarse = (SOFT_PER_MM * np.maximum(thickness, 0)).astype(np.float32)
    fine = cv2.resize(coarse, view.size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.maximum(fine, 0), np.float32)


def _patient_grid(view: View) -> tuple[Points, Points]:
    """Patient coordinates (x anterior, y inferior, mm) of the coarse grid's pixels in the middle plane."""
    rows, columns = -(-view.size[0] // _COARSE), -(-view.size[1] // _COARSE)
    column, row = np.meshgrid((np.arange(columns) + 0.5) * _COARSE, (np.arange(rows) + 0.5) * _COARSE)
    mirror = 1.0 if view.facing == "right" else -1.0
    return (
        mirror * (column - view.centre_px[0]) * view.pixel_spacing_mm,
        (row - view.centre_px[1]) * view.pixel_spacing_mm,
    )


def _axis(anatomy: Anatomy, y: Points, *, lateral: bool = False) -> Points:
    """Antero-posterior (or lateral) position of the spine at every height."""
    along = [2, 1] if lateral else [0, 1]
    centres = np.array([v.frame.origin[along] for v in anatomy.vertebrae.values()])
    centres = centres[np.argsort(centres[:, 1])]
    return np.asarray(np.interp(y, centres[:, 1], centres[:, 0]))


def _trunk(rng: Generator, anatomy: Anatomy, x: Points, y: Points) -> tuple[Points, Points]:
    """Half of the thickness along the rays per height, and the position from side to side, -1 to 1.

    On lateral films the sides are back (-1) and belly (+1).
    """
    height = np.clip(-y / 250, -0.4, 1.3)
    smooth_axis = _axis(anatomy, y * 0.8) * 0.7
    back = smooth_axis - 88 - 22 * anatomy.girth - 16 * np.exp(-(((height + 0.2) / 0.25) ** 2))
    belly = smooth_axis + 62 + 75 * anatomy.girth * (0.75 + 0.35 * np.exp(-(((height - 0.15) / 0.5) ** 2)))
    belly = belly + rng.normal(0, 12)
    waist = 1 - 0.10 * np.exp(-(((height - 0.45) / 0.3) ** 2))
    half = (112 + 38 * anatomy.girth) * waist
    if anatomy.variant.view == "ap":
        return (belly - back) / 2, x / half
    return half, (2 * x - back - belly) / (belly - back)


def _bulge(share: Points) -> Points:
    """Thickness of the trunk relative to its middle: a super-ellipse, 0 outside the skin."""
    result: Points = np.maximum(0.0, 1 - np.abs(share) ** 2.6) ** (1 / 2.2)
    return result


def _muscle(anatomy: Anatomy, x: Points, y: Points) -> Points:
    """A little more behind the spine (back muscles) and in front of it (psoas)."""
    offset = x - _axis(anatomy, y)
    result: Points = 9 * np.exp(-(((offset + 48) / 22) ** 2)) + 6 * np.exp(-((offset / 30) ** 2))
    return result


def _clouds(rng: Generator, shape: tuple[int, ...], cells: int) -> Points:
    """Smooth noise of about unit spread with `cells` bumps along the film's height."""
    grid = rng.standard_normal((cells, max(2, cells * 3 // 4))).astype(np.float32)
    return np.asarray(cv2.resize(grid, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC), np.float64)


def _lung(rng: Generator, anatomy: Anatomy, x: Points, y: Points) -> Points:
    """Air of both lung bases above the diaphragm, mm of tissue missing."""
    missing = np.zeros_like(x)
    top = anatomy.vertebrae["T12"].frame.origin
    for _ in range(2):
        crest = top[1] - rng.uniform(5, 45)
        dome = crest + 0.0045 * (x - top[0] - rng.uniform(20, 60)) ** 2 - 12
        above = np.maximum(0.0, dome - y)
        missing += rng.uniform(30, 55) * (1 - np.exp(-above / 24))
    return missing


def _psoas(anatomy: Anatomy, x: Points, y: Points) -> Points:
    """A muscle on either side of the spine, wider and further out below."""
    below = np.clip(1 + y / 200, 0.0, 1.2)
    aside = np.abs(x - _axis(anatomy, y, lateral=True))
    result: Points = 16 * below * (1 - 1 / (1 + np.exp(-(aside - 34 - 24 * below) / 2.5)))
    return result


def _both_lungs(rng: Generator, anatomy: Anatomy, x: Points, y: Points) -> Points:
    """Air of the lung bases above the diaphragm's domes to the left and right, mm of tissue missing."""
    missing = np.zeros_like(x)
    top = anatomy.vertebrae["T12"].frame.origin
    for side in (-1.0, 1.0):
        crest = top[1] - rng.uniform(5, 40)
        dome = crest + 0.006 * (x - top[2] - side * rng.uniform(70, 85)) ** 2 - 12
        beside = 1 / (1 + np.exp(-(side * (x - top[2]) - 22) / 4))
        missing += rng.uniform(70, 110) * (1 - np.exp(-np.maximum(0.0, dome - y) / 24)) * beside
    return missing


def _gas(rng: Generator, x: Points, y: Points, reach: tuple[float, float]) -> Points:
    """Bowel gas: chains of overlapping, irregular bubbles that start where `x` is within reach, mm of tissue missing.

    On lateral films `x` is counted from the spine's axis, and gas lies in front of it.
    """
    missing = np.zeros_like(x)
    warped_x = x + 3.5 * _clouds(rng, x.shape, 22) + 1.2 * _clouds(rng, x.shape, 60)
    warped_y = y + 3.5 * _clouds(rng, x.shape, 22) + 1.2 * _clouds(rng, x.shape, 60)
    for _ in range(int(rng.integers(2, 8))):
        position = np.array([rng.uniform(*reach), rng.uniform(-200, 60)])
        step = rng.normal(0, 9, 2)
        for _ in range(int(rng.integers(2, 9))):
            radius, squeeze = rng.uniform(4, 15), rng.uniform(0.6, 1.6)
            near = np.abs(y[:, 0] - position[1]) < radius + 20
            square = ((warped_x[near] - position[0]) / squeeze) ** 2 + (warped_y[near] - position[1]) ** 2
            bubble = 2.2 * radius * np.maximum(0.0, 1 - square / radius**2) ** 0.7
            missing[near] = np.maximum(missing[near], bubble)
            position = position + step + rng.normal(0, 6, 2)
    return np.asarray(cv2.GaussianBlur(missing, (0, 0), 0.8))


def bone_grain(rng: Generator, size: tuple[int, int]) -> tuple[Field, Field]:
    """Texture of bone, finely and mostly vertically streaked, as factors (H, W) float32 around 1.

    Returns:
        That of the trabecular bone of the bodies, and the coarser one of all other bone.
    """
    noise = rng.standard_normal(size, dtype=np.float32)
    fine = np.asarray(cv2.GaussianBlur(noise, (0, 0), sigmaX=0.9, sigmaY=2.2), np.float32) * np.float32(0.22)
    return 1 + fine + _bumps(rng, size, (9, 9), 0.06), 1 + fine + _bumps(rng, size, (11, 5), 0.13)


def _bumps(rng: Generator, size: tuple[int, int], cell_px: tuple[int, int], spread: float) -> Field:
    """Smooth noise with one bump per cell (rows, columns)."""
    cells = (max(1, size[0] // cell_px[0]), max(1, size[1] // cell_px[1]))
    grid = np.float32(spread) * rng.standard_normal(cells, dtype=np.float32)
    return np.asarray(cv2.resize(grid, size[::-1], interpolation=cv2.INTER_LINEAR), np.float32)
