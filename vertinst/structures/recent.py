"""What was worked out of a mask not long ago: one film's masks are unpacked and traced once, whoever asks."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

__all__ = ["LARGEST_BYTES", "MOST", "recent"]

MOST = 128
"""Results kept, the last ones asked for: as many as a film has instances, and some."""
LARGEST_BYTES = 4096
"""Of masks with longer counts nothing is kept. All that runs, boxes and outlines take is in proportion to the counts,
at most some hundred bytes for each of theirs: tens of megabytes, whatever a file holds."""

Result = TypeVar("Result")


def recent(compute: Callable[[dict[str, Any]], Result]) -> Callable[[dict[str, Any]], Result]:
    """Keep the last results of a function of an RLE, by its size and counts; safe with threads.

    Results are shared: they must not change, so that their arrays have to be read-only.

    Args:
        compute: Looks at nothing but the size and the counts.
    """

    @lru_cache(maxsize=MOST)
    def kept(height: int, width: int, counts: bytes) -> Result:
        return compute({"size": [height, width], "counts": counts})

    @wraps(compute)
    def of(rle: dict[str, Any]) -> Result:
        counts = rle["counts"]
        if len(counts) > LARGEST_BYTES:
            return compute(rle)
        height, width = rle["size"]
        return kept(int(height), int(width), counts)

    return of
