"""Conversions and exports as a whole, by the commands a user types."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vertinst import convert, plugins
from vertinst.cli import ABOUT, SOURCES, run
from vertinst.errors import ConfigError, DataError, OutputExistsError
from vertinst.structures.conversion import ReadOptions

WIDTH, HEIGHT = 120, 160


def square(left, top, side=20):
    xs, ys = [left, left + side, left + side, left], [top, top, top + side, top + side]
    return {"name": "polygon", "all_points_x": xs, "all_points_y": ys}


def region(shape, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


@pytest.fixture
def study(tmp_path) -> Path:
    """Six films of three patients (by the start of their names); a.json annotates them in VIA 2's form."""
    (tmp_path / "films").mkdir()
    noise = np.random.default_rng(0)
    entries = {}
    for number in range(6):
        name = f"P{number // 2}_{number}.png"
        coarse = Image.fromarray(noise.integers(0, 256, (8, 6), dtype=np.uint8))
        coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(tmp_path / "films" / name)
        regions = [region(square(10, 10 + 30 * k), label="Wirbel", level=f"L{5 - k}") for k in range(3)]
        regions.append(region(square(60, 100), label="Kreuzbein"))
        entries[f"{name}-1"] = {"filename": name, "size": -1, "regions": regions, "file_attributes": {}}
    (tmp_path / "a.json").write_text(json.dumps(entries))
    return tmp_path


def arguments(study, out="coco.json", *more):
    return ["convert-via", f"{study}/a.json", "--images", f"{study}/films", "--out", f"{study}/{out}", *more]


def edit(study, change):
    content = json.loads((study / "a.json").read_text())
    change(content)
    (study / "a.json").write_text(json.dumps(content))


def test_a_conversion_writes_coco_and_its_audit(study, capsys):
    edit(study, lambda c: c["P0_0.png-1"]["regions"].append(region(square(500, 500), label="Wirbel")))
    assert run(arguments(study)) == 0
    shown = capsys.readouterr()
    assert "P0_0.png, region 4: lies wholly outside" in shown.err
    assert sorted(p.name for p in study.iterdir() if p.name.startswith("coco")) == [
        "coco.audit.html", "coco.audit.json", "coco.json",
    ]  # fmt: skip
    audit = json.loads((study / "coco.audit.json").read_text())
    assert "wholly outside" in json.dumps(audit)
    assert "wholly outside" in (study / "coco.audit.html").read_text()
    assert "coco.audit.html" in shown.out


def test_the_two_names_of_the_command_do_the_same(study):
    assert run(arguments(study, "one.json")) == 0
    assert run(["convert", "via", *arguments(study, "two.json")[1:]]) == 0
    assert (study / "one.json").read_bytes() == (study / "two.json").read_bytes()


def test_split_in_one_go_keeps_patients_together(study, capsys):
    assert run(arguments(study, "split", "--split", "0.34,0.33,0.33", "--patient-regex", "^(P[0-9])_")) == 0
    shown = capsys.readouterr()
    assert re.search(r"train: films 2, patients 1\nval: films 2, patients 1\ntest: films 2, patients 1", shown.out)
    assert "patient of their own" not in shown.err
    assert sorted(p.name for p in (study / "split").iterdir()) == [
        "audit.html", "audit.json", "test.json", "train.json", "val.json",
    ]  # fmt: skip
    sides = {p.stem: p.read_text() for p in (study / "split").glob("t*.json")}
    assert {name[:2] for name in re.findall(r"P\d_\d", sides["train"])} != {"P0", "P1", "P2"}


def test_films_without_patient_are_said_to_be_their_own(study, capsys):
    assert run(arguments(study, "split", "--split", "0.5,0.5")) == 0
    assert "each taken as a patient of their own" in capsys.readouterr().err


def test_a_split_does_not_overwrite_unasked(study, capsys):
    split = ["--split", "0.5,0.5", "--patient-regex", "P[0-9]"]
    (study / "split").mkdir()
    (study / "split" / "mine.txt").write_text("keep")
    assert run(arguments(study, "split", *split)) == 2
    assert "not empty" in capsys.readouterr().err
    assert [p.name for p in (study / "split").iterdir()] == ["mine.txt"]
    assert run(arguments(study, "split", *split, "--overwrite")) == 0
    assert not (study / "split" / "mine.txt").exists()
    assert run(arguments(study, ".", *split, "--overwrite")) == 2
    assert (study / "a.json").exists()


def test_nearly_identical_films_on_two_sides_are_told(study, capsys):
    with Image.open(study / "films" / "P0_0.png") as film:
        film.resize((WIDTH * 2, HEIGHT * 2)).save(study / "films" / "P2_5.png")
    assert run(arguments(study, "split", "--split", "0.34,0.33,0.33", "--patient-regex", "P[0-9]")) == 0
    assert "1 pair of nearly identical films, 1 group of them on two sides" in capsys.readouterr().err
    assert "P2_5.png" in (study / "split" / "audit.html").read_text()


def test_strict_writes_nothing(study, capsys):
    edit(study, lambda c: c["P0_0.png-1"]["regions"].append(region(square(-5, 20), label="Wirbel")))
    assert run(arguments(study, "coco.json", "--strict")) == 2
    assert "region 4: lies partly outside" in capsys.readouterr().err
    assert not list(study.glob("coco*"))


def test_headers_are_not_read_again(study, monkeypatch):
    assert run(arguments(study)) == 0

    def refuse(path):
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr("vertinst.data.film_facts.read_header", refuse)
    assert run(arguments(study)) == 0
    (study / "coco.audit.json").unlink()
    (study / "coco.json").unlink()
    with pytest.raises(AssertionError, match="was read again"):
        convert.convert("via", [study / "a.json"], study / "films", study / "coco.json", ReadOptions())


def test_a_predicted_and_corrected_data_set_comes_back_from_via(study):
    assert run(arguments(study)) == 0
    films = ["--images", f"{study}/films"]
    assert run(["export", f"{study}/coco.json", "--format", "via", "--out", f"{study}/v.json", *films]) == 0
    project = json.loads((study / "v.json").read_text())
    size = (study / "films" / "P0_0.png").stat().st_size
    assert f"P0_0.png{size}" in project["_via_img_metadata"]
    assert run(["convert-via", f"{study}/v.json", *films, "--out", f"{study}/again.json"]) == 0
    coco = plugins.load("converters", "coco")
    first, again = coco.read(study / "coco.json"), coco.read(study / "again.json")
    for image, twin in zip(first.images, again.images, strict=True):
        assert [(a.category, a.level, a.mask) for a in image.annotations] == [
            (a.category, a.level, a.mask) for a in twin.annotations
        ]


@pytest.mark.parametrize("form", ["labelme", "cvat", "yolo", "masks", "coco"])
def test_every_format_is_written_and_read_again(study, form, capsys):
    assert run(arguments(study)) == 0
    out = study / {"cvat": "out.xml", "coco": "out.json"}.get(form, "out")
    assert run(["export", f"{study}/coco.json", "--format", form, "--out", str(out)]) == 0
    if form == "coco":
        assert out.read_bytes() == (study / "coco.json").read_bytes()
        return
    assert run(["convert", form, str(out), "--images", f"{study}/films", "--out", f"{study}/b.json"]) == 0
    assert len(json.loads((study / "b.json").read_text())["annotations"]) == 24


def test_what_a_format_cannot_hold_is_listed(study, capsys):
    assert run(arguments(study)) == 0
    capsys.readouterr()
    assert run(["export", f"{study}/coco.json", "--format", "masks", "--kind", "binary", "--out", f"{study}/m"]) == 0
    assert re.search(r"(class|level|attribute|instance).*P0_0.png", capsys.readouterr().err)


def test_wrong_exports_are_refused(study, capsys):
    assert run(arguments(study)) == 0
    source, out = study / "coco.json", study / "out"
    with pytest.raises(ConfigError, match="cannot write 'png'"):
        convert.export(source, "png", out)
    with pytest.raises(ConfigError, match="labelme has no setting kind"):
        convert.export(source, "labelme", out, kind="binary")
    with pytest.raises(OutputExistsError, match="overwrite the input"):
        convert.export(source, "coco", source)
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(OutputExistsError, match="not empty"):
        convert.export(source, "labelme", out)
    # Nothing is deleted for a format that then could not be written there.
    with pytest.raises(OutputExistsError, match="must be a file for via, got a folder"):
        convert.export(source, "via", out, overwrite=True)
    assert (out / "mine.txt").exists()


def test_wrong_conversions_are_refused(study, capsys):
    options = ReadOptions()
    with pytest.raises(ConfigError, match="COCO needs no conversion"):
        convert.convert("coco", [study / "a.json"], None, study / "out.json", options)
    with pytest.raises(ConfigError, match="cannot read 'dicom'"):
        convert.convert("dicom", [study / "a.json"], None, study / "out.json", options)
    with pytest.raises(OutputExistsError, match="overwrite an input"):
        convert.convert("via", [study / "a.json"], study / "films", study / "a.json", options)
    with pytest.raises(OutputExistsError, match="got a folder"):
        convert.convert("via", [study / "a.json"], study / "films", study, options)
    with pytest.raises(ConfigError, match="via has no setting mask_kind"):
        convert.convert("via", [study / "a.json"], study / "films", study / "o.json", ReadOptions(mask_kind="binary"))
    assert run(arguments(study, "s", "--split", "most")) == 2
    assert "--split must be numbers" in capsys.readouterr().err


def test_losses_of_one_kind_are_one_line_and_say_what_to_do(study, capsys):
    for number in (0, 1):
        edit(study, lambda c, n=number: c[f"P0_{n}.png-1"]["regions"].append(region(square(5, 5), label="Wirble")))
    assert run(arguments(study)) == 0
    shown = capsys.readouterr().err
    assert "skipped, 2 times: unknown class 'Wirble' (P0_0.png, region 4; P0_1.png, region 4)" in shown
    advice = "2 regions were left out because these are no known classes: 'Wirble'"
    assert advice in shown
    page = (study / "coco.audit.html").read_text()
    assert advice.replace("'", "&#39;") in page
    # The first thing on the page that is more than a number.
    assert page.index("What you can do") < page.index("Why regions were left out")
    (study / "map.yaml").write_text("'Wirble': lumbar\n")
    assert run(arguments(study, "coco.json", "--class-map", f"{study}/map.yaml")) == 0
    assert "Wirble" not in capsys.readouterr().err
    assert "What you can do" not in (study / "coco.audit.html").read_text()


def test_old_films_that_exif_turns_bring_the_option_to_mind(study, capsys):
    exif = Image.Exif()
    exif[0x0112] = 6
    for number in range(6):
        path = study / "films" / f"P{number // 2}_{number}.png"
        with Image.open(path) as film:
            film.copy().save(path, exif=exif)
    # Stored 120 x 160, shown 160 x 120: a square below is beyond the edge.
    edit(study, lambda c: c["P0_0.png-1"]["regions"].append(region(square(60, 130), label="Wirbel")))
    assert run(arguments(study)) == 0
    assert "convert with --ignore-exif" in capsys.readouterr().err
    assert run(arguments(study, "coco.json", "--ignore-exif")) == 0
    shown = capsys.readouterr().err
    assert "convert with --ignore-exif" not in shown
    assert "note, 6 times: regions turned with the film" in shown


def test_a_file_without_annotations_is_no_silent_success(study, capsys):
    edit(study, lambda c: [entry.update(regions=[]) for entry in c.values()])
    assert run(arguments(study)) == 0
    assert "No film has an annotation" in capsys.readouterr().err


def test_a_file_that_no_conversion_wrote_is_not_replaced_unasked(study, capsys):
    mine = study / "coco.json"
    mine.write_text("mine")
    assert run(arguments(study)) == 2
    assert "no conversion wrote it" in capsys.readouterr().err
    assert mine.read_text() == "mine"
    assert run(arguments(study, "coco.json", "--overwrite")) == 0
    # Its own work it replaces.
    assert run(arguments(study)) == 0


def test_corrections_are_not_replaced_unasked(study, capsys):
    assert run(arguments(study)) == 0
    command = ["export", f"{study}/coco.json", "--format", "via", "--out", f"{study}/v.json"]
    assert run(command) == 0
    (study / "v.json").write_text("corrected by hand")
    assert run(command) == 2
    assert "may hold corrections by hand" in capsys.readouterr().err
    assert (study / "v.json").read_text() == "corrected by hand"
    assert run([*command, "--overwrite"]) == 0


def test_films_that_browsers_do_not_show_are_corrected_as_png(study, capsys):
    for number in range(6):
        path = study / "films" / f"P{number // 2}_{number}.png"
        with Image.open(path) as film:
            film.save(path.with_suffix(".tif"))
        path.unlink()
    edit(study, lambda c: [entry.update(filename=entry["filename"].replace("png", "tif")) for entry in c.values()])
    assert run(arguments(study)) == 0
    command = ["export", f"{study}/coco.json", "--format", "via", "--images", f"{study}/films", "--out"]
    assert run([*command, f"{study}/v.json"]) == 0
    assert "P0_0.tif: this film and 5 more cannot be shown by VIA: --pictures" in capsys.readouterr().err
    assert run([*command, f"{study}/w.json", "--pictures", f"{study}/png"]) == 0
    shown = capsys.readouterr()
    assert "cannot be shown" not in shown.err
    assert f"--images {study}/png" in shown.out
    with Image.open(study / "png" / "P0_0.png") as picture:
        assert (picture.size, picture.mode) == ((WIDTH, HEIGHT), "L")
    size = (study / "png" / "P0_0.png").stat().st_size
    project = json.loads((study / "w.json").read_text())["_via_img_metadata"]
    assert project[f"P0_0.png{size}"]["size"] == size
    back = ["convert-via", f"{study}/w.json", "--images", f"{study}/png", "--out", f"{study}/back.json", "--strict"]
    assert run(back) == 0
    coco = plugins.load("converters", "coco")
    first, again = coco.read(study / "coco.json"), coco.read(study / "back.json")
    assert [[a.mask for a in i.annotations] for i in again.images] == [
        [a.mask for a in i.annotations] for i in first.images
    ]


def test_pictures_of_films_that_differ_in_their_suffix_only(study):
    with Image.open(study / "films" / "P0_0.png") as film:
        film.save(study / "films" / "P0_0.tif")
    twin = {"filename": "P0_0.tif", "size": -1, "regions": [], "file_attributes": {}}
    edit(study, lambda c: c.update({"P0_0.tif-1": twin}))
    assert run(arguments(study)) == 0
    convert.export(study / "coco.json", "via", study / "v.json", study / "films", pictures=study / "png")
    names = {path.name for path in (study / "png").iterdir()}
    assert {"P0_0.png.png", "P0_0.tif.png", "P0_1.png"} <= names
    assert len(names) == 7


def test_exports_say_what_is_wrong_with_the_paths(study, capsys):
    assert run(arguments(study, "split", "--split", "0.34,0.33,0.33", "--patient-regex", "P[0-9]")) == 0
    train = study / "split" / "train.json"
    with pytest.raises(DataError, match=r"folder of COCO files.*(\n.*)*split.train\.json"):
        convert.export(study / "split", "via", study / "v.json")
    with pytest.raises(DataError, match="must be the folder of the films"):
        convert.export(train, "via", study / "v.json", study / "nowhere")
    with pytest.raises(ConfigError, match="--pictures needs the films"):
        convert.export(train, "via", study / "v.json", pictures=study / "png")
    with pytest.raises(OutputExistsError, match="holds what is to be read"):
        convert.export(train, "via", study / "v.json", study / "films", pictures=study / "films", overwrite=True)
    assert len(list((study / "films").iterdir())) == 6
    assert not (study / "v.json").exists()


def test_shares_with_blanks_and_folders_for_files_are_told(study, capsys):
    assert run(arguments(study, "s", "--split", "0.8", "0.1", "0.1")) == 2
    assert "Write --split 0.8,0.1,0.1" in capsys.readouterr().err
    assert run(["convert-via", f"{study}/films", "--images", f"{study}/films", "--out", f"{study}/o.json"]) == 2
    assert "must be a file, got a folder" in capsys.readouterr().err
    assert run(arguments(study, "o.json", "--class-map", f"{study}/films")) == 2
    assert "must be a file, got a folder" in capsys.readouterr().err
    film = f"{study}/films/P0_0.png"
    assert run(["convert-via", film, "--images", f"{study}/films", "--out", f"{study}/o.json"]) == 2
    assert "no UTF-8 text" in capsys.readouterr().err


def test_every_format_says_what_it_takes(capsys):
    assert run(["convert", "--help"]) == 0
    assert "..." not in capsys.readouterr().out.split("Commands:")[1]
    assert set(ABOUT) == set(SOURCES) == set(convert.read_formats())
