import json
from dataclasses import replace

import numpy as np
import pytest

from vertinst.data import phantom_changes as changes
from vertinst.data.phantom import PhantomStyle, draw_patient, film_regions, make_phantoms
from vertinst.data.phantom_disease import Disease
from vertinst.data.phantom_follow_up import draw_follow_up, second_date
from vertinst.errors import DataError

STYLE = PhantomStyle(
    height_px=512, width_px=384, parallel_share=1.0, close_up_share=0.0, films_per_patient=1, follow_up_share=1.0
)
DISEASED = replace(STYLE, disease=Disease(0.5, 0.5, 0.5, 0.5, 0.5))
PATIENTS = [draw_patient(2, number, style) for style in (STYLE, DISEASED) for number in range(1, 29)]
KINDS = {"fracture", "narrowed", "slip", "screw_loosened", "rod_slid", "cage_subsided"}


def noted(kind):
    """Patients who have a change, with what the truth says of it."""
    found = [(patient, note) for patient in PATIENTS for note in patient.later.changes if note["kind"] == kind]
    assert found
    return found


def corners_mm(patient, film):
    """True corners of a film in mm: its rays are parallel."""
    truth = film_regions(patient, 2, film, STYLE)[1]
    return {level: np.array(points) * truth["pixel_spacing_mm"] for level, points in truth["corners_px"].items()}


def axis(solid):
    """Direction of a long solid."""
    points = solid.slices.reshape(-1, 3)
    return np.linalg.svd(points - points.mean(axis=0), full_matrices=False)[2][0]


def middle(implant):
    return implant.solids[0].slices.reshape(-1, 3).mean(axis=0)


def same_place(patient, implant):
    """Where an implant would be, had it stayed in the vertebra that it is in."""
    level = implant.levels[0]
    old, new = patient.anatomy.vertebrae[level].frame, patient.later.anatomy.vertebrae[level].frame
    return new.place((middle(implant) - old.origin) @ old.rotation)


def compare(note, index, corners):
    """The film of a date shows what the truth says of it."""
    if note["kind"] == "slip":
        shown = changes.slip_percent(corners[note["upper"]], corners[note["lower"]])
        assert shown == pytest.approx(note["percent"][index], abs=2)
    if note["kind"] == "fracture":
        points = corners[note["level"]]
        for name, (top, bottom) in (("anterior", (0, 3)), ("posterior", (1, 2))):
            shown = np.linalg.norm(points[top] - points[bottom])
            assert shown == pytest.approx(note[f"height_{name}_mm"][index], rel=0.015)
    if note["kind"] == "narrowed":
        upper, lower = corners[note["upper"]], corners[note["lower"]]
        ahead = (lower[0] - lower[1]) / np.linalg.norm(lower[0] - lower[1])
        for name, gap in (("anterior", upper[3] - lower[0]), ("posterior", upper[2] - lower[1])):
            shown = abs(ahead[0] * gap[1] - ahead[1] * gap[0])
            assert shown == pytest.approx(note[f"height_{name}_mm"][index], abs=0.4)


def test_every_kind_of_change_and_none_at_all_occur_with_one_to_three_at_a_time():
    counts = [len(patient.later.changes) for patient in PATIENTS]
    assert set(counts) == {0, 1, 2, 3}
    assert 0.08 < np.mean(np.array(counts) == 0) < 0.35
    kinds = [[note["kind"] for note in patient.later.changes] for patient in PATIENTS]
    assert {kind for found in kinds for kind in found} == KINDS
    assert all(len(set(found)) == len(found) for found in kinds)


def test_nobody_has_a_second_date_by_default_and_nothing_is_drawn_for_it():
    patient = draw_patient(2, 1, replace(STYLE, follow_up_share=0.0))
    assert (patient.later, patient.date, patient.changes) == (None, 1, [])
    rng = np.random.default_rng(0)
    assert draw_follow_up(rng, patient, 0.0) is patient
    assert rng.random() == np.random.default_rng(0).random()
    share = np.mean([draw_patient(0, n, replace(STYLE, follow_up_share=0.4)).later is not None for n in range(1, 61)])
    assert 0.25 < share < 0.55
    with pytest.raises(DataError, match="follow_up_share must be between 0 and 1, got 2"):
        PhantomStyle(follow_up_share=2)


def test_the_last_film_is_that_of_the_second_date_and_the_others_stay_what_they_were(tmp_path):
    style = replace(STYLE, height_px=256, width_px=192)
    films = {}
    for name, count in (("with", 2), ("without", 1)):
        kept = replace(style, follow_up_share=float(name == "with"))
        made = make_phantoms(count, 2, tmp_path / name, style=kept)
        films[name] = json.loads(made.truth.read_text())["films"]
    assert list(films["with"]) == ["P0001_1.png", "P0001_2.png"]
    assert [film["date"] for film in films["with"].values()] == [1, 2]
    first, second = films["with"].values()
    assert first["changes"] == []
    assert second["changes"] == PATIENTS[0].later.changes != []
    pictures = [(tmp_path / name / "images" / "P0001_1.png").read_bytes() for name in ("with", "without")]
    assert pictures[0] == pictures[1]
    assert first == films["without"]["P0001_1.png"]


def test_what_the_truth_says_changed_is_the_difference_of_the_true_corners():
    for kind in ("slip", "fracture", "narrowed"):
        for patient, _ in noted(kind)[:3]:
            dates = [corners_mm(patient, film) for film in (1, 2)]
            for note in patient.later.changes:
                for index, corners in enumerate(dates):
                    compare(note, index, corners)


def test_amounts_of_bone_are_as_stated():
    for _, note in noted("slip"):
        assert 2 < note["percent"][1] - note["percent"][0] < 22
    for _, note in noted("narrowed"):
        assert 0.35 < note["height_anterior_mm"][1] / note["height_anterior_mm"][0] < 0.85
    for patient, note in noted("fracture"):
        part = changes.FRACTURES[note["fracture"]]
        was, now = note[f"height_{part}_mm"]
        assert note["loss"] == pytest.approx(1 - now / was, abs=1e-3)
        assert note["level"] not in {level for implant in patient.implants for level in implant.levels}


def test_what_did_not_change_is_the_same_on_both_dates():
    for patient in PATIENTS[:20]:
        first, second = patient.anatomy, patient.later.anatomy
        broken = {note.get("level") for note in patient.later.changes if note["kind"] == "fracture"}
        moved = {note.get("upper") for note in patient.later.changes}
        for level, vertebra in first.vertebrae.items():
            if level not in broken:
                assert second.vertebrae[level].shape == vertebra.shape
        for upper in changes.column(first)[1:]:
            if upper not in moved:
                before, after = changes.disc_heights(first, upper), changes.disc_heights(second, upper)
                assert after == pytest.approx(before, abs=0.35)


def test_metal_stays_in_its_vertebra_but_where_the_truth_says_it_moved():
    for patient in PATIENTS:
        notes = {note["kind"]: note for note in patient.later.changes}
        for before, after in zip(patient.implants, patient.later.implants, strict=True):
            way = np.linalg.norm(middle(after) - same_place(patient, before))
            loose, slid, sunk = (notes.get(kind, {}) for kind in ("screw_loosened", "rod_slid", "cage_subsided"))
            if before.category == "screw" and (loose.get("level"), loose.get("side")) == (
                before.levels[0],
                before.side,
            ):
                assert 1 < way < 12
            elif before.category == "rod" and slid.get("side") == before.side:
                assert way == pytest.approx(slid["mm"], abs=0.01)
            elif before.category == "cage" and sunk.get("levels") == list(before.levels):
                assert way == pytest.approx(sunk["mm"], abs=0.01)
            else:
                assert way < 1e-6


def test_a_loosened_screw_backs_out_along_its_axis_and_turns_about_its_head():
    for patient, note in noted("screw_loosened"):
        index = next(
            i
            for i, implant in enumerate(patient.implants)
            if (implant.category, implant.levels[0], implant.side) == ("screw", note["level"], note["side"])
        )
        # The vertebra may have gone with others: what counts is the screw in its frame.
        frames = [who.anatomy.vertebrae[note["level"]].frame for who in (patient, patient.later)]
        screws = [who.implants[index] for who in (patient, patient.later)]
        heads = [
            (screw.solids[1].slices.reshape(-1, 3).mean(axis=0) - frame.origin) @ frame.rotation
            for screw, frame in zip(screws, frames, strict=True)
        ]
        assert np.linalg.norm(heads[1] - heads[0]) == pytest.approx(note["mm"], abs=1e-3)
        assert heads[1][0] < heads[0][0]
        along = [axis(screw.solids[0]) @ frame.rotation for screw, frame in zip(screws, frames, strict=True)]
        angles = [np.degrees(np.arctan2(*(direction * np.sign(direction[0]))[[1, 0]])) for direction in along]
        assert angles[1] - angles[0] == pytest.approx(note["deg"], abs=0.2)


def test_a_cage_sinks_towards_the_sacrum_and_a_rod_slides_down():
    for kind, category in (("cage_subsided", "cage"), ("rod_slid", "rod")):
        for patient, note in noted(kind):
            if len(patient.later.changes) == 1:
                ways = [
                    middle(after) - middle(before)
                    for before, after in zip(patient.implants, patient.later.implants, strict=True)
                    if before.category == category
                ]
                assert max(way[1] for way in ways) > 0.5 * note["mm"]


def test_the_disease_of_the_second_date_is_what_its_spine_has():
    again = 0
    for patient in PATIENTS:
        later = patient.later
        for entry in later.disease.get("slips", []):
            assert entry["percent"] == pytest.approx(changes.slip_of(later.anatomy, entry["upper"]), abs=1e-3)
        for entry in later.disease.get("narrowed", []):
            left = changes.disc_heights(later.anatomy, entry["upper"])[0]
            assert entry["height_anterior_mm"] == pytest.approx(left, abs=0.35)
            before = [e["factor"] for e in patient.disease.get("narrowed", []) if e["upper"] == entry["upper"]]
            was = changes.disc_heights(patient.anatomy, entry["upper"])[0]
            assert entry["factor"] == pytest.approx((before or [1.0])[0] * left / was, abs=0.04)
            again += bool(before) and left < 0.9 * was
        for entry in later.disease.get("fractures", []):
            left = changes.heights(later.anatomy.vertebrae[entry["level"]])
            assert entry["height_middle_mm"] == pytest.approx(left["middle"], abs=1e-3)
        for name, key in (("fracture", "fractures"), ("narrowed", "narrowed"), ("slip", "slips")):
            changed = [note for note in later.changes if note["kind"] == name]
            assert len(later.disease.get(key, [])) - len(patient.disease.get(key, [])) in ({0, 1} if changed else {0})
        assert len(later.disease.get("osteophytes", [])) == len(patient.disease.get("osteophytes", []))
    assert again > 0


def test_the_same_draw_gives_the_same_changes():
    patient = draw_patient(2, 3, replace(STYLE, follow_up_share=0.0))
    first, second = (second_date(np.random.default_rng(8), patient)[1] for _ in range(2))
    assert first == second
    assert first["date"] == 2
