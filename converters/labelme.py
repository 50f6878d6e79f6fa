"""labelme in and out: one JSON a film (github.com/wkentaro/labelme; its `label_file.py` and `utils/shape.py`)."""

from __future__ import annotations

import base64
import io
import json
import math
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vertinst.errors import DataError
from vertinst.files import read_json
from vertinst.progress import Progress, silent, track
from vertinst.structures.conversion import ReadOptions, Skip
from vertinst.structures.dataset import Dataset
from vertinst.structures.rle import MAX_PIXELS, Rle

from ._labelme_writing import write
from ._patches import place_patch
from ._source import Entry, Region, as_mapping, tidy
from ._stated import UNREAD, FilmSizes, build_stated, faulty, mask_region, stated, stated_size

__all__ = ["read", "write"]

_MAX_MASK_TEXT = 200_000_000
# Of a description; with the levels around it, it must stay below what files may have.
_MAX_DEPTH = 50
_POINTS_OF = {"line": 2, "circle": 2, "point": 1}
# What labelme itself has in a file and in a shape; it keeps whatever other programs add to both.
_OWN = frozenset(
    {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth", "attributes", UNREAD}
)
_OWN_OF_SHAPE = frozenset({"label", "points", "group_id", "shape_type", "flags", "description", "mask"})


def read(
    paths: Sequence[Path],
    images: Path | None,
    options: ReadOptions | None = None,
    *,
    progress: Progress = silent,
) -> tuple[Dataset, tuple[Skip, ...]]:
    """Read labelme files as one data set.

    The label is the class; names of levels among the labels give class and level. Shapes of one `group_id` and label
    are parts of one instance. A shape's flags are attributes, and so are what other programs added to it and its
    description: a JSON object gives several, other text one called `description`. Shapes: polygon, rectangle,
    oriented_rectangle, circle, line and linestrip (open lines), point, points, mask. A film is found by `imagePath`,
    relative to the JSON's own folder below the folder given; where that leads outside, only its last part counts.
    `imageData` is not read.

    Args:
        paths: JSON files, or folders that are searched to the bottom.
        images: Folder that holds the films; None takes names and sizes as the files state them.
        options: See `ReadOptions`.
        progress: Told after each film.

    Returns:
        The data set and everything that was skipped or repaired; see `build`.

    Raises:
        DataError: A file is missing or no labelme file; see also `build`.
    """
    options = options or ReadOptions()
    skips: list[Skip] = []
    files = [(path, root) for given in paths for path, root in _files(given)]
    sizes = FilmSizes(images, options)
    entries = [
        entry
        for path, root in track(files, len(files), "reading labelme files", progress)
        if (entry := _entry(path, root, sizes, skips)) is not None
    ]
    return build_stated(paths, entries, skips, images, options, progress)


def _files(given: Path) -> Iterator[tuple[Path, Path | None]]:
    """JSON files, each with the folder that was given, if one was."""
    if not given.is_dir():
        yield given, None
        return
    found = sorted(p for p in given.rglob("*.json") if p.is_file() and not p.name.startswith("."))
    if not found:
        raise DataError("no labelme file in this folder", where=given, fix="Give the folder of the JSON files.")
    yield from ((path, given) for path in found)


def _entry(path: Path, root: Path | None, sizes: FilmSizes, skips: list[Skip]) -> Entry | None:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        if root is not None:
            skips.append(Skip(str(path), path.name, None, "no labelme file: it has no list `shapes`"))
            return None
        raise DataError("must be a labelme file with a list `shapes`", where=path, fix="Check the path.")
    name = _film_name(content.get("imagePath"), path, root)
    attributes = content.get("attributes") if isinstance(content.get("attributes"), dict) else {}
    flags = content.get("flags") if isinstance(content.get("flags"), dict) else {}
    others = _others(content, _OWN)
    size = stated_size(content.get("imageHeight"), content.get("imageWidth"))
    film = Entry(str(path), name, {**others, **(flags or {}), **(attributes or {})}, (), size=size)
    reader = _ShapeReader(film, sizes, skips)
    regions = [region for number, shape in enumerate(content["shapes"]) for region in reader.read(number, shape)]
    kept = content.get(UNREAD) if isinstance(content.get(UNREAD), list) else []
    regions += [_kept(number, raw) for number, raw in enumerate(kept or [], len(content["shapes"]))]
    return Entry(film.file, name, film.attributes, tuple(regions), source={}, size=size)


def _film_name(image_path: Any, path: Path, root: Path | None) -> str:
    """Name of the film relative to the folder of the films, never outside of it."""
    text = image_path.replace("\\", "/") if isinstance(image_path, str) and image_path.strip() else f"{path.stem}.png"
    below = path.parent.relative_to(root).as_posix() if root is not None else "."
    is_absolute = text.startswith("/") or bool(PureWindowsPath(text).drive)
    joined = posixpath.normpath(posixpath.join(below, text))
    return PurePosixPath(text).name if is_absolute or joined.startswith("..") else joined


def _kept(number: int, raw: Any) -> Region:
    """A region that an earlier reading left out."""
    region = raw if isinstance(raw, dict) else {}
    shape, attributes = (dict(as_mapping(region, key)) for key in ("shape_attributes", "region_attributes"))
    return faulty(number, shape, attributes, "left out when the file was written")


@dataclass(frozen=True)
class _ShapeReader:
    """Reads the shapes of one film."""

    film: Entry
    sizes: FilmSizes
    skips: list[Skip]

    def read(self, number: int, shape: Any) -> list[Region]:
        """Regions of a shape: one, or of `points` one for each."""
        if not isinstance(shape, dict):
            return [faulty(number, {"name": "unknown"}, {}, "shape must be an object")]
        kind = shape.get("shape_type") or "polygon"
        kind = kind[:40] if isinstance(kind, str) else "unknown"
        attributes, label = _attributes(shape), shape.get("label")
        label = label if isinstance(label, str) else str(label) if isinstance(label, int | float) else ""
        group = shape.get("group_id")
        instance = str(group)[:80] if isinstance(group, int | float | str) and not isinstance(group, bool) else ""
        points = _pairs(shape.get("points"))
        if points is None:
            raw = {"name": kind, "points": tidy(shape.get("points"))}
            return [faulty(number, raw, {"label": label, **attributes}, "points must be pairs of finite numbers")]
        if kind == "mask":
            try:
                mask = self._mask(number, shape, points)
            except _BrokenMask as fault:
                raw = {"name": kind, "points": points, "mask": shape.get("mask")}
                return [faulty(number, raw, {"label": label, **attributes}, str(fault))]
            return [mask_region(number, mask, stated(label, attributes), instance)]
        shapes = _via_shapes(kind, points)
        if not shapes:
            raw = {"name": kind, "points": points}
            return [faulty(number, raw, {"label": label, **attributes}, _why(kind, points))]
        return [Region(number, via, stated(label, attributes), None, instance) for via in shapes]

    def _mask(self, number: int, shape: Mapping[str, Any], points: list[list[float]]) -> Rle:
        size = self.sizes.of(self.film)
        if size is None:
            raise _BrokenMask("a mask needs the film's size: neither a film nor imageHeight and imageWidth are there")
        if len(points) != 2:
            raise _BrokenMask(f"mask must have two corners, got {len(points)} points")
        patch = _decode(shape.get("mask"))
        # As labelme places them; dragged ones have fractions, and then the second corner says nothing.
        (left, top), (right, bottom) = ((round(x), round(y)) for x, y in points)
        is_whole = all(v == round(v) for point in points for v in point)
        mask, is_cut = place_patch(patch, left, top, size)
        if mask is None:
            raise _BrokenMask("covers no pixel of the film")
        if is_whole and patch.shape != (bottom - top + 1, right - left + 1):
            reason = f"mask has {patch.shape[1]} x {patch.shape[0]} px, its corners say otherwise: placed by the first"
            self.skips.append(Skip(self.film.file, self.film.name, number, reason, repaired=True))
        if is_cut:
            reason = "lies partly outside of the film: cut off at its edge"
            self.skips.append(Skip(self.film.file, self.film.name, number, reason, repaired=True))
        return mask


class _BrokenMask(Exception):
    """A mask that cannot be used; the text is the reason."""


def _decode(text: Any) -> npt.NDArray[np.bool_]:
    """(h, w) bool of a PNG in base64."""
    if not isinstance(text, str) or len(text) > _MAX_MASK_TEXT:
        raise _BrokenMask("mask must be a PNG in base64")
    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _BrokenMask(f"mask must have at most {MAX_PIXELS} pixels")
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _BrokenMask("mask must be a PNG in base64") from error
    covered: npt.NDArray[np.bool_] = pixels != 0
    return np.asarray(covered.any(axis=2)) if covered.ndim == 3 else covered


def _attributes(shape: Mapping[str, Any]) -> dict[str, Any]:
    flags, text = shape.get("flags"), shape.get("description")
    result = _others(shape, _OWN_OF_SHAPE)
    result |= flags if isinstance(flags, dict) else {}
    if not isinstance(text, str) or not text.strip():
        return result
    try:
        described = json.loads(text)
    except (ValueError, RecursionError):
        described = None
    if not isinstance(described, dict) or not _is_shallow(described):
        return {**result, "description": text}
    return {**result, **{str(key): tidy(value) for key, value in described.items()}}


def _is_shallow(described: dict[str, Any]) -> bool:
    """Whether a description may become attributes: what is nested deeper than files may be is kept as text."""
    level: list[Any] = [described]
    for _ in range(_MAX_DEPTH):
        level = [v for item in level for v in (item.values() if isinstance(item, dict) else item)]
        level = [item for item in level if isinstance(item, dict | list)]
    return not level


def _others(record: Mapping[str, Any], own: frozenset[str]) -> dict[str, Any]:
    """What other programs added; labelme of old wrote colours that were never chosen as null."""
    return {key: tidy(value) for key, value in record.items() if key not in own and value is not None}


def _pairs(points: Any) -> list[list[float]] | None:
    if not isinstance(points, list):
        return None
    for point in points:
        if not isinstance(point, list) or len(point) != 2 or not set(map(type, point)) <= {int, float}:
            return None
        if not all(abs(v) < 1e9 for v in point):
            return None
    return points


def _via_shapes(kind: str, points: list[list[float]]) -> list[dict[str, Any]]:
    """VIA shapes of a labelme shape; none if it is of no known kind or has not the points that it needs."""
    if kind in ("point", "points"):
        return [{"name": "point", "cx": x, "cy": y} for x, y in points] if kind == "points" or len(points) == 1 else []
    if kind == "rectangle" and len(points) == 2:
        (x, y), (right, bottom) = np.min(points, axis=0).tolist(), np.max(points, axis=0).tolist()
        return [{"name": "rect", "x": x, "y": y, "width": right - x, "height": bottom - y}]
    if kind == "circle" and len(points) == 2:
        (x, y), (edge_x, edge_y) = points
        # To a billionth, so that a radius comes back from the edge point that was written for it.
        return [{"name": "circle", "cx": x, "cy": y, "r": round(math.hypot(edge_x - x, edge_y - y), 9)}]
    columns = {"all_points_x": [p[0] for p in points], "all_points_y": [p[1] for p in points]}
    if kind in ("line", "linestrip"):
        return [{"name": "polyline", **columns}]
    is_corners = kind in ("rectangle", "oriented_rectangle") and len(points) == 4
    return [{"name": "polygon", **columns}] if kind == "polygon" or is_corners else []


def _why(kind: str, points: list[list[float]]) -> str:
    if kind in _POINTS_OF or kind in ("rectangle", "oriented_rectangle"):
        return f"{kind} must not have {len(points)} points"
    return f"shape must be one of labelme's, got {kind!r}"
