"""Warnings and log lines of image libraries kept back: they may quote what a header says of a patient."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["no_logs", "no_warnings"]

# Filters of warnings belong to the whole process: two threads that change and restore them must not interleave.
_WARNINGS = threading.RLock()
_thread = threading.local()


def _is_audible(record: logging.LogRecord) -> bool:
    return not getattr(_thread, "silent", False)


@contextmanager
def no_warnings(*categories: type[Warning]) -> Iterator[None]:
    """Show no warnings of these kinds, of any kind if none is named; one thread at a time, so be brief in it."""
    with _WARNINGS, warnings.catch_warnings():
        for category in categories or (Warning,):
            warnings.simplefilter("ignore", category)
        yield


@contextmanager
def no_logs(*names: str) -> Iterator[None]:
    """Drop what this thread tells the loggers of these names, at every level; other threads are heard as before."""
    for name in names:
        logging.getLogger(name).addFilter(_is_audible)
    before = getattr(_thread, "silent", False)
    _thread.silent = True
    try:
        yield
    finally:
        _thread.silent = before
