"""What a compressed frame says of itself, compared with the DICOM header before any decoder sees it.

Decoders believe the frame: a few bytes may promise an image of gigabytes, and several of them crash on promises that
they do not expect. So a frame has to agree with the header in size, samples and depth, which were checked before.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from PIL import Image

from vertinst.data.dicom_elements import FilmFault

__all__ = ["StreamFacts", "jpeg_2000_facts", "jpeg_facts", "unpack_rle"]

_SOI, _SOS, _LAST_MARKER = 0xD8, 0xDA, 0xD9
_STANDALONE = {0x01, *range(0xD0, 0xD9)}
# SOF0..SOF15 without DHT, JPG and DAC, which lie between them, and JPEG-LS.
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
_J2K_START = b"\xff\x4f\xff\x51"


class StreamFacts(NamedTuple):
    """What a frame header says.

    Attributes:
        height: px.
        width: px.
        samples: Per pixel.
        precision: Bits of a sample.
        marker: Of the JPEG frame (0xC0 baseline, 0xC3 lossless, 0xF7 JPEG-LS); 0 for JPEG 2000.
        is_signed: Samples are in two's complement; JPEG 2000 alone knows.
    """

    height: int
    width: int
    samples: int
    precision: int
    marker: int = 0
    is_signed: bool = False


def jpeg_facts(stream: bytes) -> StreamFacts:
    """Frame header of JPEG and JPEG-LS.

    Raises:
        FilmFault: There is none, or more than one before the first scan, or it is cut short.
    """
    frames = [(marker, body) for marker, body in _segments(stream) if marker in _FRAME_MARKERS]
    if len(frames) != 1 or len(frames[0][1]) < 6:
        raise FilmFault("film is broken: its compressed pixels have no proper frame header")
    marker, body = frames[0]
    precision, height, width, samples = struct.unpack_from(">BHHB", body)
    if len(body) != 6 + 3 * samples:
        raise FilmFault("film is broken: its compressed pixels have no proper frame header")
    return StreamFacts(height, width, samples, precision, marker)


def _segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and body of every segment before the first scan."""
    if stream[:2] != b"\xff\xd8":
        raise FilmFault("film is broken: its compressed pixels are no JPEG")
    position = 2
    while position + 4 <= len(stream):
        if stream[position] != 0xFF:
            raise FilmFault("film is broken: its compressed pixels are no JPEG")
        marker = stream[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        if marker in (_SOS, _LAST_MARKER):
            return
        if marker in _STANDALONE:
            position += 2
            continue
        (length,) = struct.unpack_from(">H", stream, position + 2)
        if length < 2 or position + 2 + length > len(stream):
            raise FilmFault("film is broken: its compressed pixels are cut short")
        yield marker, stream[position + 4 : position + 2 + length]
        position += 2 + length
    raise FilmFault("film is broken: its compressed pixels are cut short")


def jpeg_2000_facts(stream: bytes) -> StreamFacts:
    """Image size of JPEG 2000, from the codestream, with or without the boxes of a JP2 file around it.

    Raises:
        FilmFault: There is no codestream, it is cut short, or its parts differ in size or depth.
    """
    start = stream.find(_J2K_START) if stream.startswith(_JP2_SIGNATURE) else 0
    if start < 0 or stream[start : start + 4] != _J2K_START:
        raise FilmFault("film is broken: its compressed pixels are no JPEG 2000")
    if len(stream) < start + 42:
        raise FilmFault("film is broken: its compressed pixels are cut short")
    right, bottom, left, top, *_, samples = struct.unpack_from(">8IH", stream, start + 8)
    parts = stream[start + 42 : start + 42 + 3 * samples]
    depths = set(parts[::3])
    if len(parts) != 3 * samples or len(depths) != 1 or any(step != 1 for i, step in enumerate(parts) if i % 3):
        raise FilmFault("film is broken: its compressed pixels have no proper frame header")
    depth = depths.pop()
    return StreamFacts(bottom - top, right - left, samples, (depth & 0x7F) + 1, is_signed=depth > 0x7F)


def unpack_rle(frame: bytes, plane_bytes: int, planes: int) -> list[bytes]:
    """Byte planes of an RLE frame, each of just the length that it must have.

    Args:
        frame: Header of 64 bytes and segments, as DICOM PS3.5 annex G has it.
        plane_bytes: Pixels of the image.
        planes: Bytes of a pixel, all samples together.

    Raises:
        FilmFault: Another number of planes, or one that is too short.
    """
    if len(frame) < 64:
        raise FilmFault("film is broken: its compressed pixels are cut short")
    count, *offsets = struct.unpack_from("<16I", frame)
    if count != planes:
        raise FilmFault("film is broken: its compressed pixels do not have the depth that the header states")
    ends = [*offsets[1:count], len(frame)]
    return [_unpack_bits(frame[a:b], plane_bytes) for a, b in zip(offsets[:count], ends, strict=True)]


def _unpack_bits(packed: bytes, length: int) -> bytes:
    try:
        # Pillow's decoder for TIFF takes the same packing, as one line, and no more of it than it needs.
        return Image.frombytes("L", (length, 1), packed, "packbits", "L").tobytes()
    except ValueError:
        raise FilmFault("film is broken: its compressed pixels are cut short") from None
