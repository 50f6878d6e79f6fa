"""What a film's header says, read once as long as the file does not change."""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path

from vertinst.data.radiograph import read_header
from vertinst.errors import DataError
from vertinst.structures.conversion import FilmFacts

__all__ = ["film_facts"]


def film_facts(path: Path, name: str, known: MutableMapping[str, FilmFacts]) -> FilmFacts:
    """Facts of a film, from its header only where they are not known or the file has changed since.

    Args:
        path: The film.
        name: Under which `known` has it.
        known: Facts from before; those found now are added.

    Raises:
        DataError: The film is not there or cannot be read.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise DataError("no such film", where=path, fix="Check the image folder and the file name.") from error
    stamp = status.st_size, status.st_mtime_ns
    facts = known.get(name)
    if facts is None or (facts.size_bytes, facts.modified_ns) != stamp:
        header = read_header(path)
        spacing = header.pixel_spacing_mm, header.pixel_spacing_source
        known[name] = facts = FilmFacts(*stamp, header.width, header.height, header.orientation, *spacing)
    return facts
