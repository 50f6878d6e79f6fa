"""A spine as read off one film: vertebrae in order from the sacrum up, each with its name, and the implants."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from vertinst.errors import DataError
from vertinst.structures.instances import Instances
from vertinst.structures.measures import Body, Disc, Measure, Orientation, Scale
from vertinst.structures.rle import Rle

__all__ = [
    "LEVELS",
    "TRANSITIONAL",
    "Implant",
    "Naming",
    "Spine",
    "Vertebra",
    "are_neighbours",
    "as_instances",
    "is_level",
    "level_above",
    "level_name",
]

LEVELS: tuple[str, ...] = (
    *(f"S{n}" for n in range(5, 0, -1)),
    *(f"L{n}" for n in range(5, 0, -1)),
    *(f"T{n}" for n in range(12, 0, -1)),
    *(f"C{n}" for n in range(7, 0, -1)),
)
"""Names from the sacrum up: S5 ... S1, L5 ... L1, T12 ... T1, C7 ... C1."""

TRANSITIONAL: dict[str, tuple[str, str]] = {"L6": ("S1", "L5"), "T13": ("L1", "T12")}
"""Levels that few people have, each with the level below and the one above. They are never counted, only stated."""

_RELATIVE = re.compile(r"\+\d+")
_WRITTEN = re.compile(r"(c|hwk|t|th|d|bwk|l|lwk|lw|s|swk|sw)[\s_\-./]*(\d{1,2})", re.IGNORECASE)
_REGION = {"HWK": "C", "TH": "T", "D": "T", "BWK": "T", "LWK": "L", "LW": "L", "SWK": "S", "SW": "S"}


def level_name(text: str) -> str | None:
    """The level that a text means (`Th12`, `LWK 5`, `s1`, `bwk_12`), or None if there is no such level."""
    match = _WRITTEN.fullmatch(text.strip())
    if match is None:
        return None
    region = match[1].upper()
    level = f"{_REGION.get(region, region)}{int(match[2])}"
    return level if is_level(level) else None


def is_level(name: str) -> bool:
    """Whether a name is one of `LEVELS` or `TRANSITIONAL`."""
    return name in LEVELS or name in TRANSITIONAL


def level_above(level: str, steps: int = 1) -> str | None:
    """The level `steps` above (below where negative), or None beyond either end; from L6 and T13 it is counted too.

    Raises:
        DataError: `level` is neither in `LEVELS` nor in `TRANSITIONAL`.
    """
    if level in TRANSITIONAL and steps:
        below, above = TRANSITIONAL[level]
        return level_above(above, steps - 1) if steps > 0 else level_above(below, steps + 1)
    if level in TRANSITIONAL:
        return level
    if level not in LEVELS:
        raise DataError(f"level must be one of S5 to C1, got {level!r}", fix="Write it like L5, T12 or S1.")
    position = LEVELS.index(level) + steps
    return LEVELS[position] if 0 <= position < len(LEVELS) else None


def are_neighbours(lower: str, upper: str) -> bool:
    """Whether one level lies directly above another: L4 on L5, L6 on S1, `+2` on `+1`."""
    if is_level(lower) and is_level(upper):
        return level_above(lower) == upper or level_above(upper, -1) == lower
    return lower.startswith("+") and upper.startswith("+") and int(upper) == int(lower) + 1


@dataclass(frozen=True, eq=False)
class Vertebra:
    """One vertebra.

    Attributes:
        level: L5, S1 ...; `+1`, `+2` ... counted from the lowest where nothing anchors the names.
        category: Class it was found as.
        score: 0..1.
        box: (4,) float32 xyxy px.
        mask: RLE.
        flags: What a reader must know (`touches_border` ...).
        confidence: 0..1, that the level is right, given all that was found; None where nothing anchors the names.
        body: Corners and measures, or None where they were not or could not be measured.
    """

    level: str
    category: str
    score: float
    box: npt.NDArray[np.float32]
    mask: Rle
    flags: tuple[str, ...] = ()
    confidence: float | None = None
    body: Body | None = None

    def __post_init__(self) -> None:
        if not is_level(self.level) and not _RELATIVE.fullmatch(self.level):
            raise DataError(f"level must be like L5 or +1, got {self.level!r}", fix="Use a name from S5 to C1.")


@dataclass(frozen=True, eq=False)
class Implant:
    """One metal part, or a candidate of any class: found, but no part of the reading.

    Attributes:
        category: Class it was found as.
        score: 0..1.
        box: (4,) float32 xyxy px.
        mask: RLE.
        flags: What a reader must know.
        levels: Vertebrae it belongs to, from below: of a screw the one it sits in, of a cage the two around its disc
            space, of a rod all that it spans. None where it belongs to none, and for candidates.
    """

    category: str
    score: float
    box: npt.NDArray[np.float32]
    mask: Rle
    flags: tuple[str, ...] = ()
    levels: tuple[str, ...] = ()


class Naming(NamedTuple):
    """How sure the levels of a film are.

    Attributes:
        probability: 0..1, that all of them are right.
        next_best: The next most likely levels of the same vertebrae, in their order (empty for a vertebra that is
            none), or empty where there is no other reading.
        next_probability: 0..1, that these are right; 0 where there are none.
        anchor: What the user said (`L5=lowest`), or None.
    """

    probability: float
    next_best: tuple[str, ...] = ()
    next_probability: float = 0.0
    anchor: str | None = None


@dataclass(frozen=True, eq=False)
class Spine:
    """What was found on one film.

    Attributes:
        image_size: (height, width) px.
        vertebrae: From the sacrum up; no level occurs twice.
        implants: By falling score.
        candidates: Found, but no part of the reading, by falling score. Used for average precision.
        flags: What holds for the whole film (`no_sacrum` ...).
        log: What was suppressed or joined and why, one dict an event.
        naming: How sure the levels are, or None where nothing anchors them.
        construct: The implants in one line, empty without any.
        view: `lateral` or `ap`.
        orientation: How the body lies on the film, or None where no vertebra tells.
        scale: Size of a pixel, or None where nobody states it.
        discs: From below.
        values: Measures of the whole film by name, such as `lordosis_L1_S1_deg`.

    Raises:
        DataError: A level occurs twice.
    """

    image_size: tuple[int, int]
    vertebrae: tuple[Vertebra, ...] = ()
    implants: tuple[Implant, ...] = ()
    candidates: tuple[Implant, ...] = ()
    flags: tuple[str, ...] = ()
    log: tuple[dict[str, Any], ...] = ()
    naming: Naming | None = None
    construct: str = ""
    view: str = "lateral"
    orientation: Orientation | None = None
    scale: Scale | None = None
    discs: tuple[Disc, ...] = ()
    values: Mapping[str, Measure] = field(default_factory=dict)

    def __post_init__(self) -> None:
        levels = [v.level for v in self.vertebrae]
        if len(set(levels)) != len(levels):
            raise DataError(f"a level must occur once, got {', '.join(levels)}", fix="Number the vertebrae again.")


def as_instances(
    parts: Sequence[Vertebra | Implant], categories: Sequence[str], image_size: tuple[int, int]
) -> Instances:
    """Parts of a spine as scored instances, in their order; none gives none.

    Args:
        parts: Vertebrae, implants, candidates.
        categories: Names of the classes, in the order of the ids from 1; every part's is among them.
        image_size: (height, width) px.
    """
    return Instances(
        image_size,
        np.array([part.box for part in parts], dtype=np.float32).reshape(-1, 4),
        tuple(part.mask for part in parts),
        np.array([categories.index(part.category) + 1 for part in parts], dtype=np.int64),
        np.array([part.score for part in parts], dtype=np.float32),
    )
