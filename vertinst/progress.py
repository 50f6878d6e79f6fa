"""Progress as a callback, so that everything below the command line stays silent and testable."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

__all__ = ["Progress", "silent", "track"]

T = TypeVar("T")


class Progress(Protocol):
    """Told after each step of a long piece of work; the command line draws it, tests count it."""

    def __call__(self, done: int, total: int, text: str) -> None:
        """Report that `done` of `total` steps are finished; `text` says in a few words what is being done."""


def silent(done: int, total: int, text: str) -> None:
    """Ignore progress: the default everywhere."""


def track(items: Iterable[T], total: int, text: str, progress: Progress) -> Iterator[T]:
    """Yield `items`, reporting 0 before the first and one more after each.

    Args:
        items: What to go through.
        total: How many there are; 0 is allowed.
        text: What is being done, in a few words.
        progress: The callback.
    """
    progress(0, total, text)
    for done, item in enumerate(items, start=1):
        yield item
        progress(done, total, text)
