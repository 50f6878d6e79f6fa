"""Shadows of implants for synthetic metal: how thick each is along the rays, on the pixels it covers.

All places and lengths are px of the film, x to the right and y down; the centre of the first pixel is (0, 0).
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Shadow", "cage", "cement", "head", "plate", "rod", "screw", "wire"]

Points = NDArray[np.float64]
"""(K, 2) or (2,) xy px."""

Patch = NDArray[np.float64]


class Shadow(NamedTuple):
    """What one piece casts on the film.

    Attributes:
        top: Row of the patch's first pixel.
        left: Column of the patch's first pixel.
        thickness: (h, w), 0 where there is nothing, about 1 where a shaft is thickest.
        outline: (h, w) bool, what an annotator would draw: windows of a cage belong to it.
    """

    top: int
    left: int
    thickness: NDArray[np.float32]
    outline: NDArray[np.bool_]


def screw(size: tuple[int, int], tip: Points, end: Points, radius: float, pitch: float) -> Shadow | None:
    """The threaded shaft of a screw.

    Args:
        size: (H, W) of the film.
        tip: Where it ends in the bone; the thread narrows towards it.
        end: Where the head begins.
        radius: Of the thread.
        pitch: Distance of its turns.

    Returns:
        None if it lies outside of the film, as all shapes here do.
    """
    place = _Place.around(size, np.stack([tip, end]), radius)
    if place is None:
        return None
    along, across, length = place.along(tip, end)
    # A helix seen from the side: its two edges are half a turn apart, and its turns cross the shaft aslant.
    turn = along / pitch + 0.25 * np.clip(across / radius, -1, 1)
    ridge = np.abs(2 * (turn % 1) - 1)
    narrow = np.clip(0.3 + along / (2.2 * radius), 0, 1)
    local = radius * narrow * (0.74 + 0.26 * ridge)
    inside = (along >= 0) & (along <= length)
    return place.shadow(np.where(inside, _chord(across, local) / radius, 0.0))


def head(size: tuple[int, int], start: Points, end: Points, half_width: float) -> Shadow | None:
    """A tulip head: a rounded block from `start`, where the shaft ends, to `end`, with a narrower plug on top."""
    place = _Place.around(size, np.stack([start, end]), half_width)
    if place is None:
        return None
    along, across, length = place.along(start, end)
    share = np.clip(along / length, 0, 1)
    flare = half_width * (0.72 + 0.28 * np.minimum(1, 3 * share)) * np.where(share > 0.82, 0.62, 1.0)
    edge = np.minimum(np.minimum(along, length - along), flare - np.abs(across))
    # The channel for the rod lies across; its walls are thinner than the bottom.
    return place.shadow(1.35 * _soft(edge) * np.where(share > 0.4, 0.85, 1.0), edge > 0)


def rod(size: tuple[int, int], path: Points, radius: float) -> Shadow | None:
    """A round bar along a path (K, 2) with rounded ends."""
    place = _Place.around(size, path, radius)
    return None if place is None else place.shadow(_chord(place.distance(path), radius) / radius)


def wire(size: tuple[int, int], path: Points, radius: float) -> Shadow | None:
    """A wire or lead: like `rod`, but kept visible where it is thinner than a pixel."""
    place = _Place.around(size, path, radius + 1)
    return None if place is None else place.shadow(0.8 * _soft(radius + 0.35 - place.distance(path)))


def plate(size: tuple[int, int], path: Points, half_width: float, holes: Points) -> Shadow | None:
    """A flat bar along a path (K, 2) with round holes at (M, 2), each with the ring of a screw's head in it."""
    place = _Place.around(size, path, half_width)
    if place is None:
        return None
    edge = half_width - place.distance(path)
    bar = _soft(edge)
    for hole in holes:
        far = np.hypot(place.x - hole[0], place.y - hole[1]) / half_width
        bar = bar * (1 - 0.7 * _soft(half_width * (0.55 - far))) + 0.5 * _soft(half_width * (0.12 - np.abs(far - 0.5)))
    return place.shadow(0.75 * bar, edge > 0)


def cage(
    size: tuple[int, int],
    centre: Points,
    ahead: Points,
    halves: tuple[float, float, float],
    *,
    plastic: bool,
    window: float,
) -> Shadow | None:
    """A spacer between two vertebral bodies: a wedge-shaped, toothed block.

    Args:
        size: (H, W) of the film.
        centre: Of the block.
        ahead: Unit vector along its length.
        halves: Half its length, and half its height at the back and at the front.
        plastic: Of PEEK, which hardly shows, with three metal markers; else of metal with a window.
        window: Share of its thickness that is left in the window.
    """
    length, back, front = halves
    corners = centre + np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]]) * max(length, back, front) * 1.2
    place = _Place.around(size, corners, 0)
    if place is None:
        return None
    p = ((place.x - centre[0]) * ahead[0] + (place.y - centre[1]) * ahead[1]) / length
    q = (place.x - centre[0]) * -ahead[1] + (place.y - centre[1]) * ahead[0]
    teeth = 1 - 0.1 * np.abs(2 * ((3.5 * (p + 1)) % 1) - 1)
    half = ((front + back) / 2 + (front - back) / 2 * p) * teeth
    # A bullet nose: lower towards the front end.
    half = half * np.sqrt(np.clip(1 - np.clip((p - 0.62) / 0.46, 0, 1) ** 2, 0.05, 1))
    edge = np.minimum(length * (1 - np.abs(p)), half - np.abs(q))
    body = _soft(edge)
    if plastic:
        pins = np.minimum(length * 0.05 - np.abs(np.abs(p) - 0.82) * length, 0.8 * half - np.abs(q))
        dot = length * 0.07 - np.hypot(p * length, q)
        thickness = 0.13 * body + 1.4 * _soft(np.maximum(pins, dot) + 0.3) * body
    else:
        hollow = np.minimum(0.55 - np.abs(p), 0.55 - np.abs(q) / np.maximum(half, 1e-6)) * min(length, back)
        thickness = 0.8 * body * (1 - (1 - window) * _soft(hollow))
    return place.shadow(thickness, edge > 0)


def cement(size: tuple[int, int], centre: Points, radii: NDArray[np.float64]) -> Shadow | None:
    """A cloud of bone cement.

    Args:
        size: (H, W) of the film.
        centre: Its middle.
        radii: (K,) its extent in K directions evenly spread, from the x axis on.
    """
    corners = centre + np.array([[1, 1], [-1, -1]]) * radii.max()
    place = _Place.around(size, corners, 1)
    if place is None:
        return None
    dx, dy = place.x - centre[0], place.y - centre[1]
    angle = np.arctan2(dy, dx) % (2 * np.pi)
    around = np.linspace(0, 2 * np.pi, len(radii) + 1)
    reach = np.interp(angle, around, np.append(radii, radii[0]))
    share = np.hypot(dx, dy) / reach
    lumps = 1 + 0.25 * np.sin(7 * share + 3 * angle) * np.sin(5 * angle)
    return place.shadow(0.7 * lumps * np.sqrt(np.clip(1 - share**2, 0, None)), share < 1)


class _Place(NamedTuple):
    """A rectangle of pixels, with the coordinates of their centres."""

    top: int
    left: int
    x: Patch
    y: Patch

    @classmethod
    def around(cls, size: tuple[int, int], points: Points, margin: float) -> _Place | None:
        """The part of the film that points (K, 2) span, widened by `margin` and a pixel; None if there is none."""
        low = np.floor(points.min(axis=0) - margin - 1).astype(int)
        high = np.ceil(points.max(axis=0) + margin + 2).astype(int)
        left, top = max(low[0], 0), max(low[1], 0)
        right, bottom = min(high[0], size[1]), min(high[1], size[0])
        if right <= left or bottom <= top:
            return None
        y, x = np.mgrid[top:bottom, left:right].astype(np.float64)
        return cls(int(top), int(left), x, y)

    def along(self, start: Points, end: Points) -> tuple[Patch, Patch, float]:
        """Coordinates along and across the way from `start` to `end`, and its length."""
        length = max(float(np.hypot(*(end - start))), 1e-6)
        ahead = (end - start) / length
        dx, dy = self.x - start[0], self.y - start[1]
        return dx * ahead[0] + dy * ahead[1], dy * ahead[0] - dx * ahead[1], length

    def distance(self, path: Points) -> Patch:
        """From each pixel to the nearest point of a path (K, 2)."""
        nearest = np.full(self.x.shape, np.inf)
        for start, end in pairwise(path):
            along, across, length = self.along(start, end)
            beyond = along - np.clip(along, 0, length)
            np.minimum(nearest, beyond**2 + across**2, out=nearest)
        root: Patch = np.sqrt(nearest)
        return root

    def shadow(self, thickness: Patch, outline: NDArray[np.bool_] | None = None) -> Shadow | None:
        covered = thickness > 0.02 if outline is None else outline
        return Shadow(self.top, self.left, thickness.astype(np.float32), covered) if covered.any() else None


def _chord(distance: Patch, radius: Patch | float) -> Patch:
    """How far a ray goes through a round bar, in half chords: sqrt(r^2 - d^2)."""
    chord: Patch = np.sqrt(np.maximum(np.square(radius) - np.square(distance), 0))
    return chord


def _soft(edge: Patch) -> Patch:
    """0 outside, 1 inside, rising over the pixel of the edge; `edge` is the distance to it, positive inside."""
    covered: Patch = np.clip(edge + 0.5, 0, 1)
    return covered
