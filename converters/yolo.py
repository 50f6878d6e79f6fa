"""YOLO-seg in and out: one text file a film, one line an instance (docs.ultralytics.com/datasets/segment)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from vertinst.errors import DataError
from vertinst.files import film_stem
from vertinst.progress import Progress, silent, track
from vertinst.structures.conversion import ReadOptions, Skip
from vertinst.structures.dataset import Dataset

from ._film_stems import FilmStems, film_called, film_stems
from ._source import Entry, Region
from ._stated import FilmSizes, build_stated, faulty, stated
from ._yolo_cuts import uncut
from ._yolo_writing import write

__all__ = ["read", "write"]

MAX_TEXT_BYTES = 50_000_000
# Takes seconds, and holds more classes than anyone has.
MAX_YAML_BYTES = 1_000_000
# Beside the labels, and none of them.
_NO_LABELS = frozenset({"classes.txt", "obj.names", "train.txt", "val.txt", "test.txt", "notes.txt"})
# Finer than any annotation, and coarse enough that a number written as a share of the width comes back as it was.
_DECIMALS = 6


def read(
    paths: Sequence[Path],
    images: Path | None,
    options: ReadOptions | None = None,
    *,
    progress: Progress = silent,
) -> tuple[Dataset, tuple[Skip, ...]]:
    """Read YOLO labels as one data set.

    A line is a class number with a polygon (six numbers or more), or with a box (four: middle, width, height), all as
    shares of the film's width and height. One more number is a score, as prediction writes it. Names of the classes
    are taken from `data.yaml` (list or dictionary), or from `classes.txt` beside the labels or above them; without
    either, the number is the name. Films of a data set without a label file are films without annotations.

    Args:
        paths: Folder of a data set (`data.yaml`, `labels/`), its `data.yaml`, a folder of text files, or such files.
        images: Folder that holds the films; None takes `images/` of a data set, or the folder itself. The shares mean
            nothing without the films' sizes.
        options: See `ReadOptions`.
        progress: Told after each film.

    Returns:
        The data set and everything that was skipped or repaired; see `build`.

    Raises:
        DataError: Nothing to read, no folder of films, a film is missing, or `data.yaml` cannot be read; see `build`.
    """
    options = options or ReadOptions()
    skips: list[Skip] = []
    sources = [_source(path) for path in paths]
    folder = images if images is not None else _films_of(sources)
    films = film_stems(folder)
    sizes = FilmSizes(folder, options)
    entries: list[Entry] = []
    for source in sources:
        seen = set()
        labels = _labels(source.files, source.root, films)
        for path in track(labels, len(labels), "reading YOLO labels", progress):
            film = _film_of(path, source.root, films)
            seen.add(film)
            size = sizes.of(Entry(str(path), film, {}, ()))
            found = _regions(path, source.names, size) if size is not None else ()
            regions = [part for region in found for part in uncut(region, size, Skip(str(path), film, 0, ""), skips)]
            entries.append(Entry(str(path), film, {}, tuple(regions)))
        if source.is_set:
            others = sorted(name for found in films.values() for name in found if name not in seen)
            entries += [Entry(str(source.root), name, {}, ()) for name in others]
    return build_stated(paths, entries, skips, folder, options, progress)


@dataclass(frozen=True)
class _Source:
    """One thing to read.

    Attributes:
        root: Folder that names of films start from.
        files: Text files: labels, and what may lie beside them.
        names: Names of the classes by number, or None if nothing tells them.
        is_set: It is a data set, whose films without a file are without annotations.
    """

    root: Path
    files: list[Path]
    names: Mapping[int, str] | None
    is_set: bool


def _source(path: Path) -> _Source:
    if path.suffix.lower() in (".yaml", ".yml"):
        return _data_set(path.parent, path)
    if path.is_file():
        return _Source(path.parent, [path], _listed_names(path.parent), is_set=False)
    if not path.is_dir():
        raise DataError("no such file or folder", where=path, fix="Check the path.")
    found = [p for p in (path / "data.yaml", path / "data.yml", path / "dataset.yaml") if p.is_file()]
    return _data_set(path, found[0] if found else None)


def _data_set(folder: Path, settings: Path | None) -> _Source:
    root = folder / "labels" if (folder / "labels").is_dir() else folder
    found = sorted(p for p in root.rglob("*.txt") if p.is_file() and not p.name.startswith("."))
    if settings is None and all(map(_is_beside, found)):
        raise DataError("no label file in this folder", where=folder, fix="Give the folder of a YOLO data set.")
    names = _yaml_names(settings) if settings is not None else _listed_names(root)
    return _Source(root, found, names, is_set=settings is not None)


class _PlainLoader(yaml.SafeLoader):
    """Without references, which no data set needs: a few lines of them make as many values as they like."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("references are not read")
        return super().compose_node(parent, index)


def _yaml_names(path: Path) -> dict[int, str]:
    fix = "Write the names of the classes there:\nnames: [lumbar, sacral]"
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise DataError("is too large for the settings of a data set", where=path, fix="Check the path.")
        content = yaml.load(path.read_text(encoding="utf-8-sig"), _PlainLoader)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, fix="Check the path.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DataError("is not valid YAML", where=path, fix="Correct the file.") from error
    names = content.get("names") if isinstance(content, dict) else None
    pairs = enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, dict) else ()
    texts = ((n, str(name).strip()) for n, name in pairs if isinstance(name, str | int | float))
    found = {int(n): name for n, name in texts if re.fullmatch(r"\d{1,9}", str(n))}
    if not found:
        raise DataError("must have the names of the classes", where=path, fix=fix)
    return found


def _listed_names(folder: Path) -> dict[int, str] | None:
    for place in (folder, folder.parent):
        for file in (place / "classes.txt", place / "obj.names"):
            if file.is_file():
                return dict(enumerate(line.strip() for line in _text(file).splitlines() if line.strip()))
    return None


def _films_of(sources: Sequence[_Source]) -> Path:
    """Folder of the films of a data set: `images` beside `labels`, else where the labels are."""
    folders: dict[Path, None] = {}
    for source in sources:
        beside = source.root.parent / "images" if source.root.name == "labels" else source.root / "images"
        folders[beside if beside.is_dir() else source.root] = None
    if len(folders) != 1:
        raise DataError(
            "films lie in several folders", where=", ".join(map(str, folders)), fix="Give one with --images."
        )
    return next(iter(folders))


def _labels(files: Sequence[Path], root: Path, films: FilmStems) -> list[Path]:
    """Label files: not what lies beside them, unless a film is called so."""
    return [p for p in files if not _is_beside(p) or film_stem(p.relative_to(root).as_posix()) in films]


def _is_beside(path: Path) -> bool:
    name = path.name.casefold()
    return name in _NO_LABELS or name.startswith("readme")


def _film_of(path: Path, root: Path, films: FilmStems) -> str:
    """Film of a label file: the one called so in the same sub-folder, else the only one called so."""
    name = path.relative_to(root).with_suffix("").as_posix()
    # `write` keeps the suffix where two films differ in nothing else.
    if name in films.get(film_stem(name), ()):
        return name
    stems = (name, _beside_labels(name), PurePosixPath(name).name)
    return next((film for stem in stems if (film := film_called(stem, films, path))), name)


def _beside_labels(name: str) -> str:
    """Where the film lies if the set is split into folders with `images` and `labels` each."""
    parts = name.split("/")
    if "labels" not in parts[:-1]:
        return name
    last = len(parts) - 2 - parts[-2::-1].index("labels")
    return "/".join([*parts[:last], "images", *parts[last + 1 :]])


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            raise DataError(f"must be at most {MAX_TEXT_BYTES} bytes", where=path, fix="Check the path.")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, fix="Check the path.") from error
    except UnicodeDecodeError as error:
        raise DataError("is not a text file", where=path, fix="Check the path.") from error


def _regions(path: Path, names: Mapping[int, str] | None, size: tuple[int, int]) -> Iterator[Region]:
    for number, line in enumerate(line for line in _text(path).splitlines() if line.strip()):
        words = line.split()
        raw = {"name": "yolo", "line": line[:10_000]}
        values = [_share(word) for word in words[1:]]
        if not re.fullmatch(r"\d{1,9}(\.0*)?", words[0]) or any(not math.isfinite(v) for v in values):
            yield faulty(number, raw, {}, "line must be a class number and shares of the film's width and height")
            continue
        index = int(float(words[0]))
        name = names.get(index, "") if names is not None else str(index)
        if not name:
            yield faulty(number, raw, {}, f"class {index} has no name in data.yaml or classes.txt")
        elif len(values) < 4:
            yield faulty(number, raw, {}, f"must have at least four numbers after the class, got {len(values)}")
        else:
            score = {"score": values[-1]} if len(values) % 2 else {}
            yield Region(number, _shape(values[: len(values) // 2 * 2], size), stated(name, score))


def _share(word: str) -> float:
    try:
        value = float(word) if len(word) < 40 else math.nan
    except ValueError:
        return math.nan
    # Beyond any film: the product with its size must stay a number.
    return value if abs(value) < 1e6 else math.nan


def _shape(shares: Sequence[float], size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    if len(shares) == 4:
        x, y, w, h = shares
        left, top = (x - w / 2) * width, (y - h / 2) * height
        values = {"x": left, "y": top, "width": w * width, "height": h * height}
        return {"name": "rect", **{key: _pixels(value) for key, value in values.items()}}
    return {
        "name": "polygon",
        "all_points_x": [_pixels(x * width) for x in shares[0::2]],
        "all_points_y": [_pixels(y * height) for y in shares[1::2]],
    }


def _pixels(value: float) -> float:
    rounded = round(value, _DECIMALS)
    return int(rounded) if rounded.is_integer() else rounded
