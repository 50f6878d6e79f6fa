"""One film from a file: PNG, JPEG or TIFF of 8 or 16 bits to grey values 0..1, the same way everywhere."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from vertinst.errors import DataError
from vertinst.structures.rle import MAX_PIXELS

__all__ = ["SUFFIXES", "Film", "FilmHeader", "find_films", "read_film", "read_header", "read_size", "window"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
DICOM_SUFFIXES = (".dcm", ".dicom")

# A collimated border or a bright marker must not decide what is black and white.
BLACK_PERCENT, WHITE_PERCENT = 0.5, 99.5
# Rec. 601 luma, for films that were saved as colour.
LUMA_RGB = (0.299, 0.587, 0.114)
EXIF_ORIENTATION = 0x0112
TIFF_WIDTH, TIFF_HEIGHT, TIFF_PHOTOMETRIC = 256, 257, 262
# EXIF orientation to (quarter turns counterclockwise, mirrored left to right after that).
_UPRIGHT = ((0, False), (0, True), (2, False), (2, True), (3, True), (3, False), (1, True), (1, False))
TURNS = dict(enumerate(_UPRIGHT, start=1))


@dataclass(frozen=True, eq=False)
class Film:
    """A radiograph as the networks see it.

    Attributes:
        pixels: (H, W) float32, 0..1: 0.5th percentile to 0, 99.5th to 1, clipped. All 0 for a constant film.
        bits: Bits a grey value was stored in, 8 or 16.
        black: Stored grey value that became 0.
        white: Stored grey value that became 1.
    """

    pixels: npt.NDArray[np.float32]
    bits: int
    black: float
    white: float

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) px."""
        height, width = self.pixels.shape
        return height, width


@dataclass(frozen=True)
class FilmHeader:
    """What a film's header says.

    Attributes:
        height: px, as stored.
        width: px, as stored.
        orientation: EXIF orientation, 1..8; 1 is upright.
        pixel_spacing_mm: (row, column), or None.
        pixel_spacing_source: Where the spacing comes from, or None.
    """

    height: int
    width: int
    orientation: int = 1
    pixel_spacing_mm: tuple[float, float] | None = None
    pixel_spacing_source: str | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) px of the film turned upright, as `read_film` gives it."""
        turned = TURNS[self.orientation][0] % 2
        return (self.width, self.height) if turned else (self.height, self.width)


def read_film(path: Path) -> Film:
    """Read a film: grey or colour (taken as luma), alpha ignored, EXIF orientation obeyed, the first page of several.

    Raises:
        DataError: Missing, broken, truncated, no image, DICOM, larger than `MAX_PIXELS`, or of an unusual depth.
    """
    orientation = _inspect(path)[2]
    stored, is_turned = _decode(path, orientation)
    grey = stored if stored.ndim == 2 else _luma(stored)
    turns, mirrored = TURNS[1 if is_turned else orientation]
    upright = np.rot90(grey, turns)
    upright = upright[:, ::-1] if mirrored else upright
    bits = 8 * stored.dtype.itemsize
    pixels, black, white = window(np.ascontiguousarray(upright))
    return Film(pixels, bits, black, white)


def read_header(path: Path) -> FilmHeader:
    """Read size, orientation and pixel spacing of a film, no pixels.

    Raises:
        DataError: As `read_film`, as far as the header tells.
    """
    return FilmHeader(*_inspect(path))


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) px of a film as `read_film` gives it, from the header alone.

    Raises:
        DataError: As `read_film`, as far as the header tells.
    """
    return read_header(path).image_size


def find_films(paths: Sequence[Path]) -> list[Path]:
    """Films among files and folders, folders searched to the bottom; sorted within each, none twice.

    Hidden files are passed over. A file that was named outright is kept whatever its suffix.

    Raises:
        DataError: A path does not exist, or there is no film at all.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inner = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES + DICOM_SUFFIXES)
            found.update(dict.fromkeys(p for p in inner if p.is_file() and not p.name.startswith(".")))
        elif path.is_file():
            found[path] = None
        else:
            raise DataError("no such file or folder", where=path, fix="Check the path.")
    if not found:
        raise DataError(
            f"no film found (looked for {', '.join(SUFFIXES)})",
            where=", ".join(str(p) for p in paths) or "no path given",
            fix="Name the folder that holds the films.",
        )
    return list(found)


def window(grey: npt.NDArray[np.uint8 | np.uint16 | np.float32]) -> tuple[npt.NDArray[np.float32], float, float]:
    """Stretch grey values between the 0.5th and the 99.5th percentile.

    Args:
        grey: (H, W) of whole numbers 0..65535.

    Returns:
        (H, W) float32 0..1, and the values that became 0 and 1. A film with one value only becomes all 0.
    """
    values = grey.astype(np.uint16)
    # A histogram gives the percentiles of whole numbers exactly, and many times faster than sorting.
    counts = np.cumsum(cv2.calcHist([values], [0], None, [65536], [0, 65536]).ravel().astype(np.int64))
    black, white = (float(np.searchsorted(counts, counts[-1] * p / 100)) for p in (BLACK_PERCENT, WHITE_PERCENT))
    if white <= black:
        # Nearly all pixels alike, as on a film of one small object: take what range there is.
        black, white = float(values.min()), float(values.max())
    scale = 1 / (white - black) if white > black else 0.0
    pixels = (grey.astype(np.float32) - np.float32(black)) * np.float32(scale)
    return np.clip(pixels, 0, 1, out=pixels), black, white


def _inspect(path: Path) -> tuple[int, int, int]:
    """(height, width, EXIF orientation) as stored, checked before a pixel is decoded."""
    if path.suffix.lower() in DICOM_SUFFIXES:
        raise DataError("DICOM cannot be read yet", where=path, fix="Export the film as 16-bit PNG or TIFF.")
    try:
        with _opened(path) as image:
            width, height = image.size
            if isinstance(image, TiffImageFile):
                # Newer Pillow has already turned the size of a TIFF, older has not: its tags are the same for both.
                width, height = int(image.tag_v2[TIFF_WIDTH]), int(image.tag_v2[TIFF_HEIGHT])
            # A PNG without EXIF before its pixels would be decoded to the end in search of it.
            searched = image.format != "PNG" or "exif" in image.info
            orientation = image.getexif().get(EXIF_ORIENTATION, 1) if searched else 1
    except Image.DecompressionBombError as error:
        raise _too_large(path) from error
    except FileNotFoundError as error:
        raise DataError("no such film", where=path, fix="Check the image folder and the file name.") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, KeyError, TypeError) as error:
        raise DataError(
            "is not an image that can be read (PNG, JPEG or TIFF)", where=path, fix="Export the film again."
        ) from error
    if height * width > MAX_PIXELS:
        raise _too_large(path)
    return height, width, orientation if orientation in TURNS else 1


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    with warnings.catch_warnings():
        # Large films are expected; `_inspect` bounds their size.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        # A file and not its name: by name Pillow maps raw TIFFs into memory, and scrambles them where they are turned.
        with path.open("rb") as file, Image.open(file) as image:
            yield image


def _too_large(path: Path) -> DataError:
    # Pillow has a limit of its own, which an application may have moved.
    limit = min(MAX_PIXELS, 2 * (Image.MAX_IMAGE_PIXELS or MAX_PIXELS))
    return DataError(f"must have at most {limit} pixels, got more", where=path, fix="Reduce the film's size.")


def _decode(path: Path, orientation: int) -> tuple[npt.NDArray[np.uint8 | np.uint16], bool]:
    """Stored pixels, (H, W) or (H, W, 3) RGB, uint8 or uint16, and whether they are upright already."""
    try:
        with _opened(path) as image:
            image.load()
            # Pillow turns TIFFs, and no other format, while it decodes them.
            is_turned = isinstance(image, TiffImageFile) and orientation != 1
            if image.mode in ("L", "LA", "1", "P", "PA", "I;16", "I;16B", "I;16L", "I", "F"):
                return _grey(image, path), is_turned
            if image.mode in ("RGB", "RGBA", "RGBX") and image.format in ("PNG", "TIFF") and not is_turned:
                deep = _deep_colour(path)
                if deep is not None:
                    return deep, False
            return np.asarray(image.convert("RGB")), is_turned
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise DataError(
            f"film is broken or cut short ({error})", where=path, fix="Copy or export the film again."
        ) from error


def _grey(image: Image.Image, path: Path) -> npt.NDArray[np.uint8 | np.uint16]:
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint16)
        # Pillow turns a TIFF whose 0 is white around for 8 bits only.
        inverted = isinstance(image, TiffImageFile) and image.tag_v2.get(TIFF_PHOTOMETRIC) == 0
        return 65535 - values if inverted else values
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        if not np.isfinite(values).all() or values.min() < 0 or values.max() > 65535:
            raise DataError(
                "grey values must lie in 0..65535, got others", where=path, fix="Export it with 8 or 16 bits."
            )
        return values.astype(np.uint16)
    if image.mode in ("P", "PA"):
        return np.asarray(image.convert("RGB"))
    return np.asarray(image.convert("L"))


def _deep_colour(path: Path) -> npt.NDArray[np.uint16] | None:
    """16-bit colour, which Pillow would cut down to 8 bits; None where the file has 8."""
    pixels = cv2.imdecode(np.fromfile(path, dtype=np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3:
        return None
    return np.ascontiguousarray(pixels[:, :, 2::-1])


def _luma(rgb: npt.NDArray[np.uint8 | np.uint16]) -> npt.NDArray[np.float32]:
    if (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 1] == rgb[..., 2]).all():
        return rgb[..., 0].astype(np.float32)
    return np.rint(rgb.astype(np.float32) @ np.array(LUMA_RGB, dtype=np.float32))
