"""CVAT's XML becomes annotations, and annotations XML that gives them back; hostile XML is refused."""

import json
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vertinst.converters import cvat
from vertinst.converters._shapes import trace
from vertinst.errors import DataError, VertinstError
from vertinst.structures import rle
from vertinst.structures.conversion import ReadOptions
from vertinst.structures.dataset import CLASSES, Annotation, Dataset, ImageRecord

HEIGHT, WIDTH = 40, 50
SIZE = (HEIGHT, WIDTH)
SQUARE = '<polygon label="lumbar" source="manual" occluded="0" points="5.00,5.00;15,5;15,20;5,20" z_order="0"/>'


def save(folder, *elements, name="a.png", size=f'width="{WIDTH}" height="{HEIGHT}"', head=""):
    image = f'<image id="0" name={quoteattr(name)} {size}>{"".join(elements)}</image>'
    path = folder / "annotations.xml"
    text = f'<?xml version="1.0" encoding="utf-8"?>{head}<annotations><version>1.1</version>{image}</annotations>'
    path.write_text(text, encoding="utf-8")
    return path


def read(folder, *elements, **options):
    dataset, skips = cvat.read([save(folder, *elements)], None, ReadOptions(**options))
    return dataset.images[0].annotations, skips


def mask_of(*boxes, holes=()):
    mask = np.zeros(SIZE, dtype=bool)
    for left, top, right, bottom in boxes:
        mask[top:bottom, left:right] = True
    for left, top, right, bottom in holes:
        mask[top:bottom, left:right] = False
    return rle.encode(mask)


def test_shapes_become_via_shapes_and_masks(tmp_path):
    found, skips = read(
        tmp_path,
        SQUARE,
        '<box label="sacral" xtl="5" ytl="5" xbr="15" ybr="20"/>',
        '<ellipse label="cage" cx="30" cy="20" rx="8" ry="4" rotation="90.00"/>',
        '<box label="rod" xtl="20" ytl="10" xbr="30" ybr="14" rotation="90"/>',
    )
    assert skips == ()
    assert [a.category for a in found] == ["lumbar", "sacral", "cage", "rod"]
    assert found[0].outlines[0] == {"name": "polygon", "all_points_x": [5, 15, 15, 5], "all_points_y": [5, 5, 20, 20]}
    assert all(type(v) is int for v in found[0].outlines[0]["all_points_x"])
    assert found[1].outlines == ({"name": "rect", "x": 5, "y": 5, "width": 10, "height": 15},)
    # A quarter turn exchanges the sides.
    assert rle.box_xyxy(found[2].mask).tolist() == [26, 12, 34, 28]
    assert rle.box_xyxy(found[3].mask).tolist() == [23, 7, 27, 17]


def test_turned_boxes_turn_clockwise_on_screen(tmp_path):
    found, _ = read(tmp_path, '<box label="rod" xtl="10" ytl="18" xbr="30" ybr="22" rotation="45"/>')
    mask = rle.decode(found[0].mask)
    assert mask[20 + 5, 20 + 5]
    assert mask[20 - 5, 20 - 5]
    assert not mask[20 + 5, 20 - 5]


def test_masks_run_along_rows_of_their_box(tmp_path):
    element = '<mask label="lumbar" rle="0, 1, 1, 4" left="10" top="5" width="3" height="2" occluded="0"/>'
    found, skips = read(tmp_path, element)
    expected = np.zeros(SIZE, dtype=bool)
    expected[5:7, 10:13] = [[1, 0, 1], [1, 1, 1]]
    assert skips == ()
    assert (rle.decode(found[0].mask) == expected).all()


def test_groups_attributes_and_points(tmp_path):
    def part(x, group):
        return (
            f'<polygon label="L4" points="{x},5;{x + 5},5;{x + 5},9" group_id="{group}" occluded="1" z_order="2">'
            '<attribute name="side">left &amp; &lt;right&gt;</attribute><attribute name="empty"/></polygon>'
        )

    point = '<points label="tip" points="6.5,6" group_id="1"/>'
    found, skips = read(tmp_path, part(5, 1), part(20, 1), part(35, 0), point)
    assert skips == ()
    assert [(a.category, a.level, len(a.outlines)) for a in found] == [("lumbar", "L4", 3), ("lumbar", "L4", 1)]
    assert list(found[0].keypoints.values()) == [(6.5, 6)]
    expected = {"side": "left & <right>", "empty": "", "occluded": "1", "z_order": "2", "label": "L4"}
    assert found[1].attributes == expected


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ('<tag label="good"><attribute name="x">1</attribute></tag>', "tag of the whole film"),
        ('<cuboid label="lumbar" xtl1="3"/>', "cuboid"),
        ('<skeleton label="s"><points label="a" points="1,2"/></skeleton>', "skeleton"),
        ('<blob label="lumbar"/>', "unknown element 'blob'"),
        ('<polygon label="lumbar" points="1,2;3"/>', "pairs of numbers"),
        ('<polygon label="lumbar" points="1,2;3,nan;4,5"/>', "points must be numbers"),
        ('<polygon label="lumbar" points="1,2;3,4"/>', "at least three"),
        ('<polygon label="lumbar"/>', "pairs of numbers"),
        ('<polygon points="1,2;3,4;9,9"/>', "has no class"),
        ('<box label="lumbar" xtl="1" ytl="2" xbr="3"/>', "ybr must be numbers"),
        ('<box label="lumbar" xtl="1" ytl="2" xbr="1e300" ybr="3"/>', "xbr must be numbers"),
        ('<ellipse label="lumbar" cx="1" cy="2" rx="0" ry="3"/>', "radius must be positive"),
        ('<mask label="lumbar" rle="5" left="0" top="0" width="2" height="2"/>', "add up to 4 pixels, got 5"),
        ('<mask label="lumbar" rle="-1,5" left="0" top="0" width="2" height="2"/>', "add up to 4 pixels"),
        ('<mask label="lumbar" rle="x" left="0" top="0" width="2" height="2"/>', "whole numbers"),
        ('<mask label="lumbar" rle="4" left="0" top="0" width="99999" height="99999"/>', "positive width and height"),
        ('<mask label="lumbar" rle="0,4" left="90" top="0" width="2" height="2"/>', "covers no pixel"),
        ('<mask label="lumbar" rle="0,4" left="0.5" top="0" width="2" height="2"/>', "whole number"),
        (f'<mask label="lumbar" rle="0,{"9" * 5000}" left="0" top="0" width="2" height="2"/>', "add up to 4 pixels"),
    ],
)
def test_what_cannot_be_used_is_listed_and_kept(tmp_path, broken, reason):
    dataset, skips = cvat.read([save(tmp_path, SQUARE, broken)], None)
    (image,) = dataset.images
    assert [a.category for a in image.annotations] == ["lumbar"]
    assert [(s.region, s.repaired) for s in skips] == [(1, False)]
    assert reason in skips[0].reason
    assert len(image.unread) == 1
    json.dumps(image.unread, allow_nan=False)


BOMB = "<!DOCTYPE lolz [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>]>"
OUTSIDE = "<!DOCTYPE annotations [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>"


@pytest.mark.parametrize("head", [BOMB, OUTSIDE, "<!DOCTYPE annotations SYSTEM 'http://localhost/a.dtd'>"])
def test_document_types_and_entities_are_refused(tmp_path, head):
    with pytest.raises(DataError, match="declares a document type or entities"):
        cvat.read([save(tmp_path, SQUARE, head=head)], None)


def test_files_of_other_kinds_are_refused(tmp_path):
    path = tmp_path / "x.xml"
    for text, message in (
        ("", "is not valid XML"),
        ("<annotations>", "is not valid XML"),
        ("<other/>", "CVAT for images"),
        ('<annotations><track id="0" label="lumbar"/></annotations>', "CVAT for video"),
        ("<annotations/>", "no film in any of the files"),
        ('<?xml version="1.0" encoding="unknown-9"?><annotations/>', "is not valid XML"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            cvat.read([path], None)
    with pytest.raises(DataError, match="cannot be read"):
        cvat.read([tmp_path / "missing.xml"], None)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError, match="unpacked"):
        cvat.read([path.rename(tmp_path / "x.zip")], None)


def test_deep_files_are_refused(tmp_path):
    (tmp_path / "x.xml").write_text(f"<annotations>{'<a>' * 5000}{'</a>' * 5000}</annotations>")
    with pytest.raises(DataError, match="nested at most 50 deep"):
        cvat.read([tmp_path / "x.xml"], None)


def test_large_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(cvat, "MAX_XML_BYTES", 10)
    with pytest.raises(DataError, match="at most 10 bytes"):
        cvat.read([save(tmp_path, SQUARE)], None)


def test_names_never_lead_outside(tmp_path):
    (tmp_path / "films").mkdir()
    with pytest.raises(DataError, match="leads outside"):
        cvat.read([save(tmp_path, SQUARE, name="../a.png")], tmp_path / "films")


def test_sizes_come_from_films_and_masks_must_fit(tmp_path):
    Image.new("L", (80, 60)).save(tmp_path / "a.png")
    mask = '<mask label="rod" rle="0,4" left="70" top="50" width="2" height="2"/>'
    dataset, skips = cvat.read([save(tmp_path, SQUARE, mask)], tmp_path)
    assert dataset.images[0].image_size == (60, 80)
    assert [a.category for a in dataset.images[0].annotations] == ["lumbar", "rod"]
    assert [s.repaired for s in skips] == [True]


def polygon(xs, ys):
    return {"name": "polygon", "all_points_x": xs, "all_points_y": ys}


def sample():
    square, far = polygon([5, 15, 15, 5], [5, 5, 20, 20]), polygon([30.25, 35, 35, 30], [30, 30, 35, 35.1])
    ellipse = {"name": "ellipse", "cx": 20.5, "cy": 20.25, "rx": 5.3, "ry": 3.1, "theta": 0.3}
    disc = rle.polygons_to_rle([trace(ellipse)], SIZE)
    far_mask = rle.polygons_to_rle([trace(far)], SIZE)
    two = rle.union([mask_of((5, 5, 15, 20)), far_mask], SIZE)
    annotations = (
        Annotation("lumbar", two, (square, far), {"level": "L5", "grade": "2", 'na"me<': "a&<>\"' ü\n x"}),
        Annotation("rod", mask_of((20, 5, 40, 25), holes=[(25, 10, 30, 15)])),
        Annotation("lumbar", mask_of((5, 5, 15, 20)), (square,), {"instance": "a", "i": "1"}),
        Annotation("lumbar", far_mask, (far,), {"instance": "a", "i": "2"}),
        Annotation("screw", disc, (ellipse,), {}, ignore=True),
        Annotation("disc", mask_of((1, 1, 4, 4)), (), {"level": "7"}, {"tip": (2.5, 3)}, named_level="L3"),
    )
    unread = ({"shape_attributes": polygon([1, 9, 9], [1, 1, 9]), "region_attributes": {"class": "odd"}},)
    full = ImageRecord(
        1,
        "sub/ä & 1.png",
        WIDTH,
        HEIGHT,
        "P1",
        "lateral",
        (0.2, 0.25),
        "ruler",
        {"kV": "70"},
        annotations,
        unread=unread,
    )
    return Dataset((*CLASSES, "disc"), (full, ImageRecord(2, "b.png", WIDTH, HEIGHT)))


def test_round_trip_keeps_everything(tmp_path):
    path = tmp_path / "out.xml"
    assert cvat.write(sample(), path) == ()
    dataset, skips = cvat.read([path], None)
    assert len(skips) == 1
    full, empty = dataset.images
    before = sample().images[0]
    assert (empty.file_name, empty.annotations) == ("b.png", ())
    for name in ("file_name", "image_size", "patient", "view", "pixel_spacing_mm", "pixel_spacing_source"):
        assert getattr(full, name) == getattr(before, name), name
    assert full.unread == before.unread
    assert dataset.categories == sample().categories
    for new, old in zip(full.annotations, before.annotations, strict=True):
        assert (new.category, new.mask, new.level, new.ignore) == (old.category, old.mask, old.level, old.ignore)
        assert new.keypoints == old.keypoints
        assert old.named_level or old.ignore or new.attributes == old.attributes
    for new, old in list(zip(full.annotations, before.annotations, strict=True))[:4]:
        assert new.outlines == old.outlines
    theta = full.annotations[4].outlines[0]["theta"]
    assert full.annotations[4].outlines[0] == {**before.annotations[4].outlines[0], "theta": theta}
    assert theta == pytest.approx(0.3, abs=1e-12)


def test_the_file_has_what_cvat_needs(tmp_path):
    cvat.write(sample(), tmp_path / "out.xml")
    root = ElementTree.parse(tmp_path / "out.xml").getroot()
    assert root.findtext("version") == "1.1"
    labels = {e.findtext("name"): [a.findtext("name") for a in e.iter("attribute")] for e in root.iter("label")}
    assert {*CLASSES, "disc", "film", "unread"} == labels.keys()
    assert {"level", "grade", "instance"} <= set(labels["lumbar"])
    for shape in root.iter("polygon"):
        assert {"label", "occluded", "source", "points", "z_order"} <= shape.attrib.keys()
        assert all(len(pair.split(",")) == 2 for pair in shape.get("points").split(";"))
    for mask in root.iter("mask"):
        runs = [int(v) for v in mask.get("rle").split(",")]
        assert sum(runs) == int(mask.get("width")) * int(mask.get("height"))
    groups = [s.get("group_id") for s in root.find("image") if s.tag == "polygon" and s.get("label") == "lumbar"]
    assert groups[0] == groups[1]
    assert len(set(groups)) == 3


def test_unread_regions_of_numbers_beyond_all_bounds_are_listed(tmp_path):
    shape = {"name": "polyline", "all_points_x": [1, 10**400], "all_points_y": [1, 2]}
    unread = ({"shape_attributes": shape, "region_attributes": {}},)
    (loss,) = cvat.write(Dataset(CLASSES, (ImageRecord(1, "a.png", 5, 5, unread=unread),)), tmp_path / "x.xml")
    assert "no shape that CVAT has" in loss.reason


def test_characters_that_xml_has_not_are_replaced(tmp_path):
    annotation = Annotation("lumbar", mask_of((1, 1, 9, 9)), (), {"a\0": "b\x01\ud800", "n": None, "l": [1, True]})
    records = (
        ImageRecord(1, "a.png", WIDTH, HEIGHT, annotations=(annotation,)),
        ImageRecord(2, "b\x1b.png", WIDTH, HEIGHT),
        ImageRecord(3, "c\n.png", WIDTH, HEIGHT, attributes={"note": "two\r\nlines"}),
        ImageRecord(4, "d.png", WIDTH, HEIGHT, attributes={"note": "two\nlines <&>"}),
    )
    losses = cvat.write(Dataset(CLASSES, records), tmp_path / "x.xml")
    assert [(s.image, s.repaired) for s in losses] == [("a.png", True), ("b\x1b.png", True), ("c\n.png", True)]
    dataset, _ = cvat.read([tmp_path / "x.xml"], None)
    assert dataset.images[0].annotations[0].attributes == {"a?": "b??", "n": "", "l": "[1, true]"}
    assert [i.file_name for i in dataset.images[1:]] == ["b?.png", "c\n.png", "d.png"]
    assert [i.attributes for i in dataset.images[2:]] == [{"note": "two\nlines"}, {"note": "two\nlines <&>"}]
    with pytest.raises(DataError, match="at least one film"):
        cvat.write(Dataset(CLASSES), tmp_path / "y.xml")


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_data_set_comes_back(tmp_path_factory, data):
    cells = st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=5, max_size=5)
    text = st.text(max_size=4).filter(str.isprintable)
    names = st.text(min_size=1, max_size=4).filter(lambda n: n.isprintable() and n.strip())
    annotations = []
    for _ in range(data.draw(st.integers(0, 3))):
        grid = np.array(data.draw(cells), dtype=bool)
        if grid.any():
            attributes = data.draw(st.dictionaries(names, text, max_size=3))
            category = data.draw(st.sampled_from(("lumbar", "a <disc> & 'b'")))
            annotations.append(Annotation(category, rle.encode(grid), (), attributes))
    record = ImageRecord(1, "a.png", 6, 5, annotations=tuple(annotations))
    path = tmp_path_factory.mktemp("trip") / "out.xml"
    cvat.write(Dataset((*CLASSES, "a <disc> & 'b'"), (record,)), path)
    after, skips = cvat.read([path], None)
    assert not [s for s in skips if not s.repaired]
    assert [(a.category, a.mask, a.attributes) for a in after.images[0].annotations] == [
        (a.category, a.mask, a.attributes) for a in annotations
    ]


@settings(max_examples=150, deadline=None)
@given(
    tag=st.sampled_from(("polygon", "polyline", "points", "box", "ellipse", "mask", "tag")),
    fields=st.dictionaries(
        st.sampled_from(["label", "points", "xtl", "ytl", "xbr", "ybr", "cx", "cy", "rx", "ry", "rotation"])
        | st.sampled_from(["rle", "left", "top", "width", "height", "group_id"]),
        st.one_of(
            st.integers().map(str),
            st.floats().map(str),
            st.text("0123456789,;.-e ", max_size=12),
            st.just("1,1;5,1;5,5"),
        ),
    ),
)
def test_wrong_values_are_listed_or_refused(tmp_path_factory, tag, fields):
    element = f"<{tag} " + " ".join(f"{k}={quoteattr(v)}" for k, v in fields.items()) + "/>"
    path = save(tmp_path_factory.mktemp("hostile"), SQUARE, element)
    try:
        dataset, _ = cvat.read([path], None)
    except VertinstError:
        return
    json.dumps([[dict(a.attributes) for a in i.annotations] for i in dataset.images])
