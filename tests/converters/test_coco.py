"""COCO files: ours come back unchanged, those of others are read or refused by name."""

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vertinst.converters import coco, via
from vertinst.errors import DataError, VertinstError
from vertinst.structures import rle
from vertinst.structures.dataset import CLASSES, Annotation, Dataset, ImageRecord

HEIGHT, WIDTH = 40, 50
SIZE = (HEIGHT, WIDTH)


def polygon(xs, ys):
    return {"name": "polygon", "all_points_x": xs, "all_points_y": ys}


def mask_of(*boxes, holes=()):
    mask = np.zeros(SIZE, dtype=bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    for left, top, right, bottom in holes:
        mask[top:bottom, left:right] = False
    return rle.encode(mask)


def sample():
    outline = polygon([5, 15, 15, 5], [5, 5, 20, 20])
    annotations = (
        Annotation("lumbar", mask_of((5, 5, 15, 20)), (outline,), {"level": "L5", "grade": 2, "ticks": {"a": True}}),
        Annotation("rod", mask_of((20, 5, 40, 25), holes=[(25, 10, 30, 15)]), (), {}, {"tip": (20.5, 5)}),
        Annotation("cage", rle.empty(SIZE)),
        Annotation("screw", mask_of((30, 30, 35, 35)), (polygon([30, 35, 35, 30], [30, 30, 35, 35]),), {}, {}, True),
    )
    full = ImageRecord(
        7, "sub/ä 1.png", WIDTH, HEIGHT, "P1", "lateral", (0.2, 0.25), "ruler", {"kV": 70, "note": None}, annotations
    )
    return Dataset(CLASSES, (full, ImageRecord(3, "b.png", WIDTH, HEIGHT)))


def assert_same(a, b):
    assert a.categories == b.categories
    assert len(a) == len(b)
    for image, other in zip(a.images, b.images, strict=True):
        for name in set(image.__dataclass_fields__) - {"annotations"}:
            assert getattr(image, name) == getattr(other, name), name
        assert len(image.annotations) == len(other.annotations)
        for annotation, twin in zip(image.annotations, other.annotations, strict=True):
            for name in set(annotation.__dataclass_fields__) - {"drawn"}:
                assert getattr(annotation, name) == getattr(twin, name), name


def written(tmp_path, dataset):
    coco.write(dataset, tmp_path / "coco.json")
    return json.loads((tmp_path / "coco.json").read_text(encoding="utf-8"))


def test_round_trip_keeps_everything(tmp_path):
    coco.write(sample(), tmp_path / "coco.json")
    assert_same(coco.read(tmp_path / "coco.json"), sample())


def test_ids_and_measures(tmp_path):
    content = written(tmp_path, sample())
    assert [(c["id"], c["name"]) for c in content["categories"]] == list(enumerate(CLASSES, start=1))
    assert [i["id"] for i in content["images"]] == [7, 3]
    assert [a["id"] for a in content["annotations"]] == [1, 2, 3, 4]
    bone, rod, empty, ignored = content["annotations"]
    assert (bone["area"], bone["bbox"], bone["iscrowd"]) == (150, [5, 5, 10, 15], 0)
    assert (rod["area"], rod["category_id"]) == (375, 5)
    assert (empty["area"], empty["bbox"]) == (0, [0, 0, 0, 0])
    assert (ignored["ignore"], ignored["iscrowd"]) == (1, 1)


def test_polygons_where_lossless_else_runs(tmp_path):
    bone, rod, empty, ignored = written(tmp_path, sample())["annotations"]
    assert bone["segmentation"] == [[5, 5, 15, 5, 15, 20, 5, 20]]
    assert "outlines" not in bone
    assert all(isinstance(a["segmentation"], dict) for a in (rod, empty, ignored))


def test_outline_that_does_not_give_the_mask_is_kept_beside_it(tmp_path):
    annotation = Annotation("rod", mask_of((0, 0, 3, 3)), (polygon([-9, 3, 3, -9], [0, 0, 9, 9]),))
    dataset = Dataset(("rod",), (ImageRecord(1, "a.png", WIDTH, HEIGHT, annotations=(annotation,)),))
    (found,) = written(tmp_path, dataset)["annotations"]
    assert isinstance(found["segmentation"], dict)
    assert_same(coco.read(tmp_path / "coco.json"), dataset)


def test_what_came_from_elsewhere_comes_back(tmp_path):
    parts = ({"side": "left"}, {"side": "right"})
    outlines = (polygon([5, 15, 15], [5, 5, 20]), {"name": "point", "cx": 1, "cy": 2})
    annotation = Annotation(
        "rod", mask_of((5, 5, 15, 20)), outlines, parts[0], {"tip": (1, 2)}, part_attributes=parts, named_level="L5"
    )
    image = ImageRecord(
        1,
        "a.png",
        WIDTH,
        HEIGHT,
        annotations=(annotation,),
        source={"filename": "a.png", "size": -1},
        unread=({"shape_attributes": {"name": "blob"}, "region_attributes": {}},),
    )
    dataset = Dataset(("rod",), (image,), {"region": {"side": {"type": "text"}}})
    coco.write(dataset, tmp_path / "coco.json")
    again = coco.read(tmp_path / "coco.json")
    assert_same(again, dataset)
    assert again.attribute_definitions == dataset.attribute_definitions


@pytest.mark.parametrize("numbers", [[5, 15, 15.5, 5], [5, 15, 15, 5]])
def test_what_is_known_to_be_drawn_is_written_as_it_was_drawn(tmp_path, numbers):
    outline = polygon(numbers, [5, 5, 20, 20])
    points = np.array([numbers, [5, 5, 20, 20]], dtype=float).T
    annotation = Annotation("rod", rle.polygons_to_rle([points], SIZE), (outline,), drawn=True)
    dataset = Dataset(("rod",), (ImageRecord(1, "a.png", WIDTH, HEIGHT, annotations=(annotation,)),))
    (found,) = written(tmp_path, dataset)["annotations"]
    assert found["segmentation"] == [[v for pair in zip(numbers, [5, 5, 20, 20], strict=True) for v in pair]]
    assert "outlines" not in found
    assert_same(coco.read(tmp_path / "coco.json"), dataset)


@pytest.mark.parametrize(
    "outline", [{**polygon([5, 15, 15], [5, 5, 20]), "note": 1}, {"name": "point", "cx": 1, "cy": 2}]
)
def test_outlines_that_the_segmentation_does_not_say_are_written_beside_it(tmp_path, outline):
    drawn = polygon([5, 15, 15], [5, 5, 20])
    mask = rle.polygons_to_rle([np.array([[5.0, 5], [15, 5], [15, 20]])], SIZE)
    outlines = (outline,) if "note" in outline else (drawn, outline)
    annotation = Annotation("rod", mask, outlines, drawn=True)
    dataset = Dataset(("rod",), (ImageRecord(1, "a.png", WIDTH, HEIGHT, annotations=(annotation,)),))
    (found,) = written(tmp_path, dataset)["annotations"]
    assert found["segmentation"] == [[5, 5, 15, 5, 15, 20]]
    assert_same(coco.read(tmp_path / "coco.json"), dataset)


def test_nothing_is_left_beside_the_file(tmp_path):
    coco.write(sample(), tmp_path / "coco.json")
    with pytest.raises(DataError, match="an attribute cannot be written as JSON"):
        coco.write(
            Dataset(("rod",), (ImageRecord(1, "a.png", 9, 9, attributes={"x": float("nan")}),)), tmp_path / "coco.json"
        )
    assert [p.name for p in tmp_path.iterdir()] == ["coco.json"]
    assert_same(coco.read(tmp_path / "coco.json"), sample())


@pytest.mark.parametrize(
    ("dataset", "what"), [(Dataset(CLASSES), "image"), (Dataset((), sample().images[1:]), "category")]
)
def test_empty_data_sets_are_refused(tmp_path, dataset, what):
    with pytest.raises(DataError, match=f"must have at least one {what}"):
        coco.write(dataset, tmp_path / "coco.json")


def test_unwritable_place(tmp_path):
    (tmp_path / "coco.json").mkdir()
    with pytest.raises(VertinstError, match="cannot be written"):
        coco.write(sample(), tmp_path / "coco.json")


def foreign():
    """A COCO file as others write it: categories in any order, ids from 0, no area."""
    return {
        "images": [{"id": 10, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}],
        "categories": [{"id": 9, "name": "rod"}, {"id": 2, "name": "lumbar", "keypoints": []}],
        "annotations": [
            {"id": 0, "image_id": 10, "category_id": 9, "segmentation": [[1, 1, 9, 1, 9, 9], [20, 20, 30, 20, 30, 30]]}
        ],
    }


def read(tmp_path, content):
    path = tmp_path / "foreign.json"
    path.write_text(json.dumps(content))
    return coco.read(path)


def test_foreign_file(tmp_path):
    dataset = read(tmp_path, foreign())
    assert dataset.categories == ("lumbar", "rod")
    (annotation,) = dataset.images[0].annotations
    assert annotation.category == "rod"
    assert annotation.outlines == (polygon([1, 9, 9], [1, 1, 9]), polygon([20, 30, 30], [20, 20, 30]))
    mask = rle.decode(annotation.mask)
    assert mask[2, 7]
    assert mask[22, 28]
    assert not mask[15, 15]


@pytest.mark.parametrize("key", ["iscrowd", "ignore"])
def test_crowds_are_ignored(tmp_path, key):
    content = foreign()
    content["annotations"][0][key] = 1
    assert read(tmp_path, content).images[0].annotations[0].ignore


@pytest.mark.parametrize("counts", [[100, 50, 1850], "compressed"])
def test_runs(tmp_path, counts):
    mask = np.zeros(HEIGHT * WIDTH, dtype=bool)
    mask[100:150] = True
    expected = rle.encode(mask.reshape(WIDTH, HEIGHT).T)
    content = foreign()
    counts = rle.to_coco(expected)["counts"] if isinstance(counts, str) else counts
    content["annotations"][0]["segmentation"] = {"size": list(SIZE), "counts": counts}
    assert read(tmp_path, content).images[0].annotations[0].mask == expected


@pytest.mark.parametrize("ids", [[0, 1], ["x", "y"], ["1", 1], [-4, 4]])
def test_other_image_ids_are_numbered_anew(tmp_path, ids):
    content = foreign()
    content["images"] = [{**content["images"][0], "id": i, "file_name": f"{n}.png"} for n, i in enumerate(ids)]
    content["annotations"][0]["image_id"] = ids[1]
    dataset = read(tmp_path, content)
    assert [(i.image_id, len(i.annotations)) for i in dataset.images] == [(1, 0), (2, 1)]


def broken(path, value):
    """`foreign()` with one value replaced, or removed where it is `...`."""
    content = foreign()
    *parents, last = path
    place = content
    for step in parents:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return content


ANNOTATION = ("annotations", 0)
IMAGE = ("images", 0)
RUNS = {"size": [HEIGHT, WIDTH], "counts": [HEIGHT * WIDTH]}


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("images",), ..., "must be a COCO file"),
        (("categories",), ..., "categories must be a list, got nothing"),
        (("images",), 3, "images must be a list, got int"),
        (("images",), [], "image_id must be the id of an image"),
        (("images",), [5], r"images\[0\] must be an object"),
        ((*IMAGE, "id"), None, "image 0: id must be an integer"),
        ((*IMAGE, "id"), True, "image 0: id must be an integer"),
        ((*IMAGE, "id"), 1.5, "image 0: id must be an integer"),
        ((*IMAGE, "file_name"), 3, "image 0: file_name must be a text, got int"),
        ((*IMAGE, "width"), ..., "image 0: width must be an integer, got nothing"),
        ((*IMAGE, "height"), "40", "image 0: height must be an integer, got str"),
        ((*IMAGE, "height"), 0, "image 0: image size must be at least 1 x 1"),
        ((*IMAGE, "height"), 10**12, "image 0: image size must be at least 1 x 1 and at most"),
        ((*IMAGE, "pixel_spacing_mm"), [1], "pixel_spacing_mm must be two numbers"),
        ((*IMAGE, "pixel_spacing_mm"), [0, 1], "pixel_spacing_mm must be positive"),
        ((*IMAGE, "pixel_spacing_mm"), [1, 1], "image 0: pixel spacing must name its source"),
        ((*IMAGE, "attributes"), [1], "attributes must be an object"),
        ((*IMAGE, "source"), "x", "image 0: source must be an object, got str"),
        ((*IMAGE, "unread"), {}, "image 0: unread must be a list"),
        ((*IMAGE, "unread"), ["x"], r"image 0: unread\[0\] must be an object"),
        (("attribute_definitions",), [], "attribute_definitions must be an object"),
        (("attribute_definitions",), {"region": 3}, "attribute_definitions: region must be an object"),
        (("categories", 0, "id"), 2, "category 1: category 'lumbar' must have an id and a name of its own"),
        (("categories", 0, "name"), "lumbar", "must have an id and a name of its own"),
        (("categories", 0, "name"), "", "name must be a text"),
        ((*ANNOTATION, "id"), ..., "annotation at position 0: id must be an integer"),
        ((*ANNOTATION, "image_id"), 11, "annotation 0: image_id must be the id of an image"),
        ((*ANNOTATION, "image_id"), [10], "annotation 0: image_id must be the id of an image"),
        ((*ANNOTATION, "category_id"), 1, "annotation 0: category_id must be one of 2, 9, got 1"),
        ((*ANNOTATION, "category_id"), "9", "annotation 0: category_id must be an integer"),
        ((*ANNOTATION, "iscrowd"), 2, "annotation 0: iscrowd must be 0 or 1"),
        ((*ANNOTATION, "attributes"), 2, "annotation 0: attributes must be an object"),
        ((*ANNOTATION, "outlines"), {}, "annotation 0: outlines must be a list"),
        ((*ANNOTATION, "outlines"), [[1]], r"annotation 0: outlines\[0\] must be an object"),
        ((*ANNOTATION, "part_attributes"), {}, "annotation 0: part_attributes must be a list"),
        ((*ANNOTATION, "part_attributes"), [7], r"annotation 0: part_attributes\[0\] must be an object"),
        ((*ANNOTATION, "named_level"), ["L5"], "annotation 0: named_level must be a text, got list"),
        ((*ANNOTATION, "ignore"), "yes", "annotation 0: ignore must be 0 or 1"),
        ((*ANNOTATION, "named_keypoints"), {"a": [1]}, "annotation 0: named_keypoints.a must be two numbers"),
        ((*ANNOTATION, "segmentation"), ..., "annotation 0: segmentation must be polygons or RLE, got none"),
        ((*ANNOTATION, "segmentation"), [], "annotation 0: segmentation must hold a polygon"),
        ((*ANNOTATION, "segmentation"), [1, 2, 3, 4, 5, 6], "annotation 0: polygon must be a list of numbers"),
        ((*ANNOTATION, "segmentation"), [[1, 2, 3, 4]], "even number of at least 6 coordinates, got 4"),
        ((*ANNOTATION, "segmentation"), [[1, 2, 3, 4, 5, 6, 7]], "even number of at least 6 coordinates, got 7"),
        ((*ANNOTATION, "segmentation"), [["1", 2, 3, 4, 5, 6]], "polygon must be a list of numbers"),
        ((*ANNOTATION, "segmentation"), [[float("nan"), 2, 3, 4, 5, 6]], "coordinates must be finite"),
        ((*ANNOTATION, "segmentation"), [[10**400, 2, 3, 4, 5, 6]], "annotation 0: polygon"),
        ((*ANNOTATION, "segmentation"), [[-9e4, 1, 9e4, 2] * 100], "outline must be at most"),
        ((*ANNOTATION, "segmentation"), {**RUNS, "size": [5, 5]}, "RLE must have the image's size"),
        ((*ANNOTATION, "segmentation"), {**RUNS, "size": "x"}, "RLE must have a size of two integers"),
        ((*ANNOTATION, "segmentation"), {**RUNS, "counts": [5]}, "runs must add up to 2000 pixels, got 5"),
        ((*ANNOTATION, "segmentation"), {**RUNS, "counts": [-5, 2005]}, "runs must add up to"),
        ((*ANNOTATION, "segmentation"), {**RUNS, "counts": [1.5]}, "RLE counts must be a text or a list of integers"),
        ((*ANNOTATION, "segmentation"), {**RUNS, "counts": [10**30]}, "RLE counts are damaged"),
        ((*ANNOTATION, "segmentation"), {**RUNS, "counts": 10**12}, "RLE counts must be a text"),
        ((*ANNOTATION, "segmentation"), {**RUNS, "counts": "o" * 1_000_000}, "RLE counts are damaged"),
        ((*ANNOTATION, "segmentation"), {**RUNS, "counts": "ä~"}, "RLE counts are damaged"),
    ],
)
def test_broken_files_are_refused_by_name(tmp_path, path, value, message):
    with pytest.raises(DataError, match=message) as error:
        read(tmp_path, broken(path, value))
    assert error.value.fix
    assert "foreign.json" in str(error.value)


@pytest.mark.parametrize(
    ("key", "what"), [("images", "image id must occur once"), ("annotations", "annotation id must")]
)
def test_duplicate_ids(tmp_path, key, what):
    content = foreign()
    content[key] *= 2
    with pytest.raises(DataError, match=what):
        read(tmp_path, content)


def test_duplicate_file_names(tmp_path):
    content = foreign()
    content["images"].append({**content["images"][0], "id": 11})
    with pytest.raises(DataError, match=r"file_name must occur once, got 'a\.png' twice"):
        read(tmp_path, content)


@pytest.mark.parametrize("text", ["", "[]", '{"images": 1}', "null"])
def test_files_that_are_not_coco(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(DataError, match=r"x\.json: (is not valid JSON|must be a COCO file)"):
        coco.read(tmp_path / "x.json")


def test_empty_file_of_the_right_kind(tmp_path):
    with pytest.raises(DataError, match="must have at least one image"):
        read(tmp_path, {"images": [], "annotations": [], "categories": [{"id": 1, "name": "rod"}]})


def overlapping_spine(rng):
    """Films with overlapping instances of all classes, holes and parts."""
    images = []
    for number in range(1, 5):
        annotations = []
        for _ in range(6):
            left, top = rng.integers(0, [WIDTH - 20, HEIGHT - 15])
            right, bottom = left + rng.integers(6, 20), top + rng.integers(6, 15)
            hole = (left + 2, top + 2, left + 4, top + 4)
            mask = mask_of((left, top, right, bottom), (0, number, 2, number + 2), holes=[hole])
            annotations.append(Annotation(CLASSES[rng.integers(5)], mask))
        images.append(ImageRecord(number, f"{number}.png", WIDTH, HEIGHT, annotations=tuple(annotations)))
    return Dataset(CLASSES, tuple(images))


@pytest.mark.parametrize("kind", ["segm", "bbox"])
@pytest.mark.parametrize("library", ["pycocotools", "hotcoco"])
def test_truth_scored_against_itself(tmp_path, library, kind):
    module = pytest.importorskip(library)
    if library == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    else:
        COCO, COCOeval = module.COCO, module.COCOeval
    content = written(tmp_path, overlapping_spine(np.random.default_rng(3)))
    results = [{k: a[k] for k in ("image_id", "category_id", "segmentation", "bbox")} for a in content["annotations"]]
    (tmp_path / "results.json").write_text(json.dumps([{**r, "score": 0.9} for r in results]))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "coco.json"))
        evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert list(evaluation.stats[:3]) == pytest.approx([1, 1, 1])


numbers = st.integers(-10, 60) | st.floats(-10, 60, allow_nan=False)
points = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=9)
shapes = (
    points.map(lambda p: polygon([x for x, _ in p], [y for _, y in p]))
    | st.fixed_dictionaries({"name": st.just("rect"), **dict.fromkeys(("x", "y", "width", "height"), numbers)})
    | st.fixed_dictionaries({"name": st.just("circle"), "cx": numbers, "cy": numbers, "r": st.floats(0.5, 30)})
    | st.fixed_dictionaries(
        {"name": st.just("ellipse"), **dict.fromkeys(("cx", "cy", "theta"), numbers), "rx": numbers, "ry": numbers}
    )
)
values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.dictionaries(st.text(max_size=3), st.booleans())
)
drawn_regions = st.fixed_dictionaries(
    {
        "shape_attributes": shapes,
        "region_attributes": st.fixed_dictionaries(
            {"class": st.sampled_from(["lumbar", "Kreuzbein", "L4", "screw"])},
            optional={
                "instance": st.sampled_from(["1", "2"]),
                "level": values,
                "note": values,
                "ignore": st.booleans(),
            },
        ),
    }
)


@settings(max_examples=60, deadline=None)
@given(regions=st.lists(drawn_regions, max_size=6), attributes=st.dictionaries(st.text(max_size=5), values, max_size=3))
def test_via_to_coco_and_back_is_the_identity(tmp_path_factory, regions, attributes):
    folder = tmp_path_factory.mktemp("films")
    Image.new("L", (WIDTH, HEIGHT)).save(folder / "a.png")
    source = {"filename": "a.png", "size": -1, "regions": regions, "file_attributes": attributes}
    (folder / "via.json").write_text(json.dumps({"a.png-1": source}))
    dataset, _ = via.read([folder / "via.json"], folder)
    coco.write(dataset, folder / "coco.json")
    once = coco.read(folder / "coco.json")
    assert_same(once, dataset)
    coco.write(once, folder / "again.json")
    assert (folder / "again.json").read_bytes() == (folder / "coco.json").read_bytes()
