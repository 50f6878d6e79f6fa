"""Phantom films: synthetic lumbar radiographs, lateral or antero-posterior, with VIA annotations and a known truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vertinst import plugins
from vertinst.data.phantom_bones import skeleton
from vertinst.data.phantom_style import PhantomStyle
from vertinst.data.phantom_take import PhantomFilm, PhantomPatient, draw_patient, film_regions, take_film
from vertinst.data.phantom_truth import Region
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
    "film_regions",
    "make_phantoms",
    "take_film",
]

PROJECT_NAME = "via_project.json"
TRUTH_NAME = "truth.json"


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

    Of every film the truth says: `patient`; `view` (`lateral` or `ap`); size and `pixel_spacing_mm`; `facing` (None on
    antero-posterior films) and `marker`; `lumbar_count` (4 to 6), `sacralised`, `no_sacrum`; the annotated `levels`
    from below and the share of each that is `visible`; `corners_px` and `middles_px` as `phantom_truth` gives them;
    `lordosis_L1_S1_deg` of lateral films; of antero-posterior ones `scoliosis_deg` and `convex` as drawn, and
    `cobb_max_deg` with its `cobb_levels` (upper, lower) as projected; `implants` in the order of their regions;
    `disease` as `phantom_disease.apply_disease` has it, `date` and `changes` as `phantom_follow_up.second_date` has
    them.

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
        anatomy = None
        for film_number in range(1, min(patient.films, count - made) + 1):
            if anatomy is not patient.on_film(film_number).anatomy:
                anatomy = patient.on_film(film_number).anatomy
                bodies, rest = skeleton(anatomy)
            yield take_film(patient, bodies, rest, seed, film_number, bits, style)
            made += 1


def _record(image_id: int, film: PhantomFilm, size_bytes: int) -> ImageRecord:
    """The film with its regions as annotations."""
    height, width = film.pixels.shape
    return ImageRecord(
        image_id,
        film.file_name,
        width,
        height,
        patient=film.patient,
        view=film.truth["view"],
        attributes={"patient": film.patient, "view": film.truth["view"]},
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
