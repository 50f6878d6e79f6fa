"""Regions that occur twice on one film, within a file or in two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vertinst.structures.conversion import Skip

from ._parts import Part
from ._source import Entry

__all__ = ["Repeats"]


class Repeats:
    """Remembers the parts of one film and lists those that are the same as an earlier one.

    Args:
        entries: Of the film.
        skips: Repeats are added to it.
        drop: Of those within one file keep the first only.

    Attributes:
        homes: Instances that are known to be those of an earlier entry, because a part of theirs is there too:
            (entry, instance) -> that entry.
    """

    def __init__(self, entries: Sequence[Entry], skips: list[Skip], *, drop: bool) -> None:
        self.homes: dict[tuple[int, str], int] = {}
        self._entries = entries
        self._skips = skips
        self._drop = drop
        self._seen: dict[Any, list[Part]] = {}

    def keeps(self, part: Part) -> bool:
        """Whether a part is to be kept: it is new, or the user wants repeats within a file kept."""
        shape = part.region.shape
        place = part.mask["counts"] if part.mask is not None else (shape["cx"], shape["cy"])
        same = self._seen.setdefault(place, [])
        earlier = next((other for other in same if _is_same(part, other)), None) if same else None
        if earlier is None:
            same.append(part)
            return True
        twin = f"the same as region {earlier.region.number}"
        if earlier.entry != part.entry:
            self.homes[part.entry, part.instance] = earlier.entry
            self._list(part, f"{twin} of {self._entries[earlier.entry].file}: left out")
            return False
        self._list(part, f"{twin}: {'left out' if self._drop else 'both kept'}", kept=not self._drop)
        return not self._drop

    def _list(self, part: Part, reason: str, *, kept: bool = False) -> None:
        entry = self._entries[part.entry]
        self._skips.append(Skip(entry.file, entry.name, part.region.number, reason, repaired=kept))


def _is_same(part: Part, other: Part) -> bool:
    a, b = part.region, other.region
    return part.instance == other.instance and a.shape == b.shape and a.attributes == b.attributes
