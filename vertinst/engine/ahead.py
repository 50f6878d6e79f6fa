"""Work on a stream in threads, a bounded way ahead of who takes the results: nothing piles up in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

__all__ = ["in_batches", "map_ahead"]

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(work: Callable[[T], R], items: Iterable[T], *, threads: int, ahead: int) -> Iterator[R]:
    """Results of `work` in the order of the items, computed by threads before they are asked for.

    Args:
        work: Called for each item, in any of the threads.
        items: Taken in the thread of whoever takes the results.
        threads: How many work at once, at least 1.
        ahead: Most items that are begun or finished and not yet taken, at least 1.

    Yields:
        What `work` returns. What it raises is raised here when its turn comes; no further item is begun then, and
        those that have begun are waited for.
    """
    source = iter(items)
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            waiting.extend(pool.submit(work, item) for item in islice(source, ahead))
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(work, item) for item in islice(source, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items in lists of `size`, the last one possibly shorter; none for no item."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch
