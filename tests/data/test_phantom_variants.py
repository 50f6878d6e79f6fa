"""Departures from the usual lateral film with five lumbar vertebrae: each switch, and what the truth says of it."""

import itertools
import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
from shapely import Polygon

from vertinst.data.phantom import PhantomStyle, draw_patient, film_regions, make_phantoms, take_film
from vertinst.data.phantom_anatomy import Frame, rotation
from vertinst.data.phantom_bones import skeleton, surface_solids
from vertinst.data.phantom_front import coronal_corners_mm, coronal_slices, recut
from vertinst.data.phantom_projection import View, integrate
from vertinst.data.phantom_solids import BodyShape, Solid, body_slices, tube_slices
from vertinst.data.phantom_style import STYLES, explained_shares, share_names, with_shares
from vertinst.data.phantom_truth import cobb_deg, corners_px, largest_cobb
from vertinst.errors import ConfigError, DataError
from vertinst.structures.dataset import CLASSES

SMALL = PhantomStyle(height_px=256, width_px=192)
FIVE = ["S2", "S1", "L5", "L4", "L3", "L2", "L1", "T12"]


def films(style: PhantomStyle, count: int = 3, seed: int = 0) -> list[tuple[list, dict]]:
    return [film_regions(draw_patient(seed, n, style), seed, 1, style) for n in range(1, count + 1)]


def levels_from_below(regions: list) -> list[str]:
    return [region.level for region in regions if region.level]


def test_films_without_any_switch_stay_what_they_were():
    """Weights and figures depend on them; grey values may differ by rounding between versions of OpenCV."""
    patient = draw_patient(0, 1, SMALL)
    film = take_film(patient, *skeleton(patient.anatomy), 0, 1, 8, SMALL)
    l3 = [[68.042, 101.095], [94.415, 104.722], [91.839, 126.478], [64.736, 122.538]]
    assert np.allclose(film.truth["corners_px"]["L3"], l3, atol=0.002)
    assert [region.category for region in film.regions] == ["sacral"] * 2 + ["lumbar"] * 6 + ["cage"] * 2
    coarse = cv2.resize(film.pixels, (3, 4), interpolation=cv2.INTER_AREA)
    was = [[132, 117, 10], [120, 145, 17], [146, 183, 33], [132, 195, 90]]
    assert np.abs(coarse.astype(int) - was).max() <= 1


def test_six_lumbar_vertebrae_have_an_l6_on_the_sacrum():
    for regions, truth in films(replace(SMALL, six_lumbar_share=1.0, close_up_share=0.0)):
        assert levels_from_below(regions) == ["S2", "S1", "L6", *FIVE[2:]] == truth["levels"]
        assert truth["lumbar_count"] == 6
        assert list(truth["corners_px"]) == ["T12", "L1", "L2", "L3", "L4", "L5", "L6", "S1", "S2"]
        heights = [np.mean(truth["corners_px"][level], axis=0)[1] for level in ("S1", "L6", "L5", "L4")]
        assert heights == sorted(heights, reverse=True)


def test_four_lumbar_vertebrae_have_no_l5():
    for regions, truth in films(replace(SMALL, four_lumbar_share=1.0, close_up_share=0.0)):
        assert levels_from_below(regions) == ["S2", "S1", "L4", "L3", "L2", "L1", "T12"] == truth["levels"]
        assert truth["lumbar_count"] == 4
        assert 10 < truth["lordosis_L1_S1_deg"] < 85


@pytest.mark.parametrize(("share", "lowest"), [("six_lumbar_share", "L6"), ("four_lumbar_share", "L4")])
def test_metal_follows_the_levels_that_there_are(share, lowest):
    style = replace(SMALL, **{share: 1.0}, metal_share=1.0)
    touched = set()
    for number in range(1, 11):
        patient = draw_patient(0, number, style)
        for implant in patient.implants:
            assert set(implant.levels) <= set(patient.anatomy.mobile_levels)
            if implant.category == "cage":
                lower, upper = (patient.anatomy.mobile_levels.index(level) for level in implant.levels)
                assert upper == lower + 1
            touched |= set(implant.levels)
    assert {"S1", lowest} <= touched
    assert ("L5" in touched) == (lowest == "L6")


def disc_and_height(truth: dict) -> tuple[float, float]:
    """Height of the disc L5/S1 and of L5, relative to the depth and height of L4."""
    corners = {level: np.array(points) for level, points in truth["corners_px"].items()}
    disc = np.linalg.norm((corners["L5"][2:].sum(axis=0) - corners["S1"][:2].sum(axis=0)) / 2)
    tall = [np.linalg.norm((corners[k][:2].sum(axis=0) - corners[k][2:].sum(axis=0)) / 2) for k in ("L5", "L4")]
    return disc / np.linalg.norm(corners["L4"][0] - corners["L4"][1]), tall[0] / tall[1]


def test_a_sacralised_l5_is_low_and_has_a_remnant_of_a_disc():
    usual = np.array([disc_and_height(truth) for _, truth in films(SMALL, 5)]).mean(axis=0)
    fused = films(replace(SMALL, sacralised_share=1.0), 5)
    assert all(truth["sacralised"] and "L5" in truth["levels"] and truth["lumbar_count"] == 5 for _, truth in fused)
    measured = np.array([disc_and_height(truth) for _, truth in fused])
    assert measured[:, 0].max() < 0.5 * usual[0]
    assert measured[:, 1].mean() < 0.9 * usual[1]


def test_cages_stay_out_of_the_remnant_below_a_sacralised_l5():
    style = replace(SMALL, sacralised_share=1.0, metal_share=1.0, cage_share=1.0)
    cages = [i.levels for n in range(1, 9) for i in draw_patient(0, n, style).implants if i.category == "cage"]
    assert cages
    assert ("S1", "L5") not in cages


def test_films_without_a_sacrum_end_above_it_and_show_most_of_l5():
    for regions, truth in films(replace(SMALL, no_sacrum_share=1.0), 5):
        assert truth["no_sacrum"]
        assert levels_from_below(regions)[0] == "L5"
        assert {"S1", "S2"}.isdisjoint(truth["levels"])
        assert truth["visible"]["L5"] > 0.15
        assert truth["visible"]["L3"] == pytest.approx(1.0)
    assert not any(truth["no_sacrum"] for _, truth in films(SMALL))


def test_shares_are_about_what_is_asked_for():
    style = replace(SMALL, six_lumbar_share=0.2, four_lumbar_share=0.3, ap_share=0.25, sacralised_share=0.5)
    drawn = [draw_patient(4, n, replace(style, metal_share=0.0)).anatomy.variant for n in range(1, 201)]
    assert np.mean([v.lumbar_count == 6 for v in drawn]) == pytest.approx(0.2, abs=0.08)
    assert np.mean([v.lumbar_count == 4 for v in drawn]) == pytest.approx(0.3, abs=0.09)
    assert np.mean([v.view == "ap" for v in drawn]) == pytest.approx(0.25, abs=0.09)
    assert np.mean([v.sacralised for v in drawn if v.lumbar_count == 5]) == pytest.approx(0.5, abs=0.15)
    assert not any(v.sacralised for v in drawn if v.lumbar_count != 5)


def test_patients_without_a_rare_thing_are_the_same_whether_others_have_it():
    some = replace(SMALL, six_lumbar_share=0.2, ap_share=0.2, no_sacrum_share=0.2)
    same = 0
    for (_, usual), (_, maybe) in zip(films(SMALL, 6), films(some, 6), strict=True):
        plain = maybe["lumbar_count"] == 5 and maybe["view"] == "lateral" and not maybe["no_sacrum"]
        assert (usual == maybe) == plain
        same += plain
    assert 0 < same < 6


def test_impossible_shares_are_refused():
    for name in share_names(PhantomStyle()):
        with pytest.raises(DataError, match=f"{name} must be between 0 and 1"):
            replace(SMALL, **{name: 1.01})
    with pytest.raises(DataError, match="six_lumbar_share must be at most 1 with four_lumbar_share"):
        replace(SMALL, six_lumbar_share=0.6, four_lumbar_share=0.6)
    with pytest.raises(DataError, match=r"scoliosis_deg must be \(low, high\) within 0"):
        replace(SMALL, scoliosis_deg=(10.0, 90.0))


AP = replace(SMALL, ap_share=1.0, metal_share=1.0, cage_only_share=0.0, close_up_share=0.0)


def test_regions_of_an_antero_posterior_film_are_those_of_its_pixels(tmp_path):
    made = make_phantoms(1, 2, tmp_path / "ap", style=AP)
    film = next(iter(json.loads(made.via_project.read_text())["_via_img_metadata"].values()))
    truth = json.loads(made.truth.read_text())["films"]["P0001_1.png"]
    assert film["file_attributes"]["view"] == "ap" == truth["view"]
    regions, expected = film_regions(draw_patient(2, 1, AP), 2, 1, AP)
    assert json.loads(json.dumps(expected)) == truth
    assert [r["region_attributes"]["class"] for r in film["regions"]] == [region.category for region in regions]
    assert {region.category for region in regions} <= set(CLASSES)
    pixels = cv2.imread(str(made.images / "P0001_1.png"), cv2.IMREAD_UNCHANGED)
    screws = np.zeros(pixels.shape, np.uint8)
    cv2.fillPoly(screws, [np.round(r.outline).astype(int) for r in regions if r.category == "screw"], 1)
    assert np.median(pixels[screws == 1]) > np.percentile(pixels, 95)


def test_bodies_on_antero_posterior_films_stand_in_a_column_and_fit_their_corners():
    for regions, truth in films(AP):
        assert truth["facing"] is None
        assert "lordosis_L1_S1_deg" not in truth
        outlines = {region.level: Polygon(region.outline) for region in regions if region.level}
        assert list(outlines)[:7] == FIVE[:7]
        for level, shape in outlines.items():
            corners = np.array(truth["corners_px"][level])
            # The film's right comes first, and the superior endplate.
            assert corners[0, 0] > corners[1, 0]
            assert corners[3, 0] > corners[2, 0]
            assert corners[:2, 1].mean() < corners[2:, 1].mean()
            if level.startswith("L") and truth["visible"][level] == 1.0:
                low, high = np.array(shape.bounds).reshape(2, 2)
                assert np.abs(np.array([low[0], high[0]]) - [corners[:, 0].min(), corners[:, 0].max()]).max() < 3


def test_the_largest_cobb_angle_is_that_of_its_corners_and_near_the_drawn_one():
    differences = []
    for _, truth in films(replace(AP, scoliosis_deg=(15.0, 40.0), metal_share=0.0), 6):
        corners = {level: np.array(points) for level, points in truth["corners_px"].items() if level[0] in "LT"}
        tilts = {}
        for level, (right, left, low_left, low_right) in corners.items():
            upper, lower = right - left, low_right - low_left
            tilts[level] = np.degrees([np.arctan2(upper[1], upper[0]), np.arctan2(lower[1], lower[0])])
        # From above: superior endplate of the upper against inferior endplate of the lower.
        angles = {(a, b): abs(tilts[b][1] - tilts[a][0]) for a, b in itertools.combinations(tilts, 2)}
        best = max(angles, key=angles.__getitem__)
        assert truth["cobb_max_deg"] == pytest.approx(angles[best], abs=0.01)
        assert truth["cobb_levels"] == list(best)
        differences.append(truth["cobb_max_deg"] - truth["scoliosis_deg"])
    assert np.abs(differences).mean() < 5


def test_a_curve_is_convex_to_the_stated_side():
    for _, truth in films(replace(AP, scoliosis_deg=(25.0, 40.0), metal_share=0.0), 4):
        x = {level: np.mean(points, axis=0)[0] for level, points in truth["corners_px"].items()}
        y = {level: np.mean(points, axis=0)[1] for level, points in truth["corners_px"].items()}
        share = (y["L2"] - y["S1"]) / (y["T12"] - y["S1"])
        aside = x["L2"] - (x["S1"] + share * (x["T12"] - x["S1"]))
        # The patient's left is the film's right.
        assert ("left" if aside > 0 else "right") == truth["convex"]


def test_cobb_angles_have_a_sign_and_a_known_size():
    upper = np.array([[20.0, -2.0], [0.0, 0.0], [0.0, 10.0], [20.0, 10.0]])
    lower = np.array([[20.0, 50.0], [0.0, 50.0], [0.0, 60.0], [20.0, 63.0]])
    expected = np.degrees(np.arctan(0.1) + np.arctan(0.15))
    assert cobb_deg(upper, lower) == pytest.approx(expected)
    assert cobb_deg(upper[[1, 0, 3, 2]] * (-1, 1), lower[[1, 0, 3, 2]] * (-1, 1)) == pytest.approx(-expected)
    assert largest_cobb({"L1": upper, "L2": lower, "S1": lower}) == (pytest.approx(expected), ("L1", "L2"))


def test_antero_posterior_films_of_six_and_without_a_sacrum():
    style = replace(AP, six_lumbar_share=1.0, no_sacrum_share=1.0)
    for regions, truth in films(style, 3):
        assert truth["view"] == "ap"
        assert truth["no_sacrum"]
        assert levels_from_below(regions)[0] == "L6"


FRONT = View((200, 200), 0.5, (100.0, 100.0), "right", Frame(rotation(0.0, 90.0), np.zeros(3)), np.inf, (0.0, 0.0))
SIDE = replace(FRONT, pose=Frame(np.eye(3), np.zeros(3)))
SHAPE = BodyShape(34.0, 35.0, 46.0, 27.0, 4.0, 0.1, (1.5, 1.5))


def mass(solid: Solid, view: View) -> float:
    return float(integrate([solid], view).sum()) * view.pixel_spacing_mm**2


def test_a_solid_has_the_same_mass_from_the_side_and_from_the_front():
    path = np.array([[-12.0, -15.0, 4.0], [-16.0, 0.0, 6.0], [-15.0, 12.0, 5.0]])
    tube = Solid(tube_slices(path, np.full(3, 5.0), 9), 0.03 * 10 / 9)
    assert mass(recut(tube, 0.8), FRONT) == pytest.approx(mass(tube, SIDE), rel=0.08)
    body = Solid(body_slices(SHAPE, 26), 0.01 * SHAPE.width_mm / 26)
    assert mass(recut(body, 1.0), FRONT) == pytest.approx(mass(body, SIDE), rel=0.08)
    front = Solid(coronal_slices(SHAPE, 26), 0.01 * 35.0 / 26)
    assert mass(front, FRONT) == pytest.approx(mass(body, SIDE), rel=0.08)


def test_a_tube_that_turns_back_is_cut_twice():
    path = np.stack([-8 + 16 * np.sin(np.linspace(0, np.pi, 15)), np.linspace(-25, 25, 15), np.zeros(15)], axis=1)
    tube = Solid(tube_slices(path, np.full(15, 3.0), 9), 0.03 * 6 / 9)
    seen = integrate([recut(tube, 0.8)], FRONT)[:, 100] > 0.05
    assert np.diff(np.flatnonzero(seen)).max() == 1
    assert seen.sum() * FRONT.pixel_spacing_mm == pytest.approx(56, abs=3)
    assert mass(recut(tube, 0.8), FRONT) == pytest.approx(mass(tube, SIDE), rel=0.1)


@pytest.mark.parametrize("collapse_mm", [(0.0, 0.0), (5.0, 3.0)])
def test_coronal_slices_reach_the_corners(collapse_mm):
    shape = replace(SHAPE, collapse_mm=collapse_mm)
    slices = coronal_slices(shape, 27)
    middle = slices[13]
    for corner in coronal_corners_mm(shape):
        assert np.linalg.norm(middle - corner, axis=1).min() < 0.5
    assert np.abs(slices[..., 2]).max() == pytest.approx(SHAPE.width_mm / 2, rel=0.02)
    assert not np.allclose(slices[0], middle)


def test_surfaces_are_those_of_the_skeleton():
    for style in (SMALL, AP):
        anatomy = draw_patient(0, 3, style).anatomy
        bodies, _ = skeleton(anatomy)
        for level, vertebra in anatomy.vertebrae.items():
            assert np.array_equal(surface_solids(vertebra, anatomy)[0].slices, bodies[level][0].slices)
        corners = corners_px(anatomy, FRONT if style is AP else SIDE)
        assert set(corners) == set(FIVE)


def test_every_share_can_be_asked_for_by_name():
    explained = explained_shares()
    assert {"six_lumbar", "four_lumbar", "sacralised", "no_sacrum", "ap", "slip", "metal"} <= set(explained)
    assert all(len(text) > 20 for text in explained.values())
    style = with_shares(STYLES["portable"], [f"{name}=0.25" for name in explained])
    assert {getattr(style, name) for name in share_names(style)} == {0.25}
    assert {getattr(style.disease, name) for name in share_names(style.disease)} == {0.25}
    assert style.gamma == STYLES["portable"].gamma
    assert with_shares(SMALL, ["ap=0.2", "ap=0.3"]) == replace(SMALL, ap_share=0.3)
    assert with_shares(SMALL, []) == SMALL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seven_lumbar=1", r"seven_lumbar' is nothing.*\n.*\n  metal: Share of patients with implants"),
        ("ap", "share of ap must be a number, got ''"),
        ("ap=often", "share of ap must be a number, got 'often'"),
        ("ap=2", "ap=2: the share of ap must be between 0 and 1, got 2"),
        ("slip=nan", "the share of slip must be between 0 and 1, got nan"),
    ],
)
def test_shares_that_cannot_be_understood_are_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        with_shares(SMALL, [text])
