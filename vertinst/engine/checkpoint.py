"""Weights in safetensors, with all that is needed to build the model again in the header.

Weights that others published are read too: torch's `.pth` (`torch_file`) and the `.pkl` of model zoos
(`numpy_pickle`); no code in a file is ever run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torchvision
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from vertinst import files, plugins
from vertinst.engine import public_weights
from vertinst.engine.numpy_pickle import is_numpy_pickle, read_arrays
from vertinst.engine.taken import Taken, compare
from vertinst.engine.torch_file import START_BYTES, is_torch_file, read_state_dict
from vertinst.engine.weights_manifest import packaged_manifest
from vertinst.errors import CheckpointError, ConfigError
from vertinst.version import __version__

__all__ = [
    "BEST",
    "LAST",
    "MODEL_JSON",
    "Checkpoint",
    "Description",
    "build_model",
    "check_options",
    "find_weights",
    "load_weights",
    "read",
    "save",
    "versions",
]

FORMAT_VERSION = 1
BEST, LAST = "best.safetensors", "last.safetensors"
# What `vertinst.engine.exported` knows its folders by.
MODEL_JSON = "model.json"

# Tensors of the training state (optimiser) lie beside the weights under this prefix, which no module name can have:
# weights and state are one file, so that no kill can leave one without the other.
STATE_PREFIX = "training/"
METADATA_KEY = "vertinst"
MAX_HEADER_BYTES = 20_000_000
# What the parts of a description are in Python.
KINDS = {"model": str, "epoch": int, **dict.fromkeys(("options", "config", "metrics", "training", "versions"), dict)}


@dataclass(frozen=True)
class Description:
    """What a checkpoint says about itself, as JSON in its header.

    Attributes:
        model: Name of the model.
        options: The model's own options, all of them.
        classes: Names of the labels, from 1 in this order.
        config: Settings of the run.
        epoch: Finished epochs.
        metrics: Validation numbers of that epoch.
        training: State of the run (counters); empty in a file for use.
        versions: What wrote it.
        format_version: Of this layout.
    """

    model: str
    options: Mapping[str, Any]
    classes: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    epoch: int = 0
    metrics: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=lambda: versions())
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint in memory.

    Attributes:
        path: Where it was read from.
        description: What it says about itself.
        weights: Tensors of the model by name.
        state: Tensors of the training state by name; empty in a file for use.
        foreign: Published by others: the description is what a model's `recognise` found out.
    """

    path: Path
    description: Description
    weights: dict[str, Tensor]
    state: dict[str, Tensor]
    foreign: bool = False

    def taken_for(self) -> str:
        """What a foreign file was recognised as, in one sentence: some of it rests on the file's name."""
        found = self.description
        options = ", ".join(f"{name} {value}" for name, value in found.options.items() if not isinstance(value, tuple))
        classes = f"{len(found.classes)} classes, {found.classes[0]} to {found.classes[-1]}" if found.classes else ""
        return f"{self.path.name} is taken for {found.model} with {options}; {classes or 'a backbone alone'}."


def save(
    path: Path,
    weights: Mapping[str, Tensor],
    description: Description,
    *,
    state: Mapping[str, Tensor] | None = None,
    half: bool = False,
) -> None:
    """Write a checkpoint aside and rename it into place.

    Args:
        path: Ends in `.safetensors`.
        weights: A model's `state_dict()`, on any device and in any memory layout.
        description: Goes into the header.
        state: Tensors that resuming needs besides.
        half: Store weights of two and more dimensions as float16, for shipping: half the size. Biases and
            normalisation stay as they are.

    Raises:
        VertinstError: It cannot be written (disk full); an older file of that name stays whole.
    """
    tensors = {name: _plain(tensor, half=half) for name, tensor in weights.items()}
    tensors |= {STATE_PREFIX + name: _plain(tensor, half=False) for name, tensor in (state or {}).items()}
    metadata = {METADATA_KEY: json.dumps(vars(description), ensure_ascii=False)}
    files.write_with(path, lambda temporary: _save_file(tensors, temporary, metadata))


def _save_file(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(tensors, path, metadata=metadata)
        # The library lets nobody but the owner read the file, whatever the user's umask says.
        path.chmod(mode)
    except SafetensorError as error:
        # The library wraps the system's error (disk full) in its own.
        raise OSError(str(error)) from error


def _plain(tensor: Tensor, *, half: bool) -> Tensor:
    shrink = half and tensor.is_floating_point() and tensor.dim() >= 2
    # clone: the format refuses tensors that share memory.
    return (
        tensor.detach()
        .to("cpu", torch.float16 if shrink else tensor.dtype)
        .clone(memory_format=torch.contiguous_format)
    )


def versions() -> dict[str, str]:
    """Versions of vertinst and what it computes with."""
    return {"vertinst": __version__, "torch": str(torch.__version__), "torchvision": str(torchvision.__version__)}


def find_weights(path: Path | str) -> Path:
    """The weights file meant by a file, a run folder (its best, else its last) or a name of `vertinst weights list`.

    The packaged `demo` is what its name means; of other names, a file or folder that is called so comes first.

    Raises:
        CheckpointError: There is none, or public weights are not fetched yet or not what they must be.
    """
    public = packaged_manifest().get(str(path))
    path = Path(path)
    if public is not None and (public.packaged or not path.exists()):
        return public_weights.find(public)
    if path.is_dir():
        for name in (BEST, LAST):
            if (path / name).is_file():
                return path / name
        if (path / MODEL_JSON).is_file():
            raise CheckpointError(
                "folder must be of a training run, got an exported model",
                where=path,
                fix="Name the run that it was exported from.",
            )
        others = sorted(file.name for file in path.glob("*.pth") if file.is_file())
        raise CheckpointError(
            f"run folder has neither {BEST} nor {LAST}",
            where=path,
            fix=f"Name the file: {path / others[0]}." if others else "Name the --out folder of `vertinst train`.",
        )
    if not path.is_file():
        guess = packaged_manifest().guess(path.name) if len(path.parts) == 1 and not path.suffix else ""
        raise CheckpointError(
            "no such weights file or run folder",
            where=path,
            fix=f"Check the path. {guess}`vertinst weights list` shows the names that can stand in its place.",
        )
    return path


def read(path: Path | str, *, state: bool = False, model: str | None = None) -> Checkpoint:
    """Read a checkpoint of vertinst, or a `.pth` or `.pkl` that a model recognises; no code in it is run.

    Args:
        path: See `find_weights`.
        state: Read the training state too, if there is one.
        model: Asked first whether it recognises foreign weights: a backbone alone is a start for several models.

    Raises:
        CheckpointError: Missing, no weights file, cut short, of an unknown network, or by a later format.
    """
    path = find_weights(path)
    with path.open("rb") as file:
        start = file.read(START_BYTES)
    if is_torch_file(start):
        return _foreign(path, read_state_dict(path), model)
    if is_numpy_pickle(start):
        return _foreign(path, read_arrays(path), model)
    _check_header(path, start)
    weights: dict[str, Tensor] = {}
    training: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="pt") as file:
            description = _describe((file.metadata() or {}).get(METADATA_KEY), path)
            for name in file.keys():  # noqa: SIM118 - not a mapping
                if not name.startswith(STATE_PREFIX):
                    weights[name] = file.get_tensor(name)
                elif state:
                    training[name.removeprefix(STATE_PREFIX)] = file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"weights file is broken or cut short ({error})", where=path, fix="Copy or download it again."
        ) from error
    return Checkpoint(path, description, weights, training)


def _foreign(path: Path, tensors: dict[str, Tensor], model: str | None) -> Checkpoint:
    """Ask the models in turn, `model` first, whose weights these are."""
    for name in sorted(plugins.names("models"), key=lambda name: name != model):
        plugin = plugins.load("models", name)
        recognise = getattr(plugin, "recognise", None)
        if name == model:
            # More can be a start than can be predicted with.
            recognise = getattr(plugin, "recognise_start", recognise)
        found = recognise(tensors, path.name) if recognise else None
        if found:
            options, classes, weights = found
            return Checkpoint(path, Description(name, options, classes, versions={}), weights, {}, foreign=True)
    raise CheckpointError(
        f"weights must be of a network that is known here, got {len(tensors)} tensors such as "
        f"{', '.join(ascii(tensor)[1:-1][:60] for tensor in list(tensors)[:2])}",
        where=path,
        fix="Of .pth and .pkl files, Mask R-CNN of Detectron2 (R18 to R101 with FPN) and torchvision, YOLACT of the "
        "original implementation and the ImageNet backbones that they start from are read. Else take the "
        "best.safetensors of a run.",
    )


def _check_header(path: Path, start: bytes) -> None:
    """Refuse what is no safetensors file before the library maps it."""
    size = path.stat().st_size
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{" or length > MAX_HEADER_BYTES:
        raise CheckpointError(
            "weights must be safetensors, a .pth of torch or a .pkl of Detectron2's or Caffe2's model zoo, got "
            + ("another kind of file" if start else "an empty file"),
            where=path,
            fix="Check the path, and that no download saved a web page in its place.",
        )
    if 8 + length > size:
        raise CheckpointError(f"weights file is cut short ({size} bytes)", where=path, fix="Copy or download it again.")


def _describe(text: str | None, path: Path) -> Description:
    if text is None:
        raise CheckpointError(
            "safetensors file was not written by vertinst: it names no model and no classes",
            where=path,
            fix="Take the best.safetensors of a run.",
        )
    try:
        content = json.loads(text)
        version = content["format_version"]
        if version > FORMAT_VERSION:
            raise CheckpointError(
                f"checkpoint format must be at most {FORMAT_VERSION}, got {version}",
                where=path,
                fix="Install a newer vertinst.",
            )
        found = Description(**{**content, "classes": tuple(str(c) for c in content["classes"])})
        for name, kind in KINDS.items():
            if not isinstance(getattr(found, name), kind):
                raise TypeError(f"{name} is of another kind")
        return found
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"description in the weights file is damaged ({ascii(str(error))[1:-1][:120]})",
            where=path,
            fix="Copy or download it again.",
        ) from error


def build_model(checkpoint: Checkpoint) -> nn.Module:
    """The model with the checkpoint's weights, on the CPU in float32 and evaluation mode.

    Raises:
        CheckpointError: Unknown model, options it does not have, weights of other shapes, or a backbone alone.
    """
    plugin, options = check_options(checkpoint)
    model: nn.Module = plugin.build(options, checkpoint.description.classes)
    load_weights(model, checkpoint)
    return model.eval()


def check_options(checkpoint: Checkpoint) -> tuple[ModuleType, BaseModel]:
    """The model that a checkpoint is of and its options, if all its weights fit them; no network is built.

    Raises:
        CheckpointError: See `build_model`.
    """
    description = checkpoint.description
    if not description.classes:
        raise CheckpointError(
            f"weights must be of a whole network, got a backbone alone ({description.options.get('backbone')})",
            where=checkpoint.path,
            fix=f"A training can start from it: vertinst train ... --set init.weights={checkpoint.path}.",
        )
    try:
        plugin = plugins.load("models", description.model)
        options: BaseModel = plugin.Options.model_validate(description.options)
    except (ConfigError, ValidationError) as error:
        wrote = description.versions.get("vertinst", "")
        raise CheckpointError(
            f"this version of vertinst has no model {description.model!r} with the checkpoint's options",
            where=checkpoint.path,
            fix=f"Install vertinst {wrote}, which wrote it." if wrote else "Take other weights.",
        ) from error
    if "backbone_weights" in type(options).model_fields:
        # The checkpoint brings all weights: nothing is to be downloaded first.
        options = options.model_copy(update={"backbone_weights": "none"})
    _check_shapes(plugin, options, checkpoint)
    return plugin, options


def _check_shapes(plugin: ModuleType, options: BaseModel, checkpoint: Checkpoint) -> None:
    """Refuse weights that do not fit before memory is taken for a network as large as the file's options ask for."""
    try:
        with torch.device("meta"):
            wanted = plugin.build(options, checkpoint.description.classes).state_dict()
    except RuntimeError as error:
        raise CheckpointError(
            "options in the weights file ask for a network that no memory holds",
            where=checkpoint.path,
            fix="Take other weights.",
        ) from error
    _check_whole(compare(checkpoint.path.name, wanted, checkpoint.weights), checkpoint.path)


def load_weights(model: nn.Module, checkpoint: Checkpoint, *, strict: bool = True) -> Taken:
    """Copy weights into a model.

    Args:
        model: The model.
        checkpoint: Where they come from.
        strict: Every tensor must fit; else those that do are copied.

    Returns:
        What was taken, skipped and left as it was.

    Raises:
        CheckpointError: `strict` and a tensor is missing, left over or of another shape; or nothing fits at all.
    """
    wanted = model.state_dict()
    taken = compare(checkpoint.path.name, wanted, checkpoint.weights)
    fitting = {row.name: checkpoint.weights[row.name] for row in taken.rows if row.outcome == "taken"}
    if strict or not fitting:
        _check_whole(taken, checkpoint.path)
    for name, tensor in fitting.items():
        # Complex numbers would lose a part without a word, and counts or flags are no weights.
        if tensor.is_floating_point() != wanted[name].is_floating_point() or tensor.is_complex():
            raise CheckpointError(
                f"weights must be {_kind(wanted[name])} for {ascii(name)[1:-1]}, got {_kind(tensor)}",
                where=checkpoint.path,
                fix="Copy or download the file again, or take other weights.",
            )
    model.load_state_dict(fitting, strict=False)
    return taken


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _check_whole(taken: Taken, path: Path) -> None:
    if taken.whole:
        return
    problems = [f"{ascii(row.name)[1:-1][:80]} {row.reason}" for row in taken.rows if row.reason]
    more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
    raise CheckpointError(
        f"weights do not fit the model: {'; '.join(problems[:3])}{more}",
        where=path,
        fix="Use the model options the weights were trained with, or --set init.strict=false to load what fits.",
    )
