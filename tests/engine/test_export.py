"""Exported models: the same instances as in PyTorch, int8 with its price, and folders that are not to be trusted."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from vertinst.cli import run
from vertinst.config import load_config
from vertinst.data.phantom import make_phantoms
from vertinst.engine import checkpoint as checkpoints
from vertinst.engine import export, quantise
from vertinst.engine.checkpoint import Description
from vertinst.engine.export import export_model
from vertinst.engine.exported import MODEL_JSON, RESCORING, load_exported
from vertinst.engine.predict import load_model
from vertinst.errors import CheckpointError, ConfigError, DataError, OutputExistsError
from vertinst.models import yolact
from vertinst.structures import Instances, rle

CLASSES = ("lumbar", "sacral")


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two phantoms."""
    folder = tmp_path_factory.mktemp("films") / "phantoms"
    make_phantoms(2, 5, folder)
    return sorted((folder / "images").iterdir())


@pytest.fixture(scope="module")
def native(films: list[Path]) -> list[Instances]:
    """What the demo's network finds on them in PyTorch."""
    return load_model("demo", precision="32", device="cpu").predict(films)


@pytest.fixture(scope="module")
def onnx_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's network as ONNX. Writing it takes longest of all here: it is done once."""
    need_onnx()
    folder = tmp_path_factory.mktemp("exported") / "onnx"
    assert run(["export-model", "--weights", "demo", "--format", "onnx", "--out", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def openvino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's network for OpenVINO."""
    need_openvino()
    folder = tmp_path_factory.mktemp("exported") / "openvino"
    assert run(["export-model", "--weights", "demo", "--format", "openvino", "--out", str(folder)]) == 0
    return folder


def need_onnx() -> None:
    for module in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(module, reason=f"{module} is of the extra `onnx`")


def need_openvino() -> None:
    # Found, not imported: vertinst imports it in its own way, without what it reports with.
    if find_spec("openvino") is None:
        pytest.skip("openvino is an extra")


@pytest.fixture
def copied(openvino_folder: Path, tmp_path: Path) -> Path:
    """A folder to damage."""
    return Path(shutil.copytree(openvino_folder, tmp_path / "copied"))


@pytest.fixture
def written_before(monkeypatch: pytest.MonkeyPatch, onnx_folder: Path) -> None:
    """Exporting the demo's network again takes the ONNX file that is there."""
    monkeypatch.setattr(export, "_write_onnx", lambda model, path: shutil.copy(onnx_folder / "model.onnx", path))


def small(folder: Path, **options: object) -> Path:
    """Weights of a small random network that finds something on every film."""
    torch.manual_seed(0)
    chosen = yolact.Options(
        **{"backbone": "resnet18", "image_size": 64, "channels": 16, "prototypes": 8, "max_detections": 20} | options
    )
    model = yolact.build(chosen, CLASSES)
    torch.nn.init.normal_(model.prediction_layers[0].conf_layer.weight, std=0.3)
    torch.nn.init.zeros_(model.prediction_layers[0].conf_layer.bias)
    path = folder / "small.safetensors"
    checkpoints.save(path, model.state_dict(), Description("yolact", chosen.model_dump(mode="json"), CLASSES))
    return path


def agree(one: Instances, other: Instances) -> None:
    assert len(one) == len(other) > 0
    assert one.category_ids.tolist() == other.category_ids.tolist()
    assert np.abs(one.boxes - other.boxes).max() < 0.1
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
    assert min(rle.iou([a], [b])[0, 0] for a, b in zip(one.masks, other.masks, strict=True)) > 0.99


@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_exported_and_native_predictions_agree(
    form: str, films: list[Path], native: list[Instances], request: pytest.FixtureRequest
) -> None:
    predictor = load_model(request.getfixturevalue(f"{form}_folder"), precision="32")
    # The films' sizes differ from each other's and from that of the film that the export was made with.
    for one, other in zip(native, predictor.predict(films), strict=True):
        agree(one, other)
    provenance = predictor.provenance()
    assert (provenance["engine"], provenance["precision"], provenance["model"]) == (form, "32", "yolact")
    assert provenance["weights"] == checkpoints.find_weights("demo").name
    assert predictor.classes == load_model("demo").classes


def test_command_line_predicts_with_an_exported_folder(
    openvino_folder: Path, films: list[Path], tmp_path: Path
) -> None:
    command = ["predict", str(films[0]), "--weights", str(openvino_folder), "--engine", "openvino"]
    assert run([*command, "--precision", "32", "--out", str(tmp_path / "found")]) == 0
    result = json.loads((tmp_path / "found" / f"{films[0].stem}.json").read_text())
    assert "openvino" in json.dumps(result)


def test_a_foreign_file_is_named_before_it_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def stop(*arguments: object, noted: Callable[[str], None]) -> None:
        noted("taken for yolact")
        raise ConfigError("enough")

    monkeypatch.setattr(export, "export_model", stop)
    with pytest.raises(ConfigError, match="enough"):
        load_model(tmp_path / "yolact_base.pth", engine="openvino", noted=said.append)
    assert said == ["taken for yolact"]


@pytest.mark.parametrize("broken", range(4))
def test_a_network_that_gives_no_numbers_is_no_export(
    broken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_openvino()
    weights = small(tmp_path)

    def wrong(form: str, folder: Path, precision: str) -> Callable[[torch.Tensor], list[torch.Tensor]]:
        def run_network(batch: torch.Tensor) -> list[torch.Tensor]:
            with torch.inference_mode():
                outputs = list(checkpoints.build_model(checkpoints.read(weights)).network(batch))
            outputs[broken] = outputs[broken] * torch.nan
            return outputs

        return run_network

    monkeypatch.setattr(export, "_write_openvino", lambda model, path: path.write_text(""))
    monkeypatch.setattr(export, "open_runtime", wrong)
    with pytest.raises(CheckpointError, match="must give torch's outputs, got a difference of nan"):
        export_model(weights, "openvino", tmp_path / "out")


@pytest.mark.usefixtures("written_before")
def test_int8_says_what_it_costs(
    films: list[Path], native: list[Instances], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "int8"
    command = ["export-model", "--weights", "demo", "--format", "onnx", "--int8", "--out", str(folder)]
    assert run([*command, "--films", str(films[0].parent), "--phantoms", "2"]) == 0
    shown = capsys.readouterr().out
    assert "AP on 2 phantoms that neither was fitted to" in shown
    assert "mask AP" in shown
    record = json.loads((folder / MODEL_JSON).read_text())
    assert record["precision"] == "int8"
    assert record["int8"]["calibration_films"] == 2
    assert record["int8"]["calibrated_on"] == "films"
    measured = record["int8"]["phantoms"]
    for key in ("mask_AP", "box_AP"):
        assert measured["native"][key] > 0.2
        assert measured["loss"][key] == pytest.approx(measured["native"][key] - measured["exported"][key])
        assert abs(measured["loss"][key]) < 0.1
    predictor = load_model(folder)
    assert predictor.provenance()["precision"] == "int8"
    weights = checkpoints.read("demo").weights
    assert (folder / "model.onnx").stat().st_size < sum(tensor.numel() * 4 for tensor in weights.values()) / 2
    found = [i[i.scores > 0.5] for i in predictor.predict(films)]
    assert [len(i) for i in found] == pytest.approx([int((i.scores > 0.5).sum()) for i in native], abs=2)


@pytest.mark.usefixtures("written_before")
def test_openvino_reads_what_was_quantised(films: list[Path], native: list[Instances], tmp_path: Path) -> None:
    need_openvino()
    predictor = load_exported(int8_without_comparison(tmp_path / "int8"), precision="32")
    assert (predictor.provenance()["engine"], predictor.provenance()["precision"]) == ("openvino", "int8")
    best = predictor.predict(films[:1])[0]
    assert best.category_ids[0] == native[0].category_ids[0]
    assert (
        "FakeQuantize" in (tmp_path / "int8" / "model.xml").read_text()
        or "i8" in (tmp_path / "int8" / "model.xml").read_text()
    )


def int8_without_comparison(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantise, "measure_loss", lambda *_: {"films": 0})
        return export_model("demo", "openvino", folder, int8=True, phantoms=1).folder


@pytest.mark.parametrize(
    ("options", "on_the_spot"),
    [
        ({"deformable_interval": 1, "mask_rescoring": True, "fine_prototypes": True}, False),
        ({"preset": "original", "image_size": 70, "nms": "ordinary"}, True),
    ],
)
def test_every_kind_of_yolact_goes_to_openvino(options: dict[str, object], on_the_spot: bool, tmp_path: Path) -> None:
    need_openvino()
    weights = small(tmp_path, **options)
    if on_the_spot:
        exported = load_model(weights, engine="openvino", precision="32")
    else:
        exported = load_model(export_model(weights, "openvino", tmp_path / "out").folder, precision="32")
        assert (tmp_path / "out" / RESCORING).is_file()
    film = np.random.default_rng(0).random((90, 61), dtype=np.float32)
    agree(load_model(weights, precision="32").predict([film])[0], exported.predict([film])[0])
    assert exported.provenance()["engine"] == "openvino"


def test_last_convolutions_are_those_that_nothing_but_an_output_follows() -> None:
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [
            node("Conv", ["film", "w"], ["a"], name="first"),
            node("Conv", ["a", "w"], ["b"], name="last"),
            node("Relu", ["b"], ["c"], name="relu"),
            node("Concat", ["c", "a"], ["d"], name="both", axis=1),
        ],
        "g",
        [],
        [onnx.helper.make_tensor_value_info(name, 1, None) for name in "cd"],
    )
    assert quantise.last_convolutions(graph) == {"first", "last"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"form": "tflite"}, "--format must be detectron2 or onnx or openvino, got 'tflite'"),
        ({"form": "onnx", "films": Path()}, "--films are for calibration"),
        ({"form": "onnx", "int8": True, "phantoms": 0}, "phantoms must be at least 1, got 0"),
    ],
)
def test_wrong_requests_are_refused(arguments: dict[str, object], message: str, tmp_path: Path) -> None:
    form = str(arguments.pop("form"))
    with pytest.raises(ConfigError, match=message):
        export_model("demo", form, tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_kept(tmp_path: Path) -> None:
    need_openvino()
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(OutputExistsError, match="not empty"):
        export_model("demo", "openvino", tmp_path)


def test_models_that_are_not_one_graph_are_refused(tmp_path: Path) -> None:
    need_onnx()
    need_openvino()
    from vertinst.models import mask_rcnn

    options = load_config("mask_rcnn_lumbar.yaml", ["model.backbone=resnet18", "model.backbone_weights=none"]).model
    settings = {k: v for k, v in options.model_dump(mode="json").items() if k != "name"}
    model = mask_rcnn.build(mask_rcnn.Options(**settings), CLASSES)
    checkpoints.save(tmp_path / "w.safetensors", model.state_dict(), Description("mask_rcnn", settings, CLASSES))
    with pytest.raises(ConfigError, match=r"mask_rcnn cannot be exported.*\nyolact models can be"):
        export_model(tmp_path / "w.safetensors", "onnx", tmp_path / "out")
    weights = small(tmp_path, deformable_interval=1)
    with pytest.raises(ConfigError, match="deformable convolutions cannot go to OpenVINO as int8"):
        export_model(weights, "openvino", tmp_path / "out", int8=True)


@pytest.mark.parametrize(
    ("form", "module"), [("onnx", "onnxruntime"), ("onnx", "onnxscript"), ("openvino", "openvino")]
)
def test_an_extra_that_is_not_installed_comes_with_its_command(
    form: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert run(["export-model", "--weights", "demo", "--format", form, "--out", str(tmp_path / "out")]) == 2
    shown = capsys.readouterr().err
    assert "not installed" in shown
    assert f'pip install "vertinst[{form}]"' in shown


def test_openvino_reports_to_nobody(tmp_path: Path) -> None:
    need_openvino()
    code = (
        "import sys\nfrom vertinst.engine.runtimes import import_openvino\nimport_openvino()\n"
        "print([m for m in sys.modules if m.startswith('openvino_telemetry') and sys.modules[m]])"
    )
    environment = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, timeout=120, env=environment
    )
    assert done.stdout.strip() == "[]"
    assert list(tmp_path.iterdir()) == []


def test_engines_that_the_folder_is_not_for(copied: Path, onnx_folder: Path) -> None:
    with pytest.raises(ConfigError, match="engine must be auto or openvino for this folder, got 'torch'"):
        load_model(copied, engine="torch")
    with pytest.raises(ConfigError, match=r"got 'onnx'\nLeave --engine away, or export .* with --format onnx"):
        load_model(copied, engine="onnx")
    with pytest.raises(ConfigError, match="--engine must be auto or torch or onnx or openvino, got 'tensorrt'"):
        load_model("demo", engine="tensorrt")
    with pytest.raises(ConfigError, match="with ONNX Runtime, which computes in float32, got 'bf16'"):
        load_model(onnx_folder, precision="bf16")
    with pytest.raises(ConfigError, match="device"):
        load_model(copied, device="cuda")


def cut(folder: Path) -> None:
    content = (folder / "model.bin").read_bytes()
    (folder / "model.bin").write_bytes(content[: len(content) // 2])


def alter(folder: Path) -> None:
    content = bytearray((folder / "model.bin").read_bytes())
    content[1000] ^= 255
    (folder / "model.bin").write_bytes(content)


def describe(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / MODEL_JSON).read_text())
        (folder / MODEL_JSON).write_text(json.dumps(content | changes))

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, r"must have \d+ bytes, got \d+: cut short\?"),
        (alter, "is not the file that was exported"),
        (lambda folder: (folder / "model.xml").unlink(), "file of the exported model is missing"),
        (lambda folder: (folder / MODEL_JSON).write_text("{"), "is not valid JSON"),
        (lambda folder: (folder / MODEL_JSON).write_text("[]"), "must describe an exported model"),
        (describe(format="tflite"), "must describe an exported model of this version of vertinst: format"),
        (describe(format_version=2), "format_version"),
        (describe(files={}), "file of the exported model is missing"),
        (describe(surprise=1), "surprise"),
        (describe(**{"\x1b[2J": 1}), r"\\x1b\[2J"),
        (lambda folder: (folder / MODEL_JSON).write_bytes(b"[" * 20_000_001), "must have at most 20000000 bytes"),
        (lambda folder: (folder / MODEL_JSON).write_bytes(b"[" * 1_000_000), "is not valid JSON|nested"),
        (describe(model="../../etc/passwd"), "has no model"),
        (describe(model="mask_rcnn"), "has no model"),
        (describe(options={"image_size": 10**9}), "has no model 'yolact' with the folder's options"),
        # As many anchors as no memory holds.
        (
            describe(options={"anchor_scales": [1.0] * 9_000, "aspect_ratios": [1.0] * 9_000}),
            "anchors for films of thi",
        ),
        (describe(classes=["lumbar"]), "network must give 4 box values, 2 scores and 32 coefficients"),
    ],
)
def test_damaged_and_hostile_folders_are_refused(copied: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(copied)
    with pytest.raises((CheckpointError, DataError), match=message):
        load_model(copied).predict([np.random.default_rng(0).random((64, 64), dtype=np.float32)])


@pytest.mark.parametrize(
    ("before", "after"),
    [
        # OpenVINO says how it refuses these; none of them is to get as far as a network.
        (
            '<?xml version="1.0"?>',
            '<?xml version="1.0"?><!DOCTYPE n [<!ENTITY e SYSTEM "file:///etc/passwd">]><x>&e;</x>',
        ),
        ('type="Convolution"', 'type="Stranger"'),
        ('offset="0"', 'offset="99999999999"'),
        ('offset="0"', 'offset="-1"'),
        ("</net>", ""),
    ],
)
def test_hostile_openvino_networks_are_refused(before: str, after: str, copied: Path) -> None:
    from vertinst.engine.exported import facts_of

    text = (copied / "model.xml").read_text()
    assert before in text
    (copied / "model.xml").write_text(text.replace(before, after, 1))
    record = json.loads((copied / MODEL_JSON).read_text())
    record["files"]["model.xml"] = facts_of(copied / "model.xml").model_dump()
    (copied / MODEL_JSON).write_text(json.dumps(record))
    with pytest.raises(CheckpointError, match="cannot be loaded as a network"):
        load_model(copied)


def test_networks_that_fail_while_they_run_are_one_message(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = load_model(copied)
    film = np.zeros((64, 64), dtype=np.float32)
    model = predictor.model

    def fail(batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise RuntimeError("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT")

    monkeypatch.setattr(model, "runtime", fail)
    with pytest.raises(CheckpointError, match=r"network cannot be run \(RuntimeError\)"):
        predictor.predict([film])
    for outputs in ((torch.tensor(1.0),) * 4, (torch.zeros(2, 3),) * 4):
        monkeypatch.setattr(model, "runtime", lambda batch, outputs=outputs: outputs)
        with pytest.raises(CheckpointError, match="outputs for one film"):
            predictor.predict([film])
    monkeypatch.setattr(model, "runtime", lambda batch: (torch.zeros(1, 3),) * 4)
    with pytest.raises(CheckpointError, match="network must give 4 box values"):
        predictor.predict([film])


def test_a_folder_without_description_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="run folder has neither"):
        load_model(tmp_path)


def network(tmp_path: Path, onnx_folder: Path, content: bytes) -> Path:
    """A copy of an exported folder with another network, its size and digest as they should be."""
    folder = Path(shutil.copytree(onnx_folder, tmp_path / "hostile"))
    (folder / "model.onnx").write_bytes(content)
    record = json.loads((folder / MODEL_JSON).read_text())
    from vertinst.engine.exported import facts_of

    record["files"]["model.onnx"] = facts_of(folder / "model.onnx").model_dump()
    (folder / MODEL_JSON).write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize("kind", ["garbage", "outside", "custom", "names"])
def test_networks_that_are_none_or_reach_further_are_refused(kind: str, tmp_path: Path, onnx_folder: Path) -> None:
    onnx = pytest.importorskip("onnx")
    (tmp_path / "secret.bin").write_bytes(bytes(16))
    weight = onnx.TensorProto(name="w", data_type=1, dims=[4])
    weight.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "../secret.bin"), ("offset", "0"), ("length", "16")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    domain = "attacker" if kind == "custom" else ""
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["film", "film" if kind == "names" else "w"], ["y"], domain=domain)],
        "g",
        [onnx.helper.make_tensor_value_info("film", 1, [4])],
        [onnx.helper.make_tensor_value_info("y", 1, [4])],
        [weight] if kind == "outside" else [],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    content = b"garbage" if kind == "garbage" else model.SerializeToString()
    message = "network must take film and give" if kind == "names" else "cannot be loaded as a network"
    with pytest.raises(CheckpointError, match=message):
        load_model(network(tmp_path, onnx_folder, content))
