"""Bones of a phantom as solids: bodies with cortex, posterior elements, sacrum, ribs, pelvis.

Attenuation is given in excess of the soft tissue that the bone displaces, per mm, at an effective energy of about
70 keV (order of magnitude from the NIST tables of Hubbell and Seltzer).
"""

from collections.abc import Callable

import numpy as np
from numpy.random import Generator

from vertinst.data.phantom_anatomy import Anatomy, Vertebra
from vertinst.data.phantom_cement import cement_slices
from vertinst.data.phantom_front import coronal_slices, depth_mm, recut
from vertinst.data.phantom_osteophytes import osteophyte_slices
from vertinst.data.phantom_solids import (
    Points,
    Solid,
    body_slices,
    plate_slices,
    smooth_outline,
    tube_slices,
)

CORTICAL_PER_MM = 0.042
TRABECULAR_PER_MM = 0.0085
BODY_SLICES = 26
_SUNK_MM = 13.0
"""How much higher the iliac wings stand around a sacralised L5."""

_ILIAC_OUTLINE_MM = np.array(
    [
        *[(-98, 20), (-92, -6), (-72, -28), (-44, -41), (-15, -45), (15, -39), (42, -21), (60, 6), (63, 24)],
        *[(50, 44), (38, 68), (38, 105), (-2, 108), (-8, 66), (-24, 46), (-47, 54), (-76, 66), (-94, 48)],
    ],
    dtype=np.float64,
)


def body_solids(vertebra: Vertebra, anatomy: Anatomy) -> list[Solid]:
    """The body: a dense shell, thicker at the endplates, around trabecular bone, and its osteophytes.

    First of the list: the outer shape. What is not hollow (of positive integral) makes the outline.
    """
    wall, endplate = 0.6 * anatomy.cortex, 1.1 * anatomy.cortex
    cut, thickness_mm = _cut(vertebra, anatomy)
    outer = cut(vertebra.shape, BODY_SLICES)
    inner = cut(vertebra.shape, BODY_SLICES, wall_mm=wall, endplate_mm=endplate)
    shell = _shell(vertebra, anatomy, outer, inner, thickness_mm)
    return _facing_rays(shell, anatomy, vertebra) + as_seen(osteophyte_solids(vertebra, anatomy), anatomy)


def as_seen(solids: list[Solid], anatomy: Anatomy, step_mm: float = 1.6) -> list[Solid]:
    """Solids of sagittal slices, cut as the patient's films need them."""
    return solids if anatomy.variant.view == "lateral" else [recut(solid, step_mm) for solid in solids]


def _cut(vertebra: Vertebra, anatomy: Anatomy) -> tuple[Callable[..., Points], float]:
    """How a body is cut into slices, and how much of a ray lies in one, mm."""
    if _is_cut_in_front(vertebra, anatomy):
        # The body's own coronal planes are tilted against the rays.
        oblique = float(np.cos(np.radians(vertebra.tilt_deg)))
        return coronal_slices, depth_mm(vertebra.shape) / BODY_SLICES / oblique
    return body_slices, vertebra.shape.width_mm / BODY_SLICES


def _is_cut_in_front(vertebra: Vertebra, anatomy: Anatomy) -> bool:
    """Whether a body is cut along its own coronal planes. Those of the sacrum lie too far from the film's."""
    return anatomy.variant.view == "ap" and not vertebra.level.startswith("S")


def _facing_rays(solids: list[Solid], anatomy: Anatomy, vertebra: Vertebra) -> list[Solid]:
    return solids if _is_cut_in_front(vertebra, anatomy) else as_seen(solids, anatomy)


def osteophyte_solids(vertebra: Vertebra, anatomy: Anatomy) -> list[Solid]:
    """The spurs at a body's corners, less than half as dense as cortex."""
    solids = []
    for spur in vertebra.osteophytes:
        slices = osteophyte_slices(vertebra.shape, spur)
        thickness_mm = spur.reach * vertebra.shape.width_mm / len(slices)
        density = 0.45 * CORTICAL_PER_MM * anatomy.bone_density
        solids.append(Solid(vertebra.frame.place(slices), density * thickness_mm))
    return solids


def cement_solids(anatomy: Anatomy) -> list[Solid]:
    """All cement in the patient: as dense as metal nearly, and no instance of its own."""
    return [
        Solid(vertebra.frame.place(solid.slices), solid.integral)
        for vertebra in anatomy.vertebrae.values()
        if vertebra.cement is not None
        for solid in cement_slices(vertebra.shape, vertebra.cement)
    ]


def surface_solids(vertebra: Vertebra, anatomy: Anatomy) -> list[Solid]:
    """What makes the outline of a body in annotations: its outer shape, of integral 1, and its osteophytes."""
    cut, _ = _cut(vertebra, anatomy)
    outer = [Solid(vertebra.frame.place(cut(vertebra.shape, BODY_SLICES)), 1.0)]
    return _facing_rays(outer, anatomy, vertebra) + as_seen(osteophyte_solids(vertebra, anatomy), anatomy)


def _shell(vertebra: Vertebra, anatomy: Anatomy, outer: Points, inner: Points, thickness_mm: float) -> list[Solid]:
    dense = CORTICAL_PER_MM * anatomy.bone_density
    loose = TRABECULAR_PER_MM * anatomy.bone_density
    place = vertebra.frame.place
    return [Solid(place(outer), dense * thickness_mm), Solid(place(inner), (loose - dense) * thickness_mm)]


def _bone_tube(
    rng: Generator,
    path: list[tuple[float, float, float]],
    radius: float,
    *,
    flat: float = 1.0,
    wall: float = 1.1,
) -> list[Solid]:
    """A round-ended, slightly irregular tube of bone with cortex, of unit density."""
    bent = np.array(path, dtype=np.float64) + rng.normal(0, 0.7, (len(path), 3))
    points = _densify(bent)
    radii = radius * _densify(rng.uniform(0.8, 1.2, (len(path), 1)))[:, 0]
    count = max(6, round(1.4 * radius))
    outer = tube_slices(points, radii, count, flatness=flat)
    inner = tube_slices(points, radii - wall, count, flatness=(radius * flat - wall) / (radius - wall))
    return [
        Solid(outer, CORTICAL_PER_MM * 2 * radius * flat / count),
        Solid(inner, (TRABECULAR_PER_MM - CORTICAL_PER_MM) * 2 * (radius * flat - wall) / count),
    ]


def _densify(path: Points) -> Points:
    """Round the corners of an open path by Chaikin's rule, ends kept."""
    for _ in range(2):
        cut = np.stack([0.75 * path[:-1] + 0.25 * path[1:], 0.25 * path[:-1] + 0.75 * path[1:]], axis=1)
        cut = cut.reshape(-1, path.shape[1])
        path = np.concatenate([path[:1], cut[1:-1], path[-1:]])
    return path


def _bone_plate(outline: Points, middle_z: Points, half_mm: float, wall: float, count: int = 7) -> list[Solid]:
    """A plate of bone with cortex, of unit density; the inside is the outline drawn in by the wall."""
    centre = outline.mean(axis=0)
    reach = np.linalg.norm(outline - centre, axis=1, keepdims=True)
    inner = centre + (outline - centre) * (1 - 1.6 * wall / reach)
    return [
        Solid(plate_slices(outline, middle_z, half_mm, count), CORTICAL_PER_MM * 2 * half_mm / count),
        Solid(
            plate_slices(inner, middle_z, half_mm - wall, count),
            (TRABECULAR_PER_MM - CORTICAL_PER_MM) * 2 * (half_mm - wall) / count,
        ),
    ]


def _placed(solids: list[Solid], vertebra: Vertebra, density: float, scale: float) -> list[Solid]:
    return [Solid(vertebra.frame.place(s.slices * scale), s.integral * density * scale) for s in solids]


def posterior_solids(vertebra: Vertebra, anatomy: Anatomy, rng: Generator) -> list[Solid]:
    """Pedicles, articular, transverse and spinous processes and laminae of a lumbar or thoracic vertebra."""
    shape = vertebra.shape
    back = -shape.depth_superior_mm / 2 / anatomy.scale
    height = shape.height_mm / anatomy.scale
    thoracic = vertebra.level.startswith("T") and vertebra.level != "T12"
    parts: list[Solid] = []
    for side in (-1.0, 1.0):
        parts += _one_side(rng, back, height, side, 0.31 * shape.width_mm / anatomy.scale)
    parts += _spinous_process(rng, back, height, droop=11.0 if thoracic else 0.0)
    if anatomy.variant.sacralised and vertebra.level == "L5":
        parts += _fused_wings(rng, back, height)
    return _placed(parts, vertebra, anatomy.bone_density, anatomy.scale)


def _fused_wings(rng: Generator, back: float, height: float) -> list[Solid]:
    """Broad transverse processes of a sacralised L5 that run into the sacral alae."""
    parts: list[Solid] = []
    for side in (-1.0, 1.0):
        path = [(back + 4, -0.1 * height, side * 25), (back - 2, 0.25 * height, side * 34), (back, height, side * 40)]
        parts += _bone_tube(rng, path, 9.5, flat=1.1, wall=0.5)
    return parts


def _one_side(rng: Generator, back: float, height: float, side: float, apart: float) -> list[Solid]:
    """Pedicle, articular processes, pars, lamina and transverse process of one side."""
    z, top = side * apart, -0.22 * height
    joint, wide = side * (apart + 3), side * (apart + 16)
    pedicle = [(back - 4, top, z), (back - 8, top - 0.5, z), (back - 13, top + 1, z)]
    upper = [(back - 12, top + 6, joint), (back - 14, top - 5, joint), (back - 12, top - 14, joint)]
    pars = [(back - 13, top, z), (back - 17, 4, z), (back - 20, 0.55 * height, z), (back - 20, 0.86 * height, z)]
    lamina = [(back - 16, 0.0, z), (back - 23, 6, 0.6 * z), (back - 28, 11, 0.15 * z)]
    transverse = [(back - 12, top + 2, wide - side * 4), (back - 17, top + 1, wide + side * 4)]
    return [
        *_bone_tube(rng, pedicle, 6.3, flat=0.7, wall=2.1),
        *_bone_tube(rng, upper, 4.6, flat=1.3, wall=1.4),
        *_bone_tube(rng, pars, 5.2, flat=1.2, wall=1.5),
        *_bone_tube(rng, lamina, 7.5, flat=0.7, wall=1.6),
        *_bone_tube(rng, transverse, 4.4, flat=2.6, wall=0.9),
        *_lumps(rng, [(back - 14, top - 6, z), (back - 17, 3, z), (back - 20, 0.7 * height, z)]),
    ]


def _lumps(rng: Generator, around: list[tuple[float, float, float]]) -> list[Solid]:
    """Small dense irregularities, as worn joints have them."""
    parts: list[Solid] = []
    for place in np.array(around):
        start = place + rng.normal(0, 2.8, 3)
        path = start + np.array([[0.0, 0, 0], [1, 1, 0]]) * rng.normal(0, 3.5, (1, 3))
        radius = np.full(2, rng.uniform(2.2, 4.6))
        parts.append(Solid(tube_slices(path, radius, 4), 0.5 * CORTICAL_PER_MM * 2 * radius[0] / 4))
    return parts


def _spinous_process(rng: Generator, back: float, height: float, droop: float) -> list[Solid]:
    outline = np.array(
        [
            *[(back - 23, 1), (back - 34, 2 + droop * 0.5), (back - 50, 4 + droop), (back - 58, 8 + droop)],
            *[
                (back - 59, 0.75 * height + droop),
                (back - 50, 0.86 * height + droop),
                (back - 35, 0.7 * height + droop * 0.5),
            ],
            *[(back - 25, 0.55 * height)],
        ]
    )
    outline = smooth_outline(outline + rng.normal(0, 1.0, outline.shape))
    return _bone_plate(outline, np.zeros(len(outline)), 3.3, 0.7, count=6)


def sacral_solids(anatomy: Anatomy, rng: Generator) -> list[Solid]:
    """What surrounds the sacral bodies: alae, posterior wall with its crests, articular processes of S1."""
    segments = [anatomy.vertebrae[level] for level in ("S1", "S2", "S3", "S4", "S5")]
    rear = [_behind(segment) for segment in segments]
    parts: list[Solid] = []
    for side in (-1.0, 1.0):
        for segment, radius, z in zip(segments, (11.0, 9.0, 7.0), (34.0, 30.0, 24.0), strict=False):
            x, y, _ = segment.frame.origin
            parts += _bone_tube(rng, [(x - 8, y - 6, side * z), (x - 11, y + 8, side * z)], radius, flat=1.2, wall=0.3)
        crest = [(x, y, side * 13.0) for x, y in _bumpy(rng, rear)]
        parts += _bone_tube(rng, crest, 4.0, flat=1.5, wall=1.2)
        x, y = rear[0]
        parts += _bone_tube(rng, [(x + 1, y + 8, side * 18), (x + 3, y - 9, side * 18)], 4.6, flat=1.4, wall=1.5)
    parts += _bone_tube(rng, [(x - 8, y, 0.0) for x, y in _bumpy(rng, rear)], 4.5, flat=0.8, wall=1.0)
    return [Solid(s.slices, s.integral * anatomy.bone_density) for s in parts]


def _bumpy(rng: Generator, path: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """A path with points between its points, every second one a little nearer to the bodies."""
    points = np.repeat(np.array(path), 2, axis=0)
    points[1:-1:2] = (points[1:-1:2] + points[2::2]) / 2 + np.array([1.5, 0.0])
    points += rng.normal(0, 1.1, points.shape)
    return [(float(x), float(y)) for x, y in points]


def _behind(vertebra: Vertebra) -> tuple[float, float]:
    """A point behind the sacral canal at the height of a sacral body's middle."""
    depth = (vertebra.shape.depth_superior_mm + vertebra.shape.depth_inferior_mm) / 4
    x, y, _ = vertebra.frame.place(np.array([-depth - 13.0, -3.0, 0.0]))
    return float(x), float(y)


def rib_solids(anatomy: Anatomy, rng: Generator) -> list[Solid]:
    """Both ribs of T9 to T12, the lowest short."""
    course = np.array(
        [(-20, -7, 16), (-34, -4, 34), (-47, 10, 62), (-44, 30, 92), (-22, 52, 115), (18, 74, 127), (62, 90, 125)]
    )
    parts: list[Solid] = []
    for level, kept in (("T12", 4), ("T11", 6), ("T10", 7), ("T9", 7)):
        for side in (-1.0, 1.0):
            sway = rng.normal(0, 2.0, (kept, 3)) * np.linspace(0, 1, kept)[:, None]
            path = _densify(course[:kept] * np.array([1, 1, side]) + sway)
            radii = np.linspace(4.2, 5.4, len(path))
            rib = [
                Solid(tube_slices(path, radii, 6, flatness=0.7), CORTICAL_PER_MM * 1.15),
                Solid(tube_slices(path, radii - 0.8, 6, flatness=0.6), -(CORTICAL_PER_MM - TRABECULAR_PER_MM) * 0.85),
            ]
            parts += _placed(rib, anatomy.vertebrae[level], anatomy.bone_density, anatomy.scale)
    return parts


def pelvis_solids(anatomy: Anatomy, rng: Generator) -> list[Solid]:
    """Both iliac wings, which lie over L5 and S1 in a lateral film."""
    rough = _ILIAC_OUTLINE_MM + rng.normal(0, 2.0, _ILIAC_OUTLINE_MM.shape)
    outline = smooth_outline(rough * anatomy.scale, rounds=3)
    turn = np.radians(0.6 * (anatomy.vertebrae["S1"].tilt_deg - 40))
    turned = outline @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    if anatomy.variant.sacralised:
        turned = turned - np.array([0.0, _SUNK_MM * anatomy.scale])
    flare = 52 * anatomy.scale + 0.42 * (outline[:, 0] + 98) - 0.25 * outline[:, 1]
    parts: list[Solid] = []
    for side in (-1.0, 1.0):
        parts += _bone_plate(turned, side * flare, 5.2, 0.8, count=10)
    return [Solid(s.slices, s.integral * anatomy.bone_density) for s in parts]


def skeleton(anatomy: Anatomy) -> tuple[dict[str, list[Solid]], list[Solid]]:
    """All bone: the bodies by level, and everything else, with the cement in it."""
    rng = np.random.default_rng(anatomy.roughness_seed)
    bodies = {level: body_solids(vertebra, anatomy) for level, vertebra in anatomy.vertebrae.items()}
    rest = [*sacral_solids(anatomy, rng), *rib_solids(anatomy, rng), *pelvis_solids(anatomy, rng)]
    for level, vertebra in anatomy.vertebrae.items():
        if not level.startswith("S"):
            rest += posterior_solids(vertebra, anatomy, rng)
    return bodies, as_seen(rest + cement_solids(anatomy), anatomy)
