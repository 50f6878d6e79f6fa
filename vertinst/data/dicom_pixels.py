"""The pixels of a DICOM film as stored, of every transfer syntax that a permissive decoder reads rightly."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    AllTransferSyntaxes,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSTransferSyntaxes,
    RLELossless,
)

from vertinst.data.dicom_elements import FilmFault
from vertinst.data.dicom_streams import jpeg_2000_facts, jpeg_facts, unpack_rle

__all__ = ["Layout", "check", "decode", "missing_decoders"]

_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
# One decoder each, and never what happens to be installed: pydicom would take pylibjpeg-libjpeg too, which is under
# the GPL. Lossy JPEG of 12 bits is left out, as GDCM's gave white for black; pyjpegls ran without end on broken frames.
_PLUGINS = {
    **dict.fromkeys((JPEGBaseline8Bit, JPEGExtended12Bit, JPEG2000, JPEG2000Lossless), "pillow"),
    **dict.fromkeys((JPEGLossless, JPEGLosslessSV1, *JPEGLSTransferSyntaxes), "gdcm"),
}
_PACKAGES = {"pillow": "pillow", "gdcm": "python-gdcm"}
_MARKERS = {
    **dict.fromkeys((JPEGBaseline8Bit, JPEGExtended12Bit), (0xC0, 0xC1, 0xC2)),
    **dict.fromkeys((JPEGLossless, JPEGLosslessSV1), (0xC3,)),
    **dict.fromkeys(JPEGLSTransferSyntaxes, (0xF7,)),
}
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_PIXEL_DATA = (0x7FE0, 0x0010)
_UNDEFINED = 0xFFFFFFFF
# Compressed pixels are rarely longer than raw ones, and never by so much; after them other elements may stand.
_ROOM_BYTES = 2**26
_END_OF_IMAGE = b"\xff\xd9"
_PADDING_BYTES = 16


@dataclass(frozen=True)
class Layout:
    """How the pixels are stored.

    Attributes:
        height: px.
        width: px.
        samples: 1 for grey, 3 for colour.
        photometric: `MONOCHROME1`, `MONOCHROME2`, `RGB`, `YBR_FULL` ...
        bits_allocated: 8 or 16.
        bits_stored: 1..16, at most `bits_allocated`.
        high_bit: Position of the highest bit stored.
        is_signed: Stored values are in two's complement.
        planar: 0 for colours pixel by pixel, 1 for plane by plane.
        syntax: How the pixels are encoded.
    """

    height: int
    width: int
    samples: int
    photometric: str
    bits_allocated: int
    bits_stored: int
    high_bit: int
    is_signed: bool
    planar: int
    syntax: UID

    @property
    def native_bytes(self) -> int:
        """Length of the pixels when they are not compressed."""
        samples = 2 if self.photometric == "YBR_FULL_422" and self.syntax in _NATIVE else self.samples
        return self.height * self.width * samples * self.bits_allocated // 8


def missing_decoders() -> dict[str, str]:
    """Compressions whose decoder does not load, by name, and the package that has it."""
    return {
        UID(syntax).name: _PACKAGES[plugin]
        for syntax, plugin in _PLUGINS.items()
        if plugin not in get_decoder(syntax).available_plugins
    }


def check(layout: Layout, most_pixels: int) -> None:
    """Check what a header says before memory is taken for it.

    Raises:
        FilmFault: Too large, or pixels of a kind that is not read.
    """
    if layout.height * layout.width > most_pixels:
        raise FilmFault(f"must have at most {most_pixels} pixels, got more", "Reduce the film's size.")
    if layout.syntax not in (*_NATIVE, *_PLUGINS, RLELossless):
        name = layout.syntax.name if layout.syntax in AllTransferSyntaxes else "of an unknown kind"
        raise FilmFault(f"DICOM's compression is not read: {name}")
    package = missing_decoders().get(layout.syntax.name)
    if package is not None:
        raise FilmFault(f"no decoder is there for {layout.syntax.name}", f"pip install --force-reinstall {package}")
    kinds = _GREY if layout.samples == 1 else _COLOUR if layout.samples == 3 else ()
    if layout.photometric not in kinds:
        known = ", ".join((*_GREY, *_COLOUR))
        raise FilmFault(f"DICOM must hold grey values or colours ({known}), got others")
    if layout.bits_allocated not in (8, 16):
        raise FilmFault(f"DICOM must have 8 or 16 bits allocated to a value, got {layout.bits_allocated}")
    if not 1 <= layout.bits_stored <= layout.high_bit + 1 <= layout.bits_allocated:
        raise FilmFault("DICOM must store its bits within those allocated to a value, got others")


def decode(file: BinaryIO, layout: Layout) -> npt.NDArray[np.uint8 | np.uint16]:
    """Decode the pixels.

    Args:
        file: At the element that holds them.
        layout: Checked.

    Returns:
        (H, W) uint16 of `bits_stored` bits, two's complement not yet interpreted, or (H, W, 3) RGB.

    Raises:
        FilmFault: Missing, cut short, or other than the header says.
        Exception: Of many kinds, from pydicom and the decoders.
    """
    vr, content = _content(file, layout)
    if layout.syntax == RLELossless:
        pixels = _from_rle(content, layout)
    elif layout.syntax in _NATIVE:
        pixels = _array(content, layout, pixel_vr=vr)
    else:
        pixels = _decompress(content, layout)
    if layout.samples == 3:
        return pixels
    values = pixels.astype(np.uint16, copy=False)
    # What a compressed frame holds starts at its lowest bit; there no bits can lie below those stored.
    shift = layout.high_bit + 1 - layout.bits_stored if layout.syntax in (*_NATIVE, RLELossless) else 0
    values >>= shift
    values &= (1 << layout.bits_stored) - 1
    return values


def _content(file: BinaryIO, layout: Layout) -> tuple[str, bytes]:
    """How the element of the pixels is typed, and its bytes; those of the first frame where it is compressed."""
    order = ">" if layout.syntax == ExplicitVRBigEndian else "<"
    start = file.read(8)
    if len(start) < 8 or struct.unpack(f"{order}HH", start[:4]) != _PIXEL_DATA:
        raise FilmFault("is not a DICOM film: it has no pixels", "Give films: reports and the like have none.")
    is_typed = start[4:6] in (b"OB", b"OW", b"UN")
    (length,) = struct.unpack(f"{order}L", file.read(4) if is_typed else start[4:])
    if length == 0:
        raise FilmFault("is not a DICOM film: it has no pixels", "Give films: reports and the like have none.")
    if (length == _UNDEFINED) == (layout.syntax in _NATIVE):
        raise FilmFault("DICOM's pixels are not encoded as its header says")
    if length == _UNDEFINED:
        return "OB", get_frame(file.read(layout.native_bytes + _ROOM_BYTES), 0, number_of_frames=1)
    if length >= 2 * layout.native_bytes:
        raise FilmFault("DICOM must hold one frame, got more pixels than that", "Export the film as one frame.")
    content = file.read(min(length, layout.native_bytes))
    if len(content) < layout.native_bytes:
        raise FilmFault("film is broken or cut short: it has fewer pixels than rows and columns say")
    return "OB" if start[4:6] == b"OB" else "OW", content


def _array(content: bytes, layout: Layout, **changed: Any) -> npt.NDArray[np.uint8 | np.uint16]:
    """Pixels by pydicom's decoder: (H, W) unsigned, or (H, W, 3) RGB."""
    facts: dict[str, Any] = {
        "syntax": layout.syntax,
        "rows": layout.height,
        "columns": layout.width,
        "samples_per_pixel": layout.samples,
        "photometric_interpretation": layout.photometric,
        "planar_configuration": layout.planar,
        "bits_allocated": layout.bits_allocated,
        # All bits as they are, in two's complement or not: what of them is stored is cut out afterwards.
        "bits_stored": layout.bits_allocated,
        "pixel_representation": 0,
        "number_of_frames": 1,
        "pixel_keyword": "PixelData",
        "allow_excess_frames": False,
        **changed,
    }
    array, _ = get_decoder(facts.pop("syntax")).as_array(content, **facts)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return native.view(np.uint8 if native.dtype.itemsize == 1 else np.uint16)


def _decompress(frame: bytes, layout: Layout) -> npt.NDArray[np.uint8 | np.uint16]:
    is_2000 = layout.syntax in (JPEG2000, JPEG2000Lossless)
    facts = jpeg_2000_facts(frame) if is_2000 else jpeg_facts(frame)
    if (facts.height, facts.width, facts.samples) != (layout.height, layout.width, layout.samples):
        raise FilmFault("film is broken: its compressed pixels have another size than its header states")
    if not is_2000 and facts.marker not in _MARKERS[layout.syntax]:
        raise FilmFault("DICOM's pixels are not encoded as its header says")
    if facts.precision > 16 or (layout.syntax in (JPEGBaseline8Bit, JPEGExtended12Bit) and facts.precision > 8):
        raise FilmFault(f"JPEG of {facts.precision} bits is not read")
    if _END_OF_IMAGE not in frame[-_PADDING_BYTES:]:
        # The decoders fill up with grey what is missing, and say nothing.
        raise FilmFault("film is broken or cut short: its compressed pixels have no end")
    return _array(
        encapsulate([frame]),
        layout,
        bits_allocated=8 if facts.precision <= 8 else 16,
        bits_stored=facts.precision,
        pixel_representation=int(facts.is_signed),
        decoding_plugin=_PLUGINS[layout.syntax],
    )


def _from_rle(frame: bytes, layout: Layout) -> npt.NDArray[np.uint8 | np.uint16]:
    size = layout.bits_allocated // 8
    planes = unpack_rle(frame, layout.height * layout.width, size * layout.samples)
    stacked = np.stack([np.frombuffer(plane, np.uint8) for plane in planes])
    # The planes of a sample run from its highest byte to its lowest.
    content = stacked.reshape(layout.samples, size, -1)[:, ::-1].transpose(0, 2, 1).tobytes()
    photometric = "YBR_FULL" if layout.photometric == "YBR_FULL_422" else layout.photometric
    return _array(
        content,
        layout,
        syntax=ExplicitVRLittleEndian,
        photometric_interpretation=photometric,
        planar_configuration=1,
        pixel_vr="OW",
    )
