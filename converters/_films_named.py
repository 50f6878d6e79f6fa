"""Films by the names that entries give them, and which of these names leave a doubt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from vertinst.errors import DataError
from vertinst.structures.conversion import Skip

from ._films import FilmFolder, doubt
from ._source import Entry

__all__ = ["by_film", "list_names"]


def by_film(entries: Sequence[Entry], folder: FilmFolder | None) -> dict[str, list[Entry]]:
    """Entries by the file names of their films, both in the order of the entries.

    Args:
        entries: As the reader found them.
        folder: Where the films are looked for; None takes names as they stand.

    Raises:
        DataError: Films are not there, or a name leads outside of the folder.
    """
    names = dict.fromkeys(e.name for e in entries)
    found = {name: folder.find(name) if folder is not None else name for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        places = dict.fromkeys(e.elsewhere for e in entries if e.elsewhere and found[e.name] is None)
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise DataError(
            f"{len(missing)} of {len(found)} films are not there: {', '.join(missing[:10])}{more}",
            where=folder.folder if folder is not None else None,
            fix=" ".join(
                ["Give the folder that holds the films with --images, or take them out of the annotations.", *places]
            ),
        )
    films: dict[str, list[Entry]] = {}
    for entry in entries:
        films.setdefault(str(found[entry.name]), []).append(entry)
    return films


def list_names(file_name: str, entries: Sequence[Entry], skips: list[Skip]) -> None:
    """List names that may mean another film than the one that was found.

    Args:
        file_name: Of the film.
        entries: Of the film, at least one.
        skips: The list.
    """
    first = entries[0].name
    for entry in {entry.name: entry for entry in reversed(entries) if entry.name != file_name}.values():
        reason = doubt(entry.name, file_name)
        if not reason and entry.name != first and _parts_of(entry.name) != _parts_of(first):
            reason = f"found as the film that is called {first} elsewhere: taken as one"
        if reason:
            skips.append(Skip(entry.file, entry.name, None, reason, repaired=True))


def _parts_of(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.replace("\\", "/")).parts
