"""Levels and measures anew: of films that were predicted, with what the user says now, or of people's annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from vertinst import files, plugins
from vertinst.data.radiograph import FilmHeader, is_dicom, read_film, read_header
from vertinst.errors import ConfigError, DataError, OutputExistsError
from vertinst.postprocess.labelling import Anchor, parse_anchor
from vertinst.postprocess.merge import merged_classes
from vertinst.postprocess.pipeline import SpineOptions, build_spine, relabel
from vertinst.postprocess.policy import Policy
from vertinst.postprocess.stated import Stated, check_names
from vertinst.progress import Progress, silent, track
from vertinst.report import results
from vertinst.report.outlines import inner_point
from vertinst.report.results import FilmResult
from vertinst.structures import Annotation, Dataset, ImageRecord, Scale, Spine, rle
from vertinst.structures.dataset import CLASSES
from vertinst.structures.measures import VIEWS
from vertinst.structures.spine import LEVELS, TRANSITIONAL, is_level
from vertinst.structures.views import view_name
from vertinst.version import __version__

__all__ = ["DIFFERS", "MOST", "measure", "spine_of_annotations"]

DIFFERS = "levels_differ_from_annotation"
"""Flag of a film whose annotated levels are not those counted from the lowest of them."""

MOST = 200
"""Annotations of a film at most: all of a spine with its ribs and metal, and no more than the search can look at."""


def measure(
    source: Path,
    out: Path,
    *,
    stated: Stated = Stated(),  # noqa: B008 - frozen
    images: Path | None = None,
    merged: str | Sequence[str] = "bone",
    overwrite: bool = False,
    progress: Progress = silent,
) -> dict[str, Spine]:
    """Name and measure every film of a results folder or of a COCO file, and write a results folder.

    Of a results folder, what the user does not say stays: the anchor, the view and the scale that a film had, and the
    score threshold that it was predicted with. Of annotations, see `spine_of_annotations`.

    Args:
        source: Results folder, or COCO file of annotations.
        out: The folder.
        stated: What the user says about the films, by their names in the source.
        images: Folder of the films: overlays are then drawn on them, and scales taken from DICOM headers where nobody
            states one. Without it overlays are drawn on the small copies in the results folder; of annotations there
            are then none.
        merged: Classes of the merged masks: `bone`, `bone+implants` or names.
        overwrite: Delete what the folder holds.
        progress: Told after each film.

    Returns:
        The spines by film name, in their order.

    Raises:
        OutputExistsError: The folder is not empty, or lies in the source.
        DataError: The source is not as it should be, an anchor is of none of its films, a film is missing from
            `images` or of another size.
    """
    if out.resolve().is_relative_to(source.resolve()):
        raise OutputExistsError("must not lie in the folder that is read", where=out, fix="Choose another --out.")
    if source.is_dir():
        found = results.read_films(source)
        names = [film.file_name for film in found]
        classes: tuple[str, ...] = CLASSES
        measured = (_of_results(source, film, stated, images) for film in found)
    else:
        dataset: Dataset = plugins.load("converters", "coco").read(source)
        names, classes = [record.file_name for record in dataset.images], dataset.categories
        measured = (_of_record(record, dataset, stated, images) for record in dataset.images)
    check_names(stated.anchors, names)
    chosen = merged_classes(merged, classes)
    files.prepare_folder(out, overwrite=overwrite, inputs=[source, *([images] if images else [])])
    spines = {}
    for film in track(measured, len(names), "measuring", progress):
        results.write_film(out, film.name, film.pixels, film.spine, film.provenance, merged=chosen)
        spines[film.name] = film.spine
    return spines


class _Measured(NamedTuple):
    name: str
    spine: Spine
    pixels: npt.NDArray[np.float32] | None
    provenance: Mapping[str, Any]


def _of_results(folder: Path, film: FilmResult, stated: Stated, images: Path | None) -> _Measured:
    name, spine = film.file_name, film.spine
    header = _header(images, name)
    again = relabel(
        spine,
        # What was suppressed stays so, and by whichever policy: nothing more goes.
        options=SpineOptions(score_threshold=_threshold(film.provenance), suppression=Policy.allowing_all()),
        anchor=stated.anchor_of(name) or _earlier_anchor(spine),
        view=stated.view_of(name),
        scale=stated.scale or spine.scale or _scale(header),
    )
    pixels = _film(images, name, spine.image_size) if images else _copy(folder, name, spine.image_size)
    return _Measured(name, again, pixels, {**film.provenance, "measured_again": {"vertinst": __version__}})


def _threshold(provenance: Mapping[str, Any]) -> float:
    """The score threshold of the prediction, the usual one where it is not written."""
    threshold = provenance.get("score_threshold")
    usable = isinstance(threshold, int | float) and not isinstance(threshold, bool) and 0 <= threshold <= 1
    return float(threshold) if usable and threshold is not None else SpineOptions().score_threshold


def _earlier_anchor(spine: Spine) -> Anchor | None:
    text = spine.naming.anchor if spine.naming else None
    try:
        return parse_anchor(text) if text else None
    except ConfigError:
        # Written by another version, or by hand: what it said is not known.
        return None


def _of_record(record: ImageRecord, dataset: Dataset, stated: Stated, images: Path | None) -> _Measured:
    name = record.file_name
    header = _header(images, name)
    spine = spine_of_annotations(
        record,
        dataset,
        anchor=stated.anchor_of(name),
        view=stated.view_of(name) or view_name(record.view) or (header.view if header else None) or VIEWS[0],
        scale=stated.scale or _scale(record) or _scale(header),
    )
    pixels = _film(images, name, record.image_size) if images else None
    return _Measured(name, spine, pixels, {"source": "annotations", "measured": {"vertinst": __version__}})


def spine_of_annotations(
    record: ImageRecord,
    dataset: Dataset,
    *,
    anchor: Anchor | None = None,
    view: str = VIEWS[0],
    scale: Scale | None = None,
) -> Spine:
    """Make a spine of what people annotated on a film; nothing of it is suppressed, and every score is 1.

    Of more than `MOST` the smallest are left out, as the log then says. Levels are counted from the anchor, else from
    the lowest lumbar vertebra with an annotated level, else from the sacrum. Where the count gives another level than
    the annotation says, the film is flagged `DIFFERS`.

    Args:
        record: The film; annotations marked `ignore` are left out.
        dataset: It is of.
        anchor: What the user says about the levels, if anything.
        view: `lateral` or `ap`.
        scale: Size of a pixel, or None.
    """
    instances = dataset.instances(record)
    kept = [a for a in record.annotations if not a.ignore]
    spine = build_spine(
        replace(instances, scores=np.ones(len(instances), dtype=np.float32)),
        dataset.categories,
        options=SpineOptions(suppression=Policy.allowing_all(), max_instances=MOST),
        anchor=anchor or _annotated_anchor(kept),
        view=view,
        scale=scale,
    )
    # Masks pass through by reference.
    said = {id(a.mask): a.level for a in kept if a.level and is_level(a.level)}
    differs = any(v.level != said.get(id(v.mask), v.level) for v in spine.vertebrae)
    return replace(spine, flags=(*spine.flags, DIFFERS)) if differs else spine


def _annotated_anchor(annotations: Sequence[Annotation]) -> Anchor | None:
    """The lowest lumbar vertebra with a level, by a point in it."""

    def height(level: str) -> float:
        return LEVELS.index(TRANSITIONAL[level][0]) + 0.5 if level in TRANSITIONAL else LEVELS.index(level)

    named = [
        (height(a.level), a.level, a.mask)
        for a in annotations
        if a.category == "lumbar" and a.level and is_level(a.level) and rle.area(a.mask)
    ]
    if not named:
        return None
    _, level, mask = min(named, key=lambda entry: entry[0])
    return Anchor(level, "at", inner_point(mask))


def _scale(said: FilmHeader | ImageRecord | None) -> Scale | None:
    if said is None or said.pixel_spacing_mm is None or not said.pixel_spacing_source:
        return None
    return Scale(*said.pixel_spacing_mm, said.pixel_spacing_source)


def _header(images: Path | None, name: str) -> FilmHeader | None:
    """What a DICOM film says; other formats say neither scale nor view."""
    path = files.inside(images, name) if images else None
    return read_header(path) if path is not None and is_dicom(path) else None


def _film(images: Path, name: str, image_size: tuple[int, int]) -> npt.NDArray[np.float32]:
    path = files.inside(images, name)
    film = read_film(path)
    if film.image_size != tuple(image_size):
        raise DataError(
            f"film must have the size {tuple(image_size)} that it was measured at, got {film.image_size}",
            where=path,
            fix="Give the folder of the films that were predicted or annotated, or leave --images away.",
        )
    return film.pixels


def _copy(folder: Path, name: str, image_size: tuple[int, int]) -> npt.NDArray[np.float32] | None:
    """The small copy of a film at the film's size, or None where there is none that can be read."""
    try:
        pixels = read_film(results.film_paths(folder, name).film, tone="stored").pixels
    except DataError:
        return None
    height, width = image_size
    # Stretched over the film; the copy's own size is that of the film rounded.
    return np.clip(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)
