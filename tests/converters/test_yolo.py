"""YOLO labels become annotations, and annotations YOLO labels with the masks that they had."""

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vertinst.converters import yolo
from vertinst.errors import DataError, OutputExistsError, VertinstError
from vertinst.structures import rle
from vertinst.structures.conversion import ReadOptions
from vertinst.structures.dataset import CLASSES, Annotation, Dataset, ImageRecord

HEIGHT, WIDTH = 40, 50
SIZE = (HEIGHT, WIDTH)
SQUARE = "0 0.1 0.125 0.3 0.125 0.3 0.5 0.1 0.5"


def film(path, size=(WIDTH, HEIGHT)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size).save(path)


def label(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def data_set(folder, *lines, names=("lumbar", "sacral")):
    film(folder / "images/a.png")
    label(folder / "labels/a.txt", *lines)
    (folder / "data.yaml").write_text(yaml.safe_dump({"names": list(names)}))
    return folder


def mask_of(*boxes, holes=()):
    mask = np.zeros(SIZE, dtype=bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    for left, top, right, bottom in holes:
        mask[top:bottom, left:right] = False
    return rle.encode(mask)


def test_polygons_boxes_and_scores(tmp_path):
    folder = data_set(tmp_path, SQUARE, "1 0.5 0.5 0.2 0.1", "", "0.0 0.5 0.5 0.2 0.1 0.75", SQUARE + " 0.5")
    dataset, skips = yolo.read([folder], None)
    found = dataset.images[0].annotations
    assert skips == ()
    assert [a.category for a in found] == ["lumbar", "sacral", "lumbar", "lumbar"]
    assert found[0].outlines == ({"name": "polygon", "all_points_x": [5, 15, 15, 5], "all_points_y": [5, 5, 20, 20]},)
    assert found[0].mask == mask_of((5, 5, 15, 20))
    assert found[1].outlines == ({"name": "rect", "x": 20, "y": 18, "width": 10, "height": 4},)
    assert [a.attributes for a in found] == [{}, {}, {"score": 0.75}, {"score": 0.5}]


@pytest.mark.parametrize("names", [["lumbar", "L5"], {0: "lumbar", 1: "L5"}, {"0": "lumbar", "1": "L5"}])
def test_names_may_be_list_or_dictionary(tmp_path, names):
    folder = data_set(tmp_path, SQUARE, SQUARE.replace("0 ", "1 ", 1))
    (folder / "data.yaml").write_text(yaml.safe_dump({"names": names}))
    for path in (folder, folder / "data.yaml"):
        dataset, _ = yolo.read([path], None)
        assert [(a.category, a.level) for a in dataset.images[0].annotations] == [("lumbar", None), ("lumbar", "L5")]


def test_films_of_a_set_without_labels_have_no_annotations(tmp_path):
    folder = data_set(tmp_path, SQUARE)
    film(folder / "images/train/b.jpg")
    dataset, _ = yolo.read([folder], None)
    assert [(i.file_name, len(i.annotations)) for i in dataset.images] == [("a.png", 1), ("train/b.jpg", 0)]
    dataset, _ = yolo.read([folder / "labels"], folder / "images", ReadOptions(class_map={"0": "rod"}))
    assert [(i.file_name, [a.category for a in i.annotations]) for i in dataset.images] == [("a.png", ["rod"])]


def test_text_files_with_names_beside_them_or_none(tmp_path):
    film(tmp_path / "films/sub/a.tif")
    label(tmp_path / "labels/a.txt", SQUARE)
    dataset, _ = yolo.read([tmp_path / "labels"], tmp_path / "films")
    assert (dataset.images[0].file_name, dataset.categories) == ("sub/a.tif", ("0",))
    label(tmp_path / "labels/classes.txt", "sacrum", "rod")
    for path in (tmp_path / "labels", tmp_path / "labels/a.txt"):
        dataset, _ = yolo.read([path], tmp_path / "films")
        assert [a.category for a in dataset.images[0].annotations] == ["sacral"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x 0.1 0.1 0.2 0.2", "must be a class number"),
        ("-1 0.1 0.1 0.2 0.2", "must be a class number"),
        ("0 0.1 nan 0.2 0.2", "must be a class number"),
        ("0 0.1 1e300 0.2 0.2", "must be a class number"),
        (f"0 {'1' * 5000} 0.1 0.2 0.2", "must be a class number"),
        (f"{'1' * 5000} 0.1 0.1 0.2 0.2", "must be a class number"),
        ("7 0.1 0.1 0.2 0.2", "class 7 has no name"),
        ("0 0.1 0.1", "at least four numbers"),
        ("0", "at least four numbers"),
        ("0 0.1 0.1 0 0.2", "must have an area"),
        ("0 2 2 3 2 3 3", "outside of the film"),
    ],
)
def test_what_cannot_be_used_is_listed_and_kept(tmp_path, line, reason):
    dataset, skips = yolo.read([data_set(tmp_path, SQUARE, line)], None)
    assert len(dataset.images[0].annotations) == 1
    assert [(s.region, s.repaired) for s in skips] == [(1, False)]
    assert reason in skips[0].reason
    assert len(dataset.images[0].unread) == 1


def test_what_leaves_the_film_is_cut_off(tmp_path):
    dataset, skips = yolo.read([data_set(tmp_path, "0 -0.1 0.1 0.2 0.1 0.2 0.3")], None)
    assert [s.repaired for s in skips] == [True]
    assert dataset.images[0].annotations[0].outlines[0]["all_points_x"] == [-5, 10, 10]


def test_sets_that_cannot_be_read_are_refused(tmp_path):
    folder = data_set(tmp_path / "set", SQUARE)
    with pytest.raises(DataError, match="no such file"):
        yolo.read([tmp_path / "missing"], None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no label file"):
        yolo.read([tmp_path / "empty"], None)
    for text, message in (("names: 3", "names of the classes"), ("a: [", "not valid YAML"), ("[]", "names of the")):
        (folder / "data.yaml").write_text(text)
        with pytest.raises(DataError, match=message):
            yolo.read([folder], None)
    (folder / "data.yaml").unlink()
    label(folder / "labels/other.txt", SQUARE)
    with pytest.raises(DataError, match="1 of 2 films are not there: other"):
        yolo.read([folder], None)
    (folder / "labels/other.txt").write_bytes(b"\xff\xfe\x00")
    film(folder / "images/other.png")
    with pytest.raises(DataError, match="not a text file"):
        yolo.read([folder], None)


def polygon(xs, ys):
    return {"name": "polygon", "all_points_x": xs, "all_points_y": ys}


def write(folder, *annotations, size=SIZE, **fields):
    record = ImageRecord(1, "sub/a.png", size[1], size[0], annotations=annotations, **fields)
    losses = yolo.write(Dataset((*CLASSES, "disc"), (record, ImageRecord(2, "b.png", *size[::-1]))), folder / "out")
    film(folder / "out/images/sub/a.png", size[::-1])
    film(folder / "out/images/b.png", size[::-1])
    dataset, skips = yolo.read([folder / "out"], None)
    return next(i for i in dataset.images if i.file_name == "sub/a.png").annotations, losses, skips


def test_outlines_come_back_vertex_by_vertex(tmp_path):
    outline = polygon([5, 15.1, 15.123456, 5], [5, 5, 20.7, 20])
    mask = rle.polygons_to_rle([np.array([outline["all_points_x"], outline["all_points_y"]]).T], SIZE)
    found, losses, skips = write(tmp_path, Annotation("disc", mask, (outline,)))
    assert (losses, skips) == ((), ())
    assert [(a.category, a.mask, a.outlines) for a in found] == [("disc", mask, (outline,))]
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.txt")) == [
        "labels/b.txt",
        "labels/sub/a.txt",
    ]
    assert (tmp_path / "out/labels/b.txt").read_text() == ""
    content = yaml.safe_load((tmp_path / "out/data.yaml").read_text())
    # Without `path`: Ultralytics would look for it from the working folder, or in its own.
    assert content == {"train": "images", "val": "images", "names": dict(enumerate((*CLASSES, "disc")))}


def test_parts_and_holes_are_joined_and_taken_apart(tmp_path):
    masks = [
        mask_of((5, 5, 15, 20), (30, 30, 35, 35), (20, 2, 24, 6)),
        mask_of((5, 5, 35, 35), holes=[(10, 10, 15, 15), (20, 20, 30, 30)]),
        mask_of((2, 2, 20, 20), (30, 30, 40, 39), holes=[(5, 5, 9, 9)]),
    ]
    found, losses, skips = write(tmp_path, *(Annotation("lumbar", mask) for mask in masks))
    assert [a.mask for a in found] == masks
    assert [s.reason for s in losses] == [
        "3 parts and 0 holes joined into one polygon",
        "1 parts and 2 holes joined into one polygon",
        "2 parts and 1 holes joined into one polygon",
    ]
    assert all(s.repaired for s in (*losses, *skips))
    lines = (tmp_path / "out/labels/sub/a.txt").read_text().splitlines()
    assert len(lines) == 3
    for line, mask in zip(lines, masks, strict=True):
        points = np.array(line.split()[1:], dtype=float).reshape(-1, 2) * [WIDTH, HEIGHT]
        assert rle.polygons_to_rle([points], SIZE)["counts"] == mask["counts"]


def test_losses_are_told(tmp_path):
    square = polygon([5, 15, 15, 5], [5, 5, 20, 20])
    annotations = (
        Annotation("lumbar", mask_of((5, 5, 15, 20)), (square,), {"level": "L5"}, {"tip": (1, 1)}),
        Annotation("lumbar", mask_of((5, 5, 15, 20)), ignore=True),
        Annotation("lumbar", rle.empty(SIZE)),
    )
    found, losses, _ = write(tmp_path, *annotations, patient="P7", view="ap", unread=({},))
    assert len(found) == 1
    reasons = [s.reason for s in losses]
    assert reasons[:2] == ["marked `ignore`: left out", "covers no pixel: left out"]
    assert reasons[2] == (
        "YOLO has no place for: attributes, levels, keypoints, patient, view, 1 regions that are no annotations"
    )
    assert not any("P7" in reason for reason in reasons)


def test_outlines_beyond_the_film_follow_its_edge(tmp_path):
    outline = polygon([-5, 15, 15, -5], [5, 5, 20, 20])
    mask = rle.polygons_to_rle([np.array([[-5, 5], [15, 5], [15, 20], [-5, 20]], dtype=float)], SIZE)
    found, losses, _ = write(tmp_path, Annotation("lumbar", mask, (outline,)))
    assert found[0].mask == mask
    values = np.array((tmp_path / "out/labels/sub/a.txt").read_text().split()[1:], dtype=float)
    assert values.min() >= 0
    assert values.max() <= 1
    assert len(losses) == 1


def test_outputs_never_collide_nor_leave_the_folder(tmp_path):
    records = [ImageRecord(n, name, WIDTH, HEIGHT) for n, name in enumerate(("a.png", "a.jpg"), start=1)]
    yolo.write(Dataset(CLASSES, tuple(records)), tmp_path / "out")
    for name in ("a.png", "a.jpg"):
        film(tmp_path / "out/images" / name)
    dataset, _ = yolo.read([tmp_path / "out"], None)
    assert sorted(i.file_name for i in dataset.images) == ["a.jpg", "a.png"]
    with pytest.raises(OutputExistsError, match="not empty"):
        yolo.write(Dataset(CLASSES, tuple(records)), tmp_path / "out")
    with pytest.raises(DataError, match="leads outside"):
        yolo.write(Dataset(CLASSES, (ImageRecord(1, "../a.png", WIDTH, HEIGHT),)), tmp_path / "no")
    with pytest.raises(DataError, match="at least one film"):
        yolo.write(Dataset(CLASSES), tmp_path / "none")


def touches_in_corners(grid):
    a, b, c, d = grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]
    return ((a & d & ~b & ~c) | (b & c & ~a & ~d)).any()


@settings(max_examples=80, deadline=None)
@given(grid=st.lists(st.lists(st.booleans(), min_size=7, max_size=7), min_size=6, max_size=6))
def test_any_mask_comes_back(tmp_path_factory, grid):
    dense = np.array(grid, dtype=bool)
    folder = tmp_path_factory.mktemp("trip")
    found, _, skips = write(folder, Annotation("disc", rle.encode(dense)), size=dense.shape)
    if not dense.any():
        assert found == ()
        return
    assert [a.category for a in found] == ["disc"]
    assert all(s.repaired for s in skips)
    differing = (rle.decode(found[0].mask) != dense).sum()
    # Where pixels touch in a corner only, the outline may take either way around it.
    assert differing == 0 or (touches_in_corners(dense) and differing <= 4)


@settings(max_examples=100, deadline=None)
@given(text=st.text("0123456789. -e+naif\n", max_size=60))
def test_any_text_is_listed_or_refused(tmp_path_factory, text):
    folder = data_set(tmp_path_factory.mktemp("hostile"), SQUARE, text)
    try:
        yolo.read([folder], None)
    except VertinstError:
        return


def test_settings_that_multiply_themselves_are_refused(tmp_path):
    folder = data_set(tmp_path, SQUARE)
    lines = ["a: &a [x, x]"] + [f"{new}: &{new} [*{old}, *{old}]" for old, new in zip("abcd", "bcde", strict=True)]
    (folder / "data.yaml").write_text("\n".join([*lines, "names: [*e, lumbar]"]))
    with pytest.raises(DataError, match="not valid YAML"):
        yolo.read([folder], None)
    (folder / "data.yaml").write_text("names: [[x, x], lumbar]")
    _, (skip,) = yolo.read([folder], None)
    assert "class 0 has no name" in skip.reason
