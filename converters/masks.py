"""Masks in and out: label maps, one picture per instance, binary masks, and the label maps of `vertinst predict`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from vertinst.errors import DataError
from vertinst.files import inside, read_json
from vertinst.progress import Progress, silent, track
from vertinst.report.results import film_paths, has_results, read_films
from vertinst.structures import rle as rle_masks
from vertinst.structures.conversion import ReadOptions, Skip
from vertinst.structures.dataset import Dataset
from vertinst.structures.rle import Rle

from ._class_names import ClassNames
from ._film_stems import FilmStems, film_called, film_stems
from ._mask_files import SUFFIXES, masks_of, name_of, parts_of, read_values, values_of
from ._mask_writing import LEGEND, write
from ._source import Entry, Region
from ._stated import UNREAD, build_stated, faulty, is_named, mask_region, stated

__all__ = ["read", "write"]

_KINDS = ("instances", "classes", "binary")


def read(
    paths: Sequence[Path],
    images: Path | None,
    options: ReadOptions | None = None,
    *,
    progress: Progress = silent,
) -> tuple[Dataset, tuple[Skip, ...]]:
    """Read folders of masks as one data set.

    What a folder holds is found out: the `legend.json` of `write` says everything; so do the labelled JSON files of a
    results folder (the folder itself or its `masks/`) for the label maps beside them. Else pictures called like films
    (or `<film>_mask`) are of whole films: binary if no value but 0 and one other occurs in any, each connected part an
    instance; classes if the class map gives each value a class of its own, connected parts again the instances; else
    each value is an instance. Pictures called `<film>_<class>_<n>` or `<film>/<class>_<n>` are one instance each
    (without films only where the class is a known one). `ReadOptions.mask_kind` decides where this is wrong.

    The class is that of the file's name, or the class map's for the value (`"1": lumbar`), or its own for `""`.

    Args:
        paths: Folders, searched to the bottom, of PNG or TIFF pictures of 8 or 16 bits, grey or with a palette.
        images: Folder that holds the films; None takes names and sizes from the masks.
        options: See `ReadOptions`.
        progress: Told after each film.

    Returns:
        The data set and everything that was skipped or repaired; see `build`.

    Raises:
        DataError: No mask, nothing that says a class, a broken picture or legend, or an unknown kind; see `build`.
    """
    options = options or ReadOptions()
    if options.mask_kind not in (None, *_KINDS):
        raise DataError(f"kind of masks must be one of {', '.join(_KINDS)}, got {options.mask_kind!r}")
    skips: list[Skip] = []
    entries: list[Entry] = []
    for path in paths:
        if not path.is_dir():
            raise DataError("must be a folder of masks", where=path, fix="Check the path.")
        entries += _entries(path, images, options, skips, progress)
    return build_stated(paths, entries, skips, images, options, progress)


def _entries(
    folder: Path, images: Path | None, options: ReadOptions, skips: list[Skip], progress: Progress
) -> Iterator[Entry]:
    if (folder / LEGEND).is_file():
        yield from _with_legend(folder, progress)
        return
    results = folder.parent if folder.name == "masks" else folder
    if (results / "masks").is_dir() and has_results(results):
        yield from _with_results(results, skips, progress)
        return
    yield from _with_names(folder, images, options, skips, progress)


def _with_legend(folder: Path, progress: Progress) -> Iterator[Entry]:
    where = folder / LEGEND
    content = read_json(where)
    films = content.get("films") if isinstance(content, dict) else None
    if not isinstance(films, list):
        raise _broken(where)
    for film in track(films, len(films), "reading masks", progress):
        if not isinstance(film, dict) or not isinstance(film.get("file_name"), str):
            raise _broken(where)
        height, width = film.get("height"), film.get("width")
        attributes, listed, unread = film.get("attributes", {}), film.get("masks"), film.get(UNREAD, [])
        if not (isinstance(attributes, dict) and isinstance(listed, list) and isinstance(unread, list)):
            raise _broken(where)
        if type(height) is not int or type(width) is not int:
            raise _broken(where)
        regions = _listed(listed, folder, where)
        for raw in unread:
            shape = raw.get("shape_attributes") if isinstance(raw, dict) else None
            found = raw.get("region_attributes") if isinstance(raw, dict) else None
            if not isinstance(shape, dict) or not isinstance(found, dict):
                raise _broken(where)
            regions.append(faulty(len(regions), shape, found, "left out when the masks were written"))
        yield Entry(str(where), film["file_name"], attributes, tuple(regions), size=(height, width))


def _listed(listed: Sequence[Any], folder: Path, where: Path) -> list[Region]:
    """Regions of one film in a legend; pictures that several share are read once."""
    pictures: dict[str, dict[int, Rle]] = {}
    regions: list[Region] = []
    for mask in listed:
        if not isinstance(mask, dict) or not all(isinstance(mask.get(key), str) for key in ("file", "class")):
            raise _broken(where)
        value, attributes = mask.get("value"), mask.get("attributes", {})
        if not isinstance(value, int) or not isinstance(attributes, dict):
            raise _broken(where)
        path = inside(folder, mask["file"])
        if mask["file"] not in pictures:
            pictures[mask["file"]] = masks_of(read_values(path))
        covered = pictures[mask["file"]].get(value)
        named = stated(mask["class"], attributes)
        if covered is None:
            shape = {"name": "mask", "file": mask["file"], "value": value}
            reason = f"value {value} does not occur in {mask['file']}"
            regions.append(faulty(len(regions), shape, {"label": mask["class"], **attributes}, reason))
            continue
        for part in parts_of(rle_masks.decode(covered), path) if mask.get("connected") is True else [covered]:
            # Each its own instance, whatever an attribute `instance` says.
            regions.append(mask_region(len(regions), part, named, f"mask {len(regions)}"))
    return regions


def _with_results(folder: Path, skips: list[Skip], progress: Progress) -> Iterator[Entry]:
    """Label maps of a results folder: the k-th value is the k-th vertebra, and after them the implants."""
    films = read_films(folder)
    for film in track(films, len(films), "reading label maps", progress):
        path = film_paths(folder, film.file_name).label_map
        if not path.is_file():
            skips.append(Skip(str(film.path), film.file_name, None, "has no label map"))
            continue
        values = read_values(path)
        masks = masks_of(values)
        found = [(v, v.level) for v in film.spine.vertebrae] + [(i, "") for i in film.spine.implants]
        regions = []
        for value, (part, level) in enumerate(found, start=1):
            flags = {"flags": ", ".join(part.flags)} if part.flags else {}
            attributes = {"level": level, "score": f"{part.score:.3f}", **flags}
            if value in masks:
                regions.append(mask_region(value - 1, masks[value], stated(part.category, attributes)))
            else:
                shape = {"name": "mask", "file": path.name, "value": value}
                reason = f"value {value} does not occur in the label map: others lie over it"
                regions.append(faulty(value - 1, shape, {"label": part.category, **attributes}, reason))
        named = {"flags": ", ".join(film.spine.flags)} if film.spine.flags else {}
        yield Entry(str(path), film.file_name, named, tuple(regions), size=(values.shape[0], values.shape[1]))


def _with_names(
    folder: Path, images: Path | None, options: ReadOptions, skips: list[Skip], progress: Progress
) -> Iterator[Entry]:
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    pictures = [p for p in found if not p.name.startswith(".")]
    if not pictures:
        raise DataError(f"no mask in this folder ({', '.join(SUFFIXES)})", where=folder, fix="Check the path.")
    stems = film_stems(images) if images is not None else None
    classes = ClassNames(options.class_map or {})
    named: list[tuple[Path, str, str | None]] = []
    for path in pictures:
        name = PurePosixPath(path.relative_to(folder).as_posix())
        match = name_of(name, stems, classes)
        if match is None:
            skips.append(Skip(str(path), name.as_posix(), None, "no film has this name, or one that it starts with"))
            continue
        named.append((path, _film_name(match[0], stems, path), match[1]))
    reader = _PictureReader(_kind([p for p, _, label in named if label is None], options), options)
    steps = track(named, len(named), "reading masks", progress)
    entries = [reader.read(path, film, label) for path, film, label in steps]
    regions = [region for entry in entries for region in entry.regions]
    if regions and not options.class_map and not any(is_named(region) for region in regions):
        raise DataError(
            "nothing says the class of these masks",
            where=folder,
            fix='Give it with --class-map FILE: a line  "": lumbar  for all, or lines like  "1": rod  for values',
        )
    yield from entries


def _film_name(stem: str, stems: FilmStems | None, path: Path) -> str:
    return f"{stem}.png" if stems is None else film_called(stem, stems, path) or stem


def _kind(whole: Sequence[Path], options: ReadOptions) -> str:
    """What the pictures of whole films hold."""
    if options.mask_kind is not None:
        return options.mask_kind
    used: set[int] = set()
    for path in whole:
        used.update(values_of(read_values(path), path))
    if len(used) < 2:
        return "binary"
    targets = [(options.class_map or {}).get(str(value)) for value in sorted(used)]
    named = [target for target in targets if target is not None]
    return "classes" if len(named) == len(targets) == len(set(named)) else "instances"


@dataclass(frozen=True)
class _PictureReader:
    """Reads pictures that no legend explains."""

    kind: str
    options: ReadOptions

    def read(self, path: Path, film: str, label: str | None) -> Entry:
        """The film with the regions of one picture.

        Args:
            path: The picture.
            film: Name of its film.
            label: Class of its only instance; None if the picture is of the whole film.
        """
        values = read_values(path)
        found = values_of(values, path)
        regions: list[Region] = []
        if label is not None or self.kind == "binary":
            name = label if label is not None else self._name(found[0]) if len(found) == 1 else ""
            covered = masks_of((values != 0).astype(np.uint8))
            masks: list[tuple[Rle, str, dict[str, Any]]] = [
                (part, name, {}) for mask in covered.values() for part in self._parts(mask, path, whole=label is None)
            ]
        else:
            masks = [
                (part, self._name(value), {"value": value})
                for value, mask in masks_of(values).items()
                for part in self._parts(mask, path, whole=self.kind == "classes")
            ]
        for number, (mask, name, attributes) in enumerate(masks):
            regions.append(mask_region(number, mask, stated(name, attributes)))
        return Entry(str(path), film, {}, tuple(regions), size=(values.shape[0], values.shape[1]))

    def _parts(self, mask: Rle, path: Path, *, whole: bool) -> list[Rle]:
        return parts_of(rle_masks.decode(mask), path) if whole else [mask]

    def _name(self, value: int) -> str:
        """The value where the class map knows it, or where the values are classes; else none."""
        is_named = str(value) in (self.options.class_map or {}) or self.kind == "classes"
        return str(value) if is_named else ""


def _broken(where: Path) -> DataError:
    return DataError("is not a legend as vertinst writes it", where=where, fix="Write the masks again.")
