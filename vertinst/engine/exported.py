"""Exported models: a folder with a network for ONNX Runtime or OpenVINO, used as any trained model is.

Only the network runs elsewhere. What prepares films and what finds instances in the network's outputs is the code of
the model itself, so that exported and trained models differ by rounding alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, Field, ValidationError
from torch import Tensor, nn

from vertinst import files, plugins
from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.checkpoint import MODEL_JSON, Description
from vertinst.engine.precision import choose_device
from vertinst.engine.predict import Predictor
from vertinst.engine.runtimes import AGAIN, FILES, Format, Runtime, check_format, open_runtime
from vertinst.errors import CheckpointError, ConfigError, DataError
from vertinst.structures import Instances

__all__ = [
    "MODEL_JSON",
    "RESCORING",
    "ExportedModel",
    "ExportedPredictor",
    "Facts",
    "Record",
    "facts_of",
    "is_exported",
    "load_exported",
    "read_record",
]

RESCORING = "rescoring.safetensors"
# Parts that `detect` needs and that stay in torch, with the file that holds them.
DETECTION_PARTS = ("maskiou_net",)
MAX_CLASSES = 10_000
MAX_RECORD_BYTES = 20_000_000


class Facts(BaseModel, extra="forbid"):
    """A file of the folder: its size and digest, so that half a copy is known for what it is."""

    bytes: int = Field(ge=0)
    sha256: str


class Record(BaseModel, extra="forbid"):
    """What `model.json` says.

    Attributes:
        kind: What the folder is.
        format_version: Of this layout.
        format: Of the network.
        weights: File name of the checkpoint it was made from.
        model: As in `Description`, as are the following.
        precision: Of the weights.
        int8: How int8 was made and what it costs; see `vertinst.engine.export`. None for float32.
        largest_difference: Between the network's outputs here and in torch, over the largest output, on a trial batch.
        exported_with: Versions of what wrote it.
        files: The other files by name.
    """

    kind: Literal["vertinst exported model"] = "vertinst exported model"
    format_version: Literal[1] = 1
    format: Format
    weights: str
    model: str
    options: dict[str, Any]
    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_CLASSES)]
    config: dict[str, Any]
    epoch: int
    metrics: dict[str, Any]
    versions: dict[str, str]
    precision: Literal["32", "int8"]
    int8: dict[str, Any] | None
    largest_difference: float
    exported_with: dict[str, str]
    files: dict[str, Facts]

    def description(self) -> Description:
        """What the checkpoint said about itself."""
        return Description(
            self.model, self.options, self.classes, self.config, self.epoch, self.metrics, versions=self.versions
        )


def facts_of(path: Path) -> Facts:
    """Size and digest of a file."""
    with path.open("rb") as file:
        return Facts(bytes=path.stat().st_size, sha256=hashlib.file_digest(file, "sha256").hexdigest())


def is_exported(path: Path | str) -> bool:
    """Whether a path is a folder made by `vertinst export-model`."""
    return (Path(path) / MODEL_JSON).is_file()


def read_record(folder: Path) -> Record:
    """Read `model.json` and check that the folder's files are those it was written with.

    Raises:
        CheckpointError: It says something else than a `Record`, or a file is missing, cut short or another.
    """
    path = folder / MODEL_JSON
    size = path.stat().st_size
    if size > MAX_RECORD_BYTES:
        raise CheckpointError(f"must have at most {MAX_RECORD_BYTES} bytes, got {size}", where=path, fix=AGAIN)
    try:
        record = Record.model_validate(files.read_json(path))
    except DataError as error:
        raise CheckpointError(error.message, where=path, fix=AGAIN) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(ascii(str(part))[1:-1][:40] for part in first["loc"]) or "its top level"
        raise CheckpointError(
            f"must describe an exported model of this version of vertinst: {place}: {first['msg']}",
            where=path,
            fix=AGAIN,
        ) from error
    # Names are ours, never the file's: nothing outside of the folder can be meant.
    for name in (*FILES[record.format], *([RESCORING] if RESCORING in record.files else [])):
        _check_file(folder / name, record.files.get(name))
    return record


def _check_file(path: Path, wanted: Facts | None) -> None:
    if wanted is None or not path.is_file():
        raise CheckpointError("file of the exported model is missing", where=path, fix=AGAIN)
    size = path.stat().st_size
    if size != wanted.bytes:
        raise CheckpointError(f"must have {wanted.bytes} bytes, got {size}: cut short?", where=path, fix=AGAIN)
    if facts_of(path) != wanted:
        raise CheckpointError("is not the file that was exported: its digest differs", where=path, fix=AGAIN)


class ExportedModel(nn.Module):
    """A model whose network runs in another runtime.

    Args:
        model: Its `prepare`, `anchor_count` and `detect` are used, and its `options`.
        runtime: Takes the place of its `network`.
        raw: Makes what `detect` takes of the runtime's outputs.
        classes: Number of classes, background left out.

    Attributes:
        options: The model's.
        runtime: As given.
    """

    def __init__(self, model: nn.Module, runtime: Runtime, raw: Callable[..., Any], classes: int) -> None:
        super().__init__()
        self.model = model
        self.runtime = runtime
        self.options: Any = model.options
        self._raw = raw
        self._classes = classes

    def forward(self, images: list[Tensor]) -> list[Instances]:
        """Instances of each film; as the model's own in evaluation.

        Raises:
            CheckpointError: The network's outputs are not finite, or not what the model's options promise.
        """
        model: Any = self.model
        batch, sizes = model.prepare(images)
        films = [self._run(film[None]) for film in batch]
        raw = self._raw(*(torch.cat(parts) for parts in zip(*films, strict=True)))
        whole = batch.shape[-2], batch.shape[-1]
        self._check(raw, whole)
        found: list[Instances] = model.detect(raw, whole, [(i.shape[1], i.shape[2]) for i in images], sizes)
        return found

    def _run(self, film: Tensor) -> tuple[Tensor, ...]:
        try:
            outputs = self.runtime(film)
        except Exception as error:
            # The runtimes' exceptions have no common base.
            raise CheckpointError(f"network cannot be run ({type(error).__name__})", fix=AGAIN) from error
        if any(not output.ndim or len(output) != 1 for output in outputs):
            raise CheckpointError("network must give its outputs for one film", fix=AGAIN)
        return outputs

    def _check(self, raw: Any, whole: tuple[int, int]) -> None:
        k = self.options.prototypes
        anchors = raw.deltas.shape[1] if raw.deltas.ndim == 3 else 0
        wanted = {"deltas": (anchors, 4), "logits": (anchors, self._classes + 1), "coefficients": (anchors, k)}
        got = {name: tuple(getattr(raw, name).shape[1:]) for name in wanted}
        planes = raw.prototypes.ndim == 4 and raw.prototypes.shape[1] == k
        if got != wanted or not anchors or not planes or not all(o.dtype == torch.float32 for o in raw):
            raise CheckpointError(
                f"network must give 4 box values, {self._classes + 1} scores and {k} coefficients an anchor, "
                f"got {', '.join(map(str, got.values()))}",
                fix=AGAIN,
            )
        model: Any = self.model
        # Counted before they are made: the folder's options say how many.
        if (expected := model.anchor_count(whole)) != anchors:
            raise CheckpointError(
                f"network must give {expected} anchors for films of this size, got {anchors}", fix=AGAIN
            )


class ExportedPredictor(Predictor):
    """A `Predictor` whose record names the engine and the precision that it has.

    Args:
        model: The model.
        record: Of its folder.
    """

    def __init__(self, model: ExportedModel, record: Record) -> None:
        super().__init__(
            model, record.classes, name=record.model, weights=record.weights, versions=record.versions, precision="32"
        )
        self._exported = {
            "engine": model.runtime.name,
            "engine_versions": dict(model.runtime.versions),
            "precision": "int8" if record.precision == "int8" else model.runtime.precision,
        }

    def provenance(self) -> dict[str, Any]:
        """As any predictor's, and `engine` with `engine_versions`; `precision` is `32`, `bf16` or `int8`."""
        return {**super().provenance(), **self._exported}


def load_exported(
    path: Path | str,
    *,
    engine: str = "auto",
    precision: str = "auto",
    device: str = "auto",
    noted: Callable[[str], None] = lambda sentence: None,
) -> ExportedPredictor:
    """Load an exported folder, or convert a trained model on the spot.

    Args:
        path: Folder made by `vertinst export-model`; or, with an `engine`, whatever `load_model` takes.
        engine: `onnx` or `openvino`; `auto` takes the one that the folder is for.
        precision: `auto`, `32` or `bf16`, of the layers that are not int8.
        device: `auto` or `cpu`.
        noted: Told what a foreign file was taken for.

    Raises:
        CheckpointError: The folder is damaged, or for a model this version does not have.
        ConfigError: The engine is not installed, unknown or another than the folder's, or the device is no processor.
    """
    if choose_device(device).type != "cpu" and device != "auto":
        raise ConfigError(f"exported models run on the processor, got device {device!r}", fix="Leave --device away.")
    if not is_exported(path):
        return _converted(path, check_format(engine, "--engine", others=("auto", "torch")), precision, noted)
    folder = Path(path)
    record = read_record(folder)
    if engine not in ("auto", record.format):
        known = "onnx or openvino" if engine not in ("torch", *FILES) else f"auto or {record.format} for this folder"
        raise ConfigError(
            f"engine must be {known}, got {engine!r}",
            where=folder,
            fix=f"Leave --engine away, or export the trained model with --format {engine}."
            if engine in FILES
            else "Leave --engine away; with --weights of the run itself, PyTorch is used.",
        )
    runtime = open_runtime(record.format, folder, precision)
    return ExportedPredictor(_assemble(record, folder, runtime), record)


def _converted(path: Path | str, form: Format, precision: str, noted: Callable[[str], None]) -> ExportedPredictor:
    """A trained model converted for this process alone."""
    from vertinst.engine.export import export_model

    with TemporaryDirectory(prefix="vertinst-") as folder:
        export_model(path, form, Path(folder), noted=noted)
        return load_exported(folder, precision=precision)


def _assemble(record: Record, folder: Path, runtime: Runtime) -> ExportedModel:
    """The model around the runtime: built without memory for weights, of which it needs next to none."""
    try:
        plugin = plugins.load("models", record.model)
        options = plugin.Options.model_validate({**record.options, "backbone_weights": "none"})
    except (ConfigError, ValidationError) as error:
        raise CheckpointError(
            f"this version of vertinst has no model {record.model!r:.60} with the folder's options",
            where=folder / MODEL_JSON,
            fix=f"Install vertinst {record.versions.get('vertinst', '')[:20]}, which trained it.",
        ) from error
    if not hasattr(plugin, "Raw"):
        raise CheckpointError(f"{record.model} cannot be an exported model", where=folder / MODEL_JSON, fix=AGAIN)
    try:
        with torch.device("meta"):
            model: nn.Module = plugin.build(options, record.classes)
    except RuntimeError as error:
        raise CheckpointError(
            "options ask for a network that no memory holds", where=folder / MODEL_JSON, fix=AGAIN
        ) from error
    parts = [name for name in DETECTION_PARTS if getattr(model, name, None) is not None]
    for name, child in list(model.named_children()):
        if name not in parts and any(True for _ in child.parameters()):
            delattr(model, name)
    if parts:
        _fill(model, folder)
    return ExportedModel(model.eval(), runtime, plugin.Raw, len(record.classes))


def _fill(model: nn.Module, folder: Path) -> None:
    """Give what stays in torch its weights."""
    path = folder / RESCORING
    if not path.is_file():
        raise CheckpointError("file of the exported model is missing", where=path, fix=AGAIN)
    checkpoints.load_weights(model.to_empty(device="cpu"), checkpoints.read(path))


def detection_weights(model: nn.Module) -> Mapping[str, Tensor]:
    """Tensors of those parts of a model that stay in torch."""
    return {n: t for n, t in model.state_dict().items() if n.split(".")[0] in DETECTION_PARTS}
