"""One file over https: resumed where it was cut, never larger than announced, and nothing but what was asked for."""

from __future__ import annotations

import errno
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from vertinst import files
from vertinst.engine.weights_manifest import may_fetch
from vertinst.errors import DownloadError, VertinstError
from vertinst.progress import Progress, silent
from vertinst.version import __version__

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["discard", "download", "locked"]

CHUNK_BYTES = 2**18
TIMEOUT_S = 30.0
SECONDS_BETWEEN_TRIALS = 0.2
# Left free on the disk beside the file itself.
SPARE_BYTES = 64 * 2**20
MB = 1_000_000
MAX_REASON = 300
# Of a file's size in a header.
MAX_DIGITS = 18


@contextmanager
def locked(path: Path, progress: Progress = silent) -> Iterator[None]:
    """Hold a lock between processes for as long as the context lasts; another that wants it waits.

    The system lets go of it when the process ends, however it ends. On file systems without locks there is none.

    Args:
        path: An empty file, which stays.
        progress: Told of the waiting.

    Raises:
        VertinstError: The file cannot be made.
    """
    with _writing(path):
        file = path.open("ab")
    with file:
        while not _lock(file):
            progress(0, 1, "waiting for another process that fetches the same")
            time.sleep(SECONDS_BETWEEN_TRIALS)
        # Closing the file gives the lock back.
        yield


def _lock(file: IO[bytes]) -> bool:
    """Try once; False where another process holds the lock."""
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
    return True


class _SafeRedirects(HTTPRedirectHandler):
    """Follows a redirect to https only; from this machine to itself too."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        secure = urlsplit(newurl).scheme == "https"
        if not secure and not (may_fetch(newurl) and req.type == "http"):
            raise _RefusedError(f"the server sent on to {_without_query(newurl)}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def download(url: str, part: Path, *, most_bytes: int, fix: str, label: str, progress: Progress = silent) -> None:
    """Fetch a file, going on where an earlier attempt was cut if the server still has the same file.

    Args:
        url: https, or http of this machine.
        part: File to fill, in a folder that exists; what it holds already is gone on from. What the server calls this
            version of the file stands beside it.
        most_bytes: The file is not larger than this.
        fix: The way out that every error names.
        label: What `progress` calls it; steps are megabytes.
        progress: Told after each piece.

    Raises:
        DownloadError: No network, an answer other than the file, too large, the disk too small, or cut on the way;
            what arrived until a cut is kept.
        VertinstError: The part cannot be written.
    """
    have, headers = _begun(part, url)
    request = Request(url, headers={"User-Agent": f"vertinst/{__version__}", **headers})
    try:
        with _open(request) as response:
            start, total = _answer(response, have)
            _check_size(total, start, most_bytes, part)
            _note(part, url, response.headers)
            most = most_bytes if total is None else total
            got = _fill(response, part, start, most, lambda n: progress(n // MB, (total or n) // MB, label))
        if total is not None and got < total:
            raise ConnectionError(f"the connection was cut after {got} of {total} bytes")
    except _OtherFileError:
        # Not twice: without a part nothing is gone on from.
        discard(part)
        download(url, part, most_bytes=most_bytes, fix=fix, label=label, progress=progress)
    # ValueError: addresses and numbers that a server makes up.
    except (OSError, HTTPException, ValueError) as error:
        kept, _ = _begun(part, url)
        again = f"{kept} bytes are kept: run it again to go on from there. " if kept else ""
        raise DownloadError(_reason(error), where=url, fix=again + fix) from error


class _OtherFileError(Exception):
    """What was begun is no beginning of what the server has now."""


class _RefusedError(OSError):
    """The answer is not the file."""


def _open(request: Request) -> Any:
    try:
        return build_opener(_SafeRedirects).open(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        # Precondition failed, range not satisfiable.
        if request.has_header("Range") and error.code in (412, 416):
            raise _OtherFileError from error
        raise


def _reason(error: Exception) -> str:
    """Why nothing, or not all, came."""
    if isinstance(error, HTTPError):
        return f"could not be fetched: the server answered {error.code} {_plain(error.reason)}".rstrip()
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, TimeoutError):
        return f"could not be fetched: no answer for {TIMEOUT_S:.0f} s"
    text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    return f"could not be fetched: {_plain(text)}"


def _plain(text: str) -> str:
    """What a server says, on one line and without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:MAX_REASON]


def discard(part: Path) -> None:
    """Delete what was begun, and what the server called it."""
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def _notes(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _begun(part: Path, url: str) -> tuple[int, dict[str, str]]:
    """Bytes that are there already, and the request's headers that ask for the rest of the same file."""
    # What a link leads to is not ours to write to.
    size = part.stat().st_size if part.is_file() and not part.is_symlink() else 0
    try:
        notes = files.read_json(_notes(part)) if size else {}
    except VertinstError:
        notes = {}
    version = notes.get("version") if isinstance(notes, dict) and notes.get("url") == url else None
    # Others are no values of a header.
    if not isinstance(version, str) or not (version.isascii() and version.isprintable()):
        discard(part)
        return 0, {}
    return size, {"Range": f"bytes={size}-", "If-Range": version}


def _note(part: Path, url: str, headers: Mapping[str, str]) -> None:
    """Keep how the server tells this version of the file from others; without that nothing is resumed."""
    tag = headers.get("ETag") or ""
    # Weak tags stand for files that are alike, not the same.
    version = tag if tag.startswith('"') else headers.get("Last-Modified")
    files.write_json(_notes(part), {"url": url, "version": version})


def _answer(response: Any, have: int) -> tuple[int, int | None]:
    """Where in the file the answer begins, and the file's size, None if unsaid."""
    headers = response.headers
    if headers.get("Content-Type", "").lower().startswith("text/html"):
        raise _RefusedError("a web page came in place of the file")
    if headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _RefusedError("the server sent the file packed, which was not asked for")
    if response.status == 206 and have:
        span, _, total = headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        size = _number(total)
        if span.partition("-")[0] != str(have) or size is None:
            raise _OtherFileError
        return have, size
    if response.status != 200:
        raise _RefusedError(f"the server answered {response.status}")
    total = _number(headers.get("Content-Length", ""))
    if total is None and headers.get("Transfer-Encoding", "").lower() != "chunked":
        # Where such an answer is cut, nobody can tell.
        raise _RefusedError("the server does not say how long the file is")
    return 0, total


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) <= MAX_DIGITS else None


def _check_size(total: int | None, start: int, most_bytes: int, part: Path) -> None:
    if total is None:
        return
    if total > most_bytes:
        raise _RefusedError(f"the file must have at most {most_bytes} bytes, the server's has {total}")
    free = shutil.disk_usage(part.parent).free
    if total - start + SPARE_BYTES > free:
        raise _RefusedError(f"{total - start + SPARE_BYTES} bytes must be free in {part.parent}, got {free}")


def _fill(response: Any, part: Path, start: int, most: int, told: Callable[[int], None]) -> int:
    """Write the answer from `start` on; the bytes that the file then has."""
    got = start
    with _writing(part):
        file = part.open("r+b" if start else "wb")
    with file:
        file.seek(start)
        while chunk := response.read(CHUNK_BYTES):
            got += len(chunk)
            if got > most:
                break
            with _writing(part):
                file.write(chunk)
                file.flush()
            told(got)
    if got > most:
        discard(part)
        raise _RefusedError(f"the file must have at most {most} bytes, the server sent more")
    return got


@contextmanager
def _writing(part: Path) -> Iterator[None]:
    """Tell the disk's errors from the network's."""
    try:
        yield
    except OSError as error:
        raise VertinstError(
            f"cannot be written: {error.strerror or error}",
            where=part,
            fix="Free space, or let the variable VERTINST_CACHE name another folder; then run it again.",
        ) from error


def _without_query(url: str) -> str:
    # Addresses of content servers carry keys behind the question mark, or a password before the host.
    return re.sub("//[^/]*@", "//", url.partition("?")[0])
