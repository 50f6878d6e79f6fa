"""Broken COCO files are mended, with a list of what was mended; correct ones pass unchanged."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vertinst.converters import coco, repair
from vertinst.errors import DataError, VertinstError
from vertinst.structures import rle
from vertinst.structures.conversion import ReadOptions
from vertinst.structures.dataset import CLASSES, Annotation, Dataset, ImageRecord

HEIGHT, WIDTH = 40, 60
SIZE = (HEIGHT, WIDTH)
SQUARE = [5, 5, 15, 5, 15, 20, 5, 20]
MASK = rle.polygons_to_rle([np.array(SQUARE, dtype=float).reshape(-1, 2)], SIZE)


def correct(**fields):
    return {
        "id": 1,
        "image_id": 1,
        "category_id": 1,
        "segmentation": [SQUARE],
        "bbox": [5, 5, 10, 15],
        "area": 150,
        "iscrowd": 0,
        **fields,
    }


def without(annotation, *keys):
    return {key: value for key, value in annotation.items() if key not in keys}


def file(folder, *annotations, **fields):
    content = {
        "info": {},
        "images": [{"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "lumbar"}, {"id": 2, "name": "disc"}],
        "annotations": list(annotations),
        **fields,
    }
    path = folder / "coco.json"
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return path


def mend(folder, *annotations, images=None, options=None, **fields):
    dataset, skips = repair.read([file(folder, *annotations, **fields)], images, options)
    return dataset, [s.reason for s in skips], skips


def square(xs, ys):
    return {"name": "polygon", "all_points_x": xs, "all_points_y": ys}


def sample():
    holed = np.zeros(SIZE, dtype=bool)
    holed[5:30, 20:40], holed[10:15, 25:30] = True, False
    crossed = rle.polygons_to_rle([np.array([[40, 5], [50, 15], [50, 5], [40, 15]], dtype=float)], SIZE)
    two = rle.polygons_to_rle([np.array(p, float).reshape(-1, 2) for p in (SQUARE, [30, 30, 35, 30, 35, 35])], SIZE)
    annotations = (
        Annotation(
            "L5",
            two,
            (square([5, 15, 15, 5], [5, 5, 20, 20]), square([30, 35, 35], [30, 30, 35])),
            {"instance": "a"},
            part_attributes=({"side": "l"}, {"side": "r"}),
        ),
        Annotation("disc", rle.encode(holed), (), {"instance": "a", "ticks": {"x": True}}, {"tip": (20.5, 5)}),
        Annotation("disc", crossed, (square([40, 50, 50, 40], [5, 15, 5, 15]),), named_level="L3"),
        Annotation("disc", MASK, ({"name": "rect", "x": 5, "y": 5, "width": 10, "height": 15},), ignore=True),
    )
    unread = ({"shape_attributes": {"name": "point"}, "region_attributes": {}},)
    full = ImageRecord(
        7, "s/a.png", WIDTH, HEIGHT, "P", "ap", (0.1, 0.2), "ruler", {"kV": 7}, annotations, {"size": 9}, unread
    )
    return Dataset(("disc", "unused", "L5", "lumbar vertebra"), (full, ImageRecord(3, "b.png", WIDTH, HEIGHT)))


def assert_same(a, b):
    assert a.categories == b.categories
    assert len(a) == len(b)
    for image, other in zip(a.images, b.images, strict=True):
        for name in set(image.__dataclass_fields__) - {"annotations"}:
            assert getattr(image, name) == getattr(other, name), name
        for annotation, twin in zip(image.annotations, other.annotations, strict=True):
            for name in set(annotation.__dataclass_fields__):
                assert getattr(annotation, name) == getattr(twin, name), name


def test_a_correct_file_passes_unchanged(tmp_path):
    coco.write(sample(), tmp_path / "coco.json")
    dataset, skips = repair.read([tmp_path / "coco.json"], None)
    assert skips == ()
    assert_same(dataset, coco.read(tmp_path / "coco.json"))
    (tmp_path / "films/s").mkdir(parents=True)
    for name in ("s/a.png", "b.png"):
        Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "films" / name)
    dataset, skips = repair.read([tmp_path / "coco.json"], tmp_path / "films")
    assert skips == ()
    assert_same(dataset, coco.read(tmp_path / "coco.json"))


def test_class_maps_rename(tmp_path):
    dataset, _, skips = mend(
        tmp_path,
        correct(),
        correct(id=2, category_id=2),
        options=ReadOptions(class_map={"lumbar": "LWK", "disc": None}),
    )
    assert dataset.categories == ("LWK",)
    assert [(s.region, s.repaired) for s in skips] == [(1, False)]


# Each: the annotation, and what is said of it.
MENDED = {
    "id 0": (correct(id=0), "annotation id 0: numbered anew from 1"),
    "id missing": (without(correct(), "id"), "annotation without an id"),
    "id text": (correct(id="1"), "annotation id is no integer"),
    "image id as fraction": (correct(image_id=1.0), "image_id is no integer"),
    "image id as text": (correct(image_id="1"), "image_id is no integer"),
    "image id as file name": (correct(image_id="a.png"), "image_id is the name of a film"),
    "image id as stem": (correct(image_id="a"), "image_id is the name of a film"),
    "category id as text": (correct(category_id="1"), "category_id is no integer"),
    "flat list": (correct(segmentation=SQUARE), "segmentation is one flat list"),
    "list of points": (correct(segmentation=[[5, 5], [15, 5], [15, 20], [5, 20]]), "segmentation is a list of points"),
    "polygon of points": (correct(segmentation=[[[5, 5], [15, 5], [15, 20], [5, 20]]]), "polygon is a list of points"),
    "part too short": (correct(segmentation=[SQUARE, [1, 2, 3, 4]]), "polygon of 4 numbers: left out"),
    "odd part": (correct(segmentation=[SQUARE, [1, 2, 3, 4, 5, 6, 7]]), "no pairs: left out"),
    "NaN": (correct(segmentation=[[*SQUARE, float("nan"), 3]]), "points that are no finite numbers"),
    "no segmentation": (without(correct(), "segmentation"), "its box taken as a rectangle"),
    "empty segmentation": (correct(segmentation=[]), "its box taken as a rectangle"),
    "two points": (correct(segmentation=[[5, 5, 15, 20]]), "its box taken as a rectangle"),
    "area missing": (without(correct(), "area"), "area is missing"),
    "area null": (correct(area=None), "area is missing"),
    "area wrong": (correct(area=900), "area is not that of the mask"),
    "bbox missing": (without(correct(), "bbox"), "bbox is missing"),
    "bbox as corners": (correct(bbox=[5, 5, 15, 20]), "bbox is not that of the mask"),
    "iscrowd missing": (without(correct(), "iscrowd"), "iscrowd is missing"),
    "RLE in a list": (correct(segmentation=[rle.to_coco(MASK)]), "list with one RLE"),
    "RLE as text of bytes": (
        correct(segmentation={"size": [40, 60], "counts": str(MASK["counts"])}),
        "Python's text of bytes",
    ),
    "RLE counts alone": (correct(segmentation=MASK["counts"].decode()), "counts of an RLE alone"),
    "RLE without size": (correct(segmentation={"size": "x", "counts": MASK["counts"].decode()}), "size of the RLE"),
    "RLE of fractions": (
        correct(segmentation={"size": [40, 60], "counts": [float(v) for v in rle.runs(MASK)]}),
        "counts are fractions",
    ),
}


@pytest.mark.parametrize("name", MENDED)
def test_annotations_are_mended_and_listed(tmp_path, name):
    annotation, said = MENDED[name]
    dataset, reasons, skips = mend(tmp_path, annotation)
    (found,) = dataset.images[0].annotations
    assert (found.category, found.mask) == ("lumbar", MASK)
    assert any(said in reason for reason in reasons), reasons
    assert all(s.repaired for s in skips)
    coco.write(dataset, tmp_path / "mended.json")
    assert repair.read([tmp_path / "mended.json"], None)[1] == ()


LOST = {
    "unknown image": (correct(image_id=9), "image_id is that of no image"),
    "no image": (without(correct(), "image_id"), "image_id is that of no image"),
    "no outline": (without(correct(), "segmentation", "bbox"), "no box with an area"),
    "flat box": (correct(segmentation=[], bbox=[1, 2, 0, 5]), "no box with an area"),
    "runs too long": (correct(segmentation={"size": [40, 60], "counts": [5, 9000]}), "must add up to 2400"),
    "runs below 0": (correct(segmentation={"size": [40, 60], "counts": [-5, 2405]}), "integers from 0 on"),
    "runs of other size": (correct(segmentation={"size": [9, 9], "counts": [81]}), "image's size"),
    "damaged runs": (correct(segmentation={"size": [40, 60], "counts": "~~~"}), "damaged"),
    "no counts": (correct(segmentation={"size": [40, 60]}), "counts must be"),
    "outside": (correct(segmentation=[[90, 5, 95, 5, 95, 9]]), "covers no pixel"),
    "endless": (correct(segmentation=[[1e9, 5, 95, 5, 95, 9]], bbox=None), "no box with an area"),
    "no object": (7, "must be an object"),
}


@pytest.mark.parametrize("name", LOST)
def test_what_cannot_be_mended_is_left_out_and_listed(tmp_path, name):
    annotation, said = LOST[name]
    dataset, reasons, skips = mend(tmp_path, correct(), annotation)
    assert len(dataset.images[0].annotations) == 1
    assert any(said in s.reason and not s.repaired and s.region == 1 for s in skips), reasons


def test_doubled_ids(tmp_path):
    dataset, reasons, _ = mend(tmp_path, correct(), correct(category_id=2))
    assert [a.category for a in dataset.images[0].annotations] == ["lumbar", "disc"]
    assert reasons == ["annotation id occurs twice: numbered anew"]
    images = [{"id": 1, "file_name": n, "height": HEIGHT, "width": WIDTH} for n in ("a.png", "b.png")]
    path = file(tmp_path, correct(), images=images)
    dataset, skips = repair.read([path], None)
    assert [(i.image_id, i.file_name, len(i.annotations)) for i in dataset.images] == [(1, "a.png", 1), (2, "b.png", 0)]
    assert ["image id occurs twice" in s.reason for s in skips] == [True]


def test_images_from_0_and_sizes_as_text(tmp_path):
    images = [{"id": 0, "file_name": "a.png", "height": "40", "width": 60.0}]
    dataset, skips = repair.read([file(tmp_path, correct(image_id=0), images=images)], None)
    assert (dataset.images[0].image_id, dataset.images[0].image_size) == (1, SIZE)
    assert dataset.images[0].annotations[0].mask == MASK
    assert [s.reason for s in skips] == [
        "width or height written as text: read as number",
        "image id 0: numbered anew from 1",
    ]


@pytest.mark.parametrize(
    ("annotation", "category"),
    [
        (correct(category_id=None, attributes={"Objekte": "LWK"}), "LWK"),
        (correct(category_id=None, category="rod"), "rod"),
        (correct(category_id="cage"), "cage"),
        (correct(category_id=3), "category 3"),
        (correct(category_id=None), "object"),
    ],
)
def test_missing_categories(tmp_path, annotation, category):
    for categories in (None, [], [{"id": 9, "name": "x"}]):
        dataset, reasons, skips = mend(tmp_path, annotation, categories=categories)
        assert [a.category for a in dataset.images[0].annotations] == [category]
        assert all(s.repaired for s in skips)
        assert any("class" in reason for reason in reasons)


def test_sizes_exchanged_told_by_outlines(tmp_path):
    # Fits 60 x 40, but not 40 x 60, as the file says.
    wide = [5, 5, 55, 5, 55, 20, 5, 20]
    images = [{"id": n, "file_name": f"{n}.png", "height": WIDTH, "width": HEIGHT} for n in (1, 2)]
    annotation = correct(segmentation=[wide], bbox=[5, 5, 50, 15], area=750)
    dataset, skips = repair.read([file(tmp_path, annotation, images=images)], None)
    assert [i.image_size for i in dataset.images] == [SIZE, SIZE]
    assert rle.area(dataset.images[0].annotations[0].mask) == 750
    assert [(s.image, s.repaired) for s in skips] == [("1.png", True), ("2.png", True)]
    tall = correct(id=2, image_id=2, segmentation=[[5, 5, 15, 5, 15, 55, 5, 55]], bbox=[5, 5, 10, 50], area=500)
    dataset, skips = repair.read([file(tmp_path, annotation, tall, images=images)], None)
    assert [i.image_size for i in dataset.images] == [SIZE, SIZE[::-1]]
    assert [s.image for s in skips] == ["1.png"]


def test_sizes_exchanged_told_by_films(tmp_path):
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    images = [{"id": 1, "file_name": "a.png", "height": WIDTH, "width": HEIGHT}]
    dataset, skips = repair.read([file(tmp_path, correct(), images=images)], tmp_path)
    assert dataset.images[0].image_size == SIZE
    assert dataset.images[0].annotations[0].mask == MASK
    assert ["film is 60 x 40 px" in s.reason for s in skips] == [True]


def test_images_without_a_size(tmp_path):
    images = [{"id": 1, "file_name": "a.png"}]
    path = file(tmp_path, correct(), images=images)
    dataset, skips = repair.read([path], None)
    assert dataset.images[0].image_size == (21, 16)
    assert [s.repaired for s in skips] == [True]
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    dataset, skips = repair.read([path], tmp_path)
    assert dataset.images[0].image_size == SIZE


def test_the_authors_own_converter(tmp_path):
    # sainatarajan/vggannotation2coco: info as text, ids from 0, flat lists, no categories, no category_id.
    annotation = {"id": 0, "image_id": 0, "segmentation": SQUARE, "area": 150.0, "bbox": [5, 5, 11, 16], "iscrowd": 0}
    images = [{"id": 0, "width": WIDTH, "height": HEIGHT, "file_name": "a.png", "coco_url": "a.png"}]
    content = {"info": "{'year': 2020}", "images": images, "annotations": [annotation, {**annotation, "id": 1}]}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    dataset, skips = repair.read([path], None, ReadOptions(class_map={"object": "lumbar"}, drop_duplicates=True))
    assert [(a.category, a.mask) for a in dataset.images[0].annotations] == [("lumbar", MASK)]
    reasons = [s.reason for s in skips]
    for said in (
        "info is missing, or no object",
        "categories are missing",
        "annotation without a class: called object, to be renamed with --class-map (2 times)",
        "image id 0: numbered anew",
        "annotation id 0: numbered anew",
        "segmentation is one flat list",
        "left out",
    ):
        assert any(said in reason for reason in reasons), said


def test_what_via_itself_exports(tmp_path):
    # VIA 2.0.12: areas are those of the box, a region is written once for each dropdown that it has.
    triangle = [5, 5, 15, 5, 5, 20]
    annotation = correct(segmentation=[triangle], area=150)
    categories = [
        {"supercategory": "Objekte", "id": 1, "name": "lumbar"},
        {"supercategory": "level", "id": 2, "name": "L5"},
    ]
    path = file(tmp_path, annotation, {**annotation, "id": 2, "category_id": 2}, categories=categories)
    dataset, skips = repair.read([path], None)
    assert [a.category for a in dataset.images[0].annotations] == ["lumbar", "L5"]
    assert [s.reason for s in skips] == ["area is that of the box: measured anew (2 times)"]


def test_closed_polygons_are_correct(tmp_path):
    dataset, reasons, _ = mend(tmp_path, correct(segmentation=[[*SQUARE, 5, 5]]))
    assert reasons == []
    assert dataset.images[0].annotations[0].mask == MASK


def test_names_never_lead_outside(tmp_path):
    (tmp_path / "films").mkdir()
    images = [{"id": 1, "file_name": "../a.png", "height": HEIGHT, "width": WIDTH}]
    with pytest.raises(DataError, match="leads outside"):
        repair.read([file(tmp_path, correct(), images=images)], tmp_path / "films")
    (tmp_path / "x.json").write_text('{"images": []}')
    with pytest.raises(DataError, match="lists of images and annotations"):
        repair.read([tmp_path / "x.json"], None)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.sampled_from(["size", "counts", "id"]), inner),
    max_leaves=10,
)


@settings(max_examples=250, deadline=None)
@given(
    place=st.sampled_from(["annotation", "image", "category", "file"]),
    key=st.sampled_from(
        ["id", "image_id", "category_id", "segmentation", "bbox", "area", "iscrowd", "attributes", "file_name", "width"]
    )
    | st.sampled_from(["name", "images", "annotations", "categories", "info", "outlines", "part_attributes", "unread"])
    | st.sampled_from(["named_keypoints", "named_level", "source", "pixel_spacing_mm", "patient", "view"]),
    value=VALUES,
)
def test_wrong_types_are_mended_listed_or_refused(tmp_path_factory, place, key, value):
    one, image = correct(id=2), {"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}
    category, top = {"id": 1, "name": "lumbar"}, {}
    {"annotation": one, "image": image, "category": category, "file": top}[place][key] = value
    fields = {"images": [image], "categories": [category], **top}
    path = tmp_path_factory.mktemp("hostile") / "coco.json"
    path.write_text(json.dumps({"info": {}, "annotations": [correct(), one], **fields}))
    try:
        dataset, _ = repair.read([path], None)
        if dataset.categories:
            coco.write(dataset, path.with_name("out.json"))
    except VertinstError:
        return


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_correct_file_passes_unchanged(tmp_path_factory, data):
    cells = st.lists(st.booleans(), min_size=30, max_size=30)
    points = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 40)), min_size=3, max_size=6)
    annotations = []
    for _ in range(data.draw(st.integers(0, 3))):
        if data.draw(st.booleans()):
            dense = np.zeros(SIZE, dtype=bool)
            dense[3:8, 4:10] = np.array(data.draw(cells)).reshape(5, 6)
            mask, outlines = rle.encode(dense), ()
        else:
            drawn = np.array(data.draw(points), dtype=float)
            mask = rle.polygons_to_rle([drawn], SIZE)
            outlines = (square(drawn[:, 0].tolist(), drawn[:, 1].tolist()),)
        if rle.area(mask):
            annotations.append(Annotation(data.draw(st.sampled_from(["lumbar", "disc"])), mask, outlines))
    before = Dataset((*CLASSES, "disc"), (ImageRecord(4, "a.png", WIDTH, HEIGHT, annotations=tuple(annotations)),))
    path = tmp_path_factory.mktemp("trip") / "coco.json"
    coco.write(before, path)
    dataset, skips = repair.read([path], None)
    assert [s for s in skips if "the same as" not in s.reason] == []
    assert_same(dataset, coco.read(path))
