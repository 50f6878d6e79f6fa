"""Films of an annotation file: where they lie."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from vertinst.data.radiograph import FilmHeader, read_header
from vertinst.errors import DataError
from vertinst.files import inside
from vertinst.structures.conversion import FilmFacts

__all__ = ["FilmFolder"]


class FilmFolder:
    """Finds films by the names that annotation files give them.

    Args:
        folder: Holds the films, in sub-folders or not.
        known: Headers read before, by file name relative to the folder.

    Raises:
        DataError: There is no such folder.
    """

    def __init__(self, folder: Path, known: Mapping[str, FilmFacts] | None = None) -> None:
        if not folder.is_dir():
            raise DataError("must be the folder of the films", where=folder, fix="Give that folder with --images.")
        self.folder = folder
        self.known = known or {}

    def find(self, name: str) -> str | None:
        """Path of a film relative to the folder, `/` between folders; None if it is not there.

        The name is tried as it stands, then its last part in the folder itself, then anywhere below it if only one
        file is called so: VIA often knows no more than the base name.

        Raises:
            DataError: The name leads outside of the folder, or several files below it are called so.
        """
        path = inside(self.folder, name)
        if path.is_file():
            return path.relative_to(self.folder).as_posix()
        base = PurePosixPath(name.replace("\\", "/")).name
        if base and inside(self.folder, base).is_file():
            return base
        found = self._below.get(base, [])
        if len(found) > 1:
            raise DataError(
                f"several films have this name: {', '.join(found[:5])}",
                where=name,
                fix="Give the folder of the right ones with --images.",
            )
        return found[0] if found else None

    def header(self, file_name: str) -> FilmHeader:
        """What a film's header says; not read again where it is known and the file has not changed since.

        Args:
            file_name: As `find` returned it.

        Raises:
            DataError: The film cannot be read.
        """
        path = self.folder / file_name
        facts = self.known.get(file_name)
        if facts is not None:
            status = path.stat()
            if (status.st_size, status.st_mtime_ns) == (facts.size_bytes, facts.modified_ns):
                return FilmHeader(
                    facts.height, facts.width, facts.orientation, facts.pixel_spacing_mm, facts.pixel_spacing_source
                )
        return read_header(path)

    @functools.cached_property
    def _below(self) -> dict[str, list[str]]:
        index: dict[str, list[str]] = {}
        for root, _, files in os.walk(self.folder):
            for file in files:
                path = Path(root, file)
                if path.resolve().is_relative_to(self.folder.resolve()):
                    index.setdefault(file, []).append(path.relative_to(self.folder).as_posix())
        return {name: sorted(paths) for name, paths in index.items()}
