"""Films of an annotation file: where they lie."""

from __future__ import annotations

import functools
import os
import unicodedata
from collections.abc import MutableMapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.parse import unquote, urlsplit

from vertinst.data.film_facts import film_facts
from vertinst.data.radiograph import FilmHeader
from vertinst.errors import DataError
from vertinst.files import inside
from vertinst.structures.conversion import FilmFacts

__all__ = ["FilmFolder", "doubt"]


class FilmFolder:
    """Finds films by the names that annotation files give them.

    Args:
        folder: Holds the films, in sub-folders or not.
        known: Headers read before, by file name relative to the folder; those read now are added.

    Raises:
        DataError: There is no such folder.
    """

    def __init__(self, folder: Path, known: MutableMapping[str, FilmFacts] | None = None) -> None:
        if not folder.is_dir():
            raise DataError("must be the folder of the films", where=folder, fix="Give that folder with --images.")
        self.folder = folder
        self.known = known if known is not None else {}
        self._plain: dict[str, frozenset[str]] = {}

    def find(self, name: str) -> str | None:
        r"""Path of a film relative to the folder, `/` between folders; None if it is not there.

        The name is tried as it stands, then its last part in the folder itself, then anywhere below it if only one
        file is called so: VIA often knows no more than the base name. URLs are names too, `%20` in them a blank, and
        of paths on another machine (`/home/x/a.png`, `C:\films\a.png`) the longest end that is there counts. Last of
        all, letter case and the way in which Unicode writes an umlaut make no difference, if only one file fits.

        Raises:
            DataError: The name leads outside of the folder, or several files below it are called so.
        """
        path = PurePosixPath(name.replace("\\", "/"))
        parent = path.parent.as_posix()
        if path.name in self._plain.get(parent, ()) and ":" not in name:
            return path.as_posix()
        # Whatever is not known to be an ordinary file is followed to where it leads.
        whole = self._end(path) if _is_elsewhere(name, path) else inside(self.folder, name)
        if whole.is_file():
            parent = whole.parent.relative_to(self.folder).as_posix()
            if parent not in self._plain:
                self._plain[parent] = _plain_files(inside(self.folder, parent))
            return whole.relative_to(self.folder).as_posix()
        bases = _base_names(name, path)
        same = next((found for base in bases if (found := self._find_base(base, name))), None)
        return same or next((found for base in bases if (found := _only(self._alike.get(_fold(base), []), name))), None)

    def _end(self, path: PurePosixPath) -> Path:
        """The longest end of a path that is a file in the folder, or its last part in any case."""
        ends = ("/".join(path.parts[start:]) for start in range(1, len(path.parts)))
        found = (whole for end in ends if (whole := inside(self.folder, end)).is_file())
        return next(found, inside(self.folder, path.name))

    def _find_base(self, base: str, name: str) -> str | None:
        if inside(self.folder, base).is_file():
            return base
        return _only(self._below.get(base, []), name)

    def header(self, file_name: str) -> FilmHeader:
        """What a film's header says; not read again where it is known and the file has not changed since.

        Args:
            file_name: As `find` returned it.

        Raises:
            DataError: The film cannot be read.
        """
        facts = film_facts(self.folder / file_name, file_name, self.known)
        return FilmHeader(
            facts.height, facts.width, facts.orientation, facts.pixel_spacing_mm, facts.pixel_spacing_source
        )

    @functools.cached_property
    def _below(self) -> dict[str, list[str]]:
        index: dict[str, list[str]] = {}
        top = self.folder.resolve()
        for root, _, files in os.walk(self.folder):
            for file in files:
                path = Path(root, file)
                if not path.is_symlink() or path.resolve().is_relative_to(top):
                    index.setdefault(file, []).append(path.relative_to(self.folder).as_posix())
        return {name: sorted(paths) for name, paths in index.items()}

    @functools.cached_property
    def _alike(self) -> dict[str, list[str]]:
        index: dict[str, list[str]] = {}
        for name, paths in self._below.items():
            index.setdefault(_fold(name), []).extend(paths)
        return index


def doubt(name: str, found: str) -> str:
    """What the user should know of a film that was found by a part of its name only; "" if there is nothing.

    Args:
        name: As an annotation file has it.
        found: As `FilmFolder.find` returned it for this name.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    written, there = path.parts, PurePosixPath(found).parts
    shared = min(len(written), len(there))
    if written[-shared:] == there[-shared:]:
        return ""
    if there[-1] not in _base_names(name, path):
        return f"is called {found} in the folder: taken, though spelt otherwise"
    # The folders of an address are none of the user's.
    return "" if "://" in name else f"found in another folder, as {found}: taken"


def _only(found: list[str], name: str) -> str | None:
    """The one file that is called so, or None if there is none.

    Raises:
        DataError: There are several.
    """
    if len(found) > 1:
        raise DataError(
            f"several films have this name: {', '.join(sorted(found)[:5])}",
            where=name,
            fix="Give the folder of the right ones with --images.",
        )
    return found[0] if found else None


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _is_elsewhere(name: str, path: PurePosixPath) -> bool:
    """Whether a name starts at the root of a machine; one that climbs out of a folder does not."""
    return ".." not in path.parts and (path.is_absolute() or bool(PureWindowsPath(name).drive))


def _plain_files(folder: Path) -> frozenset[str]:
    """Names of the files in a folder that are no links: none of them lies anywhere else."""
    with os.scandir(folder) as found:
        return frozenset(entry.name for entry in found if entry.is_file(follow_symlinks=False))


def _base_names(name: str, path: PurePosixPath) -> list[str]:
    """What a film may be called in a folder: the last part of its name, that of a URL as the server would read it."""
    names = [path.name]
    if "://" in name:
        names.append(PurePosixPath(unquote(_path_of_url(name))).name)
    return [n for n in names if n]


def _path_of_url(name: str) -> str:
    try:
        return urlsplit(name).path
    except ValueError:
        # Brackets where an address of the internet's sixth version should stand.
        return name
