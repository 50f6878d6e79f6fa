"""Valid files changed at random places: they are read, or refused with a message, and nothing else ever comes out."""

import copy
import io
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vertinst.converters import coco, cvat, keypoints, labelled, labelme, masks, repair, yolo
from vertinst.errors import VertinstError
from vertinst.report import labelled as report
from vertinst.structures import Spine, rle
from vertinst.structures.conversion import ReadOptions
from vertinst.structures.dataset import CLASSES, Annotation, Dataset, ImageRecord
from vertinst.structures.spine import Implant, Vertebra

SIZE = (24, 20)
OPTIONS = ReadOptions(class_map={"255": "lumbar", "1": "cage"})
HUGE = 10**400
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1, 2.5, 1e308, float("nan"), float("-inf"), HUGE, -HUGE, 2**63, 99_999]),
    st.sampled_from(
        ["", " ", "polygon", "mask", "../x", "/etc/passwd", "a\0b", "\x1b[31m", "9" * 400, "1", "nan", "L5"]
    ),
    st.sampled_from([[], [[]], [1], [None, "a"], {}, {"a": 1}, [[1e9, 0], [0, 1e9], [5, 5]]]),
    st.sampled_from([{"counts": HUGE, "size": list(SIZE)}, {"counts": [1], "size": [1, 1]}, {"name": "polygon"}]),
)
TEXTS = st.sampled_from(["", "x", "nan", "inf", "-1", "1e308", "9" * 100, "0", "1,2,3", ",;", "1,2;1e9,4;5,6", "../x"])
BYTES = st.sampled_from([b"", b"9" * 50, b"nan ", b"-", b"<", b"&#0;", b"\xff", b"\0", b"1e999", b"{", b"\r", b"*a"])


def square(left, top, side=8):
    dense = np.zeros(SIZE, dtype=bool)
    dense[top : top + side, left : left + side] = True
    return rle.encode(dense)


def data():
    outline = {"name": "polygon", "all_points_x": [1, 9, 9, 1], "all_points_y": [1, 1, 9, 9]}
    ring = rle.difference(square(10, 2), square(12, 4, 3))
    annotations = (
        Annotation("lumbar", square(1, 1), (outline,), {"level": "L4", "sure": True, "n": None}, {"p": (3.0, 4.0)}),
        Annotation("cage", ring, (), {"x": {"a": [1]}, "instance": "7"}),
        Annotation("rod", rle.union([square(1, 15, 4), square(14, 14, 5)], SIZE), ignore=True),
    )
    line = {"name": "polyline", "all_points_x": [1, 2], "all_points_y": [3, 4]}
    unread = ({"shape_attributes": line, "region_attributes": {"k": "v"}}, {})
    record = ImageRecord(
        1, "a.png", SIZE[1], SIZE[0], "p1", attributes={"q": "z"}, annotations=annotations, unread=unread
    )
    return Dataset(CLASSES, (record,))


def write_corners(folder):
    corners = {"image_id": 1, "category_id": 1, "keypoints": [1, 1, 2, 9, 1, 2, 9, 9, 2, 1, 9, 1], "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": SIZE[1], "height": SIZE[0]}],
        "categories": [{"id": 1, "name": "lumbar", "keypoints": ["a", "b", "c", "d"]}],
        "annotations": [{"id": 1, **corners}, {"id": 2, **corners, "attributes": {"level": "L4"}}],
    }
    (folder / "x.json").write_text(json.dumps(content))


def write_results(folder):
    boxes = [rle.box_xyxy(square(1, 1)), rle.box_xyxy(square(10, 10))]
    vertebra = Vertebra("L5", "lumbar", 0.9, boxes[0], square(1, 1), ("gap",))
    spine = Spine(SIZE, (vertebra,), (Implant("rod", 0.5, boxes[1], square(10, 10), ()),), (), ("gap",))
    report.write(spine, folder / "a.json", file_name="a.png", provenance={})


# Format: its reader, and what writes a valid folder of it.
FORMATS = {
    "labelme": (labelme, lambda folder: labelme.write(data(), folder)),
    "cvat": (cvat, lambda folder: cvat.write(data(), folder / "annotations.xml")),
    "yolo": (yolo, lambda folder: yolo.write(data(), folder)),
    "masks": (masks, lambda folder: masks.write(data(), folder)),
    "instances": (masks, lambda folder: masks.write(data(), folder, kind="instances")),
    "keypoints": (keypoints, write_corners),
    "repair": (repair, lambda folder: coco.write(data(), folder / "x.json")),
    "labelled": (labelled, write_results),
}


def places(value, path=()):
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed_json(content, draw):
    content = copy.deepcopy(content)
    for _ in range(draw(st.integers(1, 3))):
        known = [path for path in places(content) if path]
        if not known:
            break
        *path, last = draw(st.sampled_from(known))
        place = content
        for key in path:
            place = place[key]
        if draw(st.booleans()):
            place[last] = copy.deepcopy(draw(VALUES))
        else:
            del place[last]
    return json.dumps(content).encode()


def changed_xml(root, draw):
    root = copy.deepcopy(root)
    for _ in range(draw(st.integers(1, 3))):
        element = draw(st.sampled_from(list(root.iter())))
        if element.attrib and draw(st.booleans()):
            element.set(draw(st.sampled_from(sorted(element.attrib))), draw(TEXTS))
        else:
            element.tag = draw(
                st.sampled_from(["mask", "box", "polygon", "points", "image", "ellipse", "polyline", "z"])
            )
    return ET.tostring(root)


def changed_bytes(content, draw):
    start = draw(st.integers(0, len(content)))
    return content[:start] + draw(BYTES) + content[start + draw(st.integers(0, 9)) :]


@pytest.mark.parametrize("form", FORMATS)
def test_changed_files_are_read_or_refused(tmp_path, form):
    reader, write = FORMATS[form]
    folder, films = tmp_path / "source", tmp_path / "films"
    if form not in ("yolo", "labelme", "masks", "instances"):
        folder.mkdir()
    write(folder)
    films.mkdir()
    picture = io.BytesIO()
    Image.new("L", SIZE[::-1]).save(picture, format="PNG")
    (films / "a.png").write_bytes(picture.getvalue())
    valid = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    paths = [folder / "x.json"] if (folder / "x.json").exists() else [folder]
    assert len(reader.read(paths, films, OPTIONS)[0]) == 1

    texts = set()

    @settings(max_examples=60, deadline=None, database=None)
    @given(st.data())
    def check(drawn):
        path = drawn.draw(st.sampled_from(sorted(valid)))
        is_structured = drawn.draw(st.booleans())
        if is_structured and path.suffix == ".json":
            content = changed_json(json.loads(valid[path]), drawn.draw)
        elif is_structured and path.suffix == ".xml":
            content = changed_xml(ET.fromstring(valid[path]), drawn.draw)
        else:
            content = changed_bytes(valid[path], drawn.draw)
        path.write_bytes(content)
        try:
            dataset, _ = reader.read(paths, films if form == "yolo" or drawn.draw(st.booleans()) else None, OPTIONS)
            coco.write(dataset, tmp_path / "out.json")
            assert len(coco.read(tmp_path / "out.json")) == len(dataset)
        except VertinstError as error:
            texts.add(str(error))
        finally:
            path.write_bytes(valid[path])

    check()
    # Some were refused, and all with a way out.
    assert texts
    assert all("\n" in text for text in texts)
