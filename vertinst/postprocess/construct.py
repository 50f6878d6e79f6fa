"""A construct of screws, rods and cages in one line of English."""

from __future__ import annotations

from collections.abc import Sequence

from vertinst.structures import Disc, Implant

__all__ = ["describe_construct", "spanned"]


def describe_construct(implants: Sequence[Implant], levels: Sequence[str]) -> str:
    """What a surgeon would call it: `posterior instrumentation L3-S1, cages L4/5 and L5/S1`.

    Screws within the levels of a rod are its instrumentation; rods whose levels overlap are one. Said apart: screws at
    levels without a rod, rods without screws, and metal whose level is unknown. Levels go from the head down, relative
    ones (`+1`, `+2`) from the lowest up. Metal of other classes than screw, rod and cage is left out.

    Args:
        implants: With their levels.
        levels: All levels of the film, from the sacrum up.

    Returns:
        One line, empty where there is nothing to say.
    """
    place = {level: i for i, level in enumerate(levels)}
    spans = _merged([[place[name] for name in rod.levels] for rod in _of("rod", implants) if rod.levels])
    screws = [(place[s.levels[0]]) for s in _of("screw", implants) if s.levels]
    parts = []
    for low, high in reversed(spans):
        held = any(low <= screw <= high for screw in screws)
        name = _range(levels[low], levels[high])
        parts.append(f"posterior instrumentation {name}" if held else f"rod {name} without screws")
    loose = [screw for screw in screws if not any(low <= screw <= high for low, high in spans)]
    if loose:
        named = " ".join(levels[i] for i in _head_first(set(loose), levels))
        parts.append(f"screw{'s' if len(loose) > 1 else ''} {named} without rod")
    discs = {(place[cage.levels[-1]], place[cage.levels[0]]) for cage in _of("cage", implants) if cage.levels}
    if discs:
        names = [Disc(levels[upper], levels[lower]).name for upper, lower in sorted(discs, reverse=True)]
        parts.append(f"cage{'s' if len(names) > 1 else ''} {_listed(names)}")
    return ", ".join(parts + _unknown(implants))


def _of(category: str, implants: Sequence[Implant]) -> list[Implant]:
    return [implant for implant in implants if implant.category == category]


def _merged(spans: list[list[int]]) -> list[tuple[int, int]]:
    """Spans that overlap, joined; from below."""
    result: list[tuple[int, int]] = []
    for low, high in sorted((min(span), max(span)) for span in spans):
        if result and low <= result[-1][1]:
            result[-1] = (result[-1][0], max(high, result[-1][1]))
        else:
            result.append((low, high))
    return result


def _range(lower: str, upper: str) -> str:
    if lower == upper:
        return lower
    return f"{lower} to {upper}" if lower.startswith("+") else f"{upper}-{lower}"


def _head_first(places: set[int], levels: Sequence[str]) -> list[int]:
    return sorted(places, reverse=not any(levels[i].startswith("+") for i in places))


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _unknown(implants: Sequence[Implant]) -> list[str]:
    parts = []
    for category in ("screw", "rod", "cage"):
        count = sum(not implant.levels for implant in _of(category, implants))
        if count:
            parts.append(f"{category} at an unknown level" if count == 1 else f"{count} {category}s at unknown levels")
    return parts


def spanned(implant: Implant) -> str:
    """Levels of an implant as they are read, from above: `L4-S1`; of a cage its disc: `L4/5`; empty without any."""
    levels = implant.levels
    if implant.category == "cage" and len(levels) == 2:
        return Disc(levels[1], levels[0]).name
    return "-".join(dict.fromkeys((levels[-1], levels[0]))) if levels else ""
