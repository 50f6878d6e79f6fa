"""Pictures of masks: read with their sizes checked, taken apart into instances, and found by the names of films."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from vertinst.errors import DataError, VertinstError
from vertinst.files import write_bytes
from vertinst.structures import rle as rle_masks
from vertinst.structures.rle import MAX_PIXELS, Rle

from ._class_names import ClassNames
from ._film_stems import FilmStems

__all__ = ["SUFFIXES", "Named", "Values", "masks_of", "name_of", "parts_of", "read_values", "values_of", "write_values"]

SUFFIXES = (".png", ".tif", ".tiff")
# Whatever a file is called: decoders of other formats are never tried.
_FORMATS = ("PNG", "TIFF")
Values = npt.NDArray[Any]

# No film has as many instances; noise of a picture that is no mask has.
MAX_INSTANCES = 2000
# What people add to a film's name for its mask, beside nothing at all.
_MASK_WORDS = frozenset({"mask", "masks", "label", "labels", "labelmap", "seg", "segmentation", "gt", "annotation"})

Named = tuple[str, str | None]
"""A film's name without suffix, and the class that the mask's own name gives: None if it is of the whole film."""


def read_values(path: Path) -> Values:
    """Values of a picture of masks: (H, W) of whole numbers; of palettes the index, of colours only grey.

    Raises:
        DataError: Missing, no picture, too large, or in colours.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise DataError(f"must have at most {MAX_PIXELS} pixels", where=path, fix="Check the file.")
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError("is not a PNG or TIFF that can be read", where=path, fix="Export the mask again.") from error
    if pixels.ndim == 3:
        grey = pixels[..., 0]
        colours = pixels[..., : 3 if pixels.shape[2] > 2 else 1]
        if (colours != grey[..., None]).any():
            raise DataError("mask must be grey, got colours", where=path, fix="Export label maps or binary masks.")
        pixels = grey
    if pixels.dtype.kind == "f" and not (np.isfinite(pixels).all() and (pixels == np.rint(pixels)).all()):
        raise DataError("mask must hold whole numbers", where=path, fix="Export label maps or binary masks.")
    return pixels.astype(np.int64) if pixels.dtype.kind in "fb" else pixels


def values_of(values: Values, path: Path) -> list[int]:
    """Values other than 0, rising.

    Raises:
        DataError: More than `MAX_INSTANCES`, or one below 0.
    """
    found: list[int] = np.unique(values).tolist()
    if len(found) > MAX_INSTANCES or (found and found[0] < 0):
        raise DataError(
            f"must have at most {MAX_INSTANCES} values from 0 on, got {len(found)}",
            where=path,
            fix="Give masks, not films.",
        )
    return [value for value in found if value]


def masks_of(values: Values) -> dict[int, Rle]:
    """The mask of every value but 0, by rising value; in one pass, however many there are."""
    down = values.T.ravel()
    places = np.flatnonzero(down)
    places = places[np.argsort(down[places], kind="stable")]
    found, starts = np.unique(down[places], return_index=True)
    parts = np.split(places, starts[1:]) if len(found) else []
    return {int(value): _from_places(part, values.shape) for value, part in zip(found, parts, strict=True)}


def _from_places(places: npt.NDArray[np.int64], image_size: tuple[int, ...]) -> Rle:
    """Mask of pixels counted down the columns, rising."""
    first = np.diff(places, prepend=-2) > 1
    last = np.roll(first, -1)
    edges = np.stack([places[first], places[last] + 1], axis=1).ravel()
    counts = np.diff(edges, prepend=0, append=image_size[0] * image_size[1])
    return rle_masks.from_coco({"size": list(image_size), "counts": counts.tolist()}, image_size)


def parts_of(covered: npt.NDArray[np.bool_], path: Path) -> list[Rle]:
    """Parts of a binary mask that are connected, corners included, from the top left on.

    Raises:
        DataError: More than `MAX_INSTANCES`.
    """
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(covered.astype(np.uint8), connectivity=8)
    if count - 1 > MAX_INSTANCES:
        raise DataError(f"must have at most {MAX_INSTANCES} parts, got {count - 1}", where=path, fix="Check the mask.")
    result = []
    for number, (left, top, width, height, _) in enumerate(boxes.tolist()[1:], start=1):
        patch = labels[top : top + height, left : left + width] == number
        result.append(rle_masks.paste(patch, top, left, covered.shape))
    return result


def write_values(path: Path, values: npt.NDArray[np.uint8] | npt.NDArray[np.uint16]) -> None:
    """Write (H, W) as PNG of the same depth, aside and renamed.

    Raises:
        VertinstError: The file cannot be written.
    """
    good, content = cv2.imencode(".png", values)
    if not good:
        raise VertinstError("could not be encoded as PNG", where=path, fix="Report this with the film's size.")
    write_bytes(path, content.tobytes())


def name_of(name: PurePosixPath, stems: FilmStems | None, classes: ClassNames) -> Named | None:
    """Which film a mask belongs to, by its own name.

    `film.png` and `film_mask.png` are of the whole film; `film_lumbar_1.png`, `film/lumbar_1.png` and
    `film/1_lumbar.png` are one instance each.

    Args:
        name: The mask's, relative to its folder.
        stems: Films by name without suffix; None if the films are not at hand: then what follows a film's name must be
            a known class.
        classes: Known names.

    Returns:
        Film and class; None if there is no such film.
    """
    stem = name.with_suffix("").as_posix()
    for film, rest in _cuts(stem):
        if stems is not None and film not in stems:
            continue
        if rest.casefold() in _MASK_WORDS or (rest == "" and stems is not None):
            return film, None
        label = _class_name(rest)
        if rest and (stems is not None or (label and classes.find(label) is not None)):
            return film, label
    return (stem, None) if stems is None else None


def _cuts(stem: str) -> Iterator[tuple[str, str]]:
    """Every way to part a name into that of a film and the rest, the longest first, folders before and after."""
    yield stem, ""
    for match in reversed(list(re.finditer(r"[_/.-]", stem))):
        yield stem[: match.start()], stem[match.end() :]
    base = PurePosixPath(stem).name
    if base != stem:
        yield from _cuts(base)


def _class_name(rest: str) -> str:
    """Class in what is left of a name: `lumbar_1` and `1_lumbar` are lumbar, `L5` is L5, `3` is none."""
    rest = rest.strip("_-./")
    match = re.fullmatch(r"(.*?)[_./-]\d+|\d+[_./-](.*)|\d+()", rest)
    return next((group for group in match.groups() if group is not None), "") if match else rest
