"""Synthetic metal for training films: implants where a spine has them, as bright and as sharp as the film allows.

A few hundred films show few kinds of metal, and few vertebrae behind it. What is drawn here teaches both: instances of
the implants that are learnt, and vertebrae that go on behind metal of any kind.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from vertinst.data import metal_shapes as shapes
from vertinst.data.metal_shapes import Points, Shadow

__all__ = ["KINDS", "add_metal", "draw_hardware", "find_sites"]

KINDS = ("screw", "rod", "cage", "plate", "wire", "cement")
"""What can be drawn, by the name that its class must have to be learnt."""

# Depth over height of a lumbar vertebral body; a square of the same area would be sqrt(depth * height).
BODY_ASPECT = 1.25
# Middles less than this share of a body's side apart are of one body.
SAME_BODY = 0.25
# Instances of which fewer pixels are on the film are drawn, but not given as instances.
LEAST_AREA_PX = 12
# Draws until something is on the film: nearly always the first or second.
ATTEMPTS = 8
# Blur of the grain, and what is left of the standard deviation of white noise by it.
GRAIN_PX, GRAIN_STD = 0.6, 0.495
# Around metal, at least: content by which its brightness and grain are chosen.
EXPOSED_MARGIN_PX = 12
# Films are as sharp as their pixels up to this longest side; larger ones are blurred over more of them.
SHARP_SIDE_PX = 700
# Every so many pixels are enough to measure a film's noise and its brightest bone.
_STEP = 3

Grey = NDArray[np.float32]
Piece = tuple[str, tuple[Shadow, ...]]
"""A kind, and the shadows that make up one instance of it."""


class Site(NamedTuple):
    """A vertebral body, real or imagined.

    Attributes:
        centre: xy px.
        down: Unit vector along the spine, towards the sacrum.
        back: Unit vector towards the spinous processes.
        depth: Front to back, px.
        height: Top to bottom, px.
    """

    centre: Points
    down: Points
    back: Points
    depth: float
    height: float


def add_metal(
    film: Grey, masks: NDArray[np.bool_], labels: NDArray[np.int64], classes: Sequence[str], rng: Generator
) -> tuple[Grey, NDArray[np.bool_], NDArray[np.int64]]:
    """Draw implants onto a film.

    Args:
        film: (H, W) 0..1, dense matter bright.
        masks: (N, H, W) of the instances; N = 0 is fine.
        labels: (N,) from 1 in the order of `classes`.
        classes: Names. Kinds among them (see `KINDS`) are added as instances, all others are clutter.
        rng: Everything is drawn from it.

    Returns:
        The film, and masks and labels with those of the metal appended. The given masks stay as they are: a vertebra
        behind metal is still there.
    """
    bones = np.array([classes[label - 1] not in KINDS for label in labels], dtype=bool)
    sites = find_sites(masks[bones], rng)
    pieces = draw_hardware(sites, (film.shape[0], film.shape[1]), rng)
    dense = np.zeros(film.shape, np.float32)
    new_masks, new_labels = [], []
    strength = rng.uniform(1.3, 3.2)
    for kind, shadows in pieces:
        mask = np.zeros(film.shape, bool)
        for shadow in shadows:
            place = _slices(shadow)
            dense[place] += shadow.thickness * np.float32(strength)
            mask[place] |= shadow.outline
        if kind in classes and mask.sum() >= LEAST_AREA_PX:
            new_masks.append(mask)
            new_labels.append(classes.index(kind) + 1)
    shown = film.copy()
    blur_px = rng.uniform(0.4, 0.9) * max(1.0, max(film.shape) / SHARP_SIDE_PX)
    covered = _around(dense, max(EXPOSED_MARGIN_PX, math.ceil(4 * blur_px)))
    shown[covered] = _expose(film[covered], dense[covered], blur_px, rng)
    if not new_masks:
        return shown, masks, labels
    return shown, np.concatenate([masks, np.stack(new_masks)]), np.concatenate([labels, np.array(new_labels)])


def _slices(shadow: Shadow) -> tuple[slice, slice]:
    height, width = shadow.thickness.shape
    return slice(shadow.top, shadow.top + height), slice(shadow.left, shadow.left + width)


def _around(dense: Grey, margin: int) -> tuple[slice, slice]:
    """The rectangle of what is not 0, widened by `margin`."""
    left, top, width, height = cv2.boundingRect((dense > 0).view(np.uint8))
    rows, columns = (max(0, top - margin), top + height + margin), (max(0, left - margin), left + width + margin)
    return slice(*rows), slice(*columns)


def _expose(film: Grey, dense: Grey, blur_px: float, rng: Generator) -> Grey:
    """Metal of this attenuation in front of the film's content, with the film's noise."""
    opaque = cv2.GaussianBlur(1 - np.exp(-dense), (0, 0), blur_px)
    # No bone is brighter than metal.
    brightest = float(np.percentile(film[::_STEP, ::_STEP], 99.5))
    white = np.maximum(film, np.float32(rng.uniform(max(0.85, brightest), 1.0)))
    grain = cv2.GaussianBlur(rng.standard_normal(film.shape, dtype=np.float32), (0, 0), GRAIN_PX)
    level = np.float32(_noise(film) / GRAIN_STD)
    shown: Grey = np.clip(film + (white - film + level * grain) * opaque, 0, 1)
    return shown


def _noise(film: Grey) -> float:
    """Standard deviation of a film's noise; 0 for films narrower than 3 px.

    From the median of second differences in both directions, which see neither slopes nor edges along an axis
    (the operator of Immerkaer, "Fast noise variance estimation", 1996).
    """
    if min(film.shape) < 3:
        return 0.0
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
    differences = cv2.filter2D(film, -1, kernel)[::_STEP, ::_STEP]
    return float(np.median(np.abs(differences))) / (0.6745 * 6)


def find_sites(bones: NDArray[np.bool_], rng: Generator) -> list[Site]:
    """Where the vertebral bodies are, from the top down.

    Args:
        bones: (N, H, W) masks of vertebrae; with N = 0 a spine is imagined somewhere in the middle of the film.
        rng: For what cannot be seen: which side is the back, and all of it where there are no masks.
    """
    found = _apart(sorted(_middle_and_area(mask) for mask in bones if mask.any()))
    if found:
        centres = np.array([(x, y) for y, x, _ in found])
        areas = np.array([area for _, _, area in found], np.float64)
    else:
        centres, areas = _imagined(bones.shape[1:], rng)
    down = _directions(centres, rng)
    back = _back(centres, down, rng)
    depth, height = np.sqrt(areas * BODY_ASPECT), np.sqrt(areas / BODY_ASPECT)
    return [Site(*parts) for parts in zip(centres, down, back, depth, height, strict=True)]


def _apart(bodies: list[tuple[float, float, int]]) -> list[tuple[float, float, int]]:
    """Bodies as `_middle_and_area` gives them, without those that lie on one before: a bone that was outlined twice."""
    kept: list[tuple[float, float, int]] = []
    for y, x, area in bodies:
        if all(math.hypot(y - other[0], x - other[1]) > SAME_BODY * math.sqrt(area) for other in kept):
            kept.append((y, x, area))
    return kept


def _middle_and_area(mask: NDArray[np.bool_]) -> tuple[float, float, int]:
    """Mean y, mean x and number of the mask's pixels, of which there must be one."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    patch = mask[top : top + height, left : left + width]
    rows, columns = patch.sum(axis=1), patch.sum(axis=0)
    area = int(rows.sum())
    return float(top + rows @ np.arange(height) / area), float(left + columns @ np.arange(width) / area), area


def _imagined(size: tuple[int, ...], rng: Generator) -> tuple[Points, NDArray[np.float64]]:
    rows, columns = size
    count, height = int(rng.integers(3, 7)), rows * rng.uniform(0.06, 0.1)
    y = rows * rng.uniform(0.1, 0.4) + np.arange(count) * height * 1.35
    bow = np.linspace(-1, 1, count) ** 2
    x = columns * rng.uniform(0.3, 0.7) + bow * height * rng.uniform(-1, 1) + np.cumsum(rng.normal(0, 0.08, count))
    return np.stack([x, y], axis=1), np.full(count, height**2 * BODY_ASPECT)


def _directions(centres: Points, rng: Generator) -> Points:
    if len(centres) == 1:
        angle = rng.normal(0, 0.15)
        return np.array([[np.sin(angle), np.cos(angle)]])
    steps: Points = np.gradient(centres, axis=0)
    unit: Points = steps / np.maximum(np.linalg.norm(steps, axis=1, keepdims=True), 1e-6)
    return unit


def _back(centres: Points, down: Points, rng: Generator) -> Points:
    """Across the spine towards the side away from which a lordosis bows; drawn where there is no telling."""
    right = np.stack([down[:, 1], -down[:, 0]], axis=1)
    middle, chord = centres[len(centres) // 2], (centres[0] + centres[-1]) / 2
    bow = float((middle - chord) @ right.mean(axis=0))
    side = -np.sign(bow) if len(centres) > 3 and rng.random() < 0.95 else 0.0
    return right * (side or rng.choice([-1.0, 1.0]))


def draw_hardware(sites: Sequence[Site], size: tuple[int, int], rng: Generator) -> list[Piece]:
    """What a film carries: mostly screws with rods, cages or both; sometimes a plate, wires or cement; never nothing.

    Args:
        sites: At least one.
        size: (H, W) px of the film.
        rng: Everything is drawn from it.

    Returns:
        At least one piece, unless the film is too small for any.
    """
    count = min(len(sites), int(rng.integers(2, 5)))
    start = int(rng.integers(0, len(sites) - count + 1))
    chosen = sites[start : start + count]
    pieces: list[Piece] = []
    for _ in range(ATTEMPTS):
        if rng.random() < 0.4:
            pieces += _cages(chosen, size, rng)
        if rng.random() < 0.55:
            pieces += _fixation(chosen, size, rng)
        for share, draw in ((0.12, _plate), (0.12, _cement), (0.12, _wires)):
            if rng.random() < share:
                pieces += draw(chosen, size, rng)
        if pieces:
            break
    return pieces


def _piece(kind: str, *shadows: Shadow | None) -> list[Piece]:
    there = tuple(shadow for shadow in shadows if shadow is not None)
    return [(kind, there)] if there else []


def _fixation(sites: Sequence[Site], size: tuple[int, int], rng: Generator) -> list[Piece]:
    """Pedicle screws on one side or both, joined by a rod each where there are several, and now and then by none."""
    radius, pitch = rng.uniform(0.075, 0.1), rng.uniform(0.07, 0.1)
    joined = len(sites) > 1 and rng.random() < 0.9
    pieces: list[Piece] = []
    for _ in range(2 if rng.random() < 0.75 else 1):
        lean, rise = rng.normal(0, 0.07), rng.normal(0.16, 0.06)
        reach, stand_off = rng.uniform(-0.05, 0.32), rng.uniform(0.28, 0.5)
        seats = []
        for site in sites:
            angle = lean + rng.normal(0, 0.05)
            back = site.back * np.cos(angle) + site.down * np.sin(angle)
            entry = site.centre - site.down * site.height * rise + site.back * site.depth * 0.3
            tip = entry - back * site.depth * (0.3 + reach + rng.normal(0, 0.03))
            end = entry + back * site.depth * (0.2 + stand_off)
            top = end + back * site.depth * 0.36
            shaft = shapes.screw(size, tip, end + back, radius * site.depth, max(pitch * site.depth, 2.0))
            pieces += _piece("screw", shaft, shapes.head(size, end, top, 0.16 * site.depth))
            seats.append(end + back * site.depth * 0.2)
        if joined:
            pieces += _rod(np.array(seats), sites, size, rng)
    return pieces


def _rod(seats: Points, sites: Sequence[Site], size: tuple[int, int], rng: Generator) -> list[Piece]:
    """A bar through the heads, bent smoothly as the spine is, standing out at both ends."""
    depth = float(np.mean([site.depth for site in sites]))
    knots = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(seats, axis=0), axis=1))])
    along = np.linspace(-depth * rng.uniform(0.2, 0.45), knots[-1] + depth * rng.uniform(0.2, 0.45), 18)
    curve = np.polyfit(knots, seats, min(len(seats) - 1, 2))
    bow = sites[0].back * depth * rng.normal(0, 0.05) * np.sin(np.pi * along / max(knots[-1], 1e-6))[:, None]
    path = np.vander(along, len(curve)) @ curve + bow
    return _piece("rod", shapes.rod(size, path, depth * rng.uniform(0.07, 0.085)))


def _cages(sites: Sequence[Site], size: tuple[int, int], rng: Generator) -> list[Piece]:
    """Spacers in some of the discs between the sites."""
    plastic, window = bool(rng.random() < 0.5), rng.uniform(0.25, 0.6)
    pieces: list[Piece] = []
    for above, below in pairwise(sites):
        if rng.random() < 0.3:
            continue
        ahead = -(above.back + below.back)
        ahead /= max(float(np.hypot(*ahead)), 1e-6)
        depth = (above.depth + below.depth) / 2
        gap = float(np.hypot(*(below.centre - above.centre))) - (above.height + below.height) / 2
        tall = float(np.clip(gap, 0.18 * depth, 0.4 * depth)) / 2 * rng.uniform(0.9, 1.1)
        centre = (above.centre + below.centre) / 2 + ahead * depth * rng.uniform(-0.1, 0.12)
        halves = (depth * rng.uniform(0.26, 0.38), tall, tall * rng.uniform(1.0, 1.3))
        pieces += _piece("cage", shapes.cage(size, centre, ahead, halves, plastic=plastic, window=window))
    return pieces


def _plate(sites: Sequence[Site], size: tuple[int, int], rng: Generator) -> list[Piece]:
    """A plate in front of the bodies or on their side."""
    aside = rng.choice([0.53, 0.0], p=[0.6, 0.4]) + rng.normal(0, 0.03)
    middles = np.array([site.centre - site.back * site.depth * aside for site in sites])
    ends = [middles[0] - sites[0].down * sites[0].height * 0.3, middles[-1] + sites[-1].down * sites[-1].height * 0.3]
    path = np.concatenate([ends[:1], middles, ends[1:]])
    half = sites[0].depth * (rng.uniform(0.04, 0.07) if aside > 0.3 else rng.uniform(0.14, 0.22))
    holes = middles if half > 0.1 * sites[0].depth else np.zeros((0, 2))
    return _piece("plate", shapes.plate(size, path, half, holes))


def _wires(sites: Sequence[Site], size: tuple[int, int], rng: Generator) -> list[Piece]:
    """One or two leads or cerclage wires, anywhere near the spine."""
    pieces: list[Piece] = []
    for _ in range(int(rng.integers(1, 3))):
        site = sites[int(rng.integers(len(sites)))]
        radius = max(0.6, site.depth * rng.uniform(0.012, 0.025))
        heading = np.cumsum(rng.normal(0, 0.35, 24)) + rng.uniform(0, 2 * np.pi)
        steps = np.stack([np.cos(heading), np.sin(heading)], axis=1) * site.depth * rng.uniform(0.06, 0.22)
        start = site.centre + rng.normal(0, 0.9, 2) * site.depth
        pieces += _piece("wire", shapes.wire(size, start + np.cumsum(steps, axis=0), radius))
    return pieces


def _cement(sites: Sequence[Site], size: tuple[int, int], rng: Generator) -> list[Piece]:
    """Cement in one or two bodies."""
    pieces: list[Piece] = []
    for site in rng.permutation(len(sites))[: int(rng.integers(1, 3))]:
        body = sites[site]
        waves = np.arange(1, 6)[:, None] * np.linspace(0, 2 * np.pi, 48, endpoint=False) + rng.uniform(0, 6.3, (5, 1))
        radii = 1 + (np.sin(waves) * rng.normal(0, 0.13, (5, 1))).sum(axis=0)
        reach = body.height * rng.uniform(0.2, 0.42)
        centre = body.centre + rng.normal(0, 0.08, 2) * body.depth
        pieces += _piece("cement", shapes.cement(size, centre, reach * np.clip(radii, 0.35, 1.6)))
    return pieces
