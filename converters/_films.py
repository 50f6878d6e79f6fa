"""Films of an annotation file: where they lie, and how large they are, read from their headers only."""

from __future__ import annotations

import functools
import os
import warnings
from pathlib import Path, PurePosixPath

from PIL import Image, UnidentifiedImageError

from vertinst.errors import DataError
from vertinst.files import inside

__all__ = ["FilmFolder", "film_size"]

_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)


class FilmFolder:
    """Finds films by the names that annotation files give them.

    Args:
        folder: Holds the films, in sub-folders or not.

    Raises:
        DataError: There is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError("must be the folder of the films", where=folder, fix="Give that folder with --images.")
        self.folder = folder

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

    @functools.cached_property
    def _below(self) -> dict[str, list[str]]:
        index: dict[str, list[str]] = {}
        for root, _, files in os.walk(self.folder):
            for file in files:
                path = Path(root, file)
                if path.resolve().is_relative_to(self.folder.resolve()):
                    index.setdefault(file, []).append(path.relative_to(self.folder).as_posix())
        return {name: sorted(paths) for name, paths in index.items()}


def film_size(path: Path) -> tuple[int, int]:
    """Size of a film as it is shown, read from its header; the pixels are not decoded.

    The EXIF orientation is obeyed: where it turns the film by a quarter (5 to 8), width and height change places.
    The browsers that VIA runs in show, and let annotate, the turned film.

    Returns:
        (height, width) px.

    Raises:
        DataError: The file is no image that can be read.
    """
    try:
        with warnings.catch_warnings():
            # Large films are expected; the structures bound their size.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = _stored_size(image)
                return (width, height) if _orientation(image) in _TURNED else (height, width)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, ValueError, SyntaxError) as error:
        raise DataError(
            "cannot be read as an image", where=path, fix="Check that the file is a complete PNG, JPEG or TIFF film."
        ) from error


def _stored_size(image: Image.Image) -> tuple[int, int]:
    # Newer Pillow has already turned the size of a TIFF, older has not: its tags are the same for both.
    tags = getattr(image, "tag_v2", None)
    if tags is not None and 256 in tags and 257 in tags:
        return int(tags[256]), int(tags[257])
    return image.size


def _orientation(image: Image.Image) -> int:
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        return int(tags.get(_ORIENTATION, 1))
    # Asked for EXIF data that its header does not have, Pillow would decode a whole PNG.
    return int(image.getexif().get(_ORIENTATION, 1)) if "exif" in image.info else 1
