"""Names of measures as people read them, with their units."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["Words", "flag_sentence", "measure_words"]

_UNITS = (
    ("_by_depth_ratio", "of the bodies' depth", 3),
    ("_deg", "°", 1),
    ("_percent", "%", 1),
    ("_mm2", "mm²", 0),
    ("_px2", "px²", 0),
    ("_mm", "mm", 1),
    ("_px", "px", 1),
    ("_ratio", "", 3),
)
_SENTENCES = {
    "levels_may_be_shifted": "The names of the two dates may be shifted against each other: with the second date's "
    "names moved by one level, bodies and implants fit much better. Check the levels of both films, give the wrong one "
    "an anchor, and measure it again before anything below is believed.",
    "levels_not_anchored": "The levels of at least one film are counted without an anchor: nothing can be matched. "
    "Give it one: vertinst measure --anchor.",
    "no_common_level": "No level was found on both films.",
    "no_common_scale": "At least one film has no scale: lengths are compared by the mean depth of the bodies, not in "
    "millimetres.",
    "scales_from_different_sources": "The scales of the two films come from different sources: millimetres may differ "
    "by the magnification.",
    "front_and_back_unsure": "On at least one film nothing tells front from back: anterior and posterior may be "
    "exchanged.",
}


class Words(NamedTuple):
    """A measure in words.

    Attributes:
        text: What it is.
        unit: Its unit, empty for ratios.
        decimals: With which it is shown.
    """

    text: str
    unit: str
    decimals: int

    def number(self, value: float, *, signed: bool = False) -> str:
        """A value with its decimals, a true minus, and a plus where `signed`."""
        text = f"{value:+.{self.decimals}f}" if signed else f"{value:.{self.decimals}f}"
        zero = float(text) == 0
        return text.replace("-", "").replace("+", "") if zero else text.replace("-", "\N{MINUS SIGN}")


def measure_words(name: str) -> Words:
    """Words for the name of a measure: `lordosis_L1_S1_deg` is `lordosis L1 to S1` in degrees."""
    end, unit, decimals = next((entry for entry in _UNITS if name.endswith(entry[0])), ("", "", 3))
    stem = name.removesuffix(end) if end else name
    text = re.sub(r"_([SLTC]\d+)_([SLTC]\d+)", r" \1 to \2", stem).replace("_", " ")
    return Words(text + (" ratio" if end == "_ratio" else ""), unit, decimals)


def flag_sentence(flag: str) -> str:
    """What a flag of a follow-up means."""
    return _SENTENCES.get(flag, flag.replace("_", " ").capitalize() + ".")
