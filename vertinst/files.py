"""Files and folders: written aside and renamed, never outside the folder meant, never over something by accident."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from vertinst.errors import DataError, OutputExistsError, VertinstError
from vertinst.json_text import MAX_JSON_DEPTH, parse

__all__ = [
    "check_folder",
    "film_stem",
    "inside",
    "keep_inputs",
    "prepare_folder",
    "read_json",
    "refuse_to_replace",
    "write_bytes",
    "write_json",
    "write_pieces",
    "write_text",
    "write_with",
]

MAX_JSON_BYTES = 2_000_000_000
# On most file systems: bytes of one part of a path, and of a whole path less a generous folder.
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 2000


def film_stem(name: str) -> str:
    r"""A film's name without its suffix, `/` between folders: what its other files are called after.

    A suffix of digits belongs to the name: DICOM films are called `1.2.840.1` and `1.2.840.2`.

    Args:
        name: Relative to the folder of films; `/` or `\\` between folders.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    return (path if path.suffix[1:].isdigit() else path.with_suffix("")).as_posix()


def write_with(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside `path`, then rename it into place.

    A crash, a full disk or Ctrl-C leaves either the old file or none, never half of one. The temporary name keeps
    the suffix because image writers choose their format by it. Missing parent folders are made.

    Args:
        path: The file to be made.
        write: Called with the temporary path.

    Raises:
        VertinstError: The file cannot be written (disk full, no permission).
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise VertinstError(
            f"cannot be written: {reason}", where=path, fix="Free space or choose another output, then run it again."
        ) from error
    finally:
        # Where even the folder could not be made, removing fails too, and must not hide the reason above.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes aside and rename; see `write_with`."""
    write_with(path, lambda temporary: _write_and_close(temporary, content))


def _write_and_close(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Write UTF-8 text aside and rename, broken Unicode as `?`; see `write_with`."""
    write_bytes(path, content.encode("utf-8", "replace"))


def write_pieces(path: Path, pieces: Iterable[str]) -> None:
    """Write UTF-8 text of which never more than one piece is in memory aside and rename; see `write_text`."""

    def write(temporary: Path) -> None:
        with temporary.open("w", encoding="utf-8", errors="replace", newline="") as file:
            file.writelines(pieces)

    write_with(path, write)


def write_json(path: Path, content: Any, *, indent: int | None = None) -> None:
    """Write JSON (UTF-8, NaN refused) aside and rename; see `write_with`."""
    write_text(path, json.dumps(content, ensure_ascii=False, allow_nan=False, indent=indent) + "\n")


def read_json(path: Path, *, keeps_again: Callable[[str, Any], bool] = lambda key, value: False) -> Any:
    """Read a JSON file of at most 2 GB; a byte order mark is accepted.

    Args:
        path: The file.
        keeps_again: Asked about each key that an object has once more, with the value there: if it is to be kept, it
            is found under `key (2)`. Python itself forgets all values but the last.

    Raises:
        DataError: The file is missing, too large, not UTF-8, not JSON, nested deeper than `MAX_JSON_DEPTH`, or has a
            key twice in one object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise DataError(f"must be at most {MAX_JSON_BYTES} bytes, got {size}", where=path, fix="Split the file.")
        content, depth = parse(path.read_bytes(), keeps_again)
    except FileNotFoundError as error:
        raise DataError("no such file", where=path, fix="Check the path.") from error
    except IsADirectoryError as error:
        raise DataError("must be a file, got a folder", where=path, fix="Name the file in it.") from error
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", where=path, fix="Check the path and permissions."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            "is not valid JSON (no UTF-8 text)", where=path, fix="Check that it is the right file; export it again."
        ) from error
    except (ValueError, RecursionError) as error:
        # ValueError covers text that is not JSON and numbers of thousands of digits.
        place = f"line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise DataError(
            f"is not valid JSON ({place})", where=path, fix="Export the file again, or repair it at that place."
        ) from error
    if depth > MAX_JSON_DEPTH:
        raise DataError(
            f"must be nested at most {MAX_JSON_DEPTH} deep, got more", where=path, fix="Check where the file is from."
        )
    return content


def check_folder(path: Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> bool:
    """Refuse an output folder as `prepare_folder` does, and change nothing: for before the work.

    Returns:
        Whether it holds something, which may be deleted.

    Raises:
        OutputExistsError: See `prepare_folder`.
    """
    if path.exists() and not path.is_dir():
        raise OutputExistsError("must be a folder, got a file", where=path, fix="Choose another output folder.")
    holds_something = path.is_dir() and any(path.iterdir())
    if holds_something:
        if not overwrite:
            raise OutputExistsError(
                "output folder exists and is not empty", where=path, fix="Choose another folder or add --overwrite."
            )
        keep_inputs(path, inputs)
    return holds_something


def refuse_to_replace(path: Path, inputs: Iterable[Path | None]) -> None:
    """Refuse an output that is one of the inputs.

    Args:
        path: The output.
        inputs: What the work reads; None stands for an input that was not given.

    Raises:
        OutputExistsError: It is.
    """
    if any(path.resolve() == given.resolve() for given in inputs if given is not None):
        raise OutputExistsError("the output would overwrite an input", where=path, fix="Choose another --out.")


def prepare_folder(path: Path, *, overwrite: bool = False, inputs: Iterable[Path] = ()) -> Path:
    """Make an output folder, refusing one that holds something.

    Args:
        path: The folder.
        overwrite: Delete what a folder of that name holds. Never set without the user's word.
        inputs: What the work reads: a folder that holds any of it is not deleted, whatever the user's word.

    Returns:
        `path`, existing and empty.

    Raises:
        OutputExistsError: It is a file, or a folder that is not empty and `overwrite` is false; or a folder with an
            input, the home or the working folder in it would be deleted.
    """
    if check_folder(path, overwrite=overwrite, inputs=inputs):
        shutil.rmtree(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VertinstError(f"cannot be made: {error.strerror}", where=path, fix="Choose another folder.") from error
    return path


def keep_inputs(path: Path, inputs: Iterable[Path]) -> None:
    """Refuse to delete a folder with something in it that must stay: an input, the home or the working folder.

    Args:
        path: The folder that `overwrite` would delete.
        inputs: Files and folders that the work reads; they need not exist.

    Raises:
        OutputExistsError: It holds, or is, one of them.
    """
    folder = path.resolve()
    if any(place.resolve().is_relative_to(folder) for place in (Path.home(), Path.cwd())):
        raise OutputExistsError("will not delete this folder", where=path, fix="Choose another output folder.")
    if any(place.resolve().is_relative_to(folder) for place in inputs):
        raise OutputExistsError(
            "will not delete this folder: it holds what is to be read", where=path, fix="Choose another output folder."
        )


def inside(folder: Path, name: str) -> Path:
    """Join a file name taken from a stranger's file to a folder, refusing whatever leads outside.

    Sub-folders are allowed; absolute paths, drive letters, `..` and links that leave the folder are not.

    Args:
        folder: The folder that must contain the file.
        name: Relative name with slashes or backslashes between folders.

    Returns:
        The joined path; the file need not exist.

    Raises:
        DataError: The name leads outside, or no file can be called so.
    """
    parts = PurePosixPath(name.replace("\\", "/"))
    if not _can_exist(parts):
        shown = name[:80].encode("utf-8", "replace").decode("utf-8")
        raise DataError("no file can have this name", where=shown, fix="Correct the name in the file.")
    outside = parts.is_absolute() or ".." in parts.parts or bool(PureWindowsPath(name).drive) or "\0" in name
    path = folder / parts
    if outside or not path.resolve().is_relative_to(folder.resolve()):
        raise DataError("file name leads outside the image folder", where=name, fix="Correct the name in the file.")
    return path


def _can_exist(parts: PurePosixPath) -> bool:
    try:
        lengths = [len(part.encode("utf-8")) for part in parts.parts]
    except UnicodeEncodeError:
        # Halves of Unicode's pairs, for which files and terminals have no bytes.
        return False
    return max(lengths, default=0) <= _MAX_NAME_BYTES and sum(lengths) + len(lengths) <= _MAX_PATH_BYTES
