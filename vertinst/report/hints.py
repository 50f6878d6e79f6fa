"""What a reader should look at on a film, in words: slips, lost heights, osteophytes, and the next best levels."""

from __future__ import annotations

from vertinst.report.measure_words import measure_words
from vertinst.structures import Spine, Vertebra
from vertinst.structures.measures import Disc

__all__ = ["hints", "other_levels"]

_SURE = 0.95


def hints(spine: Spine) -> list[str]:
    """Grades above 0 and osteophytes of a film, from above, such as `L4/5: slip 27.0 ± 1.2 %, Meyerding grade 2`."""
    slips = {disc.upper: _slip(disc) for disc in spine.discs}
    return [text for v in reversed(spine.vertebrae) for text in (*_body(v), *slips.get(v.level, ()))]


def other_levels(spine: Spine) -> str:
    """How likely the levels are as a whole, and what they are else; empty where nothing is known or all are sure."""
    naming = spine.naming
    if naming is None or naming.probability >= _SURE:
        return ""
    said = f"Levels as a whole: {naming.probability:.0%} likely"
    if not naming.next_best:
        return said
    other = " ".join(level or "none" for level in naming.next_best)
    return f"{said}; else, from below, {other} ({naming.next_probability:.0%})"


def _body(vertebra: Vertebra) -> list[str]:
    if vertebra.body is None:
        return []
    grade = vertebra.body.grades.get("genant_grade", 0)
    corners = ", ".join(spur.corner.replace("_", " ") for spur in vertebra.body.osteophytes)
    told = [f"{vertebra.level}: height lost, Genant grade {grade}"] if grade else []
    return told + ([f"{vertebra.level}: osteophyte {corners}"] if corners else [])


def _slip(disc: Disc) -> list[str]:
    grade, slip = disc.grades.get("meyerding_grade", 0), disc.values.get("slip_percent")
    if not grade or slip is None:
        return []
    words = measure_words("slip_percent")
    sd = "" if slip.sd is None else f" ± {words.number(slip.sd)}"
    return [f"{disc.name}: slip {words.number(slip.value)}{sd} %, Meyerding grade {grade}"]
