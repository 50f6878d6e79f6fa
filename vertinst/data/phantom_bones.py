"""Bones of a phantom as solids: bodies with cortex, posterior elements, sacrum, ribs, pelvis.

Attenuation is given in excess of the soft tissue that the bone displaces, per mm, at an effective energy of about
70 keV (order of magnitude from the NIST tables of Hubbell and Seltzer).
"""

import numpy as np

from vertinst.data.phantom_anatomy import Anatomy, Vertebra
from vertinst.data.phantom_solids import (
    BodyShape,
    Points,
    Solid,
    body_slices,
    plate_slices,
    smooth_outline,
    tube_slices,
)

CORTICAL_PER_MM = 0.034
TRABECULAR_PER_MM = 0.0085
BODY_SLICES = 26

_ILIAC_OUTLINE_MM = np.array(
    [
        *[(-98, 20), (-92, -6), (-72, -28), (-44, -41), (-15, -45), (15, -39), (42, -21), (60, 6), (63, 24)],
        *[(50, 44), (38, 68), (38, 105), (-2, 108), (-8, 66), (-24, 46), (-47, 54), (-76, 66), (-94, 48)],
    ],
    dtype=np.float64,
)


def body_solids(vertebra: Vertebra, anatomy: Anatomy) -> list[Solid]:
    """The body: a dense shell, thicker at the endplates, around trabecular bone. First of the list: the outer shape."""
    wall, endplate = 0.55 * anatomy.cortex, 0.95 * anatomy.cortex
    outer = body_slices(vertebra.shape, BODY_SLICES)
    inner = body_slices(vertebra.shape, BODY_SLICES, wall_mm=wall, endplate_mm=endplate)
    return _shell(vertebra, anatomy, outer, inner, vertebra.shape.width_mm / BODY_SLICES)


def _shell(vertebra: Vertebra, anatomy: Anatomy, outer: Points, inner: Points, thickness_mm: float) -> list[Solid]:
    dense = CORTICAL_PER_MM * anatomy.bone_density
    loose = TRABECULAR_PER_MM * anatomy.bone_density
    place = vertebra.frame.place
    return [Solid(place(outer), dense * thickness_mm), Solid(place(inner), (loose - dense) * thickness_mm)]


def _bone_tube(
    path: list[tuple[float, float, float]], radius: float, *, flat: float = 1.0, wall: float = 1.1, count: int = 7
) -> list[Solid]:
    """A round-ended tube of bone with cortex, of unit density."""
    points = _densify(np.array(path, dtype=np.float64))
    radii = np.full(len(points), radius)
    outer = tube_slices(points, radii, count, flatness=flat)
    inner = tube_slices(points, radii - wall, count, flatness=(radius * flat - wall) / (radius - wall))
    return [
        Solid(outer, CORTICAL_PER_MM * 2 * radius * flat / count),
        Solid(inner, (TRABECULAR_PER_MM - CORTICAL_PER_MM) * 2 * (radius * flat - wall) / count),
    ]


def _densify(path: Points) -> Points:
    """Round the corners of an open path by Chaikin's rule, ends kept."""
    for _ in range(2 if len(path) > 2 else 0):
        cut = np.stack([0.75 * path[:-1] + 0.25 * path[1:], 0.25 * path[:-1] + 0.75 * path[1:]], axis=1).reshape(-1, 3)
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


def posterior_solids(vertebra: Vertebra, anatomy: Anatomy) -> list[Solid]:
    """Pedicles, articular, transverse and spinous processes and laminae of a lumbar or thoracic vertebra."""
    shape = vertebra.shape
    back = -shape.depth_superior_mm / 2 / anatomy.scale
    height = shape.height_mm / anatomy.scale
    thoracic = vertebra.level.startswith("T") and vertebra.level != "T12"
    parts: list[Solid] = []
    for side in (-1.0, 1.0):
        parts += _one_side(back, height, side, 0.31 * shape.width_mm / anatomy.scale)
    parts += _spinous_process(back, height, droop=11.0 if thoracic else 0.0)
    return _placed(parts, vertebra, anatomy.bone_density, anatomy.scale)


def _one_side(back: float, height: float, side: float, apart: float) -> list[Solid]:
    """Pedicle, articular processes, pars, lamina and transverse process of one side."""
    z, top = side * apart, -0.22 * height
    joint = side * (apart + 3)
    return [
        *_bone_tube([(back + 3, top, z), (back - 6, top - 0.5, z), (back - 13, top, z)], 6.2, flat=0.65, wall=1.2),
        *_bone_tube(
            [(back - 12, top + 3, joint), (back - 13.5, top - 7, joint), (back - 11.5, top - 15, joint)], 4.2, flat=1.3
        ),
        *_bone_tube(
            [(back - 13, top, z), (back - 17, 6, z), (back - 20, 0.62 * height, z), (back - 20, 0.85 * height, z)],
            4.6,
            flat=1.2,
        ),
        *_bone_tube([(back - 17, 1, z), (back - 23, 6, 0.6 * z), (back - 27, 10, 0.15 * z)], 6.0, flat=0.9, wall=1.4),
        *_bone_tube(
            [(back - 12, top + 2, z + side * 14), (back - 17, top + 1, z + side * 19)], 4.2, flat=2.6, wall=0.9
        ),
    ]


def _spinous_process(back: float, height: float, droop: float) -> list[Solid]:
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
    outline = smooth_outline(outline)
    return _bone_plate(outline, np.zeros(len(outline)), 3.4, 0.9, count=5)


def sacral_solids(anatomy: Anatomy) -> list[Solid]:
    """What surrounds the sacral bodies: alae, posterior wall with the median crest, articular processes of S1."""
    s1, s2, s3 = (anatomy.vertebrae[level] for level in ("S1", "S2", "S3"))
    rear = [_behind(anatomy.vertebrae[level]) for level in ("S1", "S2", "S3", "S4", "S5")]
    parts: list[Solid] = []
    for side in (-1.0, 1.0):
        wing = [
            (*s.frame.origin[:2] - np.array([offset, 0]), side * z)
            for s, offset, z in ((s1, 9, 36), (s2, 7, 31), (s3, 4, 24))
        ]
        parts += _bone_tube(wing, 11.0, flat=1.1, wall=0.8, count=9)
        crest = [(x, y, side * 13.0) for x, y in rear]
        parts += _bone_tube(crest, 4.6, flat=1.5, wall=1.3)
        facet_x, facet_y = rear[0]
        parts += _bone_tube(
            [(facet_x + 1, facet_y + 8, side * 18), (facet_x + 3, facet_y - 9, side * 18)], 4.4, flat=1.4
        )
    parts += _bone_tube([(x - 8, y, 0.0) for x, y in rear], 5.0, flat=0.8, wall=1.1)
    return [Solid(s.slices, s.integral * anatomy.bone_density) for s in parts]


def _behind(vertebra: Vertebra) -> tuple[float, float]:
    """A point behind the sacral canal at the height of a sacral body's middle."""
    depth = (vertebra.shape.depth_superior_mm + vertebra.shape.depth_inferior_mm) / 4
    x, y, _ = vertebra.frame.place(np.array([-depth - 13.0, -3.0, 0.0]))
    return float(x), float(y)


def rib_solids(anatomy: Anatomy) -> list[Solid]:
    """Both ribs of T9 to T12, the lowest short."""
    parts: list[Solid] = []
    for level, reach in (("T12", 0.5), ("T11", 0.8), ("T10", 1.0), ("T9", 1.0)):
        for side in (-1.0, 1.0):
            path = np.array(
                [
                    (-22, -6, 16),
                    (-38, 2, 40),
                    (-44, 18, 75),
                    (-30, 38, 105),
                    (5, 60, 122),
                    (50, 82, 126),
                    (90, 100, 115),
                ]
            ) * np.array([1, 0.92, side])
            kept = _densify(path[: max(4, round(7 * reach))])
            radii = np.full(len(kept), 4.6)
            rib = [
                Solid(tube_slices(kept, radii, 6, flatness=0.9), CORTICAL_PER_MM * 1.4),
                Solid(tube_slices(kept, radii - 1.0, 6, flatness=0.85), -(CORTICAL_PER_MM - TRABECULAR_PER_MM) * 1.05),
            ]
            parts += _placed(rib, anatomy.vertebrae[level], anatomy.bone_density, anatomy.scale)
    return parts


def pelvis_solids(anatomy: Anatomy) -> list[Solid]:
    """Both iliac wings, which lie over L5 and S1 in a lateral film."""
    outline = smooth_outline(_ILIAC_OUTLINE_MM * anatomy.scale)
    turn = np.radians(0.6 * (anatomy.vertebrae["S1"].tilt_deg - 40))
    turned = outline @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    flare = 52 + 0.42 * (outline[:, 0] + 98) - 0.25 * outline[:, 1]
    parts: list[Solid] = []
    for side in (-1.0, 1.0):
        parts += _bone_plate(turned, side * flare * anatomy.scale, 4.6, 0.9, count=6)
    return [Solid(s.slices, s.integral * anatomy.bone_density) for s in parts]


def skeleton(anatomy: Anatomy) -> tuple[dict[str, list[Solid]], list[Solid]]:
    """All bone: the bodies by level, and everything else."""
    bodies = {level: body_solids(vertebra, anatomy) for level, vertebra in anatomy.vertebrae.items()}
    rest = [*sacral_solids(anatomy), *rib_solids(anatomy), *pelvis_solids(anatomy)]
    for level, vertebra in anatomy.vertebrae.items():
        if not level.startswith("S"):
            rest += posterior_solids(vertebra, anatomy)
    return bodies, rest


__all__ = ["BodyShape", "body_solids", "pelvis_solids", "posterior_solids", "rib_solids", "sacral_solids", "skeleton"]
