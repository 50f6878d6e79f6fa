"""DICOM films: what of the header the pixels need, and the pixels as a viewer shows them.

Of a header only the elements in `_TAGS` are looked at. What else it says, and the values of these too, stay out of
logs, warnings, errors and their causes: a patient's name may stand anywhere.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from vertinst.data.dicom_display import Display, read_display
from vertinst.data.dicom_elements import FilmFault, integer, numbers, texts
from vertinst.data.dicom_pixels import Layout, check, decode
from vertinst.data.dicom_spacing import Spacing, read_spacing
from vertinst.data.quiet import no_logs, no_warnings
from vertinst.errors import DataError
from vertinst.structures.rle import MAX_PIXELS
from vertinst.structures.views import view_name

__all__ = ["DicomHeader", "read_dicom", "read_dicom_header"]

_TAGS = [
    Tag(keyword)
    for keyword in (
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "NumberOfFrames",
        "PlanarConfiguration",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "PixelPaddingValue",
        "RescaleIntercept",
        "RescaleSlope",
        "ModalityLUTSequence",
        "WindowCenter",
        "WindowWidth",
        "VOILUTFunction",
        "VOILUTSequence",
        "PixelSpacing",
        "PixelSpacingCalibrationType",
        "ImagerPixelSpacing",
        "EstimatedRadiographicMagnificationFactor",
        "NominalScannedPixelSpacing",
        "ViewPosition",
    )
]
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_LOGGERS = ("pydicom", "pydicom.pixels.decoders.base", "pydicom.pixels.utils")
# What may stand before the pixels of a deflated film.
_HEADER_BYTES = 32 * 2**20

T = TypeVar("T")


@dataclass(frozen=True)
class DicomHeader:
    """What the header says of the pixels.

    Attributes:
        layout: How they are stored.
        display: How stored values become grey.
        spacing: mm between pixels and where that comes from, or None.
        view: `lateral` or `ap` by View Position, or None where it says neither.
    """

    layout: Layout
    display: Display
    spacing: Spacing | None
    view: str | None


class _Clipped(io.BufferedReader):
    """A file that takes no memory for bytes that it does not have."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > 2**20:
            here = self.tell()
            size = min(size, max(0, self.seek(0, io.SEEK_END) - here))
            self.seek(here)
        return super().read(size)


def read_dicom_header(path: Path) -> DicomHeader:
    """Read what a DICOM film's header says, no pixels.

    Raises:
        DataError: No DICOM film, several frames, larger than `MAX_PIXELS`, or pixels of a kind that is not read.
    """
    with _open(path) as file:
        return _guarded(lambda: _header(file, path)[0], path)


def read_dicom(path: Path) -> tuple[npt.NDArray[np.uint8 | np.uint16], int]:
    """Read a DICOM film as a viewer shows it.

    Grey films: rescaling or modality table, then the header's VOI table or window if it shows anything of this film
    (the rule is in `dicom_display`), then MONOCHROME1 inverted. Colours become RGB. Bits above those that are stored
    are overlays, and left out.

    Returns:
        (H, W) uint16, black 0, white 65535; or (H, W, 3) RGB, uint8 or uint16. And the bits of a stored value.

    Raises:
        DataError: As `read_dicom_header`; pixels missing, cut short or broken.
    """
    with _open(path) as file:
        return _guarded(lambda: _read(file, path), path)


def _open(path: Path) -> _Clipped:
    try:
        return _Clipped(io.FileIO(path))
    except FileNotFoundError as error:
        raise DataError("no such film", where=path, fix="Check the image folder and the file name.") from error
    except OSError as error:
        raise DataError("film cannot be opened", where=path, fix="Check its permissions.") from error


def _guarded(step: Callable[[], T], path: Path) -> T:
    """The step's result; what it raises is not even kept as a cause, for pydicom's errors quote values."""
    fault = FilmFault("film is broken or cut short", "Copy or export the film again.")
    try:
        with no_logs(*_LOGGERS):
            return step()
    except FilmFault as known:
        fault = known
    except Exception:
        # Broken files raise nearly everything, RecursionError and MemoryError among them. It is raised anew below,
        # outside of this block: within it, even `from None` would keep the first error as context.
        pass
    raise DataError(str(fault), where=path, fix=fault.fix)


def _read(file: BinaryIO, path: Path) -> tuple[npt.NDArray[np.uint8 | np.uint16], int]:
    header, rest = _header(file, path)
    layout = header.layout
    stored = decode(rest, layout)
    if layout.samples == 3:
        return stored, layout.bits_stored
    grey = stored.astype(np.uint16, copy=False)
    return header.display.show(grey, inverted=layout.photometric == "MONOCHROME1"), layout.bits_stored


def _header(file: BinaryIO, path: Path) -> tuple[DicomHeader, BinaryIO]:
    """The checked header, and the file (inflated, if it was deflated) at the element of the pixels."""
    with no_warnings():
        dataset, syntax, rest = _dataset(file, path)
        layout = _layout(dataset, syntax)
        check(layout, MAX_PIXELS)
        display = read_display(dataset, layout.bits_stored, is_signed=layout.is_signed)
        view = view_name(next(iter(texts(dataset, "ViewPosition")), None))
        header = DicomHeader(layout, display, read_spacing(dataset), view)
    if syntax == DeflatedExplicitVRLittleEndian:
        start = rest.tell()
        if start + layout.native_bytes > _HEADER_BYTES:
            rest = _inflate(file, path, start + layout.native_bytes + 1024)
            rest.seek(start)
    return header, rest


def _dataset(file: BinaryIO, path: Path) -> tuple[Dataset, UID, BinaryIO]:
    start = file.read(132)
    file.seek(0)
    deflated = DeflatedExplicitVRLittleEndian
    if start[128:] == b"DICM" and read_file_meta_info(path).get("TransferSyntaxUID") == deflated:
        inflated = _inflate(file, path, _HEADER_BYTES)
        return read_dataset(inflated, False, True, stop_when=_at_pixels, specific_tags=list(_TAGS)), deflated, inflated
    dataset = dcmread(file, stop_before_pixels=True, force=True, specific_tags=list(_TAGS))
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        implicit, little = dataset.original_encoding
        guessed = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        syntax = guessed if little else ExplicitVRBigEndian
    return dataset, UID(str(syntax)), file


def _at_pixels(tag: int, vr: str | None, length: int) -> bool:
    return tag in _PIXEL_TAGS


def _inflate(file: BinaryIO, path: Path, most: int) -> BinaryIO:
    """The data set of a deflated film, up to so many bytes: a small file can hold terabytes of zeros."""
    # Preamble, `DICM`, and the element that gives the length of the elements after it, which are not deflated.
    file.seek(128 + 4 + 12 + int(read_file_meta_info(path).FileMetaInformationGroupLength))
    return io.BytesIO(zlib.decompressobj(-zlib.MAX_WBITS).decompress(file.read(), most))


def _layout(dataset: Dataset, syntax: UID) -> Layout:
    height, width = integer(dataset, "Rows"), integer(dataset, "Columns")
    allocated = integer(dataset, "BitsAllocated")
    if not height or not width or allocated is None:
        raise FilmFault("is not a DICOM film: it has no pixels", "Give films: reports and the like have none.")
    if next(iter(numbers(dataset, "NumberOfFrames")), 1) > 1:
        raise FilmFault(
            "DICOM must hold one frame, got several", "Export the frame that is meant as a film of its own."
        )
    stored = integer(dataset, "BitsStored") or allocated
    high = integer(dataset, "HighBit")
    return Layout(
        height,
        width,
        samples=integer(dataset, "SamplesPerPixel") or 1,
        photometric=next(iter(texts(dataset, "PhotometricInterpretation")), ""),
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=stored - 1 if high is None else high,
        is_signed=integer(dataset, "PixelRepresentation") == 1,
        planar=integer(dataset, "PlanarConfiguration") or 0,
        syntax=syntax,
    )
