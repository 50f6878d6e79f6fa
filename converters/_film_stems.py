"""Films by their names without suffix: what formats with a file for each film call those files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from vertinst.data.radiograph import find_films
from vertinst.errors import DataError
from vertinst.files import film_stem

__all__ = ["FilmStems", "film_called", "film_stems"]

FilmStems = Mapping[str, Sequence[str]]
"""Films by what they may be called."""


def film_stems(folder: Path) -> FilmStems:
    """Films below a folder by their names without suffix, and by the last part of these where no other is called so.

    Args:
        folder: Of the films.

    Returns:
        Names relative to the folder, `/` between sub-folders.

    Raises:
        DataError: No such folder, or no film in it.
    """
    names = [path.relative_to(folder).as_posix() for path in find_films([folder])]
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(film_stem(name), []).append(name)
    last_parts: dict[str, list[str]] = {}
    for name in names:
        last_parts.setdefault(PurePosixPath(film_stem(name)).name, []).append(name)
    return last_parts | found


def film_called(stem: str, films: FilmStems, where: Path) -> str | None:
    """The film called so, or None.

    Args:
        stem: Name without suffix.
        films: From `film_stems`.
        where: The file that is called after the film, for the message.

    Raises:
        DataError: Several films are called so.
    """
    found = films.get(stem, ())
    if len(found) > 1:
        raise DataError(f"several films have this name: {', '.join(found[:5])}", where=where, fix="Rename them.")
    return found[0] if found else None
