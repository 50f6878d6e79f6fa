"""Outlines of bodies as even samples, and the same outlines as another annotator might have drawn them."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from vertinst.structures import Rle, rle

__all__ = ["SAMPLES", "body_outline", "disturb", "even_samples", "opened"]

Points = npt.NDArray[np.float64]

SAMPLES = 192
"""Points of an outline."""

LEAST_AREA_PX2 = 24
LEAST_WIDTH_PX = 3.0
"""A mask with less area, or nowhere wider, has no corners that could be measured."""

_PROCESS_WIDTH = 0.85
"""What is narrower than this share of the widest place of an outline is no body."""
_CORNER_REACH = 0.5
"""An opening with a disc of radius r takes 0.41 r from a right-angled corner; so much and a little more is given back.
"""
_SOLID = 0.9
"""Share of its convex hull that an outline without processes fills: walls are hollow, but not so much."""
_LEAST_PROCESS = 0.28
"""Share of the area that must go for a mask to have processes: below it, an opening takes corners alone."""

_SPUR_WIDTH = 0.26
"""What is narrower than this share of the square root of the area may be an osteophyte."""
_LEAST_SPUR = 0.017
"""Share of the area that goes with an osteophyte: without any, an opening takes less from a corner."""


def body_outline(mask: Rle) -> Points | None:
    """The outline of the body in a mask, (`SAMPLES`, 2) float64 xy px, evenly spaced; y down, it turns clockwise.

    Of several parts it is the largest. Processes (spinous, articular) in the outline are cut off by an opening with a
    disc of 0.85 of the largest one inside, after which the corners of the body are given back, and osteophytes by
    one with a smaller disc. Holes are ignored.

    Returns:
        None for an empty mask, one of a few pixels, and a line.
    """
    if rle.area(mask) < LEAST_AREA_PX2:
        return None
    outline = rle.rle_to_polygons(mask)[0].exterior
    (_, (width, depth), _) = cv2.minAreaRect(outline.astype(np.float32))
    area = _area_px2(outline)
    if area < LEAST_AREA_PX2 or min(width, depth) < LEAST_WIDTH_PX:
        return None
    if area < _SOLID * _area_px2(cv2.convexHull(outline.astype(np.float32)).reshape(-1, 2)):
        outline = _without_processes(outline, area)
    return even_samples(_without_spurs(outline, _area_px2(outline)), SAMPLES)


def _area_px2(outline: npt.NDArray[Any]) -> float:
    return float(cv2.contourArea(outline.astype(np.float32)))


def _largest_part(patch: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The largest 8-connected part of a patch (0 and 1), of equal ones the first in the order of their rows."""
    _, labels, facts, _ = cv2.connectedComponentsWithStats(patch, connectivity=8)
    largest: npt.NDArray[np.uint8] = (labels == 1 + int(facts[1:, cv2.CC_STAT_AREA].argmax())).astype(np.uint8)
    return largest


def opened(patch: npt.NDArray[np.uint8], radius_px: float) -> npt.NDArray[np.uint8]:
    """Morphological opening of a patch (0 and 1) with a disc: what a disc inside of the patch can reach.

    By distance transforms, so that the time does not depend on the radius. The patch needs a margin of one pixel.
    """
    core = cv2.distanceTransform(patch, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > radius_px
    if not core.any():
        return np.zeros_like(patch)
    away = cv2.distanceTransform(np.asarray(~core).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(away <= radius_px).view(np.uint8) & patch


def _without_processes(outline: Points, area: float) -> Points:
    """The body of a vertebra: its outline where it has no processes to lose, or nothing would remain."""
    patch, corner = _patch(outline)
    radius = _PROCESS_WIDTH * float(cv2.distanceTransform(patch, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max())
    core = opened(patch, radius)
    kept = int(np.count_nonzero(core))
    if kept < area / 4 or area - kept < _LEAST_PROCESS * area:
        return outline
    away = cv2.distanceTransform(1 - _largest_part(core), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return _exterior(patch.view(np.bool_) & (away <= _CORNER_REACH * radius), corner)


def _without_spurs(outline: Points, area: float) -> Points:
    """An outline without what an opening by a small disc takes from it, where that is more than a corner."""
    patch, corner = _patch(outline)
    rest = patch & (1 - opened(patch, _SPUR_WIDTH / 2 * float(np.sqrt(area))))
    _, labels, facts, _ = cv2.connectedComponentsWithStats(rest, connectivity=8)
    large = facts[:, cv2.CC_STAT_AREA] > _LEAST_SPUR * area
    large[0] = False
    kept = patch.view(np.bool_) & ~large[labels]
    # Of a shape so narrow that the disc reaches nowhere, all would be a spur.
    return _exterior(kept, corner) if large.any() and kept.any() else outline


def _patch(outline: Points) -> tuple[npt.NDArray[np.uint8], Points]:
    """What an outline encloses (0 and 1) with a margin of a pixel or more, and where its corner lies, xy px."""
    corner = np.floor(outline.min(axis=0)) - 1
    columns, rows = (np.ceil(outline.max(axis=0) - corner).astype(int) + 1).tolist()
    return rle.decode(rle.polygons_to_rle([outline - corner], (rows, columns))).view(np.uint8), corner


def _exterior(patch: npt.NDArray[np.bool_], corner: Points) -> Points:
    exterior: Points = rle.rle_to_polygons(rle.encode(patch))[0].exterior + corner
    return exterior


def normals(outline: Points) -> Points:
    """Outward unit normals (..., V, 2) of closed outlines that turn clockwise as seen on the film (y down)."""
    along = np.roll(outline, -1, axis=-2) - np.roll(outline, 1, axis=-2)
    length = np.hypot(along[..., 0], along[..., 1])[..., None] + 1e-12
    out: Points = np.stack([along[..., 1], -along[..., 0]], axis=-1) / length
    return out


def even_samples(outline: Points, count: int) -> Points:
    """A closed polygon (V, 2), V >= 3, at `count` equal steps along its length, clockwise as seen on the film."""
    following = np.roll(outline, -1, axis=0)
    if float((outline[:, 0] * following[:, 1] - outline[:, 1] * following[:, 0]).sum()) < 0:
        outline = outline[::-1]
    closed = np.concatenate([outline, outline[:1]])
    steps = np.diff(closed, axis=0)
    at = np.concatenate([[0.0], np.cumsum(np.hypot(steps[:, 0], steps[:, 1]))])
    wanted = np.arange(count) * (at[-1] / count)
    return np.stack([np.interp(wanted, at, closed[:, axis]) for axis in (0, 1)], axis=-1)


def disturb(outline: Points, count: int, *, sd_px: float, correlation_px: float, rng: np.random.Generator) -> Points:
    """Outlines that differ from one by smooth noise along its normals, (`count`, V, 2).

    The noise is Gaussian with the autocorrelation exp(-d^2 / (2 l^2)) at a distance d along the outline (the squared
    exponential: Rasmussen and Williams 2006, Gaussian Processes for Machine Learning, eq. 4.9), drawn on the circle by
    its spectrum, exp(-2 pi^2 l^2 f^2) at a frequency f.

    Args:
        outline: (V, 2) evenly spaced, clockwise as seen on the film.
        count: 0 or more.
        sd_px: Standard deviation of the noise at every point.
        correlation_px: l.
        rng: Source of the noise.
    """
    if count == 0:
        return np.zeros((0, *outline.shape))
    size = len(outline)
    step_px = float(np.linalg.norm(np.roll(outline, -1, axis=0) - outline, axis=1).mean())
    frequency = np.fft.rfftfreq(size, d=step_px)
    amplitude = np.exp(-((np.pi * correlation_px * frequency) ** 2))
    # Of white noise, a filter keeps the mean square of its amplitude over all frequencies, both signs.
    twice = np.where((np.arange(len(frequency)) == 0) | (2 * np.arange(len(frequency)) == size), 1, 2)
    amplitude /= np.sqrt((twice * amplitude**2).sum() / size)
    noise = np.fft.irfft(np.fft.rfft(rng.normal(size=(count, size)), axis=1) * amplitude, size, axis=1)
    moved: Points = outline + sd_px * noise[..., None] * normals(outline)
    return moved
