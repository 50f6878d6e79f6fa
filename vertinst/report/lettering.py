"""Legible writing on films: white letters with a dark halo, of a size that fits the film and never outside of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from vertinst.errors import VertinstError

__all__ = ["Block", "Box", "fit", "overlap_area", "write"]

Box: TypeAlias = tuple[int, int, int, int]
"""Left, top, right, bottom px; right and bottom exclusive."""

_WHITE = (255, 255, 255)
_HALO = (10, 10, 10)
_SMALLEST_PX = 5


class Block(NamedTuple):
    """Lines of text with the size they will have.

    Attributes:
        text: The lines, joined.
        font_px: Height of the font.
        width: px, halo included.
        height: px, halo included.
    """

    text: str
    font_px: int
    width: int
    height: int


def fit(lines: Sequence[str], font_px: int, image_size: tuple[int, int]) -> Block:
    """Lay out lines at `font_px`, or smaller until an image of (height, width) holds them.

    Below 5 px letters are no letters any more: there the block may be larger than the image, and `write` cuts it.
    """
    text = "\n".join(lines)
    for size in range(max(font_px, _SMALLEST_PX), _SMALLEST_PX - 1, -1):
        width, height = _extent(text, size)[2:]
        if width <= image_size[1] and height <= image_size[0]:
            break
    return Block(text, size, width, height)


def write(image: npt.NDArray[np.uint8], block: Block, left: int, top: int) -> Box:
    """Write a block into an (H, W, 3) uint8 image, in place, moved so that it lies inside.

    Args:
        image: RGB.
        block: From `fit`.
        left: Column of its left edge, halo included.
        top: Row of its upper edge, halo included.

    Returns:
        Where it was written.
    """
    left = max(0, min(left, image.shape[1] - block.width))
    top = max(0, min(top, image.shape[0] - block.height))
    right, bottom = min(left + block.width, image.shape[1]), min(top + block.height, image.shape[0])
    # Only the patch goes through Pillow: a film has millions of pixels, a label a few hundred.
    patch = Image.fromarray(np.ascontiguousarray(image[top:bottom, left:right]))
    x, y, _, _ = _extent(block.text, block.font_px)
    ImageDraw.Draw(patch).multiline_text(
        (-x, -y),
        block.text,
        font=_font(block.font_px),
        fill=_WHITE,
        stroke_width=_halo_px(block.font_px),
        stroke_fill=_HALO,
    )
    image[top:bottom, left:right] = np.asarray(patch)
    return left, top, right, bottom


def overlap_area(a: Box, b: Box) -> int:
    """Pixels that two boxes share; 0 where they only touch."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


@lru_cache(maxsize=64)
def _font(font_px: int) -> ImageFont.FreeTypeFont:
    # The font that matplotlib ships: the same letters on every machine, whatever fonts it has. It is found without
    # importing matplotlib, which takes longer than a small conversion.
    spec = find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise VertinstError("matplotlib is missing", fix="Install it: pip install matplotlib")
    fonts = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(fonts / "DejaVuSans-Bold.ttf"), font_px)


def _halo_px(font_px: int) -> int:
    return max(1, round(font_px / 9))


def _extent(text: str, font_px: int) -> tuple[int, int, int, int]:
    """Offset (x, y) of the ink from the drawing position, and its width and height, halo included."""
    canvas = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left, top, right, bottom = canvas.multiline_textbbox(
        (0, 0), text, font=_font(font_px), stroke_width=_halo_px(font_px)
    )
    x, y = int(np.floor(left)), int(np.floor(top))
    return x, y, int(np.ceil(right)) - x, int(np.ceil(bottom)) - y
