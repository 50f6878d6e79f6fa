"""Settings: packaged, from a file, from --set; every mistake named."""

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel, ConfigDict

from vertinst import plugins
from vertinst.config import (
    Config,
    check_settings,
    differences,
    load_config,
    model_options,
    packaged_configs,
    save_config,
)
from vertinst.errors import ConfigError
from vertinst.settings import read_overrides


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(text, "utf-8")
    return str(path)


# Detectron2's own configs are read with it alone, which few have: tests/models/test_detectron2.py.
@pytest.mark.parametrize("name", [name for name in packaged_configs() if not name.startswith("detectron2_")])
def test_packaged_configs_are_valid_with_and_without_suffix(name: str) -> None:
    assert load_config(name) == load_config(f"{name}.yaml")


def test_the_named_configs_are_packaged() -> None:
    assert {"yolact_lumbar", "mask_rcnn_lumbar", "yolact_demo"} <= set(packaged_configs())


def test_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, ""))
    assert config.model_copy(update={"model": Config().model}) == Config()


def test_the_saved_settings_hold_the_models_own_defaults_too(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "model: {name: yolact, backbone: resnet18}"))
    save_config(config, tmp_path / "config.yaml")
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]
    assert saved["backbone"] == "resnet18"
    assert saved.keys() == {"name", *plugins.load("models", "yolact").Options.model_fields}


def test_set_reaches_every_depth_and_reads_yaml(tmp_path: Path) -> None:
    overrides = [
        "optim.lr=1e-3",
        "schedule.patience=null",
        "classes=[lumbar, sacral]",
        "model.backbone=resnet18",
        "data.augment.flip=0",
        "precision=32",
        "postprocess.score_threshold=0.4",
    ]
    config = load_config(write(tmp_path, "schedule: {patience: 3}\n"), overrides)
    assert config.optim.lr == 1e-3
    assert config.schedule.patience is None
    assert config.classes == ("lumbar", "sacral")
    assert model_options(config).model_dump()["backbone"] == "resnet18"
    assert config.data.augment.flip == 0
    assert config.precision == "32"
    assert config.postprocess.score_threshold == 0.4


def test_save_and_load_give_the_same_settings(tmp_path: Path) -> None:
    config = load_config("mask_rcnn_lumbar", ["optim.name=sgd", "schedule.minutes=2.5", "data.augment.noise=0"])
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.leraning_rate=1", r"unknown key optim\.leraning_rate"),
        ("optim.wieght_decay=1", r"unknown key optim\.wieght_decay(.|\n)*Did you mean weight_decay"),
        ("data.augment.flipp=1", r"unknown key data\.augment\.flipp(.|\n)*Did you mean flip"),
        ("model.backbon=resnet18", r"unknown key model\.backbon(.|\n)*Did you mean backbone"),
        ("postprocess.score_treshold=1", r"unknown key postprocess\.score_treshold(.|\n)*score_threshold"),
        ("optimm.lr=1", r"unknown key optimm(.|\n)*Did you mean optim"),
        ("optim.lr=-1", r"optim\.lr: .*greater than 0, got -1"),
        ("optim.lr=.nan", r"optim\.lr: .*finite number"),
        ("optim.lr=fast", r"optim\.lr: .*valid number.*got 'fast'"),
        ("optim.name=adam", r"optim\.name: .*'adamw' or 'sgd'.*got 'adam'"),
        ("model.image_size=3", r"model\.image_size: .*greater than or equal to 64"),
        ("model.name=yolo", r"unknown name 'yolo' among models(.|\n)*yolact"),
        ("classes=[a, a]", "classes must be different names"),
        ("classes=[]", "classes: .*at least 1"),
        ("seed=1.5", "seed: .*valid integer"),
        ("optim.lr", "--set must be key=value"),
        ("seed.x=1", "seed has no keys of its own"),
        ("optim.lr=[", r"--set optim\.lr: is not valid YAML"),
    ],
)
def test_a_wrong_setting_is_named(tmp_path: Path, override: str, message: str) -> None:
    path = write(tmp_path, "seed: 3\n")
    with pytest.raises(ConfigError, match=message):
        load_config(path, [override])


def test_message_names_the_file_and_the_overridden_keys(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 3\n")
    with pytest.raises(ConfigError, match=r"run\.yaml with --set optim\.lr: optim\.lr"):
        load_config(path, ["optim.lr=0"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\noptim: {lr: 1\nx", "is not valid YAML: line 3"),
        ("seed: 1\nseed: 2\n", "line 2, column 1: key 'seed' given twice"),
        ("- a\n", "must be a mapping of keys, got list"),
        ("seed: !!python/object/apply:os.system ['touch hacked']\n", "is not valid YAML.*python/object"),
        ("seed: !!bool x\n", "is not valid YAML: 'x'"),
        ("seed: !!timestamp x\n", "is not valid YAML: 'NoneType'"),
        ("seed: %s\n" % ("9" * 5000), "is not valid YAML: Exceeds the limit"),
        ("? [a]\n: 1\n", "is not valid YAML: unhashable"),
        ("seed: " + "[" * 900 + "\n", "is not valid YAML: maximum recursion"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "run.yaml")


def test_an_unknown_config_names_the_packaged_ones() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean yolact_lumbar(.|\n)*Packaged: .*mask_rcnn_lumbar"):
        load_config("yolact_lumbr.yaml")


def test_settings_cannot_be_changed_after_validation() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Config().optim.lr = 3.0  # type: ignore[misc]


def test_differences_are_dotted_keys() -> None:
    a = Config().model_dump(mode="json")
    b = load_config("yolact_demo", ["seed=4"]).model_dump(mode="json")
    found = differences(a, b)
    assert "seed" in found
    assert "model.channels" in found
    assert "optim.name" not in found
    assert differences(a, a) == ()


def test_check_settings_names_the_place() -> None:
    class Options(BaseModel):
        model_config = ConfigDict(extra="forbid")
        share: float = 0.5

    assert check_settings(Options, {"share": "0.25"}).share == 0.25
    with pytest.raises(ConfigError, match=r"--score: share: .*valid number"):
        check_settings(Options, {"share": "much"}, "--score")


def test_overrides_alone():
    texts = ["suppression.pairs.lumbar lumbar.iou=0.4", "max_instances=7"]
    assert read_overrides(texts) == {"suppression": {"pairs": {"lumbar lumbar": {"iou": 0.4}}}, "max_instances": 7}
    with pytest.raises(ConfigError, match="--set must be key=value"):
        read_overrides(["max_instances"])
