import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from shapely import LinearRing, Point, Polygon

from vertinst.data.phantom import PhantomStyle, PhantomSummary, draw_patient, film_regions, make_phantoms, take_film
from vertinst.data.phantom_bones import skeleton
from vertinst.data.phantom_film import draw_exposure
from vertinst.data.phantom_implants import draw_construct
from vertinst.data.phantom_projection import draw_view, integrate
from vertinst.data.phantom_style import STYLES, named_style
from vertinst.data.phantom_truth import bone_regions, corners_px, lordosis_deg
from vertinst.errors import DataError, OutputExistsError

SMALL = PhantomStyle(height_px=512, width_px=384)
CLASSES = {"lumbar", "sacral", "cage", "screw", "rod"}
LEVELS = {"T12", "L1", "L2", "L3", "L4", "L5", "S1", "S2"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> PhantomSummary:
    return make_phantoms(4, 3, tmp_path_factory.mktemp("phantoms") / "out", style=SMALL)


def load(summary: PhantomSummary) -> tuple[dict, dict]:
    return json.loads(summary.via_project.read_text()), json.loads(summary.truth.read_text())


def outline(region: dict) -> np.ndarray:
    shape = region["shape_attributes"]
    return np.stack([shape["all_points_x"], shape["all_points_y"]], axis=1)


def by_level(film: dict) -> dict[str, np.ndarray]:
    regions = [r for r in film["regions"] if r["region_attributes"].get("level")]
    return {r["region_attributes"]["level"]: outline(r) for r in regions}


def test_the_same_seed_gives_the_same_bytes_whatever_the_count(made, tmp_path):
    again = make_phantoms(2, 3, tmp_path / "again", style=SMALL)
    names = sorted(path.name for path in again.images.iterdir())
    assert len(names) == 2
    for name in names:
        assert (again.images / name).read_bytes() == (made.images / name).read_bytes()
    first, second = load(again)[1]["films"], load(made)[1]["films"]
    assert all(first[name] == second[name] for name in names)


def test_another_seed_gives_another_film(made, tmp_path):
    other = make_phantoms(1, 4, tmp_path / "other", style=SMALL)
    assert (other.images / "P0001_1.png").read_bytes() != (made.images / "P0001_1.png").read_bytes()


def test_via_project_has_the_shape_that_via_2_reads(made):
    project, _ = load(made)
    assert project["_via_data_format_version"] == "2.0.10"
    assert project["_via_image_id_list"] == list(project["_via_img_metadata"])
    assert set(project["_via_attributes"]["region"]["class"]["options"]) == CLASSES
    assert project["_via_settings"]["core"]["default_filepath"] == "./images/"
    for key, film in project["_via_img_metadata"].items():
        assert film["size"] == (made.images / film["filename"]).stat().st_size
        assert key == f"{film['filename']}{film['size']}"
        assert film["file_attributes"] == {"patient": film["filename"][:5], "view": "lateral"}


def test_outlines_are_valid_lie_inside_the_film_and_carry_known_names(made):
    project, _ = load(made)
    for film in project["_via_img_metadata"].values():
        assert {"S1", "L5", "L4", "L3"} <= set(by_level(film)) <= LEVELS
        for region in film["regions"]:
            points = outline(region)
            assert Polygon(points).is_valid
            assert (points >= 0).all()
            assert (points <= (384, 512)).all()
            category, level = region["region_attributes"]["class"], region["region_attributes"].get("level", "")
            assert category in CLASSES
            assert bool(level) == (category in ("lumbar", "sacral"))
            assert (category == "sacral") == (level in ("S1", "S2"))


def test_corners_lie_on_the_outlines(made):
    project, truth = load(made)
    for film in project["_via_img_metadata"].values():
        entry = truth["films"][film["filename"]]
        for level, points in by_level(film).items():
            if entry["visible"][level] == 1.0:
                ring = LinearRing(points)
                # A bowl-shaped endplate of a tilted body may hide a corner of the middle plane by a little.
                assert max(ring.distance(Point(corner)) for corner in entry["corners_px"][level]) < 6


def test_corners_come_in_the_documented_order(made):
    for entry in load(made)[1]["films"].values():
        ahead = 1 if entry["facing"] == "right" else -1
        for corners in map(np.array, entry["corners_px"].values()):
            assert ahead * (corners[0, 0] - corners[1, 0]) > 0
            assert ahead * (corners[3, 0] - corners[2, 0]) > 0
            assert corners[1, 1] < corners[2, 1]


def test_lordosis_in_the_truth_is_that_of_its_corners(made):
    for entry in load(made)[1]["films"].values():
        corners = {level: np.array(points) for level, points in entry["corners_px"].items()}
        assert entry["lordosis_L1_S1_deg"] == pytest.approx(lordosis_deg(corners["L1"], corners["S1"]), abs=0.05)
        assert 10 < entry["lordosis_L1_S1_deg"] < 85


def test_lordosis_has_the_same_sign_facing_left_and_right():
    upper = np.array([[30.0, -5.0], [0.0, 0.0], [0.0, 20.0], [30.0, 20.0]])
    lower = np.array([[30.0, 130.0], [0.0, 100.0], [0.0, 120.0], [30.0, 150.0]])
    expected = 45 + np.degrees(np.arctan(5 / 30))
    assert lordosis_deg(upper, lower) == pytest.approx(expected)
    assert lordosis_deg(upper * (-1, 1), lower * (-1, 1)) == pytest.approx(expected)


def test_bodies_are_brighter_than_the_discs_between_them(tmp_path):
    plain = replace(SMALL, metal_share=0.0)
    made = make_phantoms(3, 11, tmp_path / "plain", style=plain)
    differences = []
    for name, entry in load(made)[1]["films"].items():
        film = cv2.imread(str(made.images / name), cv2.IMREAD_UNCHANGED).astype(float)
        corners = {level: np.array(points) for level, points in entry["corners_px"].items()}
        for upper, lower in (("L2", "L3"), ("L3", "L4"), ("L4", "L5")):
            disc = (corners[upper][2:] + corners[lower][:2]).sum(axis=0) / 4
            beside = [corners[level].mean(axis=0) for level in (upper, lower)]
            inside = [film[int(y) - 4 : int(y) + 5, int(x) - 4 : int(x) + 5].mean() for x, y in beside]
            gap = film[int(disc[1]) - 2 : int(disc[1]) + 3, int(disc[0]) - 4 : int(disc[0]) + 5].mean()
            differences.append(np.mean(inside) - gap)
    assert np.median(differences) > 5
    assert np.mean(np.array(differences) > 0) > 0.8


def test_metal_is_bright_and_listed(tmp_path):
    made = make_phantoms(2, 5, tmp_path / "metal", style=replace(SMALL, metal_share=1.0, cage_only_share=0.0))
    project, truth = load(made)
    assert made.films_with_metal == 2
    for film in project["_via_img_metadata"].values():
        pixels = cv2.imread(str(made.images / film["filename"]), cv2.IMREAD_UNCHANGED)
        metal = [r for r in film["regions"] if r["region_attributes"]["class"] in ("screw", "rod", "cage")]
        listed = [implant["class"] for implant in truth["films"][film["filename"]]["implants"]]
        assert [r["region_attributes"]["class"] for r in metal] == listed
        assert listed.count("rod") == 2
        for rod in (r for r in metal if r["region_attributes"]["class"] == "rod"):
            mask = np.zeros(pixels.shape, np.uint8)
            cv2.fillPoly(mask, [outline(rod).astype(np.int32)], 1)
            assert np.median(pixels[mask == 1]) > np.percentile(pixels, 95)


def test_sixteen_bits_are_used(tmp_path):
    made = make_phantoms(1, 3, tmp_path / "deep", bits=16, style=SMALL)
    film = cv2.imread(str(made.images / "P0001_1.png"), cv2.IMREAD_UNCHANGED)
    assert film.dtype == np.uint16
    assert film.shape == (512, 384)
    assert len(np.unique(film)) > 1000
    assert len(np.unique(film % 256)) == 256


def test_shares_and_spread_over_many_patients():
    style = PhantomStyle()
    metal = [bool(c.screwed or c.caged) for c in (draw_construct(np.random.default_rng(i), style) for i in range(400))]
    assert 0.62 < np.mean(metal) < 0.78
    patients = [draw_patient(0, number, style) for number in range(1, 31)]
    assert {patient.films for patient in patients} == {1, 2, 3}
    slopes = [patient.anatomy.vertebrae["S1"].tilt_deg for patient in patients]
    assert 5 < np.std(slopes) < 20


def test_s1_is_always_in_view_and_t12_nearly_always():
    style = PhantomStyle()
    t12 = []
    for number in range(1, 61):
        patient = draw_patient(1, number, style)
        corners = corners_px(patient.anatomy, draw_view(np.random.default_rng(number), patient.anatomy, style))
        inside = {level: ((points > 0) & (points < (768, 1024))).all(axis=1) for level, points in corners.items()}
        assert inside["S1"].sum() >= 3
        t12.append(inside["T12"].all())
        assert 10 < lordosis_deg(corners["L1"], corners["S1"]) < 80
    assert np.mean(t12) > 0.8


def test_outlines_cover_what_is_projected():
    patient = draw_patient(2, 1, SMALL)
    view = draw_view(np.random.default_rng(2), patient.anatomy, SMALL)
    bodies, _ = skeleton(patient.anatomy)
    field = np.array([[0.0, 0.0], [384.0, 0.0], [384.0, 512.0], [0.0, 512.0]])
    for region in bone_regions(bodies, view, field):
        covered = integrate(bodies[region.level][:1], view) > 0.5 * bodies[region.level][0].integral
        assert covered.sum() == pytest.approx(Polygon(region.outline).area, rel=0.05)
        drawn = np.zeros(view.size, np.uint8)
        cv2.fillPoly(drawn, [np.round((region.outline - 0.5) * 16).astype(np.int32)], 1, cv2.LINE_8, 4)
        assert (covered & (drawn > 0)).sum() / (covered | (drawn > 0)).sum() > 0.96


def test_a_body_cut_by_the_border_keeps_its_visible_part_or_goes():
    patient = draw_patient(2, 1, SMALL)
    view = draw_view(np.random.default_rng(2), patient.anatomy, SMALL)
    bodies, _ = skeleton(patient.anatomy)
    middle = corners_px(patient.anatomy, view)["L3"].mean(axis=0)[1]
    field = np.array([[0.0, 0.0], [384.0, 0.0], [384.0, middle], [0.0, middle]])
    regions = {region.level: region for region in bone_regions(bodies, view, field)}
    assert {"L4", "L5", "S1", "S2"}.isdisjoint(regions)
    assert 0.3 < regions["L3"].visible < 0.7
    assert regions["L3"].outline[:, 1].max() == pytest.approx(middle, abs=0.01)
    assert regions["L2"].visible == pytest.approx(1.0)


def test_a_patient_keeps_anatomy_and_metal_from_film_to_film(tmp_path):
    style = replace(SMALL, metal_share=1.0)
    number = next(n for n in range(1, 40) if draw_patient(0, n, style).films > 1)
    count = sum(draw_patient(0, n, style).films for n in range(1, number)) + 2
    assert count <= 4
    made = make_phantoms(count, 0, tmp_path / "several", style=style)
    films = [v for v in load(made)[1]["films"].values() if v["patient"] == f"P{number:04d}"]
    assert len(films) == 2
    assert films[0]["implants"] == films[1]["implants"]
    assert films[0]["pixel_spacing_mm"] != films[1]["pixel_spacing_mm"]


def test_progress_counts_films(tmp_path):
    seen: list[tuple[int, int]] = []
    make_phantoms(1, 0, tmp_path / "p", style=SMALL, progress=lambda done, total, text: seen.append((done, total)))
    assert seen == [(0, 1), (1, 1)]


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(OutputExistsError, match="not empty"):
        make_phantoms(1, 0, tmp_path, style=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("count", "seed", "bits", "message"),
    [(0, 0, 8, "count must be 1 or more, got 0"), (1, -1, 8, "seed must be 0"), (1, 0, 12, "bits must be 8 or 16")],
)
def test_senseless_requests_are_refused_before_anything_is_written(tmp_path: Path, count, seed, bits, message):
    with pytest.raises(DataError, match=message):
        make_phantoms(count, seed, tmp_path / "none", bits=bits)
    assert not (tmp_path / "none").exists()


def test_a_style_out_of_range_is_refused():
    with pytest.raises(DataError, match=r"metal_share must be between 0 and 1, got 1\.5"):
        PhantomStyle(metal_share=1.5)


def test_styles_have_names_and_the_first_is_the_default():
    assert next(iter(STYLES)) == "standard"
    assert named_style("standard") == PhantomStyle()
    assert named_style("portable") != PhantomStyle()
    with pytest.raises(DataError, match=r"style must be standard or portable, got bedside"):
        named_style("bedside")


@pytest.mark.parametrize("name", ["scatter", "photons", "focus_blur_px", "gamma", "girth"])
def test_ranges_of_a_style_must_be_in_order_and_within_their_limits(name):
    for low, high in ((0.6, 0.5), (-1.0, 0.5), (0.5, 1e10)):
        with pytest.raises(DataError, match=rf"{name} must be \(low, high\) within"):
            PhantomStyle(**{name: (low, high)})


def test_exposures_are_drawn_from_the_ranges_of_the_style():
    for style in STYLES.values():
        for seed in range(30):
            drawn = draw_exposure(np.random.default_rng(seed), (64, 48), "left", style)
            for name in ("scatter", "photons", "focus_blur_px", "detector_blur_px", "equalisation", "gamma"):
                low, high = getattr(style, name)
                assert low <= getattr(drawn, name) <= high * (1 + 1e-12)


def test_portable_films_show_bone_with_less_contrast(tmp_path):
    contrasts = {}
    for name in STYLES:
        style = replace(named_style(name), height_px=256, width_px=192, metal_share=0.0)
        made = make_phantoms(4, 8, tmp_path / name, style=style)
        found = []
        for film in load(made)[0]["_via_img_metadata"].values():
            pixels = cv2.imread(str(made.images / film["filename"]), cv2.IMREAD_GRAYSCALE).astype(float)
            bone = np.zeros(pixels.shape, np.uint8)
            for points in by_level(film).values():
                cv2.fillPoly(bone, [points.astype(np.int32)], 1)
            around = cv2.dilate(bone, np.ones((9, 9), np.uint8)) - bone
            found.append(pixels[bone == 1].mean() - pixels[around == 1].mean())
        contrasts[name] = np.mean(found)
    assert 0 < contrasts["portable"] < 0.8 * contrasts["standard"]


def test_regions_without_pixels_are_those_of_the_film():
    style = replace(SMALL, height_px=128, width_px=96, metal_share=1.0)
    for number in (1, 2):
        patient = draw_patient(5, number, style)
        film = take_film(patient, *skeleton(patient.anatomy), 5, 2, 8, style)
        regions, truth = film_regions(patient, 5, 2, style)
        assert truth == film.truth
        assert [(r.category, r.level, r.visible) for r in regions] == [
            (r.category, r.level, r.visible) for r in film.regions
        ]
        assert all(np.array_equal(a.outline, b.outline) for a, b in zip(regions, film.regions, strict=True))
