import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vertinst.errors import ConfigError
from vertinst.postprocess.labelling import Anchor, LabelOptions, label_levels, parse_anchor
from vertinst.structures import rle

SIZE = 400
# The chain reaches T11, higher than the source's annotators went.
ANNOTATED = LabelOptions(highest_level="T11")
# A lordotic chain from S2 up, xy px, with its truth.
CHAIN = {
    "S2": (250, 360), "S1": (215, 330), "L5": (190, 290), "L4": (178, 248), "L3": (172, 205), "L2": (175, 162),
    "L1": (183, 120), "T12": (195, 79), "T11": (208, 38),
}  # fmt: skip


def square(centre, half=14):
    x, y = (round(v) for v in centre)
    mask = np.zeros((SIZE, SIZE), dtype=bool)
    mask[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = True
    return rle.encode(mask)


def turned(centre, angle_deg):
    angle = np.radians(angle_deg)
    x, y = centre[0] - SIZE / 2, centre[1] - SIZE / 2
    shrink = 0.8
    return (
        SIZE / 2 + shrink * (x * np.cos(angle) - y * np.sin(angle)),
        SIZE / 2 + shrink * (x * np.sin(angle) + y * np.cos(angle)),
    )


def label(names, *, anchor=None, scores=None, angle_deg=0.0, mirrored=False, order=None, places=None):
    """Levels by true name; `order` shuffles the input."""
    names = list(names)
    order = order or list(range(len(names)))
    centres = [turned((places or CHAIN)[n], angle_deg) for n in names]
    if mirrored:
        centres = [(SIZE - x, y) for x, y in centres]
    masks = [square(centres[i]) for i in order]
    sacral = np.array([names[i][0] == "S" for i in order], dtype=bool)
    values = np.array([(scores or {}).get(names[i], 0.9) for i in order])
    levels = label_levels(masks, sacral, values, anchor=anchor, options=ANNOTATED)
    return {names[order[i]]: level for i, level in zip(levels.order, levels.names, strict=True)}, levels


def identity(names):
    return {name: name for name in names}


def test_from_the_sacrum_up_in_order():
    named, levels = label(CHAIN)
    assert named == identity(CHAIN)
    assert levels.names == ["S2", "S1", "L5", "L4", "L3", "L2", "L1", "T12", "T11"]
    assert levels.flags == []


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle_deg", [0, 45, 90, 180, 200, 270])
def test_however_the_film_lies(angle_deg, mirrored):
    named, levels = label(CHAIN, angle_deg=angle_deg, mirrored=mirrored)
    assert named == identity(CHAIN)
    assert levels.flags == []


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(len(CHAIN))), st.floats(0, 360))
def test_input_order_and_angle_never_matter(order, angle_deg):
    named, _ = label(CHAIN, angle_deg=angle_deg, order=list(order))
    assert named == identity(CHAIN)


def test_one_sacral_instance_is_s1():
    named, levels = label(["S1", "L5", "L4"])
    assert named == identity(["S1", "L5", "L4"])
    # The chain ends where other vertebrae would be seen: whether there are four, five or six is open.
    assert levels.flags == ["levels_unsure"]


def test_whole_sacrum_as_one_instance_is_no_gap():
    masks = [square(CHAIN[n]) for n in ("L5", "L4", "L3", "L2")]
    tall = np.zeros((SIZE, SIZE), dtype=bool)
    tall[310:400, 180:300] = True
    options = LabelOptions(highest_level=None, sure_probability=0.9)
    levels = label_levels([rle.encode(tall), *masks], np.array([True] + [False] * 4), np.ones(5), options=options)
    assert levels.names == ["S1", "L5", "L4", "L3", "L2"]
    assert levels.flags == []


def test_no_sacrum_counts_relatively():
    named, levels = label(["L3", "L5", "L4"])
    assert named == {"L5": "+1", "L4": "+2", "L3": "+3"}
    assert levels.flags == ["no_sacrum"]


def test_anchor_without_sacrum():
    named, levels = label(["L3", "L5", "L4"], anchor=Anchor("L5", "lowest"))
    assert named == identity(["L5", "L4", "L3"])
    assert levels.flags == ["no_sacrum"]
    upside_down, _ = label(["L3", "L5", "L4"], anchor=Anchor("L5", "highest"), angle_deg=180)
    assert upside_down == identity(["L5", "L4", "L3"])
    higher, _ = label(["L4", "L3"], anchor=Anchor("L4", "lowest"))
    assert higher == identity(["L4", "L3"])


def test_anchor_that_agrees_with_the_sacrum_is_not_flagged():
    named, levels = label(CHAIN, anchor=Anchor("L5", "lowest"))
    assert named == identity(CHAIN)
    assert levels.flags == []


def test_anchor_wins_over_the_sacrum_and_says_so():
    named, levels = label(["S1", "L5", "L4"], anchor=Anchor("L4", "lowest"))
    assert named == {"S1": "S1", "L5": "L4", "L4": "L3"}
    assert "anchor_disagrees_with_sacrum" in levels.flags
    turned_round, levels = label(["S1", "L5", "L4"], anchor=Anchor("L5", "highest"))
    assert turned_round == {"S1": "S1", "L5": "L4", "L4": "L5"}
    assert "anchor_disagrees_with_sacrum" in levels.flags


def test_sacral_anchor_gives_no_level_twice():
    named, _ = label(["S1", "L5", "L4"], anchor=Anchor("S1", "lowest"))
    assert named == {"S1": "S2", "L5": "S1", "L4": "L5"}


@pytest.mark.parametrize("missing", ["L5", "L4", "L3", "L2", "L1", "T12"])
def test_a_missing_vertebra_leaves_a_gap_in_the_numbering(missing):
    rest = [name for name in CHAIN if name != missing]
    named, levels = label(rest)
    assert named == identity(rest)
    names = list(CHAIN)
    place = names.index(missing)
    assert f"gap_between_{names[place - 1]}_{names[place + 1]}" in levels.flags


def test_a_candidate_fills_a_gap_and_is_not_taken_beyond_the_ends():
    names = [n for n in CHAIN if n not in ("T11", "T12")]
    masks = [square(CHAIN[n]) for n in [*names, "T12"]]
    sacral = np.array([n[0] == "S" for n in [*names, "T12"]])
    kept = np.array([n not in ("L3", "T12") for n in [*names, "T12"]])
    levels = label_levels(masks, sacral, np.where(kept, 0.9, 0.2), kept, options=ANNOTATED)
    assert levels.names == names
    assert not any(flag.startswith("gap") for flag in levels.flags)


def test_false_sacrum_on_the_wrong_side_is_no_part_of_the_chain():
    places = {**CHAIN, "S9": (215, 5)}
    named, levels = label([*CHAIN, "S9"], places=places, scores={"S9": 0.6})
    assert named == identity(CHAIN)
    assert levels.extra == [len(CHAIN)]
    assert "sacrum_on_both_sides" in levels.flags


def test_one_vertebra():
    assert label(["L3"])[0] == {"L3": "+1"}
    assert label(["L3"], anchor=Anchor("L5", "lowest"))[0] == {"L3": "L5"}
    assert label(["S1", "L5"])[0] == identity(["S1", "L5"])


def test_sacrum_alone():
    named, levels = label(["S1", "S2"])
    assert named == identity(["S1", "S2"])
    # The upper one on the film is S1, unless the film lies upside down.
    assert levels.flags == ["no_lumbar", "levels_unsure"]
    assert levels.naming.probability > 0.9


def test_nothing():
    levels = label_levels([], np.zeros(0, dtype=bool), np.zeros(0))
    assert levels.names == []
    assert levels.flags == ["no_vertebra", "no_sacrum"]


def test_more_than_there_are_names():
    places = {f"S{n}": (n * 30, 350) for n in range(1, 8)}
    _, levels = label(places, places=places)
    assert levels.names == ["S5", "S4", "S3", "S2", "S1"]
    assert len(levels.extra) == 2
    assert "beyond_levels" in levels.flags
    _, levels = label(["L5", "L4", "L3"], anchor=Anchor("C2", "lowest"))
    assert levels.names == ["C2", "C1"]


@pytest.mark.parametrize(
    ("text", "expected"), [("L5=lowest", ("L5", "lowest")), (" t12 = HIGHEST ", ("T12", "highest"))]
)
def test_parse_anchor(text, expected):
    assert parse_anchor(text) == Anchor(*expected)


@pytest.mark.parametrize("text", ["", "L5", "L7=lowest", "L5=left", "X1=lowest", "L5==lowest"])
def test_parse_anchor_refuses(text):
    with pytest.raises(ConfigError, match="anchor must be LEVEL=lowest, LEVEL=highest or LEVEL@X,Y"):
        parse_anchor(text)


@pytest.mark.parametrize("sacral_share", [0.0, 0.4, 1.0])
def test_a_hundred_bones_are_read_at_once(sacral_share):
    """A carpet of bones, all sure and each a neighbour of eight: nothing that a spine looks like, but it must end."""
    rng = np.random.default_rng(0)
    places = 20 + 38 * np.stack(np.divmod(np.arange(100), 10), axis=1) + rng.normal(0, 2, (100, 2))
    sacral = np.arange(100) < 100 * sacral_share
    masks = [square(place) for place in places]
    start = time.process_time()
    levels = label_levels(masks, sacral, rng.uniform(0.6, 1, 100))
    # About 0.15 s; it took 4 to 20.
    assert time.process_time() - start < 1.5
    assert len(set(levels.names)) == len(levels.names)


@pytest.mark.parametrize(
    ("half", "centre", "alone", "anchor", "said"),
    [
        (9, (215, 388), True, None, True),
        (9, (215, 380), True, None, False),
        (16, (215, 383), True, None, False),
        (9, (215, 388), False, None, False),
        (9, (215, 388), True, Anchor("L5", "lowest"), False),
    ],
)
def test_a_cut_part_of_what_looks_like_a_sacrum_is_told(half, centre, alone, anchor, said):
    """Two pixels short of the edge, as networks draw it; not where it is large, or another sacral part is seen."""
    up = [square((215, 388 - 42 * n)) for n in range(1, 6)]
    masks = [square(centre, half), *up, *([] if alone else [square((255, 388), 9)])]
    sacral = np.array([True, *[False] * 5, *([] if alone else [True])])
    levels = label_levels(masks, sacral, np.full(len(masks), 0.9), anchor=anchor, options=ANNOTATED)
    assert ("sacrum_cut" in levels.flags) is said


@pytest.mark.parametrize(
    ("clicked", "level", "expected"),
    [
        # L5, sacralised, was found as sacral: the user says so of either body.
        ("S1", "L5", ["S1", "L5", "L4", "L3", "L2"]),
        ("S2", "S1", ["S1", "L5", "L4", "L3", "L2"]),
        ("S1", "L6", ["S1", "L6", "L5", "L4", "L3"]),
        ("S1", "S2", ["S3", "S2", "S1", "L5", "L4"]),
        ("S2", "S2", ["S2", "S1", "L5", "L4", "L3"]),
    ],
)
def test_anchor_on_a_sacral_body_wins_over_its_class(clicked, level, expected):
    _, levels = label(["S2", "S1", "L5", "L4", "L3"], anchor=Anchor(level, "at", turned(CHAIN[clicked], 0)))
    assert levels.names == expected
    assert "anchor_missed" not in levels.flags
    assert ("anchor_disagrees_with_sacrum" in levels.flags) == (clicked != level)
