"""The outline of a vertebral body as a shape with few parameters, fitted to outlines seen.

A body that a ray does not pass exactly side on shows each endplate twice: its rim is an oval, and projects to half an
ellipse that bulges beyond the line between the mid-sagittal corners (the double contour). A line fitted to the
silhouette therefore lies too far out, by several pixels where the rays are oblique. The shape here has

- the four corners;
- half an ellipse on either endplate, its height the width of the body times the sine of the lateral tilt;
- a waist (a parabola) in the anterior and the posterior wall;
- rims that stand out at the four corners;

and is fitted by the linear least squares estimate with a prior (Rasmussen and Williams 2006, section 2.1): the outline
in polar coordinates, linearised around a typical body, in the frame of the corners found so far, again and again.

Unit of everything here is half a side of the body: corners lie at (+-1, +-1), x anterior and y superior. The priors
are wide against what they expect; of a tilt of 3 degrees and a body half as wide again as deep an ellipse is 0.05 high.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

from vertinst.postprocess.contours import Points, even_samples
from vertinst.postprocess.sides import rough_corners

__all__ = [
    "CORRELATION",
    "NOISE",
    "SQUARE",
    "BodyShape",
    "fit_corners",
    "lumbar_and_sacral",
    "shape_begins",
    "unseen_errors",
]

NOISE = 0.0147
"""SD by which outlines differ, as a share of the square root of a body's area: 1.5 px on films of 1024 px height."""
CORRELATION = 0.147
"""Length along the outline over which they differ together, likewise: 15 px."""

SQUARE = np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
"""Corners in their own frame, in the order of `CORNERS`."""

_RAYS = 128
_ANGLES = (np.arange(_RAYS) + 0.5) / _RAYS * 2 * np.pi - np.pi

_CORNER_SD = 0.2
# Bulge superior, inferior; waist anterior, posterior; rims in the order of CORNERS: means of a lumbar body and of a
# sacral one, and their SDs. Anterior walls are more hollow than posterior ones, and their rims stand out; S1 is less
# deep at its lower end, where it is as wide, so that its double contour is larger there.
_LUMBAR = np.array([0.05, 0.05, 0.10, 0.05, 0.04, 0.0, 0.0, 0.04])
_SACRAL = np.array([0.02, 0.10, 0.03, 0.02, 0.0, 0.0, 0.0, 0.0])
_SPREAD = np.array([0.07, 0.07, 0.05, 0.033, 0.033, 0.025, 0.025, 0.033])
_BULGES_AGREE = 0.8
"""Correlation of the bulges: both endplates have the same tilt, seen along slightly different rays."""
_RIM_HEIGHT = 0.14
"""How far a rim reaches along the wall until it is down to 1 / e."""
_ROUNDING = (0.10, 0.08)
"""Half of the length over which corners are blunt: of lumbar bodies, and of sacral ones, whose rims have grown on."""
_UNSMOOTH = 0.6
"""SD of what is left of a ray beside the smooth noise (steps of the raster, what the shape does not have), in SDs."""
_CLIP = 4.0
"""Deviations beyond so many SDs count as so many: an osteophyte, a stub of a process."""
_ROUNDS = 3
_FURTHEST = 0.3
"""A round moves no corner further, along either axis."""


class BodyShape(NamedTuple):
    """A typical body and how to find another's parameters.

    Attributes:
        radii: (R,) of the typical outline along the rays.
        slopes: (R, 16) change of the radii with the parameters, the corners' first.
        gain: (16, R) parameters from a deviation of the radii.
        sd: (R,) of the smooth noise along the rays.
        unseen: (8, 8) square root of the covariance that corners have because no outline tells the other parameters.
        rough: (4, 2) where straight lines through the typical sides meet.
    """

    radii: Points
    slopes: Points
    gain: Points
    sd: Points
    unseen: Points
    rough: Points


def fit_corners(local: Points, corners: Points, shape: BodyShape) -> Points:
    """Corners (B, 4, 2) of outlines.

    Args:
        local: (B, V, 2) outlines around the origin: anterior, superior.
        corners: (B, 4, 2) to begin with.
        shape: The prior.
    """
    if len(local) == 0:
        return np.zeros((0, 4, 2))
    for _ in range(_ROUNDS):
        off = _radii(_into(corners, local)) - shape.radii
        moved = _matched(off, shape)[:, :8].reshape(-1, 4, 2)
        corners = _out_of(corners, SQUARE + np.clip(moved, -_FURTHEST, _FURTHEST))
    return corners


def unseen_errors(corners: Points, shape: BodyShape, rng: np.random.Generator) -> Points:
    """Displacements (B, 4, 2) px of corners (B, 4, 2), drawn from what is left unknown on an outline without noise.

    An estimate with the gain G of y = A x + noise, x of the covariance P, errs by (I - G A) x - G noise (Rasmussen and
    Williams 2006, section 2.1). Outlines drawn again have the second part alone; this is the first.
    """
    moved = (rng.normal(size=(len(corners), 8)) @ shape.unseen).reshape(-1, 4, 2)
    return _out_of(corners, SQUARE + moved) - corners


def shape_begins(rough: Points, shape: BodyShape) -> Points:
    """Corners (B, 4, 2) of the typical body where straight lines through its sides meet at `rough`."""
    return _out_of(rough, np.broadcast_to(_into(shape.rough[None], SQUARE[None]), rough.shape))


def _matched(off: Points, shape: BodyShape) -> Points:
    """Parameters (B, 16) of deviations (B, R), large ones clipped against what the parameters explain."""
    parameters = off @ shape.gain.T
    for _ in range(2):
        explained = parameters @ shape.slopes.T
        parameters = (explained + np.clip(off - explained, -_CLIP * shape.sd, _CLIP * shape.sd)) @ shape.gain.T
    return np.asarray(parameters, dtype=np.float64)


def _bilinear(corners: Points) -> Points:
    """Coefficients (B, 4, 2) of 1, x, y and xy of the map that takes the square to quadrilaterals."""
    terms = np.stack([np.ones(4), SQUARE[:, 0], SQUARE[:, 1], SQUARE[:, 0] * SQUARE[:, 1]])
    return np.asarray(terms @ corners / 4, dtype=np.float64)


def _out_of(corners: Points, places: Points) -> Points:
    """Points (B, V, 2) of the square's frame in the frame of the corners (B, 4, 2)."""
    terms = _bilinear(corners)
    product = places[..., :1] * places[..., 1:]
    out: Points = terms[:, :1] + places @ terms[:, 1:3] + product * terms[:, 3:]
    return out


def _into(corners: Points, points: Points) -> Points:
    """The reverse of `_out_of`, by fixed points: quadrilaterals are nearly parallelograms."""
    terms = _bilinear(corners)
    (a, b), (c, d) = terms[:, 1:3].transpose(1, 2, 0)
    area = a * d - b * c
    inverse = np.array([[d, -b], [-c, a]]).transpose(2, 0, 1) / np.where(np.abs(area) < 1e-6, 1e-6, area)[:, None, None]
    # Each coordinate by itself: numpy is slow where the last axis is short.
    straight_x, straight_y = np.ascontiguousarray(((points - terms[:, :1]) @ inverse).transpose(2, 0, 1))
    bent_x, bent_y = (terms[:, 3:] @ inverse).transpose(2, 0, 1)
    x, y = straight_x, straight_y
    for _ in range(3):
        product = np.minimum(np.maximum(x * y, -2), 2)
        x, y = straight_x - product * bent_x, straight_y - product * bent_y
    return np.stack([x, y], axis=-1)


def _radii(places: Points) -> Points:
    """Radii (B, R) of outlines (B, V, 2) along the rays from the origin."""
    x, y = np.ascontiguousarray(places.transpose(2, 0, 1))
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    rows = np.arange(len(places))[:, None]
    order = np.argsort(angle, axis=1, kind="stable")
    angle, radius = angle[rows, order], radius[rows, order]
    # All outlines at once: each has its own stretch of the angles' axis, with its ends repeated.
    stretch = rows * 4 * np.pi
    known = np.concatenate([angle[:, -1:] - 2 * np.pi, angle, angle[:, :1] + 2 * np.pi], axis=1) + stretch
    values = np.concatenate([radius[:, -1:], radius, radius[:, :1]], axis=1)
    radii: Points = np.interp((_ANGLES + stretch).ravel(), known.ravel(), values.ravel()).reshape(len(places), _RAYS)
    return radii


@cache
def lumbar_and_sacral() -> tuple[BodyShape, BodyShape]:
    """The shapes of lumbar and of sacral bodies."""
    return _shape(_LUMBAR, _ROUNDING[0]), _shape(_SACRAL, _ROUNDING[1])


def _shape(mean: Points, rounding: float) -> BodyShape:
    """The body with typical parameters, linearised."""
    typical = np.concatenate([np.zeros(8), mean])
    outline = _outline(typical, rounding)
    radii = _radii(outline[None])[0]
    step = 0.03
    changes = [
        _radii(np.stack([_outline(typical + by, rounding), _outline(typical - by, rounding)]))
        for by in step * np.eye(len(typical))
    ]
    slopes = np.stack([(up - down) / (2 * step) for up, down in changes], axis=1)
    noise, sd = _noise(radii)
    weight = slopes.T @ np.linalg.inv(noise)
    gain = np.linalg.solve(weight @ slopes + np.linalg.inv(_prior()), weight)
    missed = np.eye(len(typical)) - gain @ slopes
    unseen = (missed @ _prior() @ missed.T)[:8, :8]
    values, vectors = np.linalg.eigh(unseen)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return BodyShape(radii, slopes, gain, sd, root, rough_corners(outline[None])[0])


def _prior() -> Points:
    """Covariance (16, 16) of the parameters."""
    sd = np.concatenate([np.full(8, _CORNER_SD), _SPREAD])
    covariance = np.diag(sd**2)
    covariance[8, 9] = covariance[9, 8] = _BULGES_AGREE * sd[8] * sd[9]
    return covariance


def _noise(radii: Points) -> tuple[Points, Points]:
    """Covariance (R, R) and SDs (R,) of radii where an outline has noise along its normals (see `disturb`)."""
    places = radii[:, None] * np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=-1)
    along = np.roll(places, -1, axis=0) - np.roll(places, 1, axis=0)
    # A ray meets the outline at an angle: it sees noise along the normal prolonged.
    cosine = np.abs(places[:, 0] * along[:, 1] - places[:, 1] * along[:, 0]) / (radii * np.linalg.norm(along, axis=1))
    sd = 2 * NOISE / np.maximum(cosine, 0.4)
    steps = np.linalg.norm(np.roll(places, -1, axis=0) - places, axis=1)
    at = np.cumsum(steps) - steps
    apart = np.abs(at[:, None] - at)
    apart = np.minimum(apart, steps.sum() - apart)
    shared = np.exp(-(apart**2) / (2 * (2 * CORRELATION) ** 2)) + _UNSMOOTH**2 * np.eye(_RAYS)
    return shared * sd[:, None] * sd, sd


def _outline(parameters: Points, rounding: float) -> Points:
    """The outline (V, 2) of a body, evenly spaced, its corners blunt."""
    corners = SQUARE + parameters[:8].reshape(4, 2)
    bulges, waists, rims = parameters[8:10], parameters[10:12], parameters[12:]
    # From 1 to -1 along a side, dense at its ends.
    place = np.sin(np.linspace(1, -1, 81) * np.pi / 2)[:-1]
    ellipse = np.sqrt(1 - place**2)
    ends = np.roll(corners, -1, axis=0)
    sides = (corners[:, None] * (1 + place[:, None]) + ends[:, None] * (1 - place[:, None])) / 2
    sides[0, :, 1] += bulges[0] * ellipse
    sides[2, :, 1] -= bulges[1] * ellipse
    sides[1, :, 0] += _hollow(place, waists[1], rims[1], rims[2])
    sides[3, :, 0] -= _hollow(place, waists[0], rims[3], rims[0])
    # The map to even samples turns clockwise where y points down: here it points up.
    even = even_samples(sides.reshape(-1, 2) * (1, -1), 640) * (1, -1)
    reach = round(rounding * 80)
    shifted = [np.roll(even, step, axis=0) for step in range(-reach, reach + 1)]
    return np.asarray(np.mean(shifted, axis=0), dtype=np.float64)


def _hollow(place: Points, waist: float, first_rim: float, second_rim: float) -> Points:
    """How far a wall lies inside of the line between its corners, at places from 1 to -1."""
    first = first_rim * (1 - np.exp(-(1 - place) / _RIM_HEIGHT)) * (1 + place) / 2
    second = second_rim * (1 - np.exp(-(1 + place) / _RIM_HEIGHT)) * (1 - place) / 2
    hollow: Points = waist * (1 - place**2) + first + second
    return hollow
