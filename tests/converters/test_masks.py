"""Pictures of masks become annotations by legend, by name or by value, and are written so that they come back."""

import json

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from vertinst.converters import masks
from vertinst.converters._mask_files import masks_of
from vertinst.errors import DataError, OutputExistsError, VertinstError
from vertinst.postprocess.merge import label_map
from vertinst.report.results import write_film
from vertinst.structures import rle
from vertinst.structures.conversion import ReadOptions
from vertinst.structures.dataset import CLASSES, Annotation, Dataset, ImageRecord
from vertinst.structures.spine import Implant, Spine, Vertebra

HEIGHT, WIDTH = 40, 50
SIZE = (HEIGHT, WIDTH)
LUMBAR = {"": "lumbar"}


def dense(*boxes, values=None, dtype=np.uint8):
    result = np.zeros(SIZE, dtype=dtype)
    for number, (left, top, right, bottom) in enumerate(boxes, start=1):
        result[top:bottom, left:right] = values[number - 1] if values else number
    return result


A, B, C = (5, 5, 15, 20), (20, 20, 30, 30), (32, 2, 40, 9)


def mask_of(*boxes):
    return rle.encode(dense(*boxes) > 0)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def film(folder, name="a.png"):
    path = folder / "films" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (WIDTH, HEIGHT)).save(path)
    return folder / "films"


def found(folder, images=None, **options):
    dataset, skips = masks.read([folder / "masks"], images, ReadOptions(**options))
    return dataset.images[0], skips


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_label_maps_of_instances(tmp_path, dtype):
    values = [3, 200, 255] if dtype is np.uint8 else [3, 300, 65535]
    save(tmp_path / "masks/a.png", dense(A, B, C, values=values, dtype=dtype))
    image, skips = found(tmp_path, film(tmp_path), class_map=LUMBAR)
    assert skips == ()
    assert (image.file_name, image.image_size) == ("a.png", SIZE)
    assert [(a.category, a.mask) for a in image.annotations] == [("lumbar", mask_of(box)) for box in (A, B, C)]
    assert [a.attributes for a in image.annotations] == [{"value": value} for value in values]


def test_label_maps_of_classes_fall_into_parts(tmp_path):
    save(tmp_path / "masks/a_mask.png", dense(A, B, C, values=[1, 1, 2]))
    image, skips = found(tmp_path, film(tmp_path), class_map={"1": "lumbar", "2": "sacral"})
    assert skips == ()
    assert [(a.category, a.mask) for a in image.annotations] == [
        ("lumbar", mask_of(A)),
        ("lumbar", mask_of(B)),
        ("sacral", mask_of(C)),
    ]
    image, _ = found(tmp_path, film(tmp_path), class_map={"1": "lumbar", "2": "sacral"}, mask_kind="instances")
    assert [a.mask for a in image.annotations] == [mask_of(A, B), mask_of(C)]
    image, _ = found(tmp_path, film(tmp_path), mask_kind="classes")
    assert [a.category for a in image.annotations] == ["1", "1", "2"]


@pytest.mark.parametrize("value", [1, 255])
def test_binary_masks_fall_into_parts(tmp_path, value):
    save(tmp_path / "masks/a.png", dense(A, B, values=[value, value]))
    for class_map in (LUMBAR, {str(value): "lumbar"}):
        image, skips = found(tmp_path, film(tmp_path), class_map=class_map)
        assert skips == ()
        assert [(a.category, a.mask) for a in image.annotations] == [("lumbar", mask_of(A)), ("lumbar", mask_of(B))]


@pytest.mark.parametrize(
    "names",
    [
        ("a_lumbar_1.png", "a_L5_2.png", "a_rod_10.png"),
        ("a/lumbar_1.png", "a/L5.png", "a/3_rod.png"),
        ("a.lumbar.1.png", "a-L5.png", "a_rod.png"),
    ],
)
def test_one_picture_per_instance(tmp_path, names):
    for name, box in zip(names, (A, B, C), strict=True):
        save(tmp_path / "masks" / name, dense(box, values=[255]))
    image, skips = found(tmp_path, film(tmp_path))
    assert skips == ()
    by_class = {(a.category, a.level): a.mask for a in image.annotations}
    assert by_class == {("lumbar", None): mask_of(A), ("lumbar", "L5"): mask_of(B), ("rod", None): mask_of(C)}


def test_without_films_names_and_sizes_come_from_the_masks(tmp_path):
    save(tmp_path / "masks/a_1_lumbar_1.png", dense(A))
    save(tmp_path / "masks/a_1_rod_2.png", dense(B))
    image, skips = found(tmp_path)
    assert skips == ()
    assert (image.file_name, image.image_size) == ("a_1.png", SIZE)
    assert [a.category for a in image.annotations] == ["lumbar", "rod"]


def test_without_films_a_name_is_no_class(tmp_path):
    save(tmp_path / "masks/a_AP_1.png", dense(A, B))
    image, _ = found(tmp_path, class_map=LUMBAR)
    assert (image.file_name, len(image.annotations)) == ("a_AP_1.png", 2)


def test_films_whose_names_begin_alike(tmp_path):
    images = film(tmp_path, "a.png")
    film(tmp_path, "a_1.png")
    save(tmp_path / "masks/a_1_lumbar_1.png", dense(A))
    save(tmp_path / "masks/a_rod_1.png", dense(B))
    save(tmp_path / "masks/b_rod_1.png", dense(B))
    dataset, skips = masks.read([tmp_path / "masks"], images)
    assert {i.file_name: [a.category for a in i.annotations] for i in dataset.images} == {
        "a.png": ["rod"],
        "a_1.png": ["lumbar"],
    }
    assert [(s.image, s.reason) for s in skips] == [
        ("b_rod_1.png", "no film has this name, or one that it starts with")
    ]


def test_masks_of_another_size_are_listed(tmp_path):
    save(tmp_path / "masks/a_lumbar_1.png", dense(A))
    save(tmp_path / "masks/a_lumbar_2.png", dense(A)[:20])
    image, skips = found(tmp_path, film(tmp_path))
    assert [a.mask for a in image.annotations] == [mask_of(A)]
    assert any("50 x 20 px" in s.reason and not s.repaired for s in skips)
    assert len(image.unread) == 1


def test_what_is_no_mask_is_refused(tmp_path):
    images = film(tmp_path)
    save(tmp_path / "masks/a.png", dense(A))
    with pytest.raises(DataError, match="nothing says the class"):
        masks.read([tmp_path / "masks"], images)
    with pytest.raises(DataError, match="kind of masks must be one of"):
        found(tmp_path, images, mask_kind="odd")
    rng = np.random.default_rng(0)
    for pixels, message in (
        (rng.integers(0, 255, (*SIZE, 3), dtype=np.uint8), "must be grey"),
        (rng.integers(0, 65535, (80, 80), dtype=np.uint16), "must have at most"),
        ((rng.random((200, 200)) > 0.9).astype(np.uint8), "must have at most 2000 parts"),
    ):
        save(tmp_path / "masks/a.png", pixels)
        with pytest.raises(DataError, match=message):
            found(tmp_path, images, class_map=LUMBAR)
    (tmp_path / "masks/a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match="PNG or TIFF that can be read"):
        found(tmp_path, images, class_map=LUMBAR)
    (tmp_path / "masks/a.png").unlink()
    with pytest.raises(DataError, match="no mask in this folder"):
        found(tmp_path, images)
    with pytest.raises(DataError, match="must be a folder"):
        masks.read([tmp_path / "missing"], None)


def test_palettes_and_equal_channels_are_read(tmp_path):
    palette = Image.fromarray(dense(A, B), mode="P")
    palette.putpalette([0, 0, 0, 200, 10, 10, 10, 200, 10])
    (tmp_path / "masks").mkdir()
    palette.save(tmp_path / "masks/a.png")
    image, _ = found(tmp_path, class_map=LUMBAR)
    assert [a.mask for a in image.annotations] == [mask_of(A), mask_of(B)]
    save(tmp_path / "masks/a.png", np.repeat(dense(A, B)[..., None], 3, axis=2))
    image, _ = found(tmp_path, class_map=LUMBAR)
    assert [a.mask for a in image.annotations] == [mask_of(A), mask_of(B)]


def test_what_prediction_writes_is_read(tmp_path):
    def part(kind, box, *first, score=0.9):
        mask = mask_of(box)
        return kind(*first, score, rle.box_xyxy(mask), mask)

    over = (6, 6, 14, 10)
    vertebrae = (part(Vertebra, A, "L5", "lumbar"), part(Vertebra, B, "+2", "lumbar"))
    implants = (part(Implant, over, "screw"), part(Implant, over, "screw", score=0.95))
    spine = Spine(SIZE, vertebrae, implants, flags=("no_sacrum",))
    write_film(tmp_path / "out", "sub/a.png", np.zeros(SIZE, dtype=np.float32), spine, {})
    for folder in (tmp_path / "out", tmp_path / "out/masks"):
        dataset, skips = masks.read([folder], None)
        (image,) = dataset.images
        assert (image.file_name, image.attributes) == ("sub/a.png", {"flags": "no_sacrum"})
        assert [(a.category, a.level) for a in image.annotations] == [
            ("lumbar", "L5"),
            ("lumbar", "+2"),
            ("screw", None),
        ]
        values = label_map(spine)
        assert [a.mask for a in image.annotations] == [rle.encode(values == v) for v in (1, 2, 4)]
        assert [(s.repaired, "others lie over it" in s.reason) for s in skips] == [(False, True)]


def sample():
    outline = {"name": "polygon", "all_points_x": [5, 15, 15, 5], "all_points_y": [5, 5, 20, 20]}
    annotations = (
        Annotation("lumbar", mask_of(A), (outline,), {"level": "L5", "grade": 2, "instance": "x"}),
        Annotation("lumbar", mask_of(B, C), (), {"level": "7", "instance": "x"}, named_level="L4"),
        Annotation("odd/class", mask_of((32, 20, 36, 36)), ignore=True),
    )
    unread = ({"shape_attributes": {"name": "blob"}, "region_attributes": {"x": 1}},)
    full = ImageRecord(1, "sub/a.png", WIDTH, HEIGHT, "P1", "ap", None, None, {"kV": 7}, annotations, unread=unread)
    return Dataset((*CLASSES, "odd/class"), (full, ImageRecord(2, "b.jpg", WIDTH, HEIGHT)))


@pytest.mark.parametrize("kind", ["label-map", "instances"])
def test_round_trip_keeps_masks_and_attributes(tmp_path, kind):
    losses = masks.write(sample(), tmp_path / "out", kind=kind)
    assert [s.reason for s in losses] == ["masks have no place for: outlines"]
    dataset, skips = masks.read([tmp_path / "out"], None)
    assert [s.reason for s in skips] == ["left out when the masks were written"]
    full, empty = dataset.images
    before = sample().images[0]
    assert (empty.file_name, empty.annotations) == ("b.jpg", ())
    for name in ("file_name", "image_size", "patient", "view", "unread"):
        assert getattr(full, name) == getattr(before, name), name
    for new, old in zip(full.annotations, before.annotations, strict=True):
        assert (new.category, new.mask, new.level, new.ignore) == (old.category, old.mask, old.level, old.ignore)
    assert full.annotations[0].attributes == before.annotations[0].attributes
    assert dataset.categories == sample().categories


def test_legend_says_what_values_mean(tmp_path):
    masks.write(sample(), tmp_path / "out")
    pixels = cv2.imread(str(tmp_path / "out/sub/a.png"), cv2.IMREAD_UNCHANGED)
    assert (pixels.dtype, pixels.shape) == (np.uint16, SIZE)
    assert np.unique(pixels).tolist() == [0, 1, 2, 3]
    legend = json.loads((tmp_path / "out/legend.json").read_text())
    assert legend["kind"] == "label-map"
    keys = ("file", "value", "class", "level", "instance")
    assert [[mask[k] for k in keys] for mask in legend["films"][0]["masks"]] == [
        ["sub/a.png", 1, "lumbar", "L5", 1],
        ["sub/a.png", 2, "lumbar", "L4", 2],
        ["sub/a.png", 3, "odd/class", None, 3],
    ]


def test_overlaps_are_told_and_metal_lies_on_bone(tmp_path):
    over = (6, 6, 14, 10)
    annotations = (
        Annotation("screw", mask_of(over)),
        Annotation("lumbar", mask_of(A)),
        Annotation("rod", mask_of(over)),
    )
    dataset = Dataset(CLASSES, (ImageRecord(1, "a.png", WIDTH, HEIGHT, annotations=annotations),))
    losses = masks.write(dataset, tmp_path / "map")
    assert [(s.region, s.repaired) for s in losses] == [(0, False), (1, True)]
    assert "32 of its 150 pixels lie under other instances" in losses[1].reason
    again, skips = masks.read([tmp_path / "map"], None)
    assert [a.category for a in again.images[0].annotations] == ["lumbar", "rod"]
    assert again.images[0].annotations[1].mask == mask_of(over)
    assert [s.repaired for s in skips] == [False]
    assert masks.write(dataset, tmp_path / "single", kind="instances") == ()
    again, skips = masks.read([tmp_path / "single"], None)
    assert skips == ()
    assert [a.mask for a in again.images[0].annotations] == [a.mask for a in annotations]


def test_binary_masks_are_one_of_each_class(tmp_path):
    losses = masks.write(sample(), tmp_path / "out", kind="binary")
    assert sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png")) == [
        "lumbar/sub/a.png",
        "odd_class/sub/a.png",
    ]
    assert any("2 instances of lumbar in one binary mask" in s.reason for s in losses)
    dataset, _ = masks.read([tmp_path / "out"], None)
    parts = [(a.category, rle.box_xyxy(a.mask).tolist()) for a in dataset.images[0].annotations]
    expected = [("lumbar", list(A)), ("lumbar", list(B)), ("lumbar", list(C)), ("odd/class", [32, 20, 36, 36])]
    assert sorted(parts) == sorted(expected)


def test_outputs_stay_in_their_folder(tmp_path):
    with pytest.raises(DataError, match="kind must be one of"):
        masks.write(sample(), tmp_path / "out", kind="odd")
    masks.write(sample(), tmp_path / "out")
    with pytest.raises(OutputExistsError, match="not empty"):
        masks.write(sample(), tmp_path / "out")
    with pytest.raises(DataError, match="leads outside"):
        masks.write(Dataset(CLASSES, (ImageRecord(1, "../a.png", WIDTH, HEIGHT),)), tmp_path / "no")
    with pytest.raises(DataError, match="at least one film"):
        masks.write(Dataset(CLASSES), tmp_path / "none")


@settings(max_examples=40, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["label-map", "instances"]))
def test_any_masks_come_back(tmp_path_factory, data, kind):
    cells = st.lists(st.integers(0, 3), min_size=30, max_size=30)
    values = np.array(data.draw(cells)).reshape(5, 6)
    annotations = tuple(Annotation("disc", rle.encode(values == v)) for v in (1, 2, 3) if (values == v).any())
    folder = tmp_path_factory.mktemp("trip") / "out"
    masks.write(Dataset(("disc",), (ImageRecord(1, "a.png", 6, 5, annotations=annotations),)), folder, kind=kind)
    dataset, skips = masks.read([folder], None)
    assert skips == ()
    assert [(a.category, a.mask) for a in dataset.images[0].annotations] == [(a.category, a.mask) for a in annotations]


@settings(max_examples=100, deadline=None)
@given(
    value=st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2) | st.just({"a": 1}),
    key=st.sampled_from(["films", "file_name", "height", "masks", "attributes", "unread"]),
    inner=st.sampled_from(["", "file", "value", "class", "attributes", "connected"]),
)
def test_wrong_legends_are_refused_or_read(tmp_path_factory, value, key, inner):
    folder = tmp_path_factory.mktemp("hostile")
    save(folder / "a.png", dense(A))
    mask = {"file": "a.png", "value": 1, "class": "lumbar", "attributes": {}}
    film_record = {"file_name": "a.png", "height": HEIGHT, "width": WIDTH, "masks": [mask]}
    legend = {"films": [film_record]}
    target = mask if inner else legend if key == "films" else film_record
    target[inner or key] = value
    (folder / "legend.json").write_text(json.dumps(legend))
    try:
        masks.read([folder], None)
    except VertinstError:
        return


def test_legends_never_lead_outside(tmp_path):
    save(tmp_path / "secret.png", dense(A))
    (tmp_path / "masks").mkdir()
    film_record = {"file_name": "a.png", "height": HEIGHT, "width": WIDTH}
    film_record["masks"] = [{"file": "../secret.png", "value": 1, "class": "lumbar"}]
    (tmp_path / "masks/legend.json").write_text(json.dumps({"films": [film_record]}))
    with pytest.raises(DataError, match="leads outside"):
        found(tmp_path)


@settings(max_examples=100, deadline=None)
@given(
    arrays(
        st.sampled_from([np.uint8, np.uint16, np.int64]),
        array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9),
        elements=st.integers(0, 3),
    )
)
def test_masks_of_all_values_are_those_of_each(values):
    expected = {int(v): rle.encode(values == v) for v in np.unique(values) if v}
    assert masks_of(values) == expected


def test_pictures_of_other_formats_are_never_decoded(tmp_path):
    (tmp_path / "masks").mkdir()
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "masks/a_mask.png", format="EPS")
    with pytest.raises(DataError, match="not a PNG or TIFF"):
        masks.read([tmp_path / "masks"], None, ReadOptions(class_map=LUMBAR))
