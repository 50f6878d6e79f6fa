"""The drawn lumbar spine of one phantom patient: bodies, their places in space, and the patient's size.

Sizes of bodies and discs are rounded from the morphometric literature (Panjabi et al. 1992; Gilad and Nissan 1986) and
spread by about 8 %. Coordinates are millimetres: x anterior, y inferior, z lateral; the origin is the middle of
the superior endplate of S1 and the pose is upright.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.random import Generator

from vertinst.data.phantom_cement import Cement
from vertinst.data.phantom_osteophytes import Osteophyte
from vertinst.data.phantom_solids import BodyShape, Points

if TYPE_CHECKING:
    # A style says how often diseases occur, and diseases change an anatomy: at run time nothing is needed of it here.
    from vertinst.data.phantom_style import PhantomStyle

SACRAL_LEVELS = ("S1", "S2")
"""Annotated as `sacral`."""

# level: depth, width, height, waist, lordosis share of the body, disc below: height, lordosis share
_TYPICAL = {
    "L5": (34.5, 50.0, 27.0, 0.09, 0.15, 10.5, 0.24),
    "L4": (34.5, 48.0, 27.5, 0.11, 0.06, 11.0, 0.20),
    "L3": (34.0, 45.5, 27.5, 0.13, 0.02, 10.5, 0.15),
    "L2": (33.5, 43.5, 27.5, 0.13, -0.01, 9.5, 0.11),
    "L1": (32.5, 42.0, 26.5, 0.12, -0.03, 8.0, 0.08),
    "T12": (31.0, 41.0, 25.0, 0.10, -0.05, 6.5, 0.02),
    "T11": (30.0, 38.0, 23.0, 0.09, -0.06, 5.5, -0.02),
    "T10": (29.0, 35.0, 22.0, 0.08, -0.06, 4.8, -0.03),
    "T9": (28.0, 32.0, 21.5, 0.08, -0.06, 4.4, -0.03),
}
# An L5 on its way to a sacral segment: low and square, hardly waisted, above a remnant of a disc.
_SACRALISED = (33.0, 50.5, 22.5, 0.03, 0.02, 3.2, 0.05)
# From below: each level with the typical one whose sizes and share of the lordosis it has.
_STACKS = {
    4: {"L4": "L5", "L3": "L4", "L2": "L3", "L1": "L2"},
    5: {"L5": "L5", "L4": "L4", "L3": "L3", "L2": "L2", "L1": "L1"},
    6: {"L6": "L5", "L5": "L5", "L4": "L4", "L3": "L3", "L2": "L2", "L1": "L1"},
}
_THORACIC = ("T12", "T11", "T10", "T9")
# depth superior, depth inferior, width superior, height, wedge, gap to the next
_SACRUM = {
    "S1": (34.0, 24.5, 52.0, 29.0, 2.0, 2.6),
    "S2": (24.0, 19.0, 40.0, 25.0, -9.0, 1.8),
    "S3": (18.5, 15.0, 32.0, 21.0, -15.0, 1.0),
    "S4": (14.5, 11.5, 26.0, 18.0, -18.0, 0.8),
    "S5": (11.0, 8.0, 20.0, 15.0, -20.0, 0.5),
}


@dataclass(frozen=True)
class Variant:
    """How a patient departs from the usual spine.

    Attributes:
        lumbar_count: 4, 5 or 6 lumbar vertebrae.
        sacralised: Whether L5 is partly fused with the sacrum.
        view: `lateral` or `ap`: from where all films of the patient are taken, and so how their bones are cut.
        scoliosis_deg: Cobb angle of the curve, positive where it is convex to the patient's right; 0 without one.
    """

    lumbar_count: int = 5
    sacralised: bool = False
    view: str = "lateral"
    scoliosis_deg: float = 0.0


FIVE_LUMBAR = Variant()


@dataclass(frozen=True)
class Frame:
    """A place in space: `rotation` (3, 3) and `origin` (3,) in mm."""

    rotation: Points
    origin: Points

    def place(self, local: Points) -> Points:
        """Move points (..., 3) from this frame into the frame around it."""
        moved: Points = local @ self.rotation.T + self.origin
        return moved


@dataclass(frozen=True)
class Vertebra:
    """One body and where it stands.

    Attributes:
        level: `T9` to `S5`.
        shape: The body.
        frame: Places the body's frame (origin in its middle) in the patient.
        tilt_deg: Sagittal angle of the body, positive where the anterior end is lower.
        osteophytes: Spurs at its corners.
        cement: Cement in it, if any.
    """

    level: str
    shape: BodyShape
    frame: Frame
    tilt_deg: float
    osteophytes: tuple[Osteophyte, ...] = ()
    cement: Cement | None = None


@dataclass(frozen=True)
class Anatomy:
    """A patient: vertebrae from S5 up to T9, and how dense and how large everything else is.

    Attributes:
        vertebrae: By level.
        scale: Size relative to the typical adult.
        bone_density: Factor on the attenuation of bone; low means osteoporotic.
        cortex: Factor on the thickness of cortex and endplates.
        girth: Factor on the thickness of soft tissue.
        roughness_seed: Seeds the small irregularities of the bones.
        variant: Whether it departs from the usual five lumbar vertebrae.
    """

    vertebrae: dict[str, Vertebra]
    scale: float
    bone_density: float
    cortex: float
    girth: float
    roughness_seed: int
    variant: Variant = FIVE_LUMBAR

    @property
    def lumbar_levels(self) -> tuple[str, ...]:
        """Annotated as `lumbar`, from below: L5 (or L6, or L4) to L1 and T12."""
        return lumbar_levels(self.vertebrae)

    @property
    def mobile_levels(self) -> tuple[str, ...]:
        """S1 and the lumbar vertebrae from below, up to L1: where implants sit."""
        return ("S1", *(level for level in self.vertebrae if level.startswith("L")))


def lumbar_levels(levels: Iterable[str]) -> tuple[str, ...]:
    """Of levels, those annotated as `lumbar`: all of the lumbar spine, and T12; in the given order."""
    return tuple(level for level in levels if level.startswith("L") or level == "T12")


def draw_variant(rng: Generator, style: PhantomStyle) -> Variant:
    """Draw how a patient departs from the usual spine."""
    counted, fused, frontal, side = rng.random(4)
    count = 6 if counted < style.six_lumbar_share else 5
    if count == 5 and counted < style.six_lumbar_share + style.four_lumbar_share:
        count = 4
    variant = Variant(count, sacralised=bool(count == 5 and fused < style.sacralised_share))
    if frontal >= style.ap_share:
        return variant
    cobb_deg = float(rng.uniform(*style.scoliosis_deg)) * (1 if side < 0.5 else -1)
    return replace(variant, view="ap", scoliosis_deg=cobb_deg)


def draw_anatomy(rng: Generator, style: PhantomStyle, variant: Variant = FIVE_LUMBAR) -> Anatomy:
    """Draw one patient; the same generator state gives the same patient."""
    scale = float(np.clip(rng.normal(1.0, 0.055), 0.86, 1.14))
    mean, spread, lowest, highest = style.lordosis_deg
    lordosis = float(np.clip(rng.normal(mean, spread), lowest, highest))
    slope = float(np.clip(9 + 0.62 * lordosis + rng.normal(0, 4), 16, 62))
    vertebrae = {**_sacrum(rng, scale, slope), **_column(rng, scale, slope, lordosis, variant)}
    return Anatomy(
        vertebrae=vertebrae,
        scale=scale,
        bone_density=float(rng.uniform(*style.bone_density)),
        cortex=float(rng.uniform(0.8, 1.25)),
        girth=float(rng.uniform(*style.girth)),
        roughness_seed=int(rng.integers(2**32)),
        variant=variant,
    )


def rotation(sagittal_deg: float, axial_deg: float = 0.0, lateral_deg: float = 0.0) -> Points:
    """Rotation (3, 3): first lateral tilt about x, then axial about y, then sagittal in the film's plane about z.

    A positive sagittal angle lowers the anterior end.
    """
    s, a, t = np.radians([sagittal_deg, axial_deg, lateral_deg])
    about_z = np.array([[np.cos(s), -np.sin(s), 0], [np.sin(s), np.cos(s), 0], [0, 0, 1]])
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(t), -np.sin(t)], [0, np.sin(t), np.cos(t)]])
    result: Points = about_z @ about_y @ about_x
    return result


def _down(angle_deg: float) -> Points:
    """Unit vector pointing caudally along a segment tilted by an angle."""
    angle = np.radians(angle_deg)
    return np.array([-np.sin(angle), np.cos(angle), 0.0])


def _column(rng: Generator, scale: float, slope: float, lordosis: float, variant: Variant) -> dict[str, Vertebra]:
    """Stack all up to T9 on the sacrum, each disc and body turning the next by its share of the lordosis."""
    stack = _STACKS[variant.lumbar_count] | dict.fromkeys(_THORACIC, "")
    typical = {level: _TYPICAL[like or level] for level, like in stack.items()}
    if variant.sacralised:
        typical["L5"] = _SACRALISED
    shares = np.array([[row[4], row[6]] for level, row in typical.items() if level.startswith("L")])
    wedges = lordosis * shares / shares.sum() + rng.normal(0, 1.3, shares.shape)
    sway = rng.normal(0, 1.1, 3)
    angle, top = slope, np.zeros(3)
    result = {}
    for index, (level, row) in enumerate(typical.items()):
        body_wedge, disc_wedge = (
            wedges[index] if level.startswith("L") else 46 * np.array(row)[[4, 6]] + rng.normal(0, 0.8, 2)
        )
        disc = row[5] * scale * rng.uniform(0.85, 1.12)
        if rng.random() < 0.22:
            disc *= rng.uniform(0.45, 0.75)
        bottom = top - disc * _down(angle - disc_wedge / 2)
        angle -= disc_wedge
        shape = _lumbar_shape(rng, row, scale, float(body_wedge))
        middle_deg = float(angle - body_wedge / 2)
        centre = bottom - shape.height_mm / 2 * _down(middle_deg)
        top = bottom - shape.height_mm * _down(middle_deg)
        angle -= body_wedge
        turn = sway[0] + rng.normal(0, 0.7), sway[1] * (index - 3) / 2 + rng.normal(0, 0.6)
        frame = Frame(rotation(middle_deg, *turn), centre + np.array([0, 0, sway[2] * np.sin(index * 0.7)]))
        result[level] = Vertebra(level, shape, frame, middle_deg)
    return result


def _lumbar_shape(rng: Generator, typical: tuple[float, ...], scale: float, wedge_deg: float) -> BodyShape:
    depth, width, height, waist = typical[:4]
    depth *= scale * rng.normal(1, 0.03)
    return BodyShape(
        depth_superior_mm=float(depth * rng.uniform(0.97, 1.0)),
        depth_inferior_mm=float(depth * rng.uniform(1.0, 1.03)),
        width_mm=float(width * scale * rng.normal(1, 0.03)),
        height_mm=float(height * scale * rng.normal(1, 0.03)),
        wedge_deg=wedge_deg,
        waist=float(waist * rng.uniform(0.75, 1.25)),
        bowl_mm=(float(rng.uniform(0.7, 2.6)), float(rng.uniform(0.9, 3.2))),
        lip_mm=(float(rng.uniform(0, 1.6) ** 2), float(rng.uniform(0, 1.6) ** 2)),
    )


def _sacrum(rng: Generator, scale: float, slope: float) -> dict[str, Vertebra]:
    """Stack S1 to S5 downwards from the origin."""
    curve = rng.uniform(0.6, 1.4)
    angle, top = slope, np.zeros(3)
    result = {}
    for level, (superior, inferior, width, height, wedge, gap) in _SACRUM.items():
        wedge_deg = float(wedge * curve + rng.normal(0, 1.5))
        shape = BodyShape(
            depth_superior_mm=superior * scale,
            depth_inferior_mm=inferior * scale,
            width_mm=width * scale,
            height_mm=float(height * scale * rng.normal(1, 0.03)),
            wedge_deg=wedge_deg,
            waist=0.05,
            bowl_mm=(float(rng.uniform(0.3, 1.2)), float(rng.uniform(0.1, 0.6))),
        )
        middle_deg = angle + wedge_deg / 2
        frame = Frame(rotation(middle_deg), top + shape.height_mm / 2 * _down(middle_deg))
        top = top + (shape.height_mm + gap * scale) * _down(middle_deg)
        angle += wedge_deg
        result[level] = Vertebra(level, shape, frame, middle_deg)
    return result
