"""Films with regions, as any format's reader hands them over, become a data set; nothing goes missing on the way."""

import gc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vertinst.converters import coco
from vertinst.converters._build import build
from vertinst.converters._draw import draw
from vertinst.converters._films import FilmFolder
from vertinst.converters._ordinary import ordinary_masks
from vertinst.converters._shapes import RegionFault
from vertinst.converters._source import Entry, Options, Region
from vertinst.errors import DataError
from vertinst.structures import rle
from vertinst.structures.conversion import FilmFacts, ReadOptions, Skip

SIZE = HEIGHT, WIDTH = 40, 50


def polygon(*points):
    return {"name": "polygon", "all_points_x": [x for x, _ in points], "all_points_y": [y for _, y in points]}


def box(x=5, y=5, width=10, height=10):
    return polygon((x, y), (x + width, y), (x + width, y + height), (x, y + height))


def dot(x=7, y=8):
    return {"name": "point", "cx": x, "cy": y}


def mask(left=5, top=5, right=15, bottom=15, size=SIZE):
    dense = np.zeros(size, dtype=bool)
    dense[top:bottom, left:right] = True
    return rle.encode(dense)


def entry(*shapes_and_attributes, name="a.png", file="x.json", size=SIZE, **attributes):
    """An entry of regions, each a shape or a mask with its attributes; of the class `lumbar` if they name none."""
    regions = []
    for number, (shape, own) in enumerate(shapes_and_attributes):
        own = own if own.get("class", "") is None else {"class": "lumbar", **own}
        is_mask = "counts" in shape
        regions.append(Region(number, {} if is_mask else shape, own, shape if is_mask else None))
    return Entry(file, name, attributes, tuple(regions), size=size)


def built(*entries, images=None, skips=(), **options):
    return build([Path("x.json")], entries, skips, images, ReadOptions(**options))


def annotations_of(*entries, **options):
    dataset, skips = built(*entries, **options)
    (image,) = dataset.images
    return image.annotations, [(s.region, s.reason, s.repaired) for s in skips]


def test_parts_of_one_instance_are_one_annotation_with_its_points_in_the_same_order():
    found = entry(
        (box(0, 0), {"instance": "1", "side": "left"}),
        (dot(1, 2), {"instance": "1", "keypoint": "tip", "class": None}),
        (box(20, 0), {"instance": "2"}),
        (box(20, 20), {"instance": "1", "side": "right"}),
        (dot(3, 4), {"instance": "1", "class": None}),
    )
    (first, second), skips = annotations_of(found)
    assert skips == []
    assert rle.area(first.mask) == 200
    assert first.outlines == (box(0, 0), box(20, 20), dot(1, 2), dot(3, 4))
    assert [a.get("side", a.get("keypoint")) for a in first.part_attributes] == ["left", "right", "tip", None]
    assert first.attributes["side"] == "left"
    assert first.keypoints == {"tip": (1, 2), "point_2": (3, 4)}
    assert (second.outlines, second.part_attributes) == ((box(20, 0),), ())


def test_parts_of_two_classes_are_two_annotations_and_their_point_is_listed():
    found = entry(
        (box(0, 0), {"instance": "1"}),
        (box(20, 0), {"instance": "1", "class": "screw"}),
        (dot(), {"instance": "1", "class": None}),
    )
    dataset, (skip,) = built(found)
    (image,) = dataset.images
    assert [a.category for a in image.annotations] == ["lumbar", "screw"]
    assert (skip.region, skip.repaired) == (2, False)
    assert "point of an `instance` that is in several classes" in skip.reason
    assert [r["shape_attributes"] for r in image.unread] == [dot()]


def test_points_whose_name_is_taken_get_one_of_their_own():
    names = ["point_2", None, "tip", "tip", "point_5", None]
    points = [(dot(n, n), {"instance": "1", "corner": name, "class": None}) for n, name in enumerate(names)]
    (annotation,), _ = annotations_of(entry((box(), {"instance": "1"}), *points))
    assert sorted(annotation.keypoints.values()) == [(n, n) for n in range(len(names))]
    expected = {"point_2": (0, 0), "tip": (2, 2), "point_5": (4, 4)}
    assert {name: annotation.keypoints[name] for name in expected} == expected


def test_parts_that_name_different_levels_are_listed():
    levels = [{"level": "L4"}, {"level": "LWK 4"}, {"level": ""}, {"level": "L5"}]
    parts = [(box(10 * n, 0), {"instance": "1", **own}) for n, own in enumerate(levels)]
    (annotation,), skips = annotations_of(entry(*parts))
    assert annotation.level == "L4"
    assert skips == [(3, "names another level than the other parts of its instance: theirs taken", True)]


def test_masks_are_taken_as_they_are():
    (annotation,), skips = annotations_of(entry((mask(), {"note": "x"})))
    assert (annotation.mask, annotation.outlines, annotation.drawn) == (mask(), (), False)
    assert annotation.attributes == {"class": "lumbar", "note": "x"}
    assert skips == []


def test_a_mask_and_an_outline_of_one_instance_are_united():
    (annotation,), _ = annotations_of(
        entry((mask(0, 0, 5, 5), {"instance": "1"}), (box(20, 20), {"instance": "1", "side": "left"}))
    )
    assert rle.area(annotation.mask) == 125
    assert annotation.outlines == (box(20, 20),)
    assert [a.get("side") for a in annotation.part_attributes] == ["left"]
    assert not annotation.drawn


def test_a_mask_of_another_size_is_listed_and_kept_as_outline():
    dataset, (skip,) = built(entry((mask(size=(30, 30)), {}), (box(), {})))
    (image,) = dataset.images
    assert (skip.region, skip.reason) == (0, f"mask is 30 x 30 px, the film {WIDTH} x {HEIGHT} px")
    assert len(image.annotations) == 1
    (kept,) = image.unread
    assert rle.area(rle.polygons_to_rle([np.array(outline_points(kept["shape_attributes"]))], (30, 30))) == 100


def outline_points(shape):
    return list(zip(map(float, shape["all_points_x"]), map(float, shape["all_points_y"]), strict=True))


def test_instances_named_by_the_format_itself():
    regions = tuple(Region(n, box(20 * n, 0), {"class": "rod"}, instance="7") for n in range(2))
    (annotation,), _ = annotations_of(Entry("x.txt", "a.png", {}, regions, size=SIZE))
    assert rle.area(annotation.mask) == 200


@pytest.mark.parametrize(("drop", "areas", "reason"), [(False, 2, "both kept"), (True, 1, "left out")])
@pytest.mark.parametrize("shape", [box(), mask()])
def test_repeats_within_a_file(shape, drop, areas, reason):
    found, skips = annotations_of(entry((shape, {}), (shape, {}), (shape, {"other": 1})), drop_duplicates=drop)
    assert len(found) == areas + 1
    assert skips == [(1, f"the same as region 0: {reason}", not drop)]


def test_points_at_two_places_are_no_repeats_and_at_one_are():
    first, second = {"instance": "1", "class": None, "corner": "a"}, {"instance": "1", "class": None, "corner": "b"}
    found = entry((box(), {"instance": "1"}), (dot(1, 1), first), (dot(2, 2), second), (dot(1, 1), first))
    (annotation,), skips = annotations_of(found, drop_duplicates=True)
    assert annotation.keypoints == {"a": (1, 1), "b": (2, 2)}
    assert skips == [(3, "the same as region 1: left out", False)]


def test_a_region_in_two_files_is_taken_once_and_what_is_new_joins_its_instance():
    one = entry((box(0, 0), {"instance": "1"}))
    new = (box(20, 20), {"instance": "1"}), (dot(), {"instance": "1", "class": None})
    two = entry((box(0, 0), {"instance": "1"}), *new, file="y.json")
    (annotation,), skips = annotations_of(one, two)
    assert skips == [(0, "the same as region 0 of x.json: left out", False)]
    assert annotation.outlines == (box(0, 0), box(20, 20), dot())
    assert annotation.keypoints == {"point_1": (7, 8)}


def test_an_instance_is_one_through_any_number_of_files():
    first, second, third, fourth = ((box(10 * n, 0), {"instance": "1"}) for n in range(4))
    files = [entry(first), entry(first, second, file="y.json"), entry(second, third, fourth, file="z.json")]
    (annotation,), skips = annotations_of(*files)
    assert annotation.outlines == tuple(box(10 * n, 0) for n in range(4))
    assert [s[1] for s in skips] == [f"the same as region {n} of {'xy'[n]}.json: left out" for n in range(2)]


def test_attributes_of_a_film_in_several_files_are_those_of_the_first():
    one, two = entry(Patient="A", view="ap"), entry(patient="B", view="ap", note="x", file="y.json")
    dataset, skips = built(one, two)
    (image,) = dataset.images
    assert dict(image.attributes) == {"Patient": "A", "view": "ap", "patient": "B", "note": "x"}
    assert (image.patient, skips) == ("A", ())


def test_thousands_at_one_place_are_told_apart_in_no_time():
    parts = [(box(), {"instance": str(n % 4000), "note": [{"n": n % 4000}]}) for n in range(4001)]
    found, skips = annotations_of(entry(*parts))
    assert len(found) == 4000
    assert skips == [(4000, "the same as region 0: both kept", True)]


def test_thousands_of_entries_of_one_film_are_told_apart_in_no_time():
    entries = [entry(note=n % 4000, file=str(n)) for n in range(4001)]
    dataset, skips = built(*entries)
    assert dataset.images[0].attributes == {"note": 0}
    repeated = [s for s in skips if "occurs again" in s.reason]
    assert [(s.file, s.region) for s in repeated] == [("4000", None)]


def test_the_same_film_twice_is_one():
    found, skips = annotations_of(entry((box(), {})), entry((box(), {}), file="y.json"))
    assert len(found) == 1
    assert skips == [(None, "the same film with the same regions occurs again: once", False)]


def test_skips_come_by_film_and_region():
    early = [Skip("x.json", "b.png", 1, "late film"), Skip("x.json", "gone", None, "no film")]
    tangled = polygon((0, 0), (10, 10), (10, 0), (0, 10))
    first = entry((dot(), {"class": None}), (tangled, {}), (box(90, 90), {}), name="a.png")
    second = entry((box(90, 90), {}), name="b.png")
    _, skips = built(first, second, skips=early)
    assert [(s.image, s.region) for s in skips] == [
        ("gone", None),
        *(("a.png", n) for n in range(3)),
        *(("b.png", n) for n in range(2)),
    ]


def test_what_is_left_out_stays_readable():
    shapes = [polygon((1, 1), (1, 1), (1, 1)), {"name": "blob"}, {}, dot("x", 1), box(float("nan"), 0)]
    dataset, skips = built(entry(*((shape, {"note": n}) for n, shape in enumerate(shapes)), (box(), {})))
    (image,) = dataset.images
    assert [s.region for s in skips] == list(range(5))
    assert [r["region_attributes"]["note"] for r in image.unread] == list(range(5))
    assert [r["shape_attributes"] for r in image.unread[:4]] == shapes[:4]


@pytest.mark.parametrize("size", [None, (0, 5), (10**6, 10**6)])
def test_sizes_without_films_are_needed_and_checked(size):
    with pytest.raises(DataError, match=r"a\.png: (the file states no size|image size must be at least)"):
        built(entry((box(), {}), size=size))


def test_of_two_stated_sizes_the_first_is_taken():
    dataset, (skip,) = built(entry((box(), {})), entry((box(1, 1), {}), size=(30, 30), file="y.json"))
    assert dataset.images[0].image_size == SIZE
    assert (skip.file, skip.repaired) == ("y.json", True)
    assert skip.reason.endswith("the first size taken")


def test_a_stated_size_that_is_wrong_is_listed(tmp_path):
    Image.new("L", (WIDTH, HEIGHT)).save(tmp_path / "a.png")
    dataset, (skip,) = built(entry((box(), {}), size=(99, 98)), images=tmp_path)
    assert dataset.images[0].image_size == SIZE
    assert "the file says otherwise" in skip.reason


def test_every_field_comes_through_a_coco_file(tmp_path):
    options = Options(definitions={"region": {"side": {"type": "text"}}, "file": {}})
    found = entry(
        (box(0, 0), {"instance": "1", "side": "left", "class": "L4"}),
        (dot(1, 2), {"instance": "1", "keypoint": "tip", "class": None}),
        (box(20, 20), {"instance": "1", "side": "right", "ignore": True, "class": "L4"}),
        ({"name": "blob"}, {"note": "?"}),
        view="lateral",
        patient="P1",
    )
    found = Entry(found.file, found.name, found.attributes, found.regions, options, {"filename": "a.png"}, SIZE)
    dataset, _ = built(found)
    coco.write(dataset, tmp_path / "coco.json")
    again = coco.read(tmp_path / "coco.json")
    assert again.attribute_definitions == dataset.attribute_definitions != {}
    (image,), (twin,) = dataset.images, again.images
    for name in ("patient", "view", "attributes", "source", "unread", "image_size"):
        assert getattr(image, name) == getattr(twin, name), name
    (annotation,), (other,) = image.annotations, twin.annotations
    assert annotation.part_attributes
    assert annotation.named_level == "L4"
    assert annotation.ignore
    for name in set(annotation.__dataclass_fields__) - {"drawn"}:
        assert getattr(annotation, name) == getattr(other, name), name


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_is_as_it_was_even_after_an_error(was_on):
    before = gc.isenabled()
    (gc.enable if was_on else gc.disable)()
    try:
        with pytest.raises(DataError, match="no film in any"):
            built()
        assert gc.isenabled() == was_on
    finally:
        (gc.enable if before else gc.disable)()


numbers = st.integers(-20, 70) | st.floats(-20, 70) | st.sampled_from([0, WIDTH, HEIGHT, float("nan"), 10**400, True])
inner = st.integers(0, HEIGHT) | st.floats(0, HEIGHT)
corners = st.lists(st.tuples(inner, inner), min_size=2, max_size=8)
shapes = (
    corners.map(lambda p: polygon(*p))
    | corners.map(lambda p: polygon(*p, p[0]))
    | corners.map(lambda p: polygon(*p, p[0], p[0]))
    | st.lists(st.tuples(numbers, numbers), max_size=6).map(lambda p: polygon(*p))
    | st.builds(box, inner, inner, inner, inner)
    | st.sampled_from(
        [{}, {"name": "polygon"}, {**box(), "all_points_x": ["1", 2, 3, 4]}, {**box(), "name": ["polygon"]}]
    )
    | st.fixed_dictionaries({"name": st.just("rect"), **dict.fromkeys(("x", "y", "width", "height"), inner)})
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.lists(shapes, max_size=6), st.sampled_from([SIZE, (9, 14)])), max_size=4))
def test_drawn_together_or_one_by_one_is_the_same(films):
    drawn = ordinary_masks([film for film, _ in films], [size for _, size in films])
    for (film, size), masks in zip(films, drawn, strict=True):
        for shape, together in zip(film, masks, strict=True):
            try:
                alone = draw(shape, size)
            except RegionFault:
                alone = None
            if together is not None:
                assert alone == (together, ())
                assert rle.area(together) > 0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.builds(box, *[st.integers(0, 20)] * 2, *[st.integers(1, 20)] * 2), min_size=1, max_size=6))
def test_ordinary_polygons_are_drawn_together(film):
    assert all(found is not None for found in ordinary_masks([film], [SIZE])[0])


def test_one_region_that_is_no_number_does_not_spoil_the_others():
    odd = {**box(), "all_points_x": ["1", 2, 3, 4]}
    found, ((number, reason, _),) = annotations_of(entry((box(0, 0), {}), (odd, {}), (box(20, 20), {})))
    assert [rle.area(a.mask) for a in found] == [100, 100]
    assert (number, reason) == (1, "all_points_x must be numbers")


@pytest.fixture
def films(tmp_path):
    for name in ("a.png", "sub/b.png", "sub/deep/c d.png", "other/c d.png", "sub/e#1.png"):
        path = tmp_path / "films" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / "secret.png").write_bytes(b"")
    return tmp_path / "films"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("a.png", "a.png"),
        ("./a.png", "a.png"),
        ("sub/b.png", "sub/b.png"),
        ("sub//b.png", "sub/b.png"),
        ("sub\\b.png", "sub/b.png"),
        ("b.png", "sub/b.png"),
        ("elsewhere/b.png", "sub/b.png"),
        ("https://example.org/x/b.png", "sub/b.png"),
        ("https://example.org/x/e%231.png?y=1", "sub/e#1.png"),
        ("http://[/b.png", "sub/b.png"),
        ("sub/e#1.png", "sub/e#1.png"),
        ("gone.png", None),
        ("sub", None),
        ("", None),
    ],
)
def test_films_are_found(films, name, found):
    folder = FilmFolder(films)
    assert folder.find(name) == found
    assert folder.find(name) == found


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("A.PNG", "a.png"),
        ("x/A.png", "a.png"),
        ("B.PNG", "sub/b.png"),
        ("Ä.png", "A\u0308.PNG"),
        ("https://h/A.Png", "a.png"),
    ],
)
def test_films_are_found_in_other_letters_and_that_is_told(tmp_path, name, there):
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", SIZE[::-1]).save(tmp_path / there)
    dataset, (skip,) = built(entry((box(), {}), name=name), images=tmp_path)
    assert dataset.images[0].file_name == there
    assert (skip.image, skip.repaired) == (name, True)
    assert skip.reason == f"is called {there} in the folder: taken, though spelt otherwise"


def test_films_that_only_letter_case_tells_apart(tmp_path):
    for name in ("a.png", "A.png"):
        Image.new("L", SIZE[::-1]).save(tmp_path / name)
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("letter case makes no difference to this file system")
    dataset, skips = built(entry((box(), {}), name="A.png"), entry(name="a.png"), images=tmp_path)
    assert ([i.file_name for i in dataset.images], skips) == (["A.png", "a.png"], ())
    with pytest.raises(DataError, match=r"several films have this name: A\.png, a\.png"):
        built(entry((box(), {}), name="A.PNG"), images=tmp_path)


def test_names_that_may_mean_another_film_are_told(tmp_path):
    (tmp_path / "right").mkdir()
    for name in ("right/a.png", "b.png"):
        Image.new("L", SIZE[::-1]).save(tmp_path / name)
    names = ["left/a.png", "right/a.png", "x/b.png", "y/b.png", "./b.png", "https://h/z/b.png", "/data/films/b.png"]
    _, skips = built(*(entry((box(n, 0), {}), name=name) for n, name in enumerate(names)), images=tmp_path)
    one = "found as the film that is called x/b.png elsewhere: taken as one"
    assert {s.image: s.reason for s in skips} == {
        "left/a.png": "found in another folder, as right/a.png: taken",
        **dict.fromkeys(["y/b.png", "./b.png", "https://h/z/b.png", "/data/films/b.png"], one),
    }
    assert all(s.repaired for s in skips)


def test_a_name_of_two_films_is_refused(films):
    with pytest.raises(DataError, match=r"several films have this name: other/c d\.png, sub/deep/c d\.png"):
        FilmFolder(films).find("c d.png")


@pytest.mark.parametrize(
    "name", ["../secret.png", "sub/../../secret.png", "/sub/../../secret.png", "C:\\..\\secret.png", "a.png\0"]
)
def test_names_never_lead_outside(films, name):
    folder = FilmFolder(films)
    for known in ("a.png", "sub/b.png"):
        folder.find(known)
    with pytest.raises(DataError, match="leads outside"):
        folder.find(name)


@pytest.mark.parametrize("place", ["/home/x/", "C:\\films\\", "\\\\server\\films\\", "/"])
def test_of_paths_on_other_machines_the_end_counts(films, tmp_path, place):
    folder = FilmFolder(films)
    assert folder.find(f"{place}a.png") == "a.png"
    (films / "sub" / "a.png").write_bytes((films / "a.png").read_bytes())
    assert folder.find(f"{place}sub/a.png") == "sub/a.png"
    assert folder.find(f"{place}sub/a.png") == "sub/a.png"
    # Not even what lies there, on this machine.
    assert folder.find(f"{place}secret.png") is None
    assert folder.find(str(tmp_path / "secret.png")) is None
    assert folder.find("/etc/hostname") is None
    (films / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="leads outside"):
        folder.find(f"{place}link.png")


def test_links_never_lead_outside(films, tmp_path):
    (films / "link.png").symlink_to(tmp_path / "secret.png")
    (films / "up").symlink_to(tmp_path)
    (films / "sub" / "f.png").symlink_to(films / "a.png")
    folder = FilmFolder(films)
    folder.find("a.png")
    assert folder.find("sub/f.png") == "sub/f.png"
    assert folder.find("elsewhere/f.png") == "sub/f.png"
    for name in ("link.png", "up/secret.png", "elsewhere/link.png"):
        with pytest.raises(DataError, match="leads outside"):
            folder.find(name)
    assert folder.find("secret.png") is None


def test_headers_are_read_only_where_they_are_not_known(films):
    Image.new("L", (7, 5)).save(films / "a.png")
    status = (films / "a.png").stat()
    known = {"a.png": FilmFacts(status.st_size, status.st_mtime_ns, 99, 98)}
    assert FilmFolder(films, known).header("a.png").image_size == (98, 99)
    stale = {"a.png": FilmFacts(status.st_size + 1, status.st_mtime_ns, 99, 98)}
    assert FilmFolder(films, stale).header("a.png").image_size == (5, 7)
