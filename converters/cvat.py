"""CVAT in and out: XML "CVAT for images 1.1" (docs.cvat.ai/docs/other/xml_format; `formats/cvat.py` of CVAT)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import ElementTree
from defusedxml.common import DefusedXmlException

from vertinst.errors import DataError
from vertinst.progress import Progress, silent, track
from vertinst.structures.conversion import ReadOptions, Skip
from vertinst.structures.dataset import Dataset
from vertinst.structures.rle import MAX_PIXELS, Rle

from ._cvat_xml import FILM_TAG, write
from ._patches import place_patch
from ._source import Entry, Region
from ._stated import FilmSizes, build_stated, faulty, mask_region, stated, stated_size

__all__ = ["read", "write"]

# What CVAT writes in one file, and a tree that fits into memory (about ten times as much).
MAX_XML_BYTES = 500_000_000
# What is deeper is no annotation, and would break whoever walks through it.
MAX_XML_DEPTH = 50
_SHAPES = ("polygon", "polyline", "points", "box", "ellipse", "mask")
_NO_SHAPE = {
    "tag": "tag of the whole film: no region",
    "cuboid": "cuboid: no outline",
    "skeleton": "skeleton: no outline",
}


def read(
    paths: Sequence[Path],
    images: Path | None,
    options: ReadOptions | None = None,
    *,
    progress: Progress = silent,
) -> tuple[Dataset, tuple[Skip, ...]]:
    """Read files of CVAT for images 1.1 as one data set.

    The label is the class; names of levels among the labels give class and level. Shapes of one `group_id` and label
    are parts of one instance. Attributes are text, as CVAT has them; `occluded` and `z_order` are attributes where
    they are not 0. Shapes: polygon, box (turned ones become polygons), polyline (an open line), points, ellipse, mask.
    The attributes of a tag called `film` are the film's; other tags, cuboids and skeletons are listed and kept aside.

    Args:
        paths: XML files, or folders with an `annotations.xml` in them.
        images: Folder that holds the films; None takes names and sizes as the files state them.
        options: See `ReadOptions`.
        progress: Told after each film.

    Returns:
        The data set and everything that was skipped or repaired; see `build`.

    Raises:
        DataError: A file is missing, larger than 500 MB, no XML, declares a document type or entities, or is not of
            CVAT for images (tracks of CVAT for video among them); see also `build`.
    """
    options = options or ReadOptions()
    skips: list[Skip] = []
    entries: list[Entry] = []
    sizes = FilmSizes(images, options)
    for path in track(paths, len(paths), "reading CVAT files", progress):
        entries += _entries(path / "annotations.xml" if path.is_dir() else path, sizes, skips)
    return build_stated(paths, entries, skips, images, options, progress)


def _entries(path: Path, sizes: FilmSizes, skips: list[Skip]) -> Iterator[Entry]:
    root = _parse(path)
    if root.tag != "annotations":
        raise DataError("must be a file of CVAT for images 1.1", where=path, fix="Export it again from CVAT.")
    if root.find("track") is not None:
        raise DataError(
            "is of CVAT for video, whose tracks cannot be read", where=path, fix="Export it as CVAT for images 1.1."
        )
    for position, image in enumerate(root.iter("image")):
        name = (image.get("name") or "").strip()
        if not name:
            skips.append(Skip(str(path), f"image {position}", None, "film without a name"))
            continue
        film = Entry(
            str(path), name, {}, (), size=stated_size(_number(image.get("height")), _number(image.get("width")))
        )
        attributes: dict[str, Any] = {}
        regions: list[Region] = []
        for number, element in enumerate(image):
            if element.tag == "tag" and element.get("label") == FILM_TAG:
                attributes |= _attributes(element)
            else:
                regions += _ElementReader(film, sizes, skips).read(number, element)
        yield Entry(film.file, name, attributes, tuple(regions), size=film.size)


def _parse(path: Path) -> Element:
    try:
        if path.stat().st_size > MAX_XML_BYTES:
            raise DataError(f"must be at most {MAX_XML_BYTES} bytes", where=path, fix="Export it in several parts.")
        root = ElementTree.parse(path, forbid_dtd=True).getroot()
    except DefusedXmlException as error:
        raise DataError(
            "declares a document type or entities, which CVAT never writes", where=path, fix="Check where it is from."
        ) from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, fix="Check the path.") from error
    except (ParseError, ValueError, LookupError) as error:
        zipped = " (CVAT's ZIP must be unpacked)" if path.suffix.lower() == ".zip" else ""
        raise DataError(f"is not valid XML{zipped}", where=path, fix="Export the file again.") from error
    if root is None:
        raise DataError("is empty", where=path, fix="Export the file again.")
    level, depth = [root], 0
    while level := [child for element in level for child in element]:
        depth += 1
        if depth > MAX_XML_DEPTH:
            raise DataError(f"must be nested at most {MAX_XML_DEPTH} deep", where=path, fix="Check where it is from.")
    return root


@dataclass(frozen=True)
class _ElementReader:
    """Reads the shapes of one film."""

    film: Entry
    sizes: FilmSizes
    skips: list[Skip]

    def read(self, number: int, element: Element) -> list[Region]:
        """Regions of an element: one, or of `points` one for each."""
        label = (element.get("label") or "").strip()
        attributes = _attributes(element)
        instance = "" if element.get("group_id", "0").strip() == "0" else element.get("group_id", "")[:80]
        try:
            if element.tag == "mask":
                mask = self._mask(number, element)
                return [mask_region(number, mask, stated(label, attributes), instance)]
            shapes = _via_shapes(element)
        except _BrokenShape as fault:
            return [faulty(number, _raw(element), {"label": label, **attributes}, str(fault))]
        return [Region(number, shape, stated(label, attributes), None, instance) for shape in shapes]

    def _mask(self, number: int, element: Element) -> Rle:
        size = self.sizes.of(self.film)
        if size is None:
            raise _BrokenShape("a mask needs the film's size, and the file states none")
        left, top, width, height = (_integer(element, key) for key in ("left", "top", "width", "height"))
        if not (width > 0 and height > 0 and width * height <= MAX_PIXELS):
            raise _BrokenShape("mask must have a positive width and height")
        counts = _counts(element.get("rle", ""))
        if min(counts) < 0 or sum(counts) != width * height:
            raise _BrokenShape(f"runs of the mask must add up to {width * height} pixels, got {sum(counts)}")
        values = np.arange(len(counts)) % 2 == 1
        patch = np.repeat(values, counts).reshape(height, width)
        mask, is_cut = place_patch(patch, left, top, size)
        if mask is None:
            raise _BrokenShape("covers no pixel of the film")
        if is_cut:
            reason = "lies partly outside of the film: cut off at its edge"
            self.skips.append(Skip(self.film.file, self.film.name, number, reason, repaired=True))
        return mask


class _BrokenShape(Exception):
    """A shape that cannot be used; the text is the reason."""


def _counts(text: str) -> list[int]:
    if len(text) > 20_000_000:
        raise _BrokenShape("mask has too many runs")
    try:
        # Of more digits none can be a number of pixels, and long ones take time.
        return [int(part) if len(part) < 20 else -1 for part in text.split(",")]
    except ValueError as error:
        raise _BrokenShape("runs of the mask must be whole numbers") from error


def _via_shapes(element: Element) -> list[dict[str, Any]]:
    if element.tag not in _SHAPES:
        raise _BrokenShape(_NO_SHAPE.get(str(element.tag), f"unknown element {str(element.tag)[:40]!r}"))
    if element.tag == "box":
        return [_box(element)]
    if element.tag == "ellipse":
        x, y, radius_x, radius_y = (_float(element, key) for key in ("cx", "cy", "rx", "ry"))
        theta = math.radians(_float(element, "rotation", 0.0))
        return [{"name": "ellipse", "cx": x, "cy": y, "rx": radius_x, "ry": radius_y, "theta": theta}]
    points = _points(element.get("points", ""))
    if element.tag == "points":
        return [{"name": "point", "cx": x, "cy": y} for x, y in points]
    return [{"name": element.tag, "all_points_x": [p[0] for p in points], "all_points_y": [p[1] for p in points]}]


def _box(element: Element) -> dict[str, Any]:
    left, top, right, bottom = (_float(element, key) for key in ("xtl", "ytl", "xbr", "ybr"))
    turned = math.radians(_float(element, "rotation", 0.0))
    if turned % math.tau == 0:
        return {"name": "rect", "x": left, "y": top, "width": right - left, "height": bottom - top}
    # Clockwise on screen, about the middle.
    x, y, cos, sin = (left + right) / 2, (top + bottom) / 2, math.cos(turned), math.sin(turned)
    corners = [(left - x, top - y), (right - x, top - y), (right - x, bottom - y), (left - x, bottom - y)]
    return {
        "name": "polygon",
        "all_points_x": [x + a * cos - b * sin for a, b in corners],
        "all_points_y": [y + a * sin + b * cos for a, b in corners],
    }


def _points(text: str) -> list[tuple[float, float]]:
    pairs = [pair.split(",") for pair in text.split(";")]
    if any(len(pair) != 2 for pair in pairs):
        raise _BrokenShape("points must be pairs of numbers")
    return [(_finite(x, "points"), _finite(y, "points")) for x, y in pairs]


def _float(element: Element, key: str, default: float | None = None) -> float:
    text = element.get(key)
    if text is None and default is not None:
        return default
    return _finite(text or "", key)


def _finite(text: str, what: str) -> float:
    value = _number(text)
    if value is None or not abs(value) < 1e9:
        raise _BrokenShape(f"{what} must be numbers")
    return value


def _integer(element: Element, key: str) -> int:
    value = _float(element, key)
    if value != int(value):
        raise _BrokenShape(f"{key} must be a whole number")
    return int(value)


def _number(text: str | None) -> float | None:
    """A number of usual length, whole ones as int: CVAT writes 10.00 where 10 was drawn."""
    try:
        value = float(text) if text is not None and len(text) < 40 else math.nan
    except ValueError:
        return None
    if not math.isfinite(value):
        return None
    return int(value) if value.is_integer() and abs(value) < 1e15 else value


def _attributes(element: Element) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name in ("occluded", "z_order"):
        if (value := element.get(name, "0").strip()) not in ("0", ""):
            result[name] = value
    for child in element.findall("attribute"):
        result[child.get("name") or "attribute"] = child.text or ""
    return result


def _raw(element: Element) -> dict[str, Any]:
    """All that an element says of its shape, as it stands."""
    known: Mapping[str, str] = {k: v for k, v in element.attrib.items() if k not in ("label", "occluded", "z_order")}
    parts = [_raw(child) for child in element if child.tag != "attribute"]
    return {**known, "name": str(element.tag), **({"elements": parts} if parts else {})}
