"""A trained model's network as ONNX or OpenVINO, in a folder that `load_model` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from vertinst import files
from vertinst.engine import checkpoint as checkpoints
from vertinst.engine import quantise
from vertinst.engine.checkpoint import Checkpoint
from vertinst.engine.exported import MODEL_JSON, RESCORING, Record, detection_weights, facts_of
from vertinst.engine.runtimes import (
    FILES,
    INPUT,
    OUTPUTS,
    Format,
    check_format,
    import_onnx,
    import_onnxruntime,
    import_openvino,
    open_runtime,
    quiet,
)
from vertinst.errors import CheckpointError, ConfigError
from vertinst.progress import Progress, silent

__all__ = ["OPSET", "Export", "export_model"]

# The first with deformable convolution is 19; 20 is what torch writes best.
OPSET = 20
# Of a float32 network's outputs between torch and the runtime: what rounding explains is a hundredth of it.
MOST_DIFFERENCE = 1e-2
# The trial film: neither square nor upright, so that height and width cannot be confused unnoticed.
TRIAL_ASPECT = 0.75


@dataclass(frozen=True)
class Export:
    """What was exported.

    Attributes:
        folder: Where it lies.
        record: What `model.json` says.
    """

    folder: Path
    record: Record


class _Network(nn.Module):
    """A model's `network` as a module of its own, which exporters ask for; outputs as a plain tuple."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, film: Tensor) -> tuple[Tensor, ...]:
        network: Callable[[Tensor], tuple[Tensor, ...]] = self.model.network  # type: ignore[assignment]
        return tuple(network(film))


def export_model(
    weights: Path | str,
    form: str,
    out: Path,
    *,
    int8: bool = False,
    films: Path | None = None,
    phantoms: int = quantise.PHANTOMS,
    overwrite: bool = False,
    noted: Callable[[str], None] = lambda sentence: None,
    progress: Progress = silent,
) -> Export:
    """Export a model's network for another runtime.

    Args:
        weights: As for `load_model`: a weights file, a run folder, or `demo`.
        form: `onnx` (ONNX Runtime) or `openvino`.
        out: New folder: `model.onnx`, or `model.xml` and `model.bin`; `model.json`; with mask rescoring
            `rescoring.safetensors`.
        int8: Compute in 8-bit integers where the calibration films allow; the last layers stay float32. The loss in
            AP on phantoms is measured and kept in `model.json`.
        films: Folder of films to calibrate int8 with, such as those of the training; phantoms if None.
        phantoms: Films that are drawn to calibrate with, and to compare on.
        overwrite: Delete what `out` holds.
        noted: Told what a foreign file was taken for.
        progress: Told about conversion, calibration and comparison.

    Raises:
        CheckpointError: The weights cannot be used, or the exported network gives other numbers than torch.
        ConfigError: Unknown format, a model that cannot be exported, or an extra that is not installed.
        OutputExistsError: `out` holds something and `overwrite` is false.
    """
    form = check_format(form, "--format", others=("detectron2",))
    if films is not None and not int8:
        raise ConfigError("--films are for calibration", fix="Add --int8, or leave --films away.")
    if phantoms < 1:
        raise ConfigError(f"phantoms must be at least 1, got {phantoms}", fix="Leave --phantoms away.")
    _check_extras(form, int8=int8)
    kept = [path for path in (films, None if str(weights) == "demo" else Path(weights)) if path is not None]
    files.check_folder(out, overwrite=overwrite, inputs=kept)
    checkpoint = checkpoints.read(weights)
    if checkpoint.foreign:
        noted(checkpoint.taken_for())
    model = checkpoints.build_model(checkpoint)
    _check_model(model, checkpoint, form, int8=int8)
    files.prepare_folder(out, overwrite=overwrite, inputs=kept)
    details: dict[str, Any] | None = None
    progress(0, 1, "converting the network")
    if int8:
        details = quantise.write(model, checkpoint, form, out, _write_onnx, films, phantoms, progress)
    elif form == "onnx":
        _write_onnx(model, out / FILES[form][0])
    else:
        _write_openvino(model, out / FILES[form][0])
    _write_rescoring(model, checkpoint, out)
    difference = _difference(model, form, out)
    progress(1, 1, "converting the network")
    if not int8 and not difference < MOST_DIFFERENCE:
        raise CheckpointError(
            f"exported network must give torch's outputs, got a difference of {difference:.2g} of the largest",
            where=out,
            fix="Please report this with the model's options; use the model in PyTorch for now.",
        )
    record = _record(checkpoint, model.options, form, out, details, difference)  # type: ignore[arg-type]
    # Last: a folder without it is none.
    files.write_json(out / MODEL_JSON, record.model_dump(mode="json"), indent=1)
    if int8:
        record = _with_loss(record, checkpoint, out, phantoms, progress)
    return Export(out, record)


def _with_loss(record: Record, checkpoint: Checkpoint, out: Path, phantoms: int, progress: Progress) -> Record:
    loss = quantise.measure_loss(checkpoint.path, out, phantoms, progress)
    record = record.model_copy(update={"int8": {**(record.int8 or {}), "phantoms": loss}})
    files.write_json(out / MODEL_JSON, record.model_dump(mode="json"), indent=1)
    return record


def _check_extras(form: Format, *, int8: bool) -> None:
    """Before any work: what the export will import."""
    if form == "openvino":
        import_openvino()
    if form == "onnx" or int8:
        import_onnx()
        import_onnxruntime()


def _check_model(model: nn.Module, checkpoint: Checkpoint, form: Format, *, int8: bool) -> None:
    name = checkpoint.description.model
    if not all(hasattr(model, part) for part in ("prepare", "network", "detect")):
        raise ConfigError(
            f"model {name} cannot be exported: its network is not one graph from film to outputs",
            where=checkpoint.path,
            fix="yolact models can be exported, mask_rcnn and detectron2 models with --format detectron2.",
        )
    if form == "openvino" and int8 and checkpoint.description.options.get("deformable_interval"):
        raise ConfigError(
            "deformable convolutions cannot go to OpenVINO as int8, whose reader of quantised networks lacks them",
            where=checkpoint.path,
            fix="Leave --int8 away, or take --format onnx.",
        )


def _trial(model: Any) -> Tensor:
    """A batch of one film of noise, as the model prepares it."""
    side = int(model.options.image_size)
    noise = torch.rand(3, max(int(side * TRIAL_ASPECT), 1), side, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        batch, _ = model.prepare([noise])
    return torch.Tensor(batch.clone())


def _write_onnx(model: nn.Module, path: Path) -> None:
    """The network with any height and width, batch norm folded into the convolutions."""
    sizes = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    with quiet():
        program = torch.onnx.export(
            _Network(model).eval(),
            (_trial(model),),
            dynamo=True,
            opset_version=OPSET,
            dynamic_shapes=(sizes,),
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            verbose=False,
        )
        assert program is not None
        files.write_with(path, lambda temporary: program.save(str(temporary), external_data=False))


def _write_openvino(model: nn.Module, path: Path) -> None:
    """The network with any height and width, straight from torch: deformable convolution comes along."""
    openvino = import_openvino()
    with quiet():
        network = openvino.convert_model(_Network(model).eval(), example_input=_trial(model))
    network.inputs[0].get_tensor().set_names({INPUT})
    for port, name in zip(network.outputs, OUTPUTS, strict=True):
        port.get_tensor().set_names({name})
    network.reshape({INPUT: [1, 3, -1, -1]})
    quantise.save_openvino(network, path)


def _write_rescoring(model: nn.Module, checkpoint: Checkpoint, out: Path) -> None:
    weights = detection_weights(model)
    if weights:
        checkpoints.save(out / RESCORING, weights, checkpoint.description)


def _difference(model: nn.Module, form: Format, out: Path) -> float:
    """Largest difference between the two networks' outputs over the largest of torch's, of any output."""
    trial = _trial(model)
    with torch.inference_mode():
        wanted = _Network(model)(trial)
    got = open_runtime(form, out, "32")(trial)
    differences = [(a - b).abs().max() / b.abs().max().clamp(min=1e-6) for a, b in zip(got, wanted, strict=True)]
    # Not Python's max, which passes over what is no number.
    return float(torch.stack(differences).max())


def _record(
    checkpoint: Checkpoint,
    options: BaseModel,
    form: Format,
    out: Path,
    int8: Mapping[str, Any] | None,
    difference: float,
) -> Record:
    found = checkpoint.description
    names = [*FILES[form], *([RESCORING] if (out / RESCORING).is_file() else [])]
    tools = ["openvino"] if form == "openvino" else []
    tools += ["onnx", "onnxscript"] if form == "onnx" or int8 is not None else []
    tools += ["onnxruntime"] if int8 is not None else []
    return Record(
        format=form,
        weights=checkpoint.path.name,
        model=found.model,
        # All of them: those of a foreign file are only the ones that differ from the defaults.
        options=options.model_dump(mode="json"),
        classes=found.classes,
        config=dict(found.config),
        epoch=found.epoch,
        metrics=dict(found.metrics),
        versions=dict(found.versions),
        precision="32" if int8 is None else "int8",
        int8=None if int8 is None else dict(int8),
        largest_difference=difference,
        exported_with={**checkpoints.versions(), **{tool: metadata.version(tool) for tool in tools}},
        files={name: facts_of(out / name) for name in names},
    )
