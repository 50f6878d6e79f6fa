"""Phantom films: synthetic lateral lumbar radiographs with VIA annotations and a known truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vertinst import plugins
from vertinst.data.phantom_anatomy import Anatomy, draw_anatomy
from vertinst.data.phantom_bones import skeleton
from vertinst.data.phantom_film import Exposure, develop, draw_exposure, to_pixels
from vertinst.data.phantom_implants import Implant, draw_construct, shape_implants
from vertinst.data.phantom_projection import View, draw_view, integrate
from vertinst.data.phantom_solids import Solid
from vertinst.data.phantom_style import PhantomStyle
from vertinst.data.phantom_tissue import bone_grain, tissue_integral
from vertinst.data.phantom_truth import Region, bone_regions, corners_px, lordosis_deg, metal_regions
from vertinst.errors import DataError
from vertinst.files import prepare_folder, write_bytes, write_json
from vertinst.progress import Progress, silent, track
from vertinst.structures import rle
from vertinst.structures.dataset import CLASSES, Annotation, Dataset, ImageRecord

__all__ = [
    "PhantomFilm",
    "PhantomPatient",
    "PhantomStyle",
    "PhantomSummary",
    "draw_patient",
    "make_phantoms",
    "take_film",
]

PROJECT_NAME = "via_project.json"
TRUTH_NAME = "truth.json"


@dataclass(frozen=True)
class PhantomPatient:
    """One drawn patient: anatomy, metal, and how many films are taken of them.

    Attributes:
        number: From 1 on.
        anatomy: The spine.
        implants: The metal, possibly none.
        films: 1 or more.
    """

    number: int
    anatomy: Anatomy
    implants: list[Implant]
    films: int

    @property
    def name(self) -> str:
        """`P0001` and so on."""
        return f"P{self.number:04d}"


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


@dataclass(frozen=True)
class PhantomSummary:
    """What `make_phantoms` wrote.

    Attributes:
        folder: The output folder.
        images: Folder of the films.
        via_project: The annotation, a VIA 2 project.
        truth: The truth JSON.
        films: Number of films.
        patients: Number of patients.
        films_with_metal: Films with at least one annotated implant.
    """

    folder: Path
    images: Path
    via_project: Path
    truth: Path
    films: int
    patients: int
    films_with_metal: int


def make_phantoms(
    count: int,
    seed: int,
    out: Path,
    *,
    bits: int = 8,
    style: PhantomStyle | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> PhantomSummary:
    """Write phantom films with their annotation and truth.

    The folder then holds `images/*.png`, `via_project.json` and `truth.json`. Patient n of a seed is the same
    whatever `count` is, and so are their films, byte for byte with the same versions of numpy and OpenCV.

    Args:
        count: Number of films, 1 or more. Patients have one to three films; the last may have fewer than drawn.
        seed: 0 or more.
        out: Folder to be made.
        bits: 8 or 16 per pixel.
        style: Sizes, prevalences and ranges; the default is `PhantomStyle()`.
        overwrite: Empty `out` first if it holds something.
        progress: Told after every film.

    Raises:
        DataError: `count`, `seed` or `bits` is out of range.
        OutputExistsError: `out` is not empty and `overwrite` is false.
    """
    _check(count, seed, bits)
    style = style or PhantomStyle()
    prepare_folder(out, overwrite=overwrite)
    records: list[ImageRecord] = []
    truths = {}
    for film in track(_films(count, seed, bits, style), count, "drawing phantoms", progress):
        size_bytes = _write_png(out / "images" / film.file_name, film.pixels)
        records.append(_record(len(records) + 1, film, size_bytes))
        truths[film.file_name] = film.truth
    plugins.load("converters", "via").write(Dataset(CLASSES, tuple(records)), out / PROJECT_NAME, film_path="./images/")
    about = {"generator": "vertinst phantom", "seed": seed, "bits": bits, "style": asdict(style)}
    write_json(out / TRUTH_NAME, {**about, "films": truths}, indent=1)
    return PhantomSummary(
        folder=out,
        images=out / "images",
        via_project=out / PROJECT_NAME,
        truth=out / TRUTH_NAME,
        films=count,
        patients=len({record.patient for record in records}),
        films_with_metal=sum(bool(truth["implants"]) for truth in truths.values()),
    )


def _check(count: int, seed: int, bits: int) -> None:
    if count < 1:
        raise DataError(f"count must be 1 or more, got {count}", where="phantoms", fix="Ask for at least one film.")
    if seed < 0:
        raise DataError(f"seed must be 0 or more, got {seed}", where="phantoms", fix="Choose another seed.")
    if bits not in (8, 16):
        raise DataError(f"bits must be 8 or 16, got {bits}", where="phantoms", fix="Choose 8 or 16 bits per pixel.")


def _films(count: int, seed: int, bits: int, style: PhantomStyle) -> Iterator[PhantomFilm]:
    """Yield `count` films, patient after patient."""
    made, number = 0, 0
    while made < count:
        number += 1
        patient = draw_patient(seed, number, style)
        bodies, rest = skeleton(patient.anatomy)
        for film_number in range(1, min(patient.films, count - made) + 1):
            yield take_film(patient, bodies, rest, seed, film_number, bits, style)
            made += 1


def draw_patient(seed: int, number: int, style: PhantomStyle) -> PhantomPatient:
    """Draw one patient from a seed and their number (from 1)."""
    rng = _stream(seed, number, 0)
    films = int(rng.integers(1, style.films_per_patient + 1))
    anatomy = draw_anatomy(rng, style)
    return PhantomPatient(number, anatomy, shape_implants(rng, anatomy, draw_construct(rng, style)), films)


def _stream(seed: int, patient: int, film: int) -> np.random.Generator:
    """An independent generator for a patient (film 0) or one of their films."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(patient, film)))


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
        bodies: Solids of the vertebral bodies by level, from `skeleton`.
        rest: All other bone, from `skeleton`.
        seed: The run's seed.
        film_number: From 1; every film has its own pose, zoom, exposure and noise.
        bits: 8 or 16.
        style: Size of the film, and how it is taken.
    """
    rng = _stream(seed, patient.number, film_number)
    view = draw_view(rng, patient.anatomy, style)
    exposure = draw_exposure(rng, view.size, view.facing, style)
    body_grain, other_grain = bone_grain(rng, view.size)
    matter = integrate([solid for solids in bodies.values() for solid in solids], view) * body_grain
    matter += integrate(rest, view) * other_grain
    matter += tissue_integral(rng, patient.anatomy, view)
    metal = integrate([solid for implant in patient.implants for solid in implant.solids], view)
    pixels = to_pixels(develop(rng, matter, metal, exposure), bits)
    bones = bone_regions(bodies, view, exposure.field_px)
    metals = metal_regions(patient.implants, view, exposure.field_px)
    regions = bones + [region for region in metals if region is not None]
    truth = _truth(patient, view, exposure, bones, metals)
    return PhantomFilm(f"{patient.name}_{film_number}.png", patient.name, pixels, regions, truth)


def _truth(
    patient: PhantomPatient, view: View, exposure: Exposure, bones: list[Region], metals: list[Region | None]
) -> dict[str, Any]:
    """The film's entry in truth.json; lordosis as `lordosis_deg` defines it."""
    corners = corners_px(patient.anatomy, view)
    return {
        "patient": patient.name,
        "height": view.size[0],
        "width": view.size[1],
        "pixel_spacing_mm": view.pixel_spacing_mm,
        "pixel_spacing_source": "phantom",
        "facing": view.facing,
        "marker": exposure.marker,
        "levels": [region.level for region in bones],
        "visible": {region.level: round(region.visible, 4) for region in bones},
        "corners_px": {level: np.round(points, 3).tolist() for level, points in corners.items()},
        "lordosis_L1_S1_deg": round(lordosis_deg(corners["L1"], corners["S1"]), 3),
        "implants": [
            {"class": implant.category, "levels": list(implant.levels), "side": implant.side}
            for implant, region in zip(patient.implants, metals, strict=True)
            if region is not None
        ],
    }


def _record(image_id: int, film: PhantomFilm, size_bytes: int) -> ImageRecord:
    """The film with its regions as annotations."""
    height, width = film.pixels.shape
    return ImageRecord(
        image_id,
        film.file_name,
        width,
        height,
        patient=film.patient,
        view="lateral",
        attributes={"patient": film.patient, "view": "lateral"},
        annotations=tuple(_annotation(region, (height, width)) for region in film.regions),
        source={"filename": film.file_name, "size": size_bytes},
    )


def _annotation(region: Region, image_size: tuple[int, int]) -> Annotation:
    outline = {
        "name": "polygon",
        "all_points_x": region.outline[:, 0].tolist(),
        "all_points_y": region.outline[:, 1].tolist(),
    }
    attributes = {"level": region.level} if region.level else {}
    mask = rle.polygons_to_rle([region.outline], image_size)
    return Annotation(region.category, mask, (outline,), attributes, drawn=True)


def _write_png(path: Path, pixels: NDArray[np.uint8] | NDArray[np.uint16]) -> int:
    """Write a film and return its size in bytes."""
    good, content = cv2.imencode(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 2])
    if not good:
        raise DataError("could not be encoded as PNG", where=path.name, fix="Report this with the command you ran.")
    write_bytes(path, content.tobytes())
    return int(content.size)
