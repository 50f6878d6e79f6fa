"""Corner points become quadrilaterals that never cross themselves, and stay with them as keypoints."""

import json

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from vertinst.converters import keypoints
from vertinst.errors import DataError, VertinstError
from vertinst.structures import rle
from vertinst.structures.conversion import ReadOptions

HEIGHT, WIDTH = 40, 50
NAMES = ["superior_anterior", "superior_posterior", "inferior_posterior", "inferior_anterior"]
SQUARE = [5, 5, 2, 15, 5, 2, 15, 20, 2, 5, 20, 2]


def annotation(points=SQUARE, **fields):
    return {"id": 1, "image_id": 1, "category_id": 1, "keypoints": points, "iscrowd": 0, **fields}


def save(folder, *annotations, names=NAMES, category="lumbar"):
    content = {
        "info": {},
        "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": category, "keypoints": names}],
        "annotations": [{**a, "id": number} for number, a in enumerate(annotations, start=1)],
    }
    path = folder / "k.json"
    path.write_text(json.dumps(content))
    return path


def read(folder, *annotations, **options):
    names, category = options.pop("names", NAMES), options.pop("category", "lumbar")
    path = save(folder, *annotations, names=names, category=category)
    dataset, skips = keypoints.read([path], None, ReadOptions(**options))
    return dataset.images[0].annotations, skips


def test_corners_become_a_quadrilateral(tmp_path):
    (found,), skips = read(tmp_path, annotation(attributes={"level": "L3"}))
    assert skips == ()
    assert found.outlines == ({"name": "polygon", "all_points_x": [5, 15, 15, 5], "all_points_y": [5, 5, 20, 20]},)
    assert rle.area(found.mask) == 150
    assert found.keypoints == dict(zip(NAMES, [(5, 5), (15, 5), (15, 20), (5, 20)], strict=True))
    assert (found.category, found.level, found.attributes) == ("lumbar", "L3", {"level": "L3"})


def test_orders_that_cross_are_sorted_and_said(tmp_path):
    rows = [5, 5, 2, 15, 5, 2, 5, 20, 2, 15, 20, 2]
    (found,), skips = read(tmp_path, annotation(rows))
    assert [(s.region, s.repaired) for s in skips] == [(0, True)]
    assert "sorted around their middle" in skips[0].reason
    outline = found.outlines[0]
    points = list(zip(outline["all_points_x"], outline["all_points_y"], strict=True))
    assert points == [(5, 5), (15, 5), (15, 20), (5, 20)]
    assert found.keypoints[NAMES[2]] == (5, 20)


def test_visibility(tmp_path):
    hidden = [*SQUARE[:2], 1, *SQUARE[3:]]
    (found,), skips = read(tmp_path, annotation(hidden))
    assert skips == ()
    assert found.attributes == {"visibility": {**dict.fromkeys(NAMES, 2), NAMES[0]: 1}}
    absent = [0, 0, 0, *SQUARE[3:]]
    found, skips = read(tmp_path, annotation(absent), annotation())
    assert len(found) == 1
    assert skips[0].reason == "corners are not annotated: superior_anterior"


def test_levels_as_categories_and_names(tmp_path):
    (found,), _ = read(tmp_path, annotation(), category="L4")
    assert (found.category, found.level) == ("lumbar", "L4")
    lower = [v + 20 if k % 3 == 1 else v for k, v in enumerate(SQUARE)]
    lower = [v - 1 if k % 3 == 1 else v for k, v in enumerate(lower)]
    names = [f"{level}_{name}" for level in ("L4", "L5") for name in NAMES]
    found, skips = read(tmp_path, annotation(SQUARE + lower), names=names, category="spine")
    assert [s for s in skips if not s.repaired] == []
    assert [(a.category, a.level) for a in found] == [("lumbar", "L4"), ("lumbar", "L5")]
    assert [list(a.keypoints) for a in found] == [names[:4], names[4:]]


def test_points_without_names_are_numbered(tmp_path):
    for names in (None, ["a", "a", "b", "c"], ["a"], 3):
        (found,), _ = read(tmp_path, annotation(), names=names)
        assert list(found.keypoints) == ["corner_1", "corner_2", "corner_3", "corner_4"]


@pytest.mark.parametrize(
    "points",
    [
        None,
        [],
        "x",
        SQUARE[:9],
        [*SQUARE, 1],
        [*SQUARE[:-1], None],
        [float("nan"), *SQUARE[1:]],
        [10**400, *SQUARE[1:]],
    ],
)
def test_what_are_no_corners_is_listed_and_kept(tmp_path, points):
    dataset, skips = keypoints.read([save(tmp_path, annotation(), annotation(points))], None)
    assert len(dataset.images[0].annotations) == 1
    assert [(s.region, s.repaired) for s in skips] == [(1, False)]
    assert "four points for each vertebra" in skips[0].reason
    assert len(dataset.images[0].unread) == 1


def test_corners_on_one_line_are_listed(tmp_path):
    found, skips = read(tmp_path, annotation(), annotation([1, 1, 2, 2, 2, 2, 3, 3, 2, 4, 4, 2]))
    assert len(found) == 1
    assert any(not s.repaired and s.region == 1 for s in skips)


def test_files_of_other_kinds_are_refused(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(DataError, match="lists of images and annotations"):
        keypoints.read([tmp_path / "x.json"], None)


@settings(max_examples=100, deadline=None)
@given(points=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 40)), min_size=4, max_size=4, unique=True))
def test_quadrilaterals_never_cross_themselves(tmp_path_factory, points):
    flat = [value for x, y in points for value in (x, y, 2)]
    found, skips = read(tmp_path_factory.mktemp("k"), annotation(), annotation(flat))
    for outline in found[1].outlines if len(found) > 1 else ():
        corners = list(zip(outline["all_points_x"], outline["all_points_y"], strict=True))
        assert sorted(corners) == sorted(points)
        assert shapely.Polygon(corners).is_valid or any("touches" in s.reason for s in skips)
    assert len(found) == 2 or any(not s.repaired for s in skips)


@settings(max_examples=100, deadline=None)
@given(
    key=st.sampled_from(["id", "image_id", "category_id", "keypoints", "iscrowd", "attributes"]),
    value=st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.lists(st.floats(), max_size=12),
)
def test_wrong_types_are_listed_or_refused(tmp_path_factory, key, value):
    path = save(tmp_path_factory.mktemp("hostile"), annotation(), {**annotation(), key: value})
    try:
        keypoints.read([path], None)
    except VertinstError:
        return
