from dataclasses import replace

import cv2
import numpy as np
import pytest
from shapely import Polygon, contains_xy

from vertinst.data import phantom_changes as changes
from vertinst.data.phantom import PhantomStyle, draw_patient, film_regions, take_film
from vertinst.data.phantom_bones import cement_solids, skeleton
from vertinst.data.phantom_disease import Disease, apply_disease
from vertinst.data.phantom_projection import draw_view
from vertinst.data.phantom_truth import corners_px
from vertinst.errors import DataError
from vertinst.structures.measures import CORNERS

PLAIN = PhantomStyle(height_px=512, width_px=384, metal_share=0.0, parallel_share=1.0, close_up_share=0.0)
EVERYTHING = Disease(1.0, 1.0, 1.0, 1.0, 1.0)
NUMBERS = range(1, 5)


def ill(number, disease):
    """A patient in health, with a disease, its truth, and the corners of one film in mm."""
    style = replace(PLAIN, disease=disease)
    healthy, patient = draw_patient(4, number, PLAIN), draw_patient(4, number, style)
    regions, truth = film_regions(patient, 4, 1, style)
    corners = {level: np.array(points) for level, points in truth["corners_px"].items()}
    return healthy.anatomy, patient.anatomy, regions, truth, corners


def test_nobody_is_ill_by_default_and_nothing_is_drawn():
    anatomy = draw_patient(0, 1, PLAIN).anatomy
    rng = np.random.default_rng(0)
    assert apply_disease(rng, anatomy, Disease()) == (anatomy, {})
    assert rng.random() == np.random.default_rng(0).random()
    assert film_regions(draw_patient(0, 1, PLAIN), 0, 1, PLAIN)[1]["disease"] == {}


def test_shares_are_those_of_patients():
    anatomy = draw_patient(0, 1, PLAIN).anatomy
    disease = Disease(slip_share=0.3, fracture_share=0.6)
    found = [apply_disease(np.random.default_rng(seed), anatomy, disease)[1] for seed in range(300)]
    assert 0.2 < np.mean(["slips" in truth for truth in found]) < 0.4
    assert 0.5 < np.mean(["fractures" in truth for truth in found]) < 0.7
    assert not any({"osteophytes", "cemented", "narrowed"} & truth.keys() for truth in found)


@pytest.mark.parametrize(
    "name", ["slip_share", "osteophyte_share", "fracture_share", "cement_share", "narrowing_share"]
)
def test_a_share_out_of_range_is_refused(name):
    with pytest.raises(DataError, match=f"{name} must be between 0 and 1, got -0.1"):
        Disease(**{name: -0.1})


def test_the_same_draw_gives_the_same_disease_and_the_patient_in_health_stays():
    anatomy = draw_patient(0, 2, PLAIN).anatomy
    before = {level: vertebra.frame.origin.copy() for level, vertebra in anatomy.vertebrae.items()}
    first, second = (apply_disease(np.random.default_rng(5), anatomy, EVERYTHING) for _ in range(2))
    assert first[1] == second[1]
    assert set(first[1]) == {"slips", "osteophytes", "fractures", "cemented", "narrowed"}
    for level, vertebra in first[0].vertebrae.items():
        np.testing.assert_array_equal(vertebra.frame.origin, second[0].vertebrae[level].frame.origin)
        np.testing.assert_array_equal(anatomy.vertebrae[level].frame.origin, before[level])


def test_slips_are_on_the_film_what_the_truth_says():
    for number in NUMBERS:
        _, anatomy, _, truth, corners = ill(number, Disease(slip_share=1.0))
        assert truth["disease"]["slips"]
        for entry in truth["disease"]["slips"]:
            assert 5 <= entry["percent"] <= 45
            assert entry["percent"] == pytest.approx(changes.slip_of(anatomy, entry["upper"]), abs=0.001)
            shown = changes.slip_percent(corners[entry["upper"]], corners[entry["lower"]])
            assert shown == pytest.approx(entry["percent"], abs=2)


def test_narrowed_discs_are_on_the_film_what_the_truth_says():
    for number in NUMBERS:
        healthy, _, _, truth, corners = ill(number, Disease(narrowing_share=1.0))
        for entry in truth["disease"]["narrowed"]:
            upper, lower = corners[entry["upper"]], corners[entry["lower"]]
            ahead = (lower[0] - lower[1]) / np.linalg.norm(lower[0] - lower[1])
            for name, gap in (("anterior", upper[3] - lower[0]), ("posterior", upper[2] - lower[1])):
                shown = abs(ahead[0] * gap[1] - ahead[1] * gap[0]) * truth["pixel_spacing_mm"]
                assert shown == pytest.approx(entry[f"height_{name}_mm"], abs=0.4)
            left, was = entry["height_anterior_mm"], changes.disc_heights(healthy, entry["upper"])[0]
            assert 0.25 < left / was < 0.75
            assert left / was == pytest.approx(entry["factor"], abs=0.05)


def test_fractures_are_on_the_film_what_the_truth_says():
    kinds = set()
    for number in range(1, 9):
        healthy, _, _, truth, corners = ill(number, Disease(fracture_share=1.0))
        for entry in truth["disease"]["fractures"]:
            kinds.add(entry["kind"])
            points = corners[entry["level"]] * truth["pixel_spacing_mm"]
            for name, (top, bottom) in (("anterior", (0, 3)), ("posterior", (1, 2))):
                shown = np.linalg.norm(points[top] - points[bottom])
                assert shown == pytest.approx(entry[f"height_{name}_mm"], rel=0.015)
            top, bottom = np.array(truth["middles_px"][entry["level"]]) * truth["pixel_spacing_mm"]
            assert np.linalg.norm(top - bottom) == pytest.approx(entry["height_middle_mm"], rel=0.02)
            part = {"wedge": "anterior", "biconcave": "middle", "crush": "posterior"}[entry["kind"]]
            was = changes.heights(healthy.vertebrae[entry["level"]])[part]
            assert entry[f"height_{part}_mm"] == pytest.approx((1 - entry["loss"]) * was, abs=0.02)
            assert 0.18 < entry["loss"] < 0.51
    assert len(kinds) == 3


def test_osteophytes_are_in_the_mask_by_their_size_and_corners_stay_those_of_the_body():
    for number in NUMBERS:
        _, _, regions, truth, corners = ill(number, Disease(osteophyte_share=1.0))
        plain_regions, plain = film_regions(draw_patient(4, number, PLAIN), 4, 1, PLAIN)
        assert plain["corners_px"] == truth["corners_px"]
        masks = {r.level: Polygon(r.outline) for r in regions}
        bodies = {r.level: Polygon(r.outline) for r in plain_regions}
        grown = {entry["level"] for entry in truth["disease"]["osteophytes"]}
        for level, mask in masks.items():
            assert mask.is_valid
            assert (mask.area > 1.004 * bodies[level].area) == (level in grown)
        for entry in truth["disease"]["osteophytes"]:
            if truth["visible"].get(entry["level"], 0) < 1:
                continue
            index = CORNERS.index(entry["corner"])
            corner, other = corners[entry["level"]][[index, (1, 0, 3, 2)[index]]]
            outward = (corner - other) / np.linalg.norm(corner - other)
            away = np.array(masks[entry["level"]].exterior.coords) - corner
            near = away[np.linalg.norm(away, axis=1) * truth["pixel_spacing_mm"] < 11]
            reach_mm = (near @ outward).max() * truth["pixel_spacing_mm"]
            assert reach_mm == pytest.approx(entry["size_mm"], abs=1.2)


def test_cement_is_dense_inside_its_body_and_no_region():
    healthy = draw_patient(4, 2, PLAIN)
    anatomy, truth = apply_disease(np.random.default_rng(1), healthy.anatomy, Disease(cement_share=1.0))
    films = [
        take_film(replace(healthy, anatomy=a, disease=d), *skeleton(a), 4, 1, 8, PLAIN)
        for a, d in ((healthy.anatomy, {}), (anatomy, truth))
    ]
    assert [r.outline.tolist() for r in films[0].regions] == [r.outline.tolist() for r in films[1].regions]
    assert {r.category for r in films[1].regions} <= {"lumbar", "sacral"}
    assert films[1].truth["disease"]["cemented"] == truth["cemented"]
    cemented = {entry["level"] for entry in truth["cemented"]}
    for region in films[1].regions:
        mask = np.zeros(films[0].pixels.shape, np.uint8)
        cv2.fillPoly(mask, [np.round(region.outline).astype(np.int32)], 1)
        brighter = films[1].pixels[mask == 1].astype(int) - films[0].pixels[mask == 1]
        assert (np.percentile(brighter, 97) > 30) == (region.level in cemented)


def test_cement_stays_in_its_body_unless_it_leaks():
    anatomy = draw_patient(4, 2, PLAIN).anatomy
    seen = set()
    for seed in range(12):
        with_cement, truth = apply_disease(np.random.default_rng(seed), anatomy, Disease(cement_share=1.0))
        for entry in truth["cemented"]:
            seen.add(entry["leak"])
            vertebra = with_cement.vertebrae[entry["level"]]
            alone = replace(with_cement, vertebrae={entry["level"]: vertebra})
            outline = Polygon(changes.corners(vertebra)[:, :2]).buffer(0.8)
            points = np.concatenate([solid.slices.reshape(-1, 3)[:, :2] for solid in cement_solids(alone)])
            inside = contains_xy(outline, points).all()
            assert inside == (entry["leak"] == "none")
    assert seen == {"none", "disc", "anterior"}


def test_fractured_vertebrae_are_cemented_first():
    anatomy = draw_patient(4, 2, PLAIN).anatomy
    for seed in range(8):
        _, truth = apply_disease(np.random.default_rng(seed), anatomy, Disease(fracture_share=1.0, cement_share=1.0))
        assert truth["cemented"][0]["level"] == truth["fractures"][0]["level"]


def test_a_spine_bent_by_many_fractures_still_fits_on_the_film():
    for number in range(1, 21):
        anatomy = draw_patient(10, number, PLAIN).anatomy
        for level in ("L5", "L3", "L2"):
            anatomy = changes.fracture(anatomy, level, "wedge", 0.5)
        view = draw_view(np.random.default_rng(number), anatomy, PLAIN, room_mm=20.0)
        corners = corners_px(anatomy, view)
        points = np.concatenate([corners[level] for level in ("L1", "L3", "L5", "S1")])
        assert ((points > 0) & (points < (384, 512))).all()
