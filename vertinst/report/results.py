"""The results folder: what prediction writes for every film, and how the other steps read it back.

`<film>.json` is the labelled JSON, `overlays/<film>.png` the picture for people, `masks/<film>.png` the label map,
`masks/<film>_merged.png` all bone (or the classes chosen) in 255, `masks/<film>_<class>.png` all of one class
where asked for, and `films/<film>.jpg` a small copy of the film as the network saw it, which makes the folder enough
for a report. `<film>` is the film's name without its suffix, sub-folders kept.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from vertinst.errors import DataError, VertinstError
from vertinst.files import film_stem, inside, write_bytes
from vertinst.postprocess.merge import class_masks, label_map, merged_mask
from vertinst.report import labelled, overlay
from vertinst.structures import Spine, rle
from vertinst.structures.dataset import BONE

__all__ = [
    "METRICS_NAME",
    "FilmPaths",
    "FilmResult",
    "check_masks",
    "class_mask_path",
    "film_paths",
    "has_results",
    "read_films",
    "read_folder",
    "write_film",
]

METRICS_NAME = "metrics.json"
PREVIEW_PX = 1200
"""Longer side of the small copy of a film, px at most."""
_LOOK_BYTES = 20_000_000


class FilmPaths(NamedTuple):
    """Where the results of one film lie.

    Attributes:
        labelled: Labelled JSON.
        overlay: PNG, RGB, of the film's size.
        label_map: PNG, 8 or 16 bits: k is the k-th vertebra from the sacrum up, after them the implants.
        merged: PNG, 0 or 255: all bone, or the classes chosen.
        film: JPEG of the film, at most `PREVIEW_PX` px on its longer side.
    """

    labelled: Path
    overlay: Path
    label_map: Path
    merged: Path
    film: Path


class FilmResult(NamedTuple):
    """A labelled JSON as read from a results folder.

    Attributes:
        path: The file.
        file_name: The film's, checked to lie inside of any folder that it is joined to.
        spine: What was found.
        provenance: How it was made.
    """

    path: Path
    file_name: str
    spine: Spine
    provenance: dict[str, Any]


def film_paths(folder: Path, file_name: str) -> FilmPaths:
    r"""Where the results of a film lie in a results folder; nothing is made.

    Args:
        folder: The results folder.
        file_name: The film's, possibly from a stranger's file; `/` or `\\` between folders.

    Raises:
        DataError: The name leads outside of the folder, is empty, or is that of the metrics.
    """
    name = PurePosixPath(file_name.replace("\\", "/"))
    if not name.stem:
        raise DataError(f"file name must name a film, got {file_name!r}", fix="Correct the name in the file.")
    stem = film_stem(file_name)
    if f"{stem}.json" == METRICS_NAME:
        raise DataError(
            f"a film must not be called {PurePosixPath(METRICS_NAME).stem}", where=file_name, fix="Rename the film."
        )
    return FilmPaths(
        inside(folder, f"{stem}.json"),
        inside(folder, f"overlays/{stem}.png"),
        inside(folder, f"masks/{stem}.png"),
        inside(folder, f"masks/{stem}_merged.png"),
        inside(folder, f"films/{stem}.jpg"),
    )


def class_mask_path(folder: Path, file_name: str, category: str) -> Path:
    """Where the mask of a class of a film lies in a results folder; signs that file names cannot have are `_` in it.

    Raises:
        DataError: As for `film_paths`.
    """
    merged = film_paths(folder, file_name).merged
    name = re.sub(r"[^\w.+-]+", "_", category)
    return merged.with_name(f"{merged.stem.removesuffix('merged')}{name}.png")


def write_film(
    folder: Path,
    file_name: str,
    pixels: npt.NDArray[np.float32] | None,
    spine: Spine,
    provenance: Mapping[str, Any],
    *,
    merged: Collection[str] = BONE,
    classes: Collection[str] = (),
) -> None:
    """Write everything about one film: labelled JSON, overlay, label map, merged mask, masks of classes, small copy.

    Args:
        folder: The results folder; made if missing. A film of the same name is replaced.
        file_name: The film's, relative to the folder of films.
        pixels: (H, W) float in 0..1, as `read_film` gives it; None where the film is not at hand: then there is neither
            overlay nor small copy.
        spine: What was found on it.
        provenance: How it was made, JSON-ready.
        merged: Classes of the merged mask.
        classes: Classes that have a mask of their own, an empty one where nothing of them was found.

    Raises:
        DataError: The name leads outside of the folder, another film of this folder has the same outputs
            (`a.png` and `a.jpg`), film and spine differ in size, or a class's mask would have another's name.
        VertinstError: A file cannot be written.
    """
    paths = film_paths(folder, file_name)
    drawn = None if pixels is None else overlay.draw(pixels, spine)
    class_paths = {name: class_mask_path(folder, file_name, name) for name in classes}
    _refuse_shared_names(paths, class_paths)
    _refuse_shared_outputs([*paths, *class_paths.values()], paths.labelled, file_name)
    labelled.write(spine, paths.labelled, file_name=file_name, provenance=provenance)
    if drawn is not None:
        _write_image(paths.overlay, drawn[:, :, ::-1])
    _write_image(paths.label_map, label_map(spine))
    _write_image(paths.merged, rle.decode(merged_mask(spine, merged)).astype(np.uint8) * 255)
    found = class_masks(spine)
    for name, path in class_paths.items():
        mask = found.get(name) or rle.empty(spine.image_size)
        _write_image(path, rle.decode(mask).astype(np.uint8) * 255)
    if pixels is not None:
        _write_image(paths.film, _preview(pixels))


def check_masks(folder: Path, file_names: Iterable[str], classes: Collection[str] = ()) -> None:
    """Refuse films of which one's merged mask or mask of a class would overwrite another's label map.

    Args:
        folder: The results folder.
        file_names: Of films whose labelled JSON files have names of their own.
        classes: Classes that are to have a mask of their own.

    Raises:
        DataError: There are two such films, or as for `film_paths`.
    """
    names = list(file_names)
    label_maps = {film_paths(folder, name).label_map: name for name in names}
    for name in names:
        masks = [film_paths(folder, name).merged, *(class_mask_path(folder, name, c) for c in classes)]
        other = next((label_maps[path] for path in masks if path in label_maps), None)
        if other is not None:
            raise DataError(f"two films would have masks of one name: {name} and {other}", fix="Rename one of them.")


def _refuse_shared_names(paths: FilmPaths, class_paths: Mapping[str, Path]) -> None:
    taken = {paths.merged: "merged"}
    for name, path in class_paths.items():
        if path in taken:
            raise DataError(
                f"masks of classes must have names of their own, got {path.name!r} for {taken[path]!r} and {name!r}",
                fix="Rename a class, or leave the masks of classes out.",
            )
        taken[path] = name


def _refuse_shared_outputs(paths: Sequence[Path], written: Path, file_name: str) -> None:
    # The labelled JSON is written first: other outputs without it belong to another film.
    known = written.exists()
    shared = labelled.read(written)[0] != file_name if known else any(path.exists() for path in paths)
    if shared:
        raise DataError(
            f"two films must not share an output, got one for {written.stem!r} already",
            where=file_name,
            fix="Rename one of them, or predict them into different folders.",
        )


def _preview(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    factor = min(1.0, PREVIEW_PX / max(pixels.shape))
    height, width = (max(1, round(side * factor)) for side in pixels.shape)
    small = cv2.resize(np.clip(pixels, 0, 1), (width, height), interpolation=cv2.INTER_AREA)
    return np.rint(small * 255).astype(np.uint8)


def _write_image(path: Path, image: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> None:
    quality = [cv2.IMWRITE_JPEG_QUALITY, 88] if path.suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 4]
    good, content = cv2.imencode(path.suffix, np.ascontiguousarray(image), quality)
    if not good:
        raise VertinstError("could not be encoded as an image", where=path, fix="Report this with the film's size.")
    write_bytes(path, content.tobytes())


def has_results(folder: Path, *, deep: bool = True) -> bool:
    """Whether a folder holds at least one labelled JSON.

    Args:
        folder: It need not exist.
        deep: Whether its sub-folders count.
    """
    files = _json_files(folder) if deep else [p for p in _json_files(folder) if p.parent == folder]
    return any(_looks_labelled(path) for path in files)


def _looks_labelled(path: Path) -> bool:
    # By its words and not parsed: it is read in full, and checked, only later.
    with path.open("rb") as file:
        start = file.read(_LOOK_BYTES)
    return b'"schema_version"' in start and labelled.DISCLAIMER.encode() in start


def _json_files(folder: Path) -> list[Path]:
    names = (METRICS_NAME, "labelled.schema.json")
    found = folder.rglob("*.json") if folder.is_dir() else ()
    return sorted(p for p in found if p.is_file() and p.name not in names and not p.name.startswith("."))


def read_films(folder: Path) -> list[FilmResult]:
    """Read every labelled JSON of a results folder, in the order of the film names.

    Every JSON file in it and its sub-folders counts as one, except `metrics.json` and a copy of the schema: what is
    broken or foreign is an error and not left out in silence.

    Raises:
        DataError: There is no labelled JSON, one is not as it should be, or two are of the same film.
    """
    films: dict[str, FilmResult] = {}
    for path in _json_files(folder):
        file_name, spine, provenance = labelled.read(path)
        try:
            film_paths(folder, file_name)
        except DataError as error:
            raise DataError(f"image, file_name: {error.message}", where=path, fix=error.fix) from error
        if file_name in films:
            raise DataError(
                f"a film must occur once, got {file_name!r} in {films[file_name].path.name} and here as well",
                where=path,
                fix="Remove one of the two.",
            )
        films[file_name] = FilmResult(path, file_name, spine, provenance)
    if not films:
        raise DataError(
            "must be a folder with labelled JSON files, got none",
            where=folder,
            fix="Make them with `vertinst predict --weights RUN FILMS --out DIR`.",
        )
    return [films[name] for name in sorted(films)]


def read_folder(folder: Path) -> dict[str, Spine]:
    """Spines of a results folder by film name; see `read_films`."""
    return {film.file_name: film.spine for film in read_films(folder)}
