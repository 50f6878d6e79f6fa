from dataclasses import replace
from math import cos, radians, sin

import cv2
import numpy as np
import pytest

from vertinst.errors import DataError
from vertinst.postprocess.follow_up import follow_up
from vertinst.structures import Implant, Spine, Vertebra, rle
from vertinst.structures.measures import Body, Disc, Measure, Orientation, Scale

SIZE = (600, 400)
LEVELS = ("S1", "L5", "L4", "L3", "L2", "L1")


def drawn(corners):
    """Mask with its box."""
    mask = np.zeros(SIZE, dtype=np.uint8)
    cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], 1)
    encoded = rle.encode(mask)
    return {"score": 0.9, "box": rle.box_xyxy(encoded), "mask": encoded}


def turned(points, centre, deg):
    c, s = cos(radians(deg)), sin(radians(deg))
    return (np.asarray(points, dtype=float) - centre) @ np.array([[c, s], [-s, c]]) + centre


def make_spine(levels=LEVELS, *, size=1.0, tilt=0.0, sd=0.5, wedged=None, screws=(), screw_shift=0.0, screw_turn=0.0):
    """Bodies of 60 x 40 px in a column, the first level at the bottom; front on the left."""
    vertebrae, implants = [], []
    for n, level in enumerate(levels):
        centre = np.array([150.0, 550.0 - 60 * n]) * size
        front = 20.0 if level == wedged else 40.0
        box = np.array([[-30, 20 - front], [30, -20], [30, 20], [-30, 20]]) * size + centre
        corners = turned(box, np.array([150.0, 250.0]) * size, tilt)
        values = {
            "height_anterior_px": Measure(front * size, sd),
            "height_middle_px": Measure((front + 40) / 2 * size, sd),
            "depth_superior_px": Measure(60 * size, sd),
            "depth_inferior_px": Measure(60 * size, sd),
            "wedge_ratio": Measure(front / 40, 0.02),
            "tilt_deg": Measure(tilt, 0.3),
        }
        category = "sacral" if level.startswith("S") else "lumbar"
        body = Body(corners, np.full(4, sd), values, {"genant_grade": 2 if level == wedged else 0})
        vertebrae.append(Vertebra(level, category, **drawn(corners), body=body))
        if level in screws:
            thin = np.array([[-30, -3], [30, -3], [30, 3], [-30, 3]]) * size + [screw_shift * size, 0]
            rod = turned(turned(thin, [0, 0], screw_turn) + centre, np.array([150.0, 250.0]) * size, tilt)
            implants.append(Implant("screw", **drawn(rod), levels=(level,)))
    pairs = list(zip(levels[1:], levels, strict=False))
    discs = [Disc(up, low, {"wedge_deg": Measure(8.0, 0.5), "height_ratio": Measure(0.3, None)}) for up, low in pairs]
    orientation = Orientation(np.array([0.0, -1.0]), np.array([-1.0, 0.0]))
    values = {"lordosis_L1_S1_deg": Measure(50.0, 1.0)}
    return Spine(SIZE, tuple(vertebrae), tuple(implants), discs=tuple(discs), values=values, orientation=orientation)


def named(changes):
    return {change.name: change for change in changes}


def test_nothing_changes_where_nothing_did_though_the_films_differ_in_scale_and_tilt():
    found = follow_up(make_spine(screws=("L5", "L4")), make_spine(screws=("L5", "L4"), size=0.8))
    assert [part.name for part in found.vertebrae] == list(LEVELS)
    assert [part.name for part in found.discs] == ["L5/S1", "L4/5", "L3/4", "L2/3", "L1/2"]
    assert (found.length_unit, found.flags, found.shift) == ("body_depth", ("no_common_scale",), None)
    assert not any(change.beyond for _, change in found.changes)
    assert "height_anterior_by_depth_ratio" in named(found.vertebrae[1].changes)
    assert not [change.name for _, change in found.changes if change.name.endswith("_px")]


def test_a_fracture_is_beyond_the_uncertainty_and_its_grade_changes():
    found = follow_up(make_spine(), make_spine(wedged="L3"))
    l3 = next(part for part in found.vertebrae if part.name == "L3")
    change = named(l3.changes)["wedge_ratio"]
    assert change.change == pytest.approx(-0.5)
    assert change.uncertainty == pytest.approx(2 * np.hypot(0.02, 0.02))
    assert change.beyond
    assert l3.grades == {"genant_grade": (0, 2)}
    assert {name for name, c in found.changes if c.beyond} == {"L3"}
    assert found.shift is None


def test_a_change_within_the_uncertainty_is_none_and_without_one_is_not_judged():
    after = make_spine()
    after = replace(after, values={"lordosis_L1_S1_deg": Measure(52.0, 1.0)})
    change = named(follow_up(make_spine(), after).film)["lordosis_L1_S1_deg"]
    assert (change.change, change.beyond) == (2.0, False)
    assert named(follow_up(make_spine(), after).discs[0].changes)["height_ratio"].beyond is None


def test_angles_to_the_film_are_not_judged():
    change = named(follow_up(make_spine(), make_spine(tilt=15)).vertebrae[1].changes)["tilt_deg"]
    assert (change.change, change.uncertainty, change.beyond) == (15.0, None, None)


def test_screws_are_judged_by_what_films_from_another_place_show():
    before = make_spine(screws=("L4",), sd=0.0)
    changes = named(follow_up(before, before).implants[0].changes)
    # Half a pixel of 60 for the centroids, and 0.018 of the depth between films, both at two dates.
    expected = 2 * np.sqrt(2) * np.hypot(0.5 / 60, 0.018)
    assert changes["up_by_depth_ratio"].uncertainty == pytest.approx(expected)
    assert changes["rotation_deg"].uncertainty == pytest.approx(2 * np.sqrt(2) * 0.8)


def test_millimetres_are_compared_where_both_dates_have_a_scale():
    def scaled(spine, mm, source="ImagerPixelSpacing, at the detector"):
        def twins(values):
            return {
                **values,
                **{k[:-2] + "mm": Measure(m.value * mm, m.sd * mm) for k, m in values.items() if k.endswith("_px")},
            }

        vertebrae = [replace(v, body=replace(v.body, values=twins(v.body.values))) for v in spine.vertebrae]
        return replace(spine, vertebrae=tuple(vertebrae), scale=Scale(mm, mm, source))

    found = follow_up(scaled(make_spine(screws=("L4",)), 0.5), scaled(make_spine(size=0.5, screws=("L4",)), 1.0))
    assert (found.length_unit, found.flags) == ("mm", ())
    change = named(found.vertebrae[1].changes)["height_anterior_mm"]
    assert (change.before.value, change.change) == (20.0, 0.0)
    assert "anterior_mm" in named(found.implants[0].changes)
    other = follow_up(scaled(make_spine(), 0.5), scaled(make_spine(), 0.5, "stated by the user"))
    assert other.flags == ("scales_from_different_sources",)


def test_an_implant_is_followed_in_the_frame_of_its_vertebra_however_the_film_lies():
    before = make_spine(screws=("L5", "L4", "L3"))
    after = make_spine(screws=("L5", "L4"), screw_shift=6.0, screw_turn=10.0, tilt=12.0)
    found = follow_up(before, after)
    assert [(i.category, i.levels) for i in found.implants] == [("screw", ("L5",)), ("screw", ("L4",))]
    assert found.implants_only_before == (2,)
    assert found.implants_only_after == ()
    changes = named(found.implants[1].changes)
    # The front is on the left: 6 px to the right are 6 px backwards, of a body 60 px deep.
    assert changes["anterior_by_depth_ratio"].change == pytest.approx(-0.1, abs=0.02)
    assert changes["up_by_depth_ratio"].change == pytest.approx(0, abs=0.02)
    # Turned clockwise as seen on the film, and the front is on the left: the front end goes up.
    assert changes["rotation_deg"].change == pytest.approx(10, abs=1.5)
    assert changes["anterior_by_depth_ratio"].beyond
    assert changes["rotation_deg"].beyond


def test_two_screws_of_a_level_are_matched_by_nearness():
    before = make_spine(screws=("L4",))
    other = make_spine(screws=("L4",), screw_shift=20.0).implants[0]
    both = replace(before, implants=(before.implants[0], other))
    found = follow_up(both, replace(both, implants=both.implants[::-1]))
    assert [(i.before, i.after) for i in found.implants] == [(0, 1), (1, 0)]


def test_crossed_screws_of_a_level_keep_their_directions():
    # Seen from another place, each lies where the other was.
    before, after = (
        tuple(
            make_spine(screws=("L4",), screw_turn=turn, screw_shift=shift).implants[0]
            for turn, shift in ((8.0, first), (-8.0, second))
        )
        for first, second in ((0.0, 2.0), (2.0, 0.0))
    )
    spine = make_spine()
    found = follow_up(replace(spine, implants=before), replace(spine, implants=after))
    assert [(i.before, i.after) for i in found.implants] == [(0, 0), (1, 1)]
    assert not any(named(i.changes)["rotation_deg"].beyond for i in found.implants)


@pytest.mark.parametrize(("names", "shift"), [(("L5", "L4", "L3", "L2", "L1", "T12"), -1), (("S1", "L5", "L4", "L3", "L2", "L1"), None)])  # fmt: skip # noqa: E501
def test_shifted_names_are_flagged_and_never_mended(names, shift):
    before = make_spine(wedged="L3", screws=("L5", "L4"))
    # The same spine, and one date names every vertebra one level too high.
    after = make_spine(names, wedged=names[3], screws=(names[1], names[2]))
    after = replace(after, vertebrae=tuple(replace(v, category="lumbar") for v in after.vertebrae))
    before = replace(before, vertebrae=tuple(replace(v, category="lumbar") for v in before.vertebrae))
    found = follow_up(before, after)
    assert found.shift == shift
    assert ("levels_may_be_shifted" in found.flags) == (shift is not None)
    assert [part.name for part in found.vertebrae] == [level for level in LEVELS if level in names]
    assert found.only_before == (("S1",) if shift else ())
    assert found.only_after == (("T12",) if shift else ())


def test_names_without_an_anchor_match_nothing():
    found = follow_up(make_spine(("+1", "+2", "+3"), screws=("+2",)), make_spine(("+1", "+2", "+3"), screws=("+2",)))
    assert "levels_not_anchored" in found.flags
    assert (found.vertebrae, found.discs, found.implants, found.length_unit) == ((), (), (), "none")
    assert found.only_before == ("+1", "+2", "+3")


def test_empty_films_and_films_of_two_views():
    found = follow_up(Spine(SIZE), Spine(SIZE))
    assert found.changes == []
    assert found.flags == ("no_common_level", "no_common_scale")
    with pytest.raises(DataError, match="must be of one view, got lateral and ap"):
        follow_up(Spine(SIZE), Spine(SIZE, view="ap"))
