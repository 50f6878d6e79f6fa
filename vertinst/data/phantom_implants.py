"""Metal of a phantom: pedicle screws, rods and cages, drawn and given as solids in the patient's space."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from vertinst.data.phantom_anatomy import Anatomy, Vertebra
from vertinst.data.phantom_solids import Points, Solid, slice_positions, smooth_outline, tube_slices
from vertinst.data.phantom_style import PhantomStyle

TITANIUM_PER_MM = 0.22
"""Attenuation in excess of soft tissue at about 70 keV."""
_FIVE_LUMBAR = ("S1", "L5", "L4", "L3", "L2", "L1")
_THREAD_PITCH_MM = 2.8


@dataclass(frozen=True)
class Implant:
    """One metal part.

    Attributes:
        category: `cage`, `screw` or `rod`.
        levels: The vertebrae it touches, from below.
        side: `left`, `right` or `middle`; the left is the side towards the detector.
        solids: Its shape.
    """

    category: str
    levels: tuple[str, ...]
    side: str
    solids: tuple[Solid, ...]


@dataclass(frozen=True)
class Construct:
    """What was drawn to be implanted: levels with a pair of screws and discs (named by the level above) with a cage."""

    screwed: tuple[str, ...] = ()
    caged: tuple[str, ...] = ()


def draw_construct(rng: Generator, style: PhantomStyle, levels_from_below: tuple[str, ...] = _FIVE_LUMBAR) -> Construct:
    """Draw whether and where a patient carries metal, without shaping it.

    Args:
        rng: Drawn from.
        style: Prevalences.
        levels_from_below: Where screws may sit, S1 first; five or more.
    """
    if rng.random() >= style.metal_share:
        return Construct()
    start = int(rng.choice(4, p=[0.42, 0.32, 0.18, 0.08]))
    count = int(rng.choice([2, 3, 4, 5], p=[0.42, 0.32, 0.17, 0.09]))
    levels = levels_from_below[start : start + count]
    if len(levels) < 2:
        levels = levels_from_below[start - 1 : start + 1]
    if rng.random() < style.cage_only_share:
        return Construct(caged=levels[1:3])
    caged = tuple(level for level in levels[1:] if rng.random() < style.cage_share)
    return Construct(screwed=levels, caged=caged)


def shape_implants(rng: Generator, anatomy: Anatomy, construct: Construct) -> list[Implant]:
    """Shape the metal of a construct: cages, then screws, then rods."""
    metal = float(TITANIUM_PER_MM * rng.uniform(0.75, 1.6))
    parts = [_cage(rng, anatomy, level, metal) for level in construct.caged]
    heads: dict[str, list[Points]] = {"left": [], "right": []}
    radius, lean = rng.uniform(2.7, 3.5), rng.normal(0, 2.5)
    for level in construct.screwed:
        for side, sign in (("left", 1.0), ("right", -1.0)):
            screw, head = _screw(rng, anatomy.vertebrae[level], anatomy.scale, sign, radius, lean, metal)
            heads[side].append(head)
            parts.append(Implant("screw", (level,), side, screw))
    if construct.screwed:
        parts += [_rod(side, heads[side], construct.screwed, metal) for side in ("left", "right")]
    return parts


def _screw(
    rng: Generator, vertebra: Vertebra, scale: float, sign: float, radius: float, lean: float, metal: float
) -> tuple[tuple[Solid, ...], Points]:
    """A pedicle screw with thread, and its head; also the point where the rod lies in the head."""
    shape = vertebra.shape
    sacral = vertebra.level == "S1"
    pedicle_z = sign * (17 * scale if sacral else 0.31 * shape.width_mm)
    pedicle_y = -(0.16 if sacral else 0.22) * shape.height_mm
    back = -shape.depth_superior_mm / 2
    angle = np.radians(lean + rng.normal(0, 3.0) + (6 if sacral else 0))
    ahead = np.array([np.cos(angle), np.sin(angle), -sign * np.tan(np.radians(rng.uniform(8, 18)))])
    entry = np.array([back - 10 * scale, pedicle_y, pedicle_z])
    length = shape.depth_superior_mm * rng.uniform(0.62, 0.85) + 10 * scale
    along = np.arange(0.0, length, _THREAD_PITCH_MM / 6)
    thread = 0.42 * np.abs(2 * ((along / _THREAD_PITCH_MM) % 1) - 1) - 0.21
    tip = np.clip((length - along) / 5, 0.35, 1)
    shaft = tube_slices(entry + along[:, None] * ahead, (radius + thread) * tip, 7)
    head_path = entry + np.linspace(-12.5, 1.0, 4)[:, None] * ahead
    head = _block_slices(head_path, 6.0 * scale**0.5, 11.0, 5)
    place = vertebra.frame.place
    solids = (
        Solid(place(shaft), metal * 2 * radius / 7),
        Solid(place(head), metal * 11.0 / 5 * 0.75),
    )
    return solids, place(entry - 7.5 * ahead)


def _block_slices(path: Points, half_mm: float, lateral_mm: float, count: int) -> Points:
    """Slices of a straight block with rounded corners around a path of four points, narrower at its ends."""
    normal = np.array([-(path[-1] - path[0])[1], (path[-1] - path[0])[0]])
    normal = normal / np.linalg.norm(normal) * half_mm
    taper = np.array([0.86, 1.0, 1.0, 0.8])[:, None]
    normal = np.append(normal, 0.0)
    outline = smooth_outline(np.concatenate([path + normal * taper, (path - normal * taper)[::-1]]))
    return _extruded(outline, lateral_mm, count)


def _rod(side: str, heads: list[Points], levels: tuple[str, ...], metal: float) -> Implant:
    """A rod through the heads of one side, bent smoothly, standing out a little at both ends."""
    points = np.array(heads)
    knots = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    degree = min(len(points) - 1, 3)
    along = np.linspace(knots[0] - 8, knots[-1] + 8, 26)
    powers = np.vander(knots, degree + 1)
    path: Points = np.vander(along, degree + 1) @ np.linalg.lstsq(powers, points, rcond=None)[0]
    radius = 2.75
    solid = Solid(tube_slices(path, np.full(len(path), radius), 7), metal * 1.25 * 2 * radius / 7)
    return Implant("rod", levels, side, (solid,))


def _cage(rng: Generator, anatomy: Anatomy, upper: str, metal: float) -> Implant:
    """A hollow, toothed box between two endplates, named by the vertebra above."""
    lower = anatomy.mobile_levels[anatomy.mobile_levels.index(upper) - 1]
    top = anatomy.vertebrae[upper].frame.place(anatomy.vertebrae[upper].shape.corners_mm())
    bottom = anatomy.vertebrae[lower].frame.place(anatomy.vertebrae[lower].shape.corners_mm())
    start, length = rng.uniform(0.12, 0.3), rng.uniform(0.55, 0.68)
    along = np.linspace(start, start + length, 25)[:, None]
    roof = top[2] + along * (top[3] - top[2])
    floor = bottom[1] + along * (bottom[0] - bottom[1])
    teeth = 0.5 * np.abs(2 * ((np.arange(25.0) / 3) % 1) - 1)[:, None]
    down = (floor - roof) / np.linalg.norm(floor - roof, axis=1, keepdims=True)
    roof, floor = roof + down * (teeth - 0.6), floor - down * (teeth - 0.6)
    width, count = rng.uniform(10, 26), 6
    hollow = rng.uniform(0.45, 0.7)
    shift = np.array([0, 0, rng.normal(0, 4)])
    outer = _extruded(np.concatenate([roof, floor[::-1]]) + shift, width, count)
    window_roof, window_floor = roof[5:-5] * 0.78 + floor[5:-5] * 0.22, roof[5:-5] * 0.22 + floor[5:-5] * 0.78
    window = _extruded(np.concatenate([window_roof, window_floor[::-1]]) + shift, width, count)
    solids = (Solid(outer, metal * 0.55 * width / count), Solid(window, -hollow * metal * 0.55 * width / count))
    return Implant("cage", (lower, upper), "middle", solids)


def _extruded(outline: Points, width_mm: float, count: int) -> Points:
    """Slices of an outline (V, 3) drawn out along the lateral axis."""
    slices = np.repeat(outline[None], count, axis=0)
    slices[..., 2] += (slice_positions(count) * width_mm / 2)[:, None]
    return slices
