"""What the audit remembers of the films' files, so that a second conversion need not read their headers again."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vertinst.data.film_facts import film_facts
from vertinst.errors import VertinstError
from vertinst.files import inside, read_json
from vertinst.structures import Dataset
from vertinst.structures.conversion import FilmFacts
from vertinst.structures.rle import check_size

__all__ = ["film_files", "known_films"]

_MAX_SOURCE_CHARACTERS = 100


def film_files(dataset: Dataset, images: Path, known: Mapping[str, FilmFacts]) -> Iterator[dict[str, Any]]:
    """Facts of each film's file, JSON-ready: `file_name` and the fields of `FilmFacts`.

    Args:
        dataset: Names the films; those that are missing or cannot be read are left out.
        images: Folder that holds them.
        known: Facts from before; where size and time of the file are still the same, its header is not read.
    """
    facts_of = dict(known)
    for image in dataset.images:
        try:
            facts = film_facts(inside(images, image.file_name), image.file_name, facts_of)
        except (OSError, VertinstError):
            continue
        yield {"file_name": image.file_name, **vars(facts)}


def known_films(path: Path) -> dict[str, FilmFacts]:
    """Facts of films by file name, from the JSON of an earlier audit.

    Args:
        path: The audit; if it is missing, broken or something else, nothing is known. Entries that are not as they
            should be are left out.
    """
    try:
        content = read_json(path)
    except VertinstError:
        return {}
    entries = content.get("film_files") if isinstance(content, dict) else None
    found: dict[str, FilmFacts] = {}
    for entry in entries if isinstance(entries, list) else ():
        facts = _facts(entry)
        if facts is not None:
            found[entry["file_name"]] = facts
    return found


def _facts(entry: Any) -> FilmFacts | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str):
        return None
    names = ("size_bytes", "modified_ns", "width", "height", "orientation")
    numbers = [entry.get(name) for name in names]
    if not all(type(number) is int and number >= 0 for number in numbers):
        return None
    size, modified, width, height, orientation = (int(number or 0) for number in numbers)
    try:
        check_size((height, width))
    except VertinstError:
        return None
    spacing, source = entry.get("pixel_spacing_mm"), entry.get("pixel_spacing_source")
    if not 1 <= orientation <= 8 or (spacing is None) != (source is None):
        return None
    if spacing is None:
        return FilmFacts(size, modified, width, height, orientation)
    is_pair = isinstance(spacing, list) and len(spacing) == 2 and all(type(v) in (int, float) for v in spacing)
    if not is_pair or not all(0 < v < 1e6 and math.isfinite(v) for v in spacing):
        return None
    if not isinstance(source, str) or not 0 < len(source) <= _MAX_SOURCE_CHARACTERS:
        return None
    return FilmFacts(size, modified, width, height, orientation, (float(spacing[0]), float(spacing[1])), source)
