"""Results of `vertinst predict` in: as a data set, to be exported, corrected by hand and learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vertinst.errors import DataError
from vertinst.progress import Progress, silent, track
from vertinst.report.results import FilmResult, read_films
from vertinst.structures.conversion import ReadOptions, Skip
from vertinst.structures.dataset import Annotation, Dataset, ImageRecord
from vertinst.structures.measures import CORNERS
from vertinst.structures.spine import Implant, Vertebra

from ._build import categories_of
from ._films import FilmFolder
from ._patients import PatientReader
from ._via_definitions import define_classes

__all__ = ["of_results", "read"]


def read(
    paths: Sequence[Path],
    images: Path | None,
    options: ReadOptions | None = None,
    *,
    progress: Progress = silent,
) -> tuple[Dataset, tuple[Skip, ...]]:
    """Read results folders as one data set.

    Vertebrae come first, from the sacrum up, then implants. Their attributes are `class`, `level` (blank for
    implants), `score` (text, three decimals) and, where there are any, `confidence` (of the level, text, three
    decimals), `levels` (of an implant, from below) and `flags`; corners of vertebrae are keypoints. Of a film they are
    `flags` and `construct`. Candidates are not read: they are there for average precision only. Measures are not
    either: `vertinst export --format csv` writes them.

    Args:
        paths: Folders that `vertinst predict` wrote, their sub-folders included.
        images: Folder of the films: their sizes in bytes, by which VIA tells films apart, and their pixel spacing are
            taken from there. None takes all else from the results.
        options: See `ReadOptions`; only the patient pattern and known films have a meaning here.
        progress: Told after each film.

    Returns:
        The data set, its categories the paper's five if any of them occurs (or nothing does), followed by others by
        alphabet; and no skips.

    Raises:
        DataError: A folder holds no results, one is broken, a film occurs in two folders, is not in `images`, or is
            not of the size that the results say.
    """
    results: dict[str, FilmResult] = {}
    for result in (r for path in paths for r in read_films(path)):
        if result.file_name in results:
            raise DataError(
                f"a film must occur once, got {result.file_name!r} in two folders",
                where=result.path,
                fix="Give one of the folders only.",
            )
        results[result.file_name] = result
    return of_results(tuple(results.values()), images, options, progress=progress), ()


def of_results(
    results: Sequence[FilmResult],
    images: Path | None,
    options: ReadOptions | None = None,
    *,
    progress: Progress = silent,
) -> Dataset:
    """The data set of results that are read already; see `read`.

    Args:
        results: No film occurs twice.
        images: See `read`.
        options: See `read`.
        progress: Told after each film.

    Raises:
        DataError: A film is not in `images`, or is not of the size that the results say.
    """
    chosen = options or ReadOptions()
    folder = FilmFolder(images, chosen.known_films) if images is not None else None
    patients = PatientReader([], chosen)
    steps = track(results, len(results), "reading results", progress)
    records = tuple(_record(number, result, folder, patients) for number, result in enumerate(steps, start=1))
    categories = categories_of(records)
    return Dataset(categories, records, {"region": _definitions(categories)})


def _definitions(categories: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Of the region attributes, as VIA writes them: in this order its editor shows them."""
    text = {"type": "text", "description": "", "default_value": ""}
    section: dict[str, dict[str, Any]] = {}
    define_classes(section, "class", categories)
    return {**section, **{name: dict(text) for name in ("level", "score", "confidence", "levels")}}


def _record(number: int, result: FilmResult, folder: FilmFolder | None, patients: PatientReader) -> ImageRecord:
    spine = result.spine
    height, width = spine.image_size
    facts = _film_facts(result, folder) if folder is not None else {"file_name": result.file_name}
    if spine.scale is not None:
        # What the measures in millimetres were made with, which need not be what the film's header says.
        spacing = (spine.scale.row_mm, spine.scale.column_mm)
        facts |= {"pixel_spacing_mm": spacing, "pixel_spacing_source": spine.scale.source}
    return ImageRecord(
        number,
        width=width,
        height=height,
        patient=patients.read(facts["file_name"], {}, {}, None),
        view=spine.view,
        attributes=_texts(flags=", ".join(spine.flags), construct=spine.construct),
        annotations=(*map(_of_vertebra, spine.vertebrae), *map(_of_implant, spine.implants)),
        **facts,
    )


def _film_facts(result: FilmResult, folder: FilmFolder) -> dict[str, Any]:
    found = folder.find(result.file_name)
    if found is None:
        raise DataError("film is not there", where=result.file_name, fix="Give the folder of the films with --images.")
    header = folder.header(found)
    if header.image_size != result.spine.image_size:
        (height, width), (rows, columns) = header.image_size, result.spine.image_size
        raise DataError(
            f"film must be {columns} x {rows} px as its results say, got {width} x {height}",
            where=found,
            fix="Give the folder of the films that were predicted, or predict them again.",
        )
    return {
        "file_name": found,
        "source": {"filename": result.file_name, "size": (folder.folder / found).stat().st_size},
        "pixel_spacing_mm": header.pixel_spacing_mm,
        "pixel_spacing_source": header.pixel_spacing_source if header.pixel_spacing_mm is not None else None,
    }


def _of_vertebra(vertebra: Vertebra) -> Annotation:
    confidence = "" if vertebra.confidence is None else f"{vertebra.confidence:.3f}"
    corners = {}
    if vertebra.body is not None:
        corners = {name: (x, y) for name, (x, y) in zip(CORNERS, vertebra.body.corners_px.tolist(), strict=True)}
    attributes = {"class": vertebra.category, "level": vertebra.level, "score": f"{vertebra.score:.3f}"}
    more = _texts(confidence=confidence, flags=", ".join(vertebra.flags))
    return Annotation(vertebra.category, vertebra.mask, attributes=attributes | more, keypoints=corners)


def _of_implant(implant: Implant) -> Annotation:
    attributes = {"class": implant.category, "level": "", "score": f"{implant.score:.3f}"}
    more = _texts(levels=", ".join(implant.levels), flags=", ".join(implant.flags))
    return Annotation(implant.category, implant.mask, attributes=attributes | more)


def _texts(**attributes: str) -> dict[str, str]:
    """Those that say something."""
    return {name: text for name, text in attributes.items() if text}
