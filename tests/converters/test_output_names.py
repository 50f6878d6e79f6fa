"""Formats with a file for each film: no two films share one, none is lost, and each finds its film again."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vertinst.converters import labelme, masks, yolo
from vertinst.converters._film_stems import film_called, film_stems
from vertinst.errors import DataError
from vertinst.structures import rle
from vertinst.structures.dataset import CLASSES, Annotation, Dataset, ImageRecord

SIZE = (20, 30)


def data(*names):
    """Each film with one annotation of its own."""
    records = []
    for number, name in enumerate(names, start=1):
        dense = np.zeros(SIZE, dtype=bool)
        dense[number : number + 5, 3:9] = True
        annotation = Annotation("lumbar", rle.encode(dense))
        records.append(ImageRecord(number, name, SIZE[1], SIZE[0], annotations=(annotation,)))
    return Dataset(CLASSES, tuple(records))


def films(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", SIZE[::-1]).save(folder / name, format="PNG")
    return folder


def masks_by_film(dataset):
    return {image.file_name: [a.mask for a in image.annotations] for image in dataset.images}


@pytest.mark.parametrize("converter", [labelme, yolo, masks])
@pytest.mark.parametrize(
    "names",
    [
        ("a.png", "a.jpg"),
        ("a.png", "a.jpg", "a.png.png"),
        ("a.png.jpg", "a.jpg", "a.png.png", "a.png"),
        ("x.png", "sub/x.png"),
        ("classes.png", "readme.png", "train.png"),
    ],
)
def test_every_film_gets_its_own_file_and_is_found_again(tmp_path, converter, names):
    converter.write(data(*names), tmp_path / "out")
    folder = films(tmp_path / "out/images", *names) if converter is yolo else None
    dataset, _ = converter.read([tmp_path / "out"], folder)
    assert masks_by_film(dataset) == masks_by_film(data(*names))


@pytest.mark.parametrize("write", [labelme.write, yolo.write, masks.write])
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a.png", "./a.png"), "another film has the same name"),
        (("a/b.png", "a//b.png"), "another film has the same name"),
        (("a\\b.png", "a/b.png"), "another film has the same name"),
        (("",), "must name a film"),
        ((".png",), "none that is hidden"),
        (("sub/.a.png",), "none that is hidden"),
        (("../a.png",), "leads outside"),
        (("/a.png",), "leads outside"),
        (("a/../../b.png",), "leads outside"),
        (("..\\b.png",), "leads outside"),
        (("C:\\b.png",), "leads outside"),
        (("a\0.png",), "leads outside"),
        (("a" * 300 + ".png",), "no file can have this name"),
        (("a\ud800.png",), "no file can have this name"),
    ],
)
def test_names_that_no_file_should_have_are_refused_before_anything_is_written(tmp_path, write, names, message):
    with pytest.raises(DataError, match=message):
        write(data(*names), tmp_path / "out" / "deep")
    assert list(tmp_path.rglob("*")) == []


def test_labels_that_other_programs_miss_are_told(tmp_path):
    losses = yolo.write(data("a.png", "a.jpg", "1.2.840.1", "b.png"), tmp_path / "out")
    assert [s.image for s in losses if "differs in the suffix only" in s.reason] == ["a.png", "a.jpg"]
    assert (tmp_path / "out/labels/1.2.840.1.txt").is_file()


def test_sets_split_into_folders_of_images_and_labels(tmp_path):
    """As Roboflow exports them, with its remarks beside the labels."""
    square = "0 0.1 0.1 0.5 0.1 0.5 0.5"
    films(tmp_path, "train/images/a.png", "valid/images/a.png")
    for side in ("train", "valid"):
        (tmp_path / side / "labels").mkdir()
        (tmp_path / side / "labels/a.txt").write_text(square)
    (tmp_path / "README.roboflow.txt").write_text("1.0")
    (tmp_path / "data.yaml").write_text("names: [lumbar]\n")
    (tmp_path / "train/labels/.a.part.txt").write_text("0 0.1")
    dataset, skips = yolo.read([tmp_path], None)
    assert skips == ()
    found = {i.file_name: len(i.annotations) for i in dataset.images}
    assert found == {"train/images/a.png": 1, "valid/images/a.png": 1}


def test_the_last_part_of_a_name_counts_where_nothing_else_is_called_so(tmp_path):
    stems = film_stems(films(tmp_path, "x.png", "sub/x.png", "sub/y.png", "b/z.png", "c/z.png"))
    assert [film_called(name, stems, Path("l.txt")) for name in ("x", "sub/x", "y", "none")] == [
        "x.png",
        "sub/x.png",
        "sub/y.png",
        None,
    ]
    with pytest.raises(DataError, match=r"several films have this name: b/z\.png, c/z\.png"):
        film_called("z", stems, Path("l.txt"))
