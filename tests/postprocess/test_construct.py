import numpy as np
import pytest

from vertinst.postprocess.construct import describe_construct
from vertinst.structures import Implant, rle

LEVELS = ("S1", "L5", "L4", "L3", "L2", "L1")
MASK = rle.empty((4, 4))


def metal(category, *levels):
    return Implant(category, 0.9, np.zeros(4, dtype=np.float32), MASK, levels=levels)


def screws(*levels):
    return [metal("screw", level) for level in levels for _ in range(2)]


@pytest.mark.parametrize(
    ("implants", "line"),
    [
        ([], ""),
        ([metal("wire")], ""),
        (
            [
                *screws("S1", "L5", "L4", "L3"),
                metal("rod", "S1", "L5", "L4", "L3"),
                metal("rod", "S1", "L5", "L4", "L3"),
                metal("cage", "S1", "L5"),
                metal("cage", "L5", "L4"),
            ],
            "posterior instrumentation L3-S1, cages L4/5 and L5/S1",
        ),
        ([metal("cage", "L5", "L4")], "cage L4/5"),
        ([metal("cage", "L5", "L4")] * 2, "cage L4/5"),
        (
            [metal("cage", "S1", "L5"), metal("cage", "L4", "L3"), metal("cage", "L5", "L4")],
            "cages L3/4, L4/5 and L5/S1",
        ),
        (screws("L5", "L4"), "screws L4 L5 without rod"),
        ([metal("screw", "L5")], "screw L5 without rod"),
        ([metal("rod", "L5", "L4")], "rod L4-L5 without screws"),
        ([metal("rod", "L5")], "rod L5 without screws"),
        ([*screws("L5"), metal("rod", "L5")], "posterior instrumentation L5"),
        (
            [*screws("L5", "L4", "L2"), metal("rod", "L5", "L4")],
            "posterior instrumentation L4-L5, screws L2 without rod",
        ),
        (
            [*screws("S1", "L5", "L3", "L2"), metal("rod", "S1", "L5"), metal("rod", "L3", "L2")],
            "posterior instrumentation L2-L3, posterior instrumentation L5-S1",
        ),
        (
            [*screws("S1", "L3"), metal("rod", "S1", "L5", "L4"), metal("rod", "L4", "L3")],
            "posterior instrumentation L3-S1",
        ),
        ([metal("screw")], "screw at an unknown level"),
        (
            [*screws("L5", "L4"), metal("rod", "L5", "L4"), metal("screw"), metal("screw"), metal("cage")],
            "posterior instrumentation L4-L5, 2 screws at unknown levels, cage at an unknown level",
        ),
    ],
)
def test_lines(implants, line):
    assert describe_construct(implants, LEVELS) == line
    assert describe_construct(implants[::-1], LEVELS) == line


def test_relative_levels():
    levels = ("+1", "+2", "+3")
    implants = [*screws("+1", "+2"), metal("rod", "+1", "+2"), metal("cage", "+2", "+3")]
    assert describe_construct(implants, levels) == "posterior instrumentation +1 to +2, cage +3/+2"
    assert describe_construct(screws("+1", "+3"), levels) == "screws +1 +3 without rod"


def test_transitional_vertebra():
    levels = ("S1", "L6", "L5")
    implants = [metal("cage", "S1", "L6"), metal("cage", "L6", "L5")]
    assert describe_construct(implants, levels) == "cages L5/6 and L6/S1"
