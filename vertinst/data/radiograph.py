"""One film from a file: PNG, JPEG, TIFF or DICOM to grey values 0..1, the same way everywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile

from vertinst.data.quiet import no_warnings
from vertinst.errors import DataError
from vertinst.structures.rle import MAX_PIXELS

__all__ = [
    "DICOM_SUFFIXES",
    "SUFFIXES",
    "Film",
    "FilmHeader",
    "Tone",
    "find_films",
    "is_dicom",
    "read_film",
    "read_header",
    "read_size",
    "window",
]

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
DICOM_SUFFIXES = (".dcm", ".dicom")
DICOM_MARK, DICOM_MARK_AT = b"DICM", 128

# A collimated border or a bright marker must not decide what is black and white.
BLACK_PERCENT, WHITE_PERCENT = 0.5, 99.5
# Rec. 601 luma, for films that were saved as colour.
LUMA_RGB = (0.299, 0.587, 0.114)
EXIF_ORIENTATION = 0x0112
TIFF_WIDTH, TIFF_HEIGHT, TIFF_PHOTOMETRIC = 256, 257, 262
# EXIF orientation to (quarter turns counterclockwise, mirrored left to right after that).
_UPRIGHT = ((0, False), (0, True), (2, False), (2, True), (3, True), (3, False), (1, True), (1, False))
TURNS = dict(enumerate(_UPRIGHT, start=1))
_CLASSES: dict[bytes, Callable[[BinaryIO], Image.Image]] = {
    b"\x89PNG": PngImageFile,
    b"\xff\xd8\xff": JpegImageFile,
    b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile,
}


Tone: TypeAlias = Literal["window", "stored"]
"""How grey values become 0..1; see `read_film`."""


@dataclass(frozen=True, eq=False)
class Film:
    """A radiograph as the networks see it.

    Attributes:
        pixels: (H, W) float32, 0..1, by the tone that was asked for. With `window` all 0 for a constant film.
        bits: Bits a grey value was stored in: 8 or 16, in DICOM 1 to 16.
        black: Grey value that became 0: as stored, of a grey DICOM film as a viewer shows it, 0..65535.
        white: Grey value that became 1, likewise.
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
        view: `lateral` or `ap` where a DICOM film says so, or None.
    """

    height: int
    width: int
    orientation: int = 1
    pixel_spacing_mm: tuple[float, float] | None = None
    pixel_spacing_source: str | None = None
    view: str | None = None

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) px of the film turned upright, as `read_film` gives it."""
        turned = TURNS[self.orientation][0] % 2
        return (self.width, self.height) if turned else (self.height, self.width)


def read_film(path: Path, *, tone: Tone = "window") -> Film:
    """Read a film: grey or colour (taken as luma), alpha ignored, EXIF orientation obeyed, the first page of several.

    DICOM is known by its content or by its suffix, and shown by the rule in `dicom_display` before anything else: with
    either tone a DICOM film is what a viewer's 8-bit export of it is, for stored values may be of any number of bits,
    below 0 or white at 0, and say nothing by themselves.

    Args:
        path: The file.
        tone: `window` stretches the 0.5th percentile to 0 and the 99.5th to 1 and clips. `stored` divides by the
            largest value of the type (255 or 65535; of a colour DICOM film by that of its stored bits), and leaves
            dark films dark: what networks expect that were trained on photographs' 8-bit values.

    Raises:
        DataError: Missing, broken, truncated, no image, larger than `MAX_PIXELS`, of an unusual depth, or DICOM of
            several frames, without pixels, or of a compression that is not read.
    """
    if is_dicom(path):
        from vertinst.data.dicom import read_dicom

        shown, bits = read_dicom(path)
        # Grey is shown over all of its 16 bits whatever was stored; colours keep their values.
        return _toned(shown, bits, tone, _largest(shown) if shown.ndim == 2 else (1 << bits) - 1)
    orientation = _inspect(path)[2]
    stored, is_turned = _decode(path, orientation)
    turns, mirrored = TURNS[1 if is_turned else orientation]
    upright = np.rot90(stored, turns)
    return _toned(upright[:, ::-1] if mirrored else upright, 8 * stored.dtype.itemsize, tone, _largest(stored))


def _toned(stored: npt.NDArray[np.uint8 | np.uint16], bits: int, tone: Tone, largest: int) -> Film:
    grey = np.ascontiguousarray(stored if stored.ndim == 2 else _luma(stored))
    if tone == "stored":
        pixels = grey.astype(np.float32) / np.float32(largest)
        # Colours may hold more than their header's bits.
        return Film(np.minimum(pixels, 1, out=pixels), bits, 0.0, float(largest))
    pixels, black, white = window(grey)
    return Film(pixels, bits, black, white)


def _largest(stored: npt.NDArray[np.uint8 | np.uint16]) -> int:
    return int(np.iinfo(stored.dtype).max)


def read_header(path: Path) -> FilmHeader:
    """Read size, orientation, pixel spacing and view of a film, no pixels.

    Spacing and view come from DICOM alone (`dicom_spacing` says from which elements): what PNG, JPEG and TIFF call
    resolution is dots on paper or a screen.

    Raises:
        DataError: As `read_film`, as far as the header tells.
    """
    if not is_dicom(path):
        return FilmHeader(*_inspect(path))
    from vertinst.data.dicom import read_dicom_header

    header = read_dicom_header(path)
    spacing = header.spacing
    return FilmHeader(
        header.layout.height,
        header.layout.width,
        pixel_spacing_mm=(spacing.row_mm, spacing.column_mm) if spacing else None,
        pixel_spacing_source=spacing.source if spacing else None,
        view=header.view,
    )


def read_size(path: Path) -> tuple[int, int]:
    """(height, width) px of a film as `read_film` gives it, from the header alone.

    Raises:
        DataError: As `read_film`, as far as the header tells.
    """
    return read_header(path).image_size


def is_dicom(path: Path) -> bool:
    """Whether a file is read as DICOM: by the mark in its content, or by its suffix where the mark is missing.

    A file that is missing or cannot be opened is one if its suffix says so.
    """
    try:
        with path.open("rb") as file:
            start = file.read(DICOM_MARK_AT + len(DICOM_MARK))
    except OSError:
        start = b""
    return start[DICOM_MARK_AT:] == DICOM_MARK or path.suffix.lower() in DICOM_SUFFIXES


def find_films(paths: Sequence[Path]) -> list[Path]:
    """Films among files and folders, folders searched to the bottom; sorted within each, none twice.

    Hidden files are passed over. A file that was named outright is kept whatever its suffix. In a folder, files
    without a suffix, or with a number for one as in `1.2.840.1`, are films if their content is DICOM's.

    Raises:
        DataError: A path does not exist, or there is no film at all.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            found.update(dict.fromkeys(sorted(p for p in path.rglob("*") if _looks_like_film(p))))
        elif path.is_file():
            found[path] = None
        else:
            raise DataError("no such file or folder", where=path, fix="Check the path.")
    if not found:
        raise DataError(
            f"no film found (looked for {', '.join(SUFFIXES + DICOM_SUFFIXES)} and DICOM without a suffix)",
            where=", ".join(str(p) for p in paths) or "no path given",
            fix="Name the folder that holds the films.",
        )
    return list(found)


def _looks_like_film(path: Path) -> bool:
    if path.name.startswith(".") or not path.is_file():
        return False
    suffix = path.suffix.lower()
    if suffix == "" or suffix[1:].isdigit():
        # A DICOMDIR has the mark, and no pixels.
        return path.name.upper() != "DICOMDIR" and is_dicom(path)
    return suffix in SUFFIXES + DICOM_SUFFIXES


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
    # A file and not its name: by name Pillow maps raw TIFFs into memory, and scrambles them where they are turned.
    with path.open("rb") as file, _image(file) as image:
        yield image


def _image(file: BinaryIO) -> Image.Image:
    """The image of a file, its pixels not yet read.

    Opened by its own class, PNG, JPEG and TIFF do not meet Pillow's limit of pixels, which is one for the whole
    process and lower than `MAX_PIXELS`; `_inspect` bounds them instead.
    """
    start = file.read(4)
    file.seek(0)
    for mark, kind in _CLASSES.items():
        if start.startswith(mark):
            return kind(file)
    with no_warnings(Image.DecompressionBombWarning):
        return Image.open(file)


def _too_large(path: Path) -> DataError:
    return DataError(f"must have at most {MAX_PIXELS} pixels, got more", where=path, fix="Reduce the film's size.")


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
    except Image.DecompressionBombError as error:
        # One strip or tile of a TIFF, which Pillow holds against its own limit.
        raise DataError("film is too large for one strip", where=path, fix="Export it as PNG.") from error
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
        _check_grey(values, path)
        return np.rint(values).astype(np.uint16)
    if image.mode in ("P", "PA"):
        return np.asarray(image.convert("RGB"))
    return np.asarray(image.convert("L"))


def _check_grey(values: npt.NDArray[Any], path: Path) -> None:
    """Refuse what the film would lose as whole numbers of 16 bits."""
    if not np.isfinite(values).all():
        got = "NaN or infinite values"
    elif values.min() < 0 or values.max() > 65535:
        got = f"{values.min():g} to {values.max():g}"
    elif values.max() <= 1 and (values != np.rint(values)).any():
        # Floating-point films of 0..1: as whole numbers they would be black.
        got = "fractions between 0 and 1"
    else:
        return
    raise DataError(
        f"grey values must be whole numbers 0..65535, got {got}", where=path, fix="Export it with 8 or 16 bits."
    )


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
