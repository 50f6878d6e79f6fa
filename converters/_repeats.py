"""Regions that occur twice on one film, within a file or in two."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from vertinst.structures.conversion import Skip

from ._parts import Part
from ._source import Entry, content_of

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
        self._first: dict[Hashable, Part] = {}
        self._others: dict[Hashable, dict[Hashable, Part]] = {}

    def keeps(self, part: Part) -> bool:
        """Whether a part is to be kept: it is new, or the user wants repeats within a file kept."""
        shape = part.region.shape
        place = part.mask["counts"] if part.mask is not None else (shape["cx"], shape["cy"])
        first = self._first.setdefault(place, part)
        if first is part:
            return True
        if place not in self._others:
            self._others[place] = {_identity(first): first}
        earlier = self._others[place].setdefault(_identity(part), part)
        if earlier is part:
            return True
        twin = f"the same as region {earlier.region.number}"
        if earlier.entry != part.entry:
            # That earlier one may itself have been found to belong to a still earlier entry.
            home = self.homes.get((earlier.entry, earlier.instance), earlier.entry)
            self.homes[part.entry, part.instance] = home
            self._list(part, f"{twin} of {self._entries[earlier.entry].file}: left out")
            return False
        self._list(part, f"{twin}: {'left out' if self._drop else 'both kept'}", kept=not self._drop)
        return not self._drop

    def _list(self, part: Part, reason: str, *, kept: bool = False) -> None:
        entry = self._entries[part.entry]
        self._skips.append(Skip(entry.file, entry.name, part.region.number, reason, repaired=kept))


def _identity(part: Part) -> Hashable:
    return part.instance, content_of(part.region.shape), content_of(part.region.attributes)
