"""Small pictures for the audit's page: crops of films around an instance, and whole films."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from vertinst.data.radiograph import read_film
from vertinst.errors import VertinstError
from vertinst.files import inside
from vertinst.report.overlay import VERTEBRA_COLOURS
from vertinst.structures import Annotation, ImageRecord, rle

__all__ = ["film_picture", "instance_pictures"]

PICTURE_PX = 240
_MARGIN_SHARE, _MIN_MARGIN_PX = 0.5, 24
_MAX_NEIGHBOURS = 20
_OWN, _OTHER = VERTEBRA_COLOURS[1], VERTEBRA_COLOURS[0]
_SHIFT = 4
"""Bits below the pixel in cv2's drawing functions."""

Box = tuple[int, int, int, int]


def instance_pictures(image: ImageRecord, images: Path, numbers: Sequence[int]) -> list[str | None]:
    """The film around each of these annotations, with its outline in yellow and its neighbours' thin and blue.

    Args:
        image: The film.
        images: Folder that holds it.
        numbers: Of annotations of this film, from 0.

    Returns:
        JPEG data URIs, None for all of a film that is missing, broken, or not of the size that was annotated.
    """
    pixels = _pixels(images, image.file_name)
    if pixels is None or pixels.shape != image.image_size:
        return [None] * len(numbers)
    boxes = [tuple(rle.box_xyxy(annotation.mask).tolist()) for annotation in image.annotations]
    return [_crop(pixels, image.annotations, boxes, number) for number in numbers]


def film_picture(images: Path, file_name: str) -> str | None:
    """A whole film, small, as JPEG data URI; None if it is missing or broken."""
    pixels = _pixels(images, file_name)
    if pixels is None:
        return None
    factor = min(1.0, PICTURE_PX / max(pixels.shape))
    return _jpeg(_grey(pixels, factor))


def _pixels(images: Path, file_name: str) -> npt.NDArray[np.float32] | None:
    try:
        return read_film(inside(images, file_name)).pixels
    except VertinstError:
        return None


def _crop(
    pixels: npt.NDArray[np.float32], annotations: Sequence[Annotation], boxes: Sequence[tuple[float, ...]], number: int
) -> str:
    crop = left, top, right, bottom = _frame(boxes[number], pixels.shape)
    factor = PICTURE_PX / max(right - left, bottom - top)
    image = _grey(pixels[top:bottom, left:right], factor)
    near = [n for n, box in enumerate(boxes) if n != number and _meet(box, crop)][:_MAX_NEIGHBOURS]
    for other in near:
        _outline(image, annotations[other], crop, factor, _OTHER, 1)
    _outline(image, annotations[number], crop, factor, _OWN, 2)
    return _jpeg(image)


def _frame(box: tuple[float, ...], shape: tuple[int, ...]) -> Box:
    """The box with a margin, within the film: left, top, right, bottom; all of the film for an empty box."""
    height, width = shape[:2]
    left, top, right, bottom = (int(v) for v in box)
    if right <= left:
        return 0, 0, width, height
    margin = max(_MIN_MARGIN_PX, round(_MARGIN_SHARE * max(right - left, bottom - top)))
    return max(0, left - margin), max(0, top - margin), min(width, right + margin), min(height, bottom + margin)


def _meet(box: tuple[float, ...], crop: Box) -> bool:
    return box[0] < crop[2] and box[2] > crop[0] and box[1] < crop[3] and box[3] > crop[1]


def _grey(pixels: npt.NDArray[np.float32], factor: float) -> npt.NDArray[np.uint8]:
    height, width = (max(1, round(side * factor)) for side in pixels.shape)
    smaller = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    scaled = cv2.resize(pixels, (width, height), interpolation=smaller)
    grey = np.rint(scaled.clip(0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))


def _outline(
    image: npt.NDArray[np.uint8],
    annotation: Annotation,
    crop: Box,
    factor: float,
    colour: tuple[int, int, int],
    width_px: int,
) -> None:
    for part in rle.rle_to_polygons(annotation.mask):
        for ring in (part.exterior, *part.holes):
            # Pixel centres are whole numbers for cv2 and halves for COCO.
            points = (ring - np.array(crop[:2])) * factor - 0.5
            fixed = np.rint(points * 2**_SHIFT).astype(np.int32).reshape(-1, 1, 2)
            cv2.polylines(image, [fixed], True, colour, width_px, cv2.LINE_AA, _SHIFT)


def _jpeg(rgb: npt.NDArray[np.uint8]) -> str:
    _, content = cv2.imencode(".jpg", rgb[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode("ascii")
