"""The commands as a user types them, on phantom films made here."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from rich.console import Console

from vertinst import cli
from vertinst.cli import load_split, merged_choice, run
from vertinst.data.phantom_style import explained_shares

TINY = [
    "--set", "model.backbone=resnet18", "--set", "model.channels=32", "--set", "model.image_size=128",
    "--set", "schedule.epochs=1", "--set", "schedule.batch_size=2",
    "--set", "init.weights=null",
]  # fmt: skip


def train_on(study: Path, data: str) -> list[str]:
    return ["train", "--config", "yolact_demo.yaml", "--data", data, "--images", f"{study}/films/images"]


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """Films of four patients, converted, split, and a model trained on them for one epoch."""
    folder = tmp_path_factory.mktemp("study")
    films, coco = f"{folder}/films", f"{folder}/coco.json"
    commands = [
        ["phantom", "--count", "6", "--seed", "1", "--out", films],
        ["convert-via", f"{films}/via_project.json", "--images", f"{films}/images", "--out", coco],
        ["split", coco, "--out", f"{folder}/split", "--ratios", "0.5,0.25,0.25"],
        [*train_on(folder, f"{folder}/split"), "--out", f"{folder}/run", *TINY],
    ]
    for command in commands:
        assert run(command) == 0, command
    return folder


def fails(capsys, arguments: list[str], message: str) -> None:
    """The command exits with 2 and one message that says `message`, without a traceback."""
    capsys.readouterr()
    assert run(arguments) == 2
    text = capsys.readouterr().err
    assert re.search(message, text), text
    assert "Traceback" not in text


def test_the_whole_way(study, capsys):
    images = study / "films" / "images"
    assert run(["predict", "--weights", f"{study}/run", str(images), "--out", f"{study}/pred", "--score", "0.2"]) == 0
    found = [json.loads(path.read_text())["vertebrae"] for path in (study / "pred").glob("*.json")]
    assert len(found) == 6
    assert re.search(rf"6 films with {sum(map(len, found))} vertebra(e)?: labelled JSON in ", capsys.readouterr().out)
    assert len(list((study / "pred" / "overlays").glob("*.png"))) == 6
    assert len(list((study / "pred" / "masks").glob("*_merged.png"))) == 6
    capsys.readouterr()
    assert (
        run(
            ["evaluate", "--gt", f"{study}/coco.json", "--pred", f"{study}/pred", "--out", f"{study}/pred/metrics.json"]
        )
        == 0
    )
    shown = capsys.readouterr().out
    for row in ("mean IoU", "boundary IoU of vertebrae found", "95 % Hausdorff distance"):
        assert row in shown
    metrics = json.loads((study / "pred" / "metrics.json").read_text())
    assert len(metrics["images"]) == 6
    assert 0 <= metrics["summary"]["mean_iou"] <= 1
    held_out = ["evaluate", "--gt", f"{study}/split/test.json", "--pred", f"{study}/pred"]
    assert run([*held_out, "--out", f"{study}/held_out.json"]) == 0
    assert re.search(r"\d predicted films are not annotated and were left out: P0001_1\.png", capsys.readouterr().err)
    for source in ("run", "pred"):
        assert run(["report", f"{study}/{source}", "--out", f"{study}/{source}.html"]) == 0
        assert "not a medical device" in (study / f"{source}.html").read_text()


def test_coco_results_are_scored_with_an_anchor_and_without_names_of_patients(study, capsys, tmp_path):
    truth = json.loads((study / "coco.json").read_text())
    lumbar = next(c["id"] for c in truth["categories"] if c["name"] == "lumbar")
    results = [
        {key: a[key] for key in ("image_id", "category_id", "segmentation")} | {"score": 0.9}
        for a in truth["annotations"]
        if a["category_id"] == lumbar
    ]
    (tmp_path / "results.json").write_text(json.dumps(results))
    for image in truth["images"]:
        image["patient"] = "Doe^John"
    (tmp_path / "gt.json").write_text(json.dumps(truth))
    evaluate = ["evaluate", "--gt", f"{tmp_path}/gt.json", "--pred", f"{tmp_path}/results.json", "--out"]
    right = {}
    for name, more in (("relative", []), ("anchored", ["--anchor", "L5=lowest"])):
        assert run([*evaluate, f"{tmp_path}/{name}.json", *more]) == 0
        text = (tmp_path / f"{name}.json").read_text()
        assert "Doe" not in text + "".join(capsys.readouterr())
        right[name] = json.loads(text)["summary"]["vertebrae"]
    assert right["relative"]["labelled"] == 0
    assert right["anchored"]["labelled"] == right["anchored"]["found"] == len(results)
    folder = ["evaluate", "--gt", f"{study}/coco.json", "--pred", f"{study}/run/val", "--out", f"{tmp_path}/m.json"]
    fails(capsys, [*folder, "--anchor", "L5=lowest"], "--anchor is for COCO results")


def test_training_says_what_it_took_of_the_weights_it_starts_from(study, capsys, tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    capsys.readouterr()
    again = [*train_on(study, f"{study}/split"), *TINY, "--set"]
    assert run([*again, f"init.weights={tmp_path}/resnet18.pth", "--out", f"{tmp_path}/a"]) == 0
    shown = capsys.readouterr().err
    assert "Started from resnet18.pth" in shown
    assert re.search(r"backbone\W+120\W+0\W+0 ", shown), shown
    assert re.search(r"fc\W+0\W+0\W+2\W+fc\.weight is not part", shown), shown
    assert json.loads((tmp_path / "a" / "init.json").read_text())["parts"][0]["taken"] == 120
    assert run([*again, f"init.weights={study}/run", "--out", f"{tmp_path}/b"]) == 0
    assert "Started from best.safetensors: everything fitted." in capsys.readouterr().err
    predict = ["predict", "--weights", f"{tmp_path}/resnet18.pth", f"{study}/films/images", "--out", f"{tmp_path}/p"]
    fails(capsys, predict, r"resnet18\.pth: .*got a backbone alone \(resnet18\)\n.*--set init\.weights=")


def test_python_interface(study):
    import vertinst

    model = vertinst.load_model(study / "run")
    film = next((study / "films" / "images").glob("*.png"))
    from_path, from_array = model.predict([film, np.zeros((64, 48), dtype=np.float32)])
    assert model.classes == ("lumbar", "sacral", "cage", "screw", "rod")
    assert from_path.image_size == (1024, 768)
    assert from_array.image_size == (64, 48)


def test_sixteen_bits_and_the_same_seed(tmp_path):
    for name in ("a", "b"):
        assert run(["phantom", "--count", "1", "--seed", "5", "--bits", "16", "--out", f"{tmp_path}/{name}"]) == 0
    first, second = ((tmp_path / n / "via_project.json").read_text() for n in "ab")
    assert first == second
    film = next((tmp_path / "a" / "images").glob("*.png"))
    assert np.asarray(Image.open(film)).max() > 255


@pytest.mark.parametrize("command", ["train", "split", "predict", "phantom", "demo"])
def test_an_existing_output_folder_is_refused(study, capsys, tmp_path, command):
    (tmp_path / "mine.txt").touch()
    images = str(study / "films" / "images")
    arguments = {
        "train": [*train_on(study, f"{study}/split")[1:], *TINY],
        "split": [f"{study}/coco.json"],
        "predict": ["--weights", f"{study}/run", images],
        "phantom": ["--count", "1"],
        "demo": [],
    }[command]
    fails(
        capsys, [command, *arguments, "--out", str(tmp_path)], "output folder exists and is not empty.*\n.*--overwrite"
    )
    assert (tmp_path / "mine.txt").exists()


def test_a_wrong_option_deletes_nothing_even_with_overwrite(capsys, tmp_path):
    (tmp_path / "mine.txt").touch()
    fails(capsys, ["phantom", "--count", "1", "--bits", "7", "--out", str(tmp_path), "--overwrite"], "bits")
    fails(capsys, ["phantom", "--count", "1", "--style", "odd", "--out", str(tmp_path), "--overwrite"], "portable")
    fails(capsys, ["phantom", "--count", "1", "--with", "odd=1", "--out", str(tmp_path), "--overwrite"], "six_lumbar: ")
    assert (tmp_path / "mine.txt").exists()


def test_the_help_names_everything_that_phantoms_may_have(capsys):
    assert run(["phantom", "--help"]) == 0
    text = capsys.readouterr().out
    assert all(re.search(rf"\b{name}\b", text) for name in explained_shares())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.learning_rate=0.1", "optim.learning_rate"),
        ("optim.lr=-1", "optim.lr"),
        ("model.name=yolo", "yolo"),
        ("model.backbone=resnet19", "backbone"),
        ("schedule.epochs", "key=value"),
    ],
)
def test_a_wrong_setting_is_named(study, capsys, tmp_path, setting, message):
    arguments = train_on(study, f"{study}/split")
    fails(capsys, [*arguments, "--out", f"{tmp_path}/run", "--set", setting], message)
    assert not (tmp_path / "run").exists()


def test_faults_of_files_are_one_message_each(study, capsys, tmp_path):
    images = str(study / "films" / "images")
    project = study / "films" / "via_project.json"
    out = ["--out", f"{tmp_path}/out.json"]
    (tmp_path / "broken.json").write_text('{"_via_img_metadata": ')
    (tmp_path / "empty.json").write_text("{}")
    fails(capsys, ["convert-via", f"{tmp_path}/none.json", "--images", images, *out], "no such file")
    fails(capsys, ["convert-via", f"{tmp_path}/broken.json", "--images", images, *out], "not valid JSON")
    fails(
        capsys,
        ["convert-via", f"{tmp_path}/empty.json", "--images", images, *out],
        "no (films|images|entries)|empty|not a VIA",
    )
    fails(capsys, ["convert-via", str(project), "--images", str(tmp_path), *out], "P0001|\\.png")
    fails(capsys, ["convert-via", str(project), "--images", images, "--out", str(project)], "overwrite an input")
    fails(capsys, ["evaluate", "--gt", f"{study}/coco.json", "--pred", "x", "--out", f"{study}/coco.json"], "an input")
    fails(capsys, ["predict", "--weights", f"{tmp_path}/none", images, "--out", f"{tmp_path}/p"], "none")
    fails(capsys, ["predict", "--weights", f"{study}/run", str(tmp_path), "--out", f"{tmp_path}/p"], "film")
    fails(capsys, ["evaluate", "--gt", f"{tmp_path}/empty.json", "--pred", f"{study}/run/val", *out], "empty.json")
    fails(capsys, ["report", str(tmp_path), "--out", f"{tmp_path}/r.html"], "vertinst")
    fails(capsys, ["split", f"{study}/coco.json", "--out", f"{tmp_path}/s", "--ratios", "a,b"], "must be numbers")
    fails(
        capsys,
        ["predict", "--weights", f"{study}/run", images, "--out", f"{tmp_path}/p", "--anchor", "L5"],
        "L5=lowest",
    )
    fails(
        capsys,
        ["predict", "--weights", f"{study}/run", images, "--out", f"{tmp_path}/p", "--classes", "x"],
        "merged mask",
    )
    fails(
        capsys,
        ["predict", "--weights", f"{study}/run", images, "--out", f"{tmp_path}/p", "--score", "2"],
        "score_threshold",
    )
    fails(
        capsys,
        [
            "predict",
            "--weights",
            f"{study}/run",
            images,
            "--out",
            f"{tmp_path}/p",
            "--set",
            "suppression.pairs.cage.iou=1",
        ],
        r"suppression\.pairs: .*a pair must be two classes with a space between \(cage screw\).*got 'cage'",
    )
    fails(capsys, ["train", "--nonsense"], "nonsense.*\nTry: vertinst train --help")
    assert not (tmp_path / "out.json").exists()
    assert not (tmp_path / "p").exists()


def test_predict_says_how_many_films_at_once_and_whether_to_compile(study, tmp_path, monkeypatch):
    loaded, predicted = {}, {}
    monkeypatch.setattr("vertinst.engine.predict.load_model", lambda weights, **how: loaded.update(how))
    monkeypatch.setattr("vertinst.engine.predict.predict_films", lambda *args, **how: predicted.update(how))
    command = ["predict", str(study / "films" / "images"), "--weights", "demo", "--out", str(tmp_path / "found")]
    assert run([*command, "--batch-size", "3", "--compile"]) == 0
    assert (loaded["compile"], predicted["batch_size"]) == (True, 3)
    assert run(command) == 0
    assert (loaded["compile"], predicted["batch_size"]) == (False, None)
    assert run([*command, "--batch-size", "0"]) != 0


def test_a_truncated_film_is_named_and_the_others_are_predicted(study, capsys, tmp_path):
    whole = next((study / "films" / "images").glob("*.png"))
    (tmp_path / "whole.png").write_bytes(whole.read_bytes())
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:5000])
    fails(capsys, ["predict", "--weights", f"{study}/run", str(tmp_path), "--out", f"{tmp_path}/p"], "cut.png")
    assert (tmp_path / "p" / "whole.json").exists()
    assert not (tmp_path / "p" / "cut.json").exists()


def test_strict_refuses_a_faulty_region_and_lists_it(study, capsys, tmp_path):
    project = json.loads((study / "films" / "via_project.json").read_text())
    entry = next(iter(project["_via_img_metadata"].values()))
    entry["regions"][0]["shape_attributes"] = {"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]}
    (tmp_path / "via.json").write_text(json.dumps(project))
    arguments = [
        "convert-via",
        f"{tmp_path}/via.json",
        "--images",
        f"{study}/films/images",
        "--out",
        f"{tmp_path}/c.json",
    ]
    fails(capsys, [*arguments, "--strict"], "region 0")
    assert not (tmp_path / "c.json").exists()
    assert run(arguments) == 0
    assert entry["filename"] in (tmp_path / "c.audit.json").read_text()


def test_resume_goes_on_and_refuses_what_is_not_there(study, capsys, tmp_path):
    arguments = train_on(study, f"{study}/split")
    fails(capsys, [*arguments, "--out", f"{tmp_path}/none", *TINY, "--resume"], "resume")
    assert run([*arguments, "--out", f"{study}/run", *TINY, "--set", "schedule.epochs=2", "--resume"]) == 0
    assert len((study / "run" / "curves.csv").read_text().splitlines()) == 3


def test_one_file_is_split_by_patient_and_a_folder_may_lack_validation(study, capsys, tmp_path):
    assert run([*train_on(study, f"{study}/coco.json"), *TINY, "--out", f"{tmp_path}/one"]) == 0
    assert re.search(r"One file given: \d films to train, \d to validate", capsys.readouterr().err)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.json").write_bytes((study / "split" / "train.json").read_bytes())
    repeats = ["--set", "data.repeat_threshold=1"]
    assert run([*train_on(study, f"{tmp_path}/data"), *TINY, *repeats, "--out", f"{tmp_path}/two"]) == 0
    said = capsys.readouterr().err
    assert "No val.json" in said
    assert re.search(r"shown more often for their rare classes: with \w+ \(in \d of \d\)|No class is rare enough", said)
    assert (tmp_path / "two" / "best.safetensors").exists()


def test_as_a_program():
    def program(*arguments: str) -> subprocess.CompletedProcess[str]:
        code = "from vertinst.cli import main; main()"
        # A narrow terminal's help is cut.
        wide = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
        return subprocess.run(
            [sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, check=False, env=wide
        )

    assert re.fullmatch(r"vertinst \d+\.\d+\.\d+\n", program("--version").stdout)
    everything = program("--help").stdout
    assert "convert-via" in everything
    assert "..." not in everything.split("Commands:")[1], "a command's summary is cut off"
    bare = program()
    assert (bare.returncode, bare.stdout, bare.stderr) == (0, everything, "")
    missing = program("split", "none.json", "--out", "x")
    assert missing.returncode == 2
    assert "none.json" in missing.stderr
    assert "Traceback" not in missing.stderr
    assert "Traceback" in program("split", "none.json", "--out", "x", "--debug").stderr


def test_overwrite_never_deletes_what_is_read(study, capsys):
    images, refused = f"{study}/films/images", "will not delete this folder"
    trained = [*train_on(study, f"{study}/split"), *TINY, "--overwrite", "--out"]
    predicted = ["predict", images, "--overwrite", "--weights", f"{study}/run", "--out"]
    before = sorted(study.rglob("*"))
    fails(capsys, ["split", f"{study}/coco.json", "--out", f"{study}", "--overwrite"], refused)
    fails(capsys, [*trained, f"{study}/split"], refused)
    fails(capsys, [*trained, f"{study}/films"], refused)
    fails(capsys, [*trained, f"{study}/run", "--set", f"init.weights={study}/run"], refused)
    fails(capsys, [*predicted, f"{study}/run"], refused)
    fails(capsys, [*predicted, images], refused)
    fails(capsys, [*predicted, f"{study}/films"], refused)
    assert sorted(study.rglob("*")) == before


def test_films_of_one_patient_in_one_file_say_how_to_train(study, capsys, tmp_path):
    data = json.loads((study / "coco.json").read_text())
    data["images"], number = data["images"][:1], data["images"][0]["id"]
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] == number]
    (tmp_path / "one.json").write_text(json.dumps(data))
    message = r"films of at least two\n.*train without validation"
    fails(capsys, [*train_on(study, f"{tmp_path}/one.json"), *TINY, "--out", f"{tmp_path}/run"], message)


def test_merged_classes_may_have_blanks_between_them():
    assert merged_choice("cage, screw") == ["cage", "screw"]
    assert merged_choice("bone+implants") == "bone+implants"


def test_an_internal_fault_shows_no_contents(capsys, monkeypatch):
    def broken() -> None:
        raise RuntimeError("Doe^John")

    monkeypatch.setattr("vertinst.doctor.examine", broken)
    assert run(["doctor"]) == 1
    shown = capsys.readouterr()
    assert "fault of vertinst" in shown.err
    assert "Doe" not in shown.err + shown.out


def test_what_takes_long_to_start_says_so_on_terminals_only(capsys, monkeypatch):
    with cli.waiting("loading"):
        pass
    assert capsys.readouterr().err == ""
    shown = io.StringIO()
    monkeypatch.setattr(cli, "err", Console(file=shown, force_terminal=True))
    with cli.waiting("loading"):
        pass
    assert "loading" in shown.getvalue()


def test_patients_that_are_not_known_are_told_when_one_file_is_split(study, capsys, tmp_path):
    content = json.loads((study / "coco.json").read_text())
    for image in content["images"]:
        image.pop("patient", None)
    (tmp_path / "a.json").write_text(json.dumps(content))
    load_split(tmp_path / "a.json", 0)
    assert "each taken as a patient of their own" in capsys.readouterr().err


@pytest.mark.parametrize("group", ["weights", "convert"])
def test_a_group_without_a_command_shows_its_help_and_no_error(capsys, group):
    assert run([group]) == 0
    printed = capsys.readouterr()
    assert f"Usage: vertinst {group}" in printed.out
    assert "Error" not in printed.out + printed.err
