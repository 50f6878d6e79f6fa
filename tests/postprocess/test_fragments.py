import json
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vertinst.data.phantom import draw_patient
from vertinst.data.phantom_style import PhantomStyle
from vertinst.data.phantom_take import film_regions
from vertinst.postprocess.fragments import MIN_FILL, join_fragments
from vertinst.postprocess.policy import Policy
from vertinst.structures import Instances, rle

CLASSES = ("lumbar", "sacral", "cage", "screw", "rod")
SIZE = (300, 120)


def box_mask(left, top, right, bottom):
    mask = np.zeros(SIZE, dtype=bool)
    mask[top:bottom, left:right] = True
    return rle.encode(mask)


def instances(rows):
    """Rows of (box, class name, score)."""
    masks = [box_mask(*box) for box, _, _ in rows]
    return Instances.from_masks(SIZE, masks, [CLASSES.index(c) + 1 for _, c, _ in rows], [s for _, _, s in rows])


def body(place, score=0.9, left=20, right=70):
    """One of six vertebrae, 50 x 34 px, 10 px apart."""
    top = 10 + 44 * place
    return (left, top, right, top + 34), "lumbar", score


SPINE = [body(place, 0.95 - 0.01 * place) for place in range(5)]
WHOLE = [*SPINE[:2], *SPINE[3:]]
"""Without the middle one, whose rows are 98 to 132."""
UPPER, LOWER = ((20, 98, 70, 114), "lumbar", 0.8), ((20, 116, 70, 132), "lumbar", 0.6)


def boxes(found):
    return sorted(found.boxes.astype(int).tolist())


def test_a_vertebra_in_two_parts_becomes_one():
    found, log = join_fragments(instances([*WHOLE, UPPER, LOWER]), CLASSES)
    assert boxes(found) == [list(box) for box, _, _ in SPINE]
    joined = found[[found.boxes[:, 1].tolist().index(98)]]
    assert joined.scores.tolist() == pytest.approx([0.8])
    assert rle.area(joined.masks[0]) == 2 * 50 * 16
    assert json.loads(json.dumps(log)) == [
        {
            "event": "joined",
            "joined": [
                {"category": "lumbar", "score": 0.8, "box": [20, 98, 70, 114]},
                {"category": "lumbar", "score": 0.6, "box": [20, 116, 70, 132]},
            ],
            "into": {"category": "lumbar", "score": 0.8, "box": [20, 98, 70, 132]},
            "reason": "one_vertebra",
            "value": pytest.approx(32 / 34, abs=0.01),
            "threshold": MIN_FILL,
        }
    ]


def test_a_screw_in_the_gap_counts_as_filled_and_a_cage_does_not():
    parts = [((20, 98, 70, 110), "lumbar", 0.8), ((20, 120, 70, 132), "lumbar", 0.6)]
    crossing = (20, 110, 70, 120)
    assert join_fragments(instances([*WHOLE, *parts]), CLASSES)[1] == []
    assert len(join_fragments(instances([*WHOLE, *parts, (crossing, "screw", 0.9)]), CLASSES)[1]) == 1
    assert join_fragments(instances([*WHOLE, *parts, (crossing, "cage", 0.9)]), CLASSES)[1] == []


def test_three_parts_become_one():
    parts = [((20 + 17 * n, 98, 36 + 17 * n, 132), "lumbar", 0.9 - 0.1 * n) for n in range(3)]
    found, log = join_fragments(instances([*WHOLE, *parts]), CLASSES)
    assert len(found) == 5
    assert [len(event["joined"]) for event in log] == [3]


def test_a_row_of_parts_is_no_chain():
    """Two halves of one vertebra and, close below, two of the next: each half with its own, and no three."""
    parts = [UPPER, LOWER, ((20, 142, 70, 158), "lumbar", 0.8), ((20, 160, 70, 176), "lumbar", 0.6)]
    found, log = join_fragments(instances([*SPINE[:2], SPINE[4], body(5), *parts]), CLASSES)
    assert [len(event["joined"]) for event in log] == [2, 2]
    assert boxes(found) == [list(box) for box, _, _ in [*SPINE, body(5)]]


def test_neighbours_stay_two():
    assert join_fragments(instances(SPINE), CLASSES)[1] == []
    touching = [((20, 10 + 34 * n, 70, 44 + 34 * n), "lumbar", 0.9) for n in range(6)]
    assert join_fragments(instances(touching), CLASSES)[1] == []


def test_low_neighbours_stay_two():
    # Crushed to half their height, with a disc of usual height between them.
    crushed = [((20, 98, 70, 113), "lumbar", 0.8), ((20, 123, 70, 138), "lumbar", 0.6)]
    assert join_fragments(instances([*WHOLE, *crushed]), CLASSES)[1] == []


def test_halves_that_the_film_cuts_off_are_two_neighbours():
    cut = [body(n, right=45) for n in range(2)]
    assert join_fragments(instances([*cut, *(body(n) for n in range(2, 6))]), CLASSES)[1] == []


def test_two_readings_of_one_place_are_no_parts():
    # What suppression leaves of a vertebra that was found twice, each time but a part of it.
    twice = [((20, 98, 70, 120), "lumbar", 0.8), ((20, 110, 70, 132), "lumbar", 0.6)]
    assert join_fragments(instances([*WHOLE, *twice]), CLASSES)[1] == []
    assert len(join_fragments(instances([*WHOLE, twice[0], ((20, 118, 70, 132), "lumbar", 0.6)]), CLASSES)[1]) == 1


def test_two_sacral_instances_are_s1_and_s2():
    parts = [(box, "sacral", score) for box, _, score in (UPPER, LOWER)]
    assert join_fragments(instances([*WHOLE, *parts]), CLASSES)[1] == []
    mixed = [UPPER, (LOWER[0], "sacral", 0.6)]
    found, log = join_fragments(instances([*WHOLE, *mixed]), CLASSES)
    assert [event["into"]["category"] for event in log] == ["lumbar"]
    assert set(found.category_ids.tolist()) == {1}


def test_metal_is_never_joined():
    parts = [(box, "cage", score) for box, _, score in (UPPER, LOWER)]
    assert join_fragments(instances([*WHOLE, *parts]), CLASSES)[1] == []
    assert join_fragments(instances([*WHOLE, UPPER, (LOWER[0], "cage", 0.6)]), CLASSES)[1] == []


def test_without_two_whole_vertebrae_there_is_no_measure():
    assert join_fragments(instances([SPINE[1], UPPER, LOWER]), CLASSES)[1] == []
    assert len(join_fragments(instances([SPINE[1], SPINE[3], UPPER, LOWER]), CLASSES)[1]) == 1


def test_parts_below_the_score_threshold_stay_as_they_are():
    found = instances([*WHOLE, UPPER, LOWER])
    assert join_fragments(found, CLASSES, score_threshold=0.7)[1] == []
    assert len(join_fragments(found, CLASSES, score_threshold=np.float32(0.6))[1]) == 1


def test_it_can_be_switched_off():
    found, log = join_fragments(instances([*WHOLE, UPPER, LOWER]), CLASSES, Policy(join_fragments=False))
    assert (len(found), log) == (6, [])


@pytest.mark.parametrize("rows", [[], [UPPER], [UPPER, LOWER], [((0, 0, 0, 0), "lumbar", 0.9)] * 3])
def test_nothing_one_and_empty_masks(rows):
    found, log = join_fragments(instances(rows), CLASSES)
    assert (len(found), log) == (len(rows), [])


def test_truth_without_scores():
    found = instances([*WHOLE, UPPER, LOWER])
    truth = Instances(found.image_size, found.boxes, found.masks, found.category_ids)
    joined, log = join_fragments(truth, CLASSES)
    assert (len(joined), len(log)) == (5, 1)
    assert log[0]["into"]["score"] is None


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.6, 0.8]), st.randoms(use_true_random=False))
def test_order_never_matters(cut, gap, score, random):
    parts = [
        ((20, 98, 70, 110 + cut), "lumbar", 0.8),
        ((20, 110 + cut + gap, 70, 122), "lumbar", score),
        ((20, 122, 70, 132), "lumbar", score),
    ]
    rows = [*WHOLE, *parts, ((30, 108, 100, 116), "screw", 0.7)]
    shuffled = random.sample(rows, len(rows))
    (a, first), (b, second) = (join_fragments(instances(r), CLASSES) for r in (rows, shuffled))
    assert first == second
    assert a.boxes.tolist() == b.boxes.tolist()
    assert [m["counts"] for m in a.masks] == [m["counts"] for m in b.masks]


@pytest.fixture(scope="module")
def films():
    """Annotated instances of phantoms of all kinds, as (instances, position of a whole vertebra)."""
    style = PhantomStyle(height_px=256, width_px=192, ap_share=0.3, no_sacrum_share=0.2, six_lumbar_share=0.2)
    made = []
    for number in range(8):
        regions, truth = film_regions(draw_patient(3, number, style), 3, 1, style)
        size = (truth["height"], truth["width"])
        masks = [rle.polygons_to_rle([region.outline], size) for region in regions]
        ids = [CLASSES.index(region.category) + 1 for region in regions]
        whole = [k for k, region in enumerate(regions) if region.category == "lumbar" and region.visible > 0.95]
        scores = np.linspace(0.9, 0.6, len(ids)).tolist()
        made.append((Instances.from_masks(size, masks, ids, scores), whole[len(whole) // 2]))
    return made


def test_nothing_is_joined_on_annotated_films(films):
    assert [join_fragments(found, CLASSES)[1] for found, _ in films] == [[]] * len(films)


def test_a_vertebra_of_a_film_that_a_line_cuts_becomes_one(films):
    for found, index in films:
        dense = rle.decode(found.masks[index])
        rows, columns = np.nonzero(dense)
        across = np.arange(dense.shape[0])[:, None] - rows.mean() + 0.3 * (np.arange(dense.shape[1]) - columns.mean())
        parts = [rle.encode(dense & (across < -0.6)), rle.encode(dense & (across > 0.6))]
        others = [k for k in range(len(found)) if k != index]
        masks = [*(found.masks[k] for k in others), *parts]
        ids = [*found.category_ids[others].tolist(), 1, 1]
        broken = Instances.from_masks(found.image_size, masks, ids, [0.9] * len(masks))
        joined, log = join_fragments(broken, CLASSES)
        assert [len(event["joined"]) for event in log] == [2]
        assert len(joined) == len(found)
        assert log[0]["into"]["box"] == rle.box_xyxy(rle.union(parts, found.image_size)).tolist()


def test_a_hundred_small_pieces_in_one_place_are_tried_at_once():
    rng = np.random.default_rng(0)
    whole = [((40, 60 * k, 80, 60 * k + 30), "lumbar", 0.95) for k in range(4)]
    corners = rng.uniform((20, 100), (80, 160), (96, 2)).astype(int)
    small = [((x, y, x + 12, y + 15), "lumbar", 0.6) for x, y in corners]
    start = time.process_time()
    join_fragments(instances([*whole, *small]), CLASSES)
    # About 0.1 s; all threes of them took half a minute.
    assert time.process_time() - start < 1
