"""A spine as read off one film: vertebrae in order from the sacrum up, each with its name, and the implants."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vertinst.errors import DataError
from vertinst.structures.rle import Rle

__all__ = ["LEVELS", "Implant", "Spine", "Vertebra", "level_above", "level_name"]

LEVELS: tuple[str, ...] = (
    *(f"S{n}" for n in range(5, 0, -1)),
    *(f"L{n}" for n in range(5, 0, -1)),
    *(f"T{n}" for n in range(12, 0, -1)),
    *(f"C{n}" for n in range(7, 0, -1)),
)
"""Names from the sacrum up: S5 ... S1, L5 ... L1, T12 ... T1, C7 ... C1."""

_RELATIVE = re.compile(r"\+\d+")
_WRITTEN = re.compile(r"(c|hwk|t|th|d|bwk|l|lwk|lw|s|swk|sw)[\s_\-./]*(\d{1,2})", re.IGNORECASE)
_REGION = {"HWK": "C", "TH": "T", "D": "T", "BWK": "T", "LWK": "L", "LW": "L", "SWK": "S", "SW": "S"}


def level_name(text: str) -> str | None:
    """The level that a text means (`Th12`, `LWK 5`, `s1`, `bwk_12`), or None if it is none of `LEVELS`."""
    match = _WRITTEN.fullmatch(text.strip())
    if match is None:
        return None
    region = match[1].upper()
    level = f"{_REGION.get(region, region)}{int(match[2])}"
    return level if level in LEVELS else None


def level_above(level: str, steps: int = 1) -> str | None:
    """The level `steps` above (below where negative), or None beyond either end.

    Raises:
        DataError: `level` is not in `LEVELS`.
    """
    if level not in LEVELS:
        raise DataError(f"level must be one of S5 to C1, got {level!r}", fix="Write it like L5, T12 or S1.")
    position = LEVELS.index(level) + steps
    return LEVELS[position] if 0 <= position < len(LEVELS) else None


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
    """

    level: str
    category: str
    score: float
    box: npt.NDArray[np.float32]
    mask: Rle
    flags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.level not in LEVELS and not _RELATIVE.fullmatch(self.level):
            raise DataError(f"level must be like L5 or +1, got {self.level!r}", fix="Use a name from S5 to C1.")


@dataclass(frozen=True, eq=False)
class Implant:
    """One metal part, or a candidate below the score threshold of any class.

    Attributes:
        category: Class it was found as.
        score: 0..1.
        box: (4,) float32 xyxy px.
        mask: RLE.
        flags: What a reader must know.
    """

    category: str
    score: float
    box: npt.NDArray[np.float32]
    mask: Rle
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Spine:
    """What was found on one film.

    Attributes:
        image_size: (height, width) px.
        vertebrae: From the sacrum up; no level occurs twice.
        implants: By falling score.
        candidates: Found, but below the score threshold; by falling score. Used for average precision.
        flags: What holds for the whole film (`no_sacrum` ...).
        log: What was suppressed and why, one dict an event.

    Raises:
        DataError: A level occurs twice.
    """

    image_size: tuple[int, int]
    vertebrae: tuple[Vertebra, ...] = ()
    implants: tuple[Implant, ...] = ()
    candidates: tuple[Implant, ...] = ()
    flags: tuple[str, ...] = ()
    log: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        levels = [v.level for v in self.vertebrae]
        if len(set(levels)) != len(levels):
            raise DataError(f"a level must occur once, got {', '.join(levels)}", fix="Number the vertebrae again.")
