"""One phantom patient and their films: drawing, taking, annotating."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vertinst.data.phantom_anatomy import FIVE_LUMBAR, Anatomy, Variant, draw_anatomy, draw_variant
from vertinst.data.phantom_bones import as_seen, surface_solids
from vertinst.data.phantom_disease import apply_disease
from vertinst.data.phantom_film import Exposure, develop, draw_exposure, to_pixels
from vertinst.data.phantom_follow_up import draw_follow_up
from vertinst.data.phantom_implants import Implant, draw_construct, shape_implants
from vertinst.data.phantom_projection import View, above_sacrum, draw_view, integrate
from vertinst.data.phantom_scoliosis import bend
from vertinst.data.phantom_solids import Points, Solid
from vertinst.data.phantom_style import PhantomStyle
from vertinst.data.phantom_tissue import bone_grain, tissue_integral
from vertinst.data.phantom_truth import (
    Region,
    bone_regions,
    corners_px,
    largest_cobb,
    lordosis_deg,
    metal_regions,
    middles_px,
)

__all__ = ["PhantomFilm", "PhantomPatient", "draw_patient", "film_regions", "take_film"]

_VARIANT, _DISEASE, _CURVE, _PLACE, _FOLLOW_UP = 1, 2, 3, 4, 5
_METAL_STEP_MM = 1.0
_ROOM_MM = 20.0


@dataclass(frozen=True)
class PhantomPatient:
    """One drawn patient: anatomy, metal, and how many films are taken of them.

    Attributes:
        number: From 1 on.
        anatomy: The spine.
        implants: The metal, possibly none.
        films: 1 or more.
        disease: What they have, as it stands under `disease` in the truth.
        date: 1, or 2 for the same patient later.
        changes: What has changed since the first date, as it stands under `changes` in the truth.
        later: The patient at the second date, on which the last film is taken; None where all films are of one date.
    """

    number: int
    anatomy: Anatomy
    implants: list[Implant]
    films: int
    disease: dict[str, Any] = field(default_factory=dict)
    date: int = 1
    changes: list[dict[str, Any]] = field(default_factory=list)
    later: PhantomPatient | None = None

    @property
    def name(self) -> str:
        """`P0001` and so on."""
        return f"P{self.number:04d}"

    def on_film(self, film_number: int) -> PhantomPatient:
        """The patient as they are on one of their films (from 1)."""
        return self.later if self.later is not None and film_number == self.films else self


@dataclass(frozen=True)
class PhantomFilm:
    """One film and all that is known about it.

    Attributes:
        file_name: Below `images/`.
        patient: `P0001` and so on.
        pixels: (H, W) uint8 or uint16, dense matter bright.
        regions: The annotation.
        truth: The film's entry in truth.json.
    """

    file_name: str
    patient: str
    pixels: NDArray[np.uint8] | NDArray[np.uint16]
    regions: list[Region]
    truth: dict[str, Any]


def draw_patient(seed: int, number: int, style: PhantomStyle) -> PhantomPatient:
    """Draw one patient from a seed and their number (from 1)."""
    rng = _stream(seed, number, 0)
    films = int(rng.integers(1, style.films_per_patient + 1))
    variant = draw_variant(_stream(seed, number, 0, _VARIANT), style)
    anatomy = draw_anatomy(rng, style, variant)
    if variant.view == "ap":
        anatomy = bend(_stream(seed, number, 0, _CURVE), anatomy)
    anatomy, disease = apply_disease(_stream(seed, number, 0, _DISEASE), anatomy, style.disease)
    construct = draw_construct(rng, style, anatomy.mobile_levels)
    if variant.sacralised:
        construct = replace(construct, caged=tuple(level for level in construct.caged if level != "L5"))
    patient = PhantomPatient(number, anatomy, shape_implants(rng, anatomy, construct), films, disease)
    return draw_follow_up(_stream(seed, number, 0, _FOLLOW_UP), patient, style.follow_up_share)


def _stream(seed: int, patient: int, film: int, *topic: int) -> np.random.Generator:
    """An independent generator for a patient (film 0) or one of their films.

    What came later than the first phantoms has a topic of its own, so that a film without it stays what it was.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(patient, film, *topic)))


def take_film(
    patient: PhantomPatient,
    bodies: dict[str, list[Solid]],
    rest: list[Solid],
    seed: int,
    film_number: int,
    bits: int,
    style: PhantomStyle,
) -> PhantomFilm:
    """Pose, project and develop one film.

    Args:
        patient: Who.
        bodies: Solids of the vertebral bodies by level, from `skeleton` of the anatomy on this film
            (`PhantomPatient.on_film`).
        rest: All other bone, from the same `skeleton`.
        seed: The run's seed.
        film_number: From 1; every film has its own pose, zoom, exposure and noise.
        bits: 8 or 16.
        style: Size of the film, and how it is taken.
    """
    patient = patient.on_film(film_number)
    rng, view, exposure = _draw_film(patient, seed, film_number, style)
    body_grain, other_grain = bone_grain(rng, view.size)
    matter = integrate([solid for solids in bodies.values() for solid in solids], view) * body_grain
    matter += integrate(rest, view) * other_grain
    matter += tissue_integral(rng, patient.anatomy, view)
    metal = integrate([solid for implant in _implants_as_seen(patient) for solid in implant.solids], view)
    pixels = to_pixels(develop(rng, matter, metal, exposure), bits)
    regions, truth = _regions(patient, bodies, view, exposure)
    return PhantomFilm(f"{patient.name}_{film_number}.png", patient.name, pixels, regions, truth)


def film_regions(
    patient: PhantomPatient, seed: int, film_number: int, style: PhantomStyle
) -> tuple[list[Region], dict[str, Any]]:
    """The regions and the truth of the film that `take_film` makes of the same arguments, without its pixels.

    Args:
        patient: Who.
        seed: The run's seed.
        film_number: From 1.
        style: Size of the film, and how it is taken.

    Returns:
        Regions from the lowest vertebra up, then metal; and the film's entry in truth.json.
    """
    patient = patient.on_film(film_number)
    _, view, exposure = _draw_film(patient, seed, film_number, style)
    anatomy = patient.anatomy
    surfaces = {level: surface_solids(vertebra, anatomy) for level, vertebra in anatomy.vertebrae.items()}
    return _regions(patient, surfaces, view, exposure)


def _draw_film(
    patient: PhantomPatient, seed: int, film_number: int, style: PhantomStyle
) -> tuple[np.random.Generator, View, Exposure]:
    """How a film is taken, and the generator that goes on to draw its pixels."""
    rng = _stream(seed, patient.number, film_number)
    # A spine bent by slips or fractures may not fit sideways. Usual ones stay as they were drawn ever since.
    unusual = bool(patient.disease or patient.changes) or patient.anatomy.variant != FIVE_LUMBAR
    view = draw_view(rng, patient.anatomy, style, room_mm=_ROOM_MM if unusual else None)
    exposure = draw_exposure(rng, view.size, view.facing, style)
    if patient.anatomy.variant.view == "ap":
        exposure = replace(exposure, marker="L")
    place = _stream(seed, patient.number, film_number, _PLACE)
    if place.random() < style.no_sacrum_share:
        view = above_sacrum(place, view, patient.anatomy)
    return rng, view, exposure


def _implants_as_seen(patient: PhantomPatient) -> list[Implant]:
    """The metal, cut as the patient's films need it."""
    return [
        replace(implant, solids=tuple(as_seen(list(implant.solids), patient.anatomy, _METAL_STEP_MM)))
        for implant in patient.implants
    ]


def _regions(
    patient: PhantomPatient, bodies: dict[str, list[Solid]], view: View, exposure: Exposure
) -> tuple[list[Region], dict[str, Any]]:
    """Annotation and truth of a film; `bodies` need only have what makes their outlines."""
    bones = bone_regions(bodies, view, exposure.field_px)
    metals = metal_regions(_implants_as_seen(patient), view, exposure.field_px)
    regions = bones + [region for region in metals if region is not None]
    return regions, _truth(patient, view, exposure, bones, metals)


def _truth(
    patient: PhantomPatient, view: View, exposure: Exposure, bones: list[Region], metals: list[Region | None]
) -> dict[str, Any]:
    """The film's entry in truth.json; angles as `lordosis_deg` and `cobb_deg` define them."""
    corners = corners_px(patient.anatomy, view)
    variant = patient.anatomy.variant
    return {
        "patient": patient.name,
        "view": variant.view,
        "height": view.size[0],
        "width": view.size[1],
        "pixel_spacing_mm": view.pixel_spacing_mm,
        "pixel_spacing_source": "phantom",
        "facing": view.facing if variant.view == "lateral" else None,
        "marker": exposure.marker,
        "lumbar_count": variant.lumbar_count,
        "sacralised": variant.sacralised,
        "no_sacrum": all(region.category != "sacral" for region in bones),
        "levels": [region.level for region in bones],
        "visible": {region.level: round(region.visible, 4) for region in bones},
        "corners_px": {level: np.round(points, 3).tolist() for level, points in corners.items()},
        "middles_px": {
            level: np.round(points, 3).tolist() for level, points in middles_px(patient.anatomy, view).items()
        },
        **_angles(corners, variant),
        "implants": [
            {"class": implant.category, "levels": list(implant.levels), "side": implant.side}
            for implant, region in zip(patient.implants, metals, strict=True)
            if region is not None
        ],
        "disease": patient.disease,
        "date": patient.date,
        "changes": patient.changes,
    }


def _angles(corners: dict[str, Points], variant: Variant) -> dict[str, Any]:
    """Lordosis of a lateral film; of an antero-posterior one the curve as drawn and the largest angle as projected."""
    if variant.view == "lateral":
        return {"lordosis_L1_S1_deg": round(lordosis_deg(corners["L1"], corners["S1"]), 3)}
    angle, levels = largest_cobb(corners)
    return {
        "scoliosis_deg": round(abs(variant.scoliosis_deg), 3),
        "convex": "right" if variant.scoliosis_deg > 0 else "left",
        "cobb_max_deg": round(abs(angle), 3),
        "cobb_levels": list(levels),
    }
