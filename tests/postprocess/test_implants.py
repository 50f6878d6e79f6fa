from dataclasses import replace

import numpy as np
import pytest

from vertinst.postprocess.implants import relate_implants
from vertinst.structures import Body, Implant, Vertebra, rle

SIZE = (520, 400)
LEVELS = ("S1", "L5", "L4", "L3", "L2")


def corners_of(place):
    """Corners of bodies of 80 x 50 px, 70 px apart, that face right."""
    y = 450 - 70 * place
    return np.array([[240.0, y - 25], [160, y - 25], [160, y + 25], [240, y + 25]])


def vertebra(place, level, *, outline=None):
    mask = rle.polygons_to_rle([corners_of(place) if outline is None else outline], SIZE)
    return Vertebra(level, "sacral" if level[0] == "S" else "lumbar", 0.9, rle.box_xyxy(mask), mask)


def spine(levels=LEVELS, *, without=()):
    return [vertebra(i, level) for i, level in enumerate(levels) if level not in without]


def metal(category, *outlines, flags=()):
    mask = rle.polygons_to_rle([np.asarray(o, dtype=np.float64) for o in outlines], SIZE)
    return Implant(category, 0.9, rle.box_xyxy(mask), mask, flags)


def box(left, top, right, bottom):
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def screw(place, *, lift=8, tip=215):
    """A shaft in the upper half of a body, a head behind it that may lie beside the neighbour."""
    y = 450 - 70 * place - lift
    return metal("screw", box(125, y - 4, tip, y + 4), box(105, y - 12, 130, y + 12))


def rod(low, high):
    return metal("rod", box(112, 450 - 70 * high - 25, 120, 450 - 70 * low + 10))


def cage(lower, *, shift=0, lift=0):
    y = 450 - 70 * lower - 35 + lift
    return metal("cage", box(175 + shift, y - 10, 225 + shift, y + 10))


def test_a_construct_in_one_line():
    implants = [cage(0), rod(0, 3), *(screw(i) for i in range(4)), cage(1), rod(0, 3)]
    found, line = relate_implants(spine(), implants)
    assert line == "posterior instrumentation L3-S1, cages L4/5 and L5/S1"
    assert found[0].levels == ("S1", "L5")
    assert found[1].levels == ("S1", "L5", "L4", "L3")
    assert [f.levels for f in found[2:6]] == [("S1",), ("L5",), ("L4",), ("L3",)]
    assert found[6].levels == ("L5", "L4")
    assert [f.flags for f in found] == [()] * 8
    assert [f.mask for f in found] == [i.mask for i in implants]


def test_order_of_the_implants_does_not_matter():
    implants = [cage(0), rod(0, 3), *(screw(i) for i in range(4))]
    found, line = relate_implants(spine(), implants)
    other, same = relate_implants(spine(), implants[::-1])
    assert same == line
    assert [f.levels for f in other[::-1]] == [f.levels for f in found]


@pytest.mark.parametrize("head", [True, False])
def test_the_tip_tells_where_a_screw_sits(head):
    """A process of the vertebra above hangs down over the head, which is larger than what of the shaft lies in bone."""
    process = rle.polygons_to_rle([np.array(box(80, 365, 140, 470))], SIZE)
    upper = vertebra(1, "L5")
    vertebrae = [vertebra(0, "S1"), replace(upper, mask=rle.union([upper.mask, process], SIZE))]
    drilled = metal("screw", box(130, 436, 225, 444), *([box(95, 415, 131, 460)] if head else []))
    assert (rle.area(rle.intersection(drilled.mask, vertebrae[1].mask)) > 800) is head
    found, _ = relate_implants(vertebrae, [drilled])
    assert found[0].levels == ("S1",)


def test_a_screw_whose_vertebra_leaves_the_metal_out():
    body = rle.difference(spine()[2].mask, screw(2).mask)
    vertebrae = spine()
    vertebrae[2] = replace(vertebrae[2], mask=body)
    found, _ = relate_implants(vertebrae, [screw(2)])
    assert found[0].levels == ("L4",)
    assert found[0].flags == ()


def test_screws_outside_bone():
    inside, short, beside = screw(2), screw(2, tip=165), screw(2, tip=158)
    found, line = relate_implants(spine(), [inside, short, beside])
    assert [f.flags for f in found] == [(), ("outside_bone",), ("outside_bone",)]
    assert [f.levels for f in found] == [("L4",), ("L4",), ()]
    assert line == "screws L4 without rod, screw at an unknown level"


def test_screws_of_a_missing_vertebra_belong_to_none():
    found, line = relate_implants(spine(without=["L4"]), [screw(1), screw(2), screw(3), rod(1, 3)])
    assert [f.levels for f in found] == [("L5",), (), ("L3",), ("L5", "L3")]
    assert found[1].flags == ("outside_bone",)
    assert line == "posterior instrumentation L3-L5, screw at an unknown level"


def test_cages_outside_the_disc():
    in_bone, in_front, good = cage(1, lift=-30), cage(1, shift=60), cage(1, shift=10)
    found, _ = relate_implants(spine(), [in_bone, in_front, good])
    assert [f.flags for f in found] == [("outside_disc",), ("outside_disc",), ()]
    assert all(f.levels == ("L5", "L4") for f in found[1:])


def test_a_cage_between_bodies_that_overlap_is_in_its_disc():
    """As on films from the front, where endplates are seen obliquely."""
    tall = [
        vertebra(i, level, outline=corners_of(i) + np.array([[0, -25]] * 2 + [[0, 25]] * 2))
        for i, level in enumerate(LEVELS)
    ]
    found, _ = relate_implants(tall, [cage(1), cage(1, lift=-30)])
    assert [f.flags for f in found] == [(), ("outside_disc",)]
    assert found[0].levels == ("L5", "L4")


def test_corners_say_where_an_endplate_ends():
    """A process behind the body is no endplate, once corners are known."""
    with_processes = []
    for place, level in enumerate(LEVELS):
        tail = np.concatenate([corners_of(place), box(60, 455 - 70 * place, 161, 445 - 70 * place)[::-1]])
        mask = rle.union([vertebra(place, level).mask, rle.polygons_to_rle([tail[4:]], SIZE)], SIZE)
        with_processes.append(replace(vertebra(place, level), mask=mask))
    behind = cage(1, shift=-70)
    assert relate_implants(with_processes, [behind])[0][0].flags == ()
    measured = [replace(v, body=Body(corners_of(i), np.zeros(4))) for i, v in enumerate(with_processes)]
    assert relate_implants(measured, [behind])[0][0].flags == ("outside_disc",)


def test_a_cage_beside_a_missing_vertebra_belongs_to_none():
    found, line = relate_implants(spine(without=["L4"]), [cage(1)])
    assert found[0].levels == ()
    assert found[0].flags == ()
    assert line == "cage at an unknown level"


def test_no_cage_lies_within_the_sacrum():
    levels = ("S2", "S1", "L5", "L4", "L3")
    found, _ = relate_implants(spine(levels), [cage(0), cage(1)])
    assert [f.levels for f in found] == [("S1", "L5"), ("S1", "L5")]


def test_a_rod_without_screws_spans_what_lies_beside_it():
    found, line = relate_implants(spine(), [rod(1, 3)])
    assert found[0].levels == ("L5", "L4", "L3")
    assert line == "rod L3-L5 without screws"


def test_relative_levels_and_unknown_classes():
    levels = ("+1", "+2", "+3")
    wire = metal("wire", box(10, 10, 20, 400), flags=("low_score",))
    found, line = relate_implants(spine(levels), [screw(0), screw(1), rod(0, 1), cage(1), wire])
    assert line == "posterior instrumentation +1 to +2, cage +3/+2"
    assert found[4].levels == ()
    assert found[4].flags == ("low_score",)


def test_done_again_it_is_the_same():
    implants = [cage(1, shift=60), screw(2, tip=158), screw(1)]
    once, line = relate_implants(spine(), [replace(i, flags=("low_score",)) for i in implants])
    again, same = relate_implants(spine(), once)
    assert line == same
    assert [f.flags for f in again] == [("low_score", "outside_disc"), ("low_score", "outside_bone"), ("low_score",)]
    assert [f.levels for f in again] == [f.levels for f in once]


@pytest.mark.parametrize("levels", [(), ("L4",)])
def test_nothing_and_one_vertebra(levels):
    assert relate_implants(spine(levels), []) == ((), "")
    found, line = relate_implants(spine(levels), [screw(0), rod(0, 0), cage(0)])
    assert found[0].levels == levels
    assert found[1].levels == levels
    assert found[2].levels == ()
    assert ("outside_bone" in found[0].flags) is False
    expected = "posterior instrumentation L4, " if levels else "screw at an unknown level, rod at an unknown level, "
    assert line == f"{expected}cage at an unknown level"


def test_turned_and_mirrored_films_give_the_same():
    implants = [cage(0), rod(0, 2), *(screw(i) for i in range(3)), screw(3, tip=158)]
    expected, line = relate_implants(spine(), implants)
    for turn in (lambda m: m[:, ::-1], lambda m: m[::-1, ::-1], np.transpose):
        moved = [replace(part, mask=rle.encode(turn(rle.decode(part.mask)))) for part in (*spine(), *implants)]
        found, same = relate_implants(moved[:5], moved[5:])
        assert same == line
        assert [f.levels for f in found] == [e.levels for e in expected]
        assert [f.flags for f in found] == [e.flags for e in expected]
