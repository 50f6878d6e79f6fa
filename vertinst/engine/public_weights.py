"""Public weights: kept in a cache folder, fetched when asked for and never else, checked by hash.

Beside a file stands its record (`<file>.json`): the hash that it had when it came, which every later copy must have.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from vertinst import files
from vertinst.engine.download import discard, download, locked
from vertinst.engine.weights_manifest import Entry, Manifest, packaged_manifest
from vertinst.errors import CheckpointError, DownloadError, VertinstError
from vertinst.progress import Progress, silent
from vertinst.settings import check_settings

__all__ = ["Stored", "cache_folder", "fetch", "find", "listing", "place", "verify"]

CACHE_VARIABLE = "VERTINST_CACHE"

# States; the list shows what stands before the comma.
PACKAGED = "packaged"
VERIFIED = "fetched, hash verified"
STARTS = "fetched, start of hash verified"
RECORDED = "fetched, hash recorded"
UNCHECKED = "unverified, put there by hand"
CHANGED = "changed, not as recorded"
WRONG = "wrong"
ABSENT = "not fetched"
BY_HAND = "by hand only, no program can fetch it"


class Record(BaseModel):
    """What is kept about a file in the cache.

    Attributes:
        sha256: Of the whole file when it first came.
        size: Its bytes.
        time: When that was, UTC.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    size: int
    time: str


@dataclass(frozen=True)
class Stored:
    """An entry of the manifest on this machine.

    Attributes:
        entry: What is known of it.
        path: Where its file is, or would be.
        state: In words.
        problem: What is wrong with the file, if anything is.
    """

    entry: Entry
    path: Path
    state: str
    problem: VertinstError | None = None


def cache_folder() -> Path:
    """Where fetched weights are kept: `weights` in `$VERTINST_CACHE`, or in `vertinst` of the user's cache folder."""
    given = os.environ.get(CACHE_VARIABLE)
    return (Path(given).expanduser().absolute() if given else _user_caches() / "vertinst") / "weights"


def _user_caches() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # Relative ones are to be ignored (XDG Base Directory Specification).
    return given if given.is_absolute() else Path.home() / ".cache"


def place(entry: Entry) -> Path:
    """Where the file of an entry is, or would be."""
    if entry.packaged:
        return Path(str(resources.files("vertinst.weights") / entry.file))
    return cache_folder() / entry.file


def listing(manifest: Manifest | None = None) -> list[Stored]:
    """Every entry and its state, by what is recorded: no file is read through."""
    return [Stored(entry, place(entry), _state(entry)) for entry in (manifest or packaged_manifest()).weights]


def _state(entry: Entry) -> str:
    path = place(entry)
    if entry.packaged:
        return PACKAGED if path.is_file() else "missing: install vertinst again"
    if not path.is_file():
        return ABSENT if entry.url else BY_HAND
    try:
        record = _recorded(path)
    except VertinstError:
        return CHANGED
    if record is None:
        return UNCHECKED
    same = record.size == path.stat().st_size and entry.sha256 in (None, record.sha256)
    return _proof(entry) if same else CHANGED


def _proof(entry: Entry) -> str:
    """What a right file was compared with."""
    if entry.packaged:
        return PACKAGED
    if entry.sha256:
        return VERIFIED
    return STARTS if entry.sha256_starts or entry.md5_starts else RECORDED


def find(entry: Entry) -> Path:
    """The file of an entry, compared with the hashes that are known of it; nothing is fetched or written.

    Raises:
        CheckpointError: It is not there, or not what it must be.
    """
    path = _present(entry)
    if not entry.packaged:
        _compare(entry, path, path, _again(entry))
    return path


def _present(entry: Entry) -> Path:
    path = place(entry)
    if path.is_file():
        return path
    if entry.packaged:
        raise CheckpointError(
            f"the {entry.name} weights are not part of this installation",
            where=entry.file,
            fix="Install vertinst again.",
        )
    raise CheckpointError(
        "these public weights are not on this machine",
        where=entry.name,
        fix=f"Run: vertinst weights fetch {entry.name}" if entry.url else _by_hand(entry),
    )


def fetch(name: str, *, manifest: Manifest | None = None, progress: Progress = silent) -> Stored:
    """Fetch a file into the cache, unless it is there; a second process that wants it waits for the first.

    Args:
        name: Of an entry.
        manifest: Another than the packaged one.
        progress: Told of every piece, in megabytes.

    Returns:
        Where it is. `VERIFIED` and `STARTS` were compared with what the publisher says; `RECORDED` was compared
        with nothing at its first download, and with that download ever after.

    Raises:
        CheckpointError: No such entry, or a file with another hash came; it is deleted.
        DownloadError: See `download`; or there is no address to fetch it from.
        VertinstError: The cache cannot be written.
    """
    entry = (manifest or packaged_manifest()).named(name)
    path = place(entry)
    if entry.packaged:
        return Stored(entry, find(entry), PACKAGED)
    if entry.url is None and not path.is_file():
        raise DownloadError("no program can fetch these weights", where=entry.name, fix=_by_hand(entry))
    # First without the lock: a cache that is shared may be closed to writing.
    if not _is_right(entry, path):
        _make(path.parent)
        with locked(path.with_name(f".{path.name}.lock"), progress):
            if not _is_right(entry, path):
                _bring(entry, str(entry.url), path, progress)
    return Stored(entry, path, _proof(entry))


def _is_right(entry: Entry, path: Path) -> bool:
    """Whether the file is there and right; a wrong one that can be fetched again counts as absent."""
    if not path.is_file():
        return False
    try:
        _accept(entry, path, path, _again(entry))
    except CheckpointError:
        if entry.url is None:
            raise
        return False
    return True


def _bring(entry: Entry, url: str, path: Path, progress: Progress) -> None:
    part = path.with_name(f"{path.name}.part")
    label = f"fetching {entry.name} (MB)"
    download(url, part, most_bytes=entry.most_bytes, fix=_by_hand(entry), label=label, progress=progress)
    try:
        _accept(entry, part, path, f"What came from {url} was removed: run it again, or see {entry.page}.")
        os.replace(part, path)
    finally:
        discard(part)


def verify(names: Sequence[str] = (), *, manifest: Manifest | None = None, progress: Progress = silent) -> list[Stored]:
    """Read files through and compare them with the hashes that are known; none is fetched or deleted.

    A file that was put there by hand and of which no hash is known gets its record here.

    Args:
        names: Of entries; none for all whose file is there.
        manifest: Another than the packaged one.
        progress: Told after each file.

    Returns:
        One for each file, `problem` filled in where one is wrong, or absent though it was named.

    Raises:
        CheckpointError: A name is not known.
        VertinstError: The cache cannot be written.
    """
    known = manifest or packaged_manifest()
    chosen = [known.named(name) for name in names] or [e for e in known.weights if place(e).is_file()]
    found = []
    for done, entry in enumerate(chosen):
        progress(done, len(chosen), f"verifying: {entry.name}")
        found.append(_verified(entry))
    return found


def _verified(entry: Entry) -> Stored:
    path = place(entry)
    try:
        _accept(entry, _present(entry), path, _again(entry))
    except VertinstError as error:
        return Stored(entry, path, WRONG if path.is_file() else _state(entry), error)
    return Stored(entry, path, _proof(entry))


def _accept(entry: Entry, path: Path, final: Path, fix: str) -> None:
    """Compare a file that is, or is to be, at `final` with what is known; record its hash if none was recorded."""
    sha256 = _compare(entry, path, final, fix)
    if not entry.packaged and not _record_path(final).is_file():
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        made = Record(sha256=sha256, size=path.stat().st_size, time=now)
        files.write_json(_record_path(final), made.model_dump(), indent=1)


def _compare(entry: Entry, path: Path, final: Path, fix: str) -> str:
    """The file's sha256, all that is known of its hashes being so."""
    try:
        with path.open("rb") as file:
            web_page = file.read(64).lstrip()[:1] == b"<"
        sha256 = _hash(path, "sha256")
        md5 = _hash(path, "md5") if entry.md5_starts else ""
    except OSError as error:
        raise CheckpointError(f"cannot be read: {error.strerror}", where=path, fix="Check its permissions.") from error
    if web_page:
        raise CheckpointError("must be weights, got a web page", where=path, fix=fix)
    record = _recorded(final)
    for words, wanted, got in (
        ("sha256 must be", entry.sha256, sha256),
        ("sha256 must begin with", entry.sha256_starts, sha256),
        ("md5 must begin with", entry.md5_starts, md5),
    ):
        if wanted and not got.startswith(wanted):
            raise CheckpointError(f"{words} {wanted}, got {got}", where=path, fix=fix)
    if record is not None and record.sha256 != sha256:
        raise CheckpointError(
            f"sha256 must be {record.sha256} as at the first download ({record.time}), got {sha256}",
            where=path,
            fix=f"{fix} If the publisher changed the file on purpose, delete {_record_path(final)} first.",
        )
    return sha256


def _hash(path: Path, name: str) -> str:
    with path.open("rb") as file:
        # md5 only tells whether a file came whole, and some systems refuse it for anything else.
        return hashlib.file_digest(file, lambda: hashlib.new(name, usedforsecurity=False)).hexdigest()


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _recorded(path: Path) -> Record | None:
    record = _record_path(path)
    if not record.is_file():
        return None
    content = files.read_json(record)
    return check_settings(Record, content if isinstance(content, dict) else {}, str(record))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VertinstError(
            f"cannot be made: {error.strerror}", where=folder, fix=f"Let {CACHE_VARIABLE} name another folder."
        ) from error


def _by_hand(entry: Entry) -> str:
    told = f" About it: {entry.page}" if entry.url else ""
    source = "what that address gives" if entry.url else f"{entry.file} from {entry.page}"
    return f"By hand: save {source} as {place(entry)}, then run: vertinst weights verify {entry.name}.{told}"


def _again(entry: Entry) -> str:
    if entry.packaged:
        return "Install vertinst again."
    fetched = f"Run: vertinst weights fetch {entry.name}." if entry.url else _by_hand(entry)
    return f"{fetched} Another file on purpose: give its path instead of the name."
