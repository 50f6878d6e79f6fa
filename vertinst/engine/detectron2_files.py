"""A trained model in the form that Detectron2 itself runs: `model_final.pth` and `config.yaml` in a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vertinst import files
from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.checkpoint import Checkpoint
from vertinst.errors import ConfigError

__all__ = ["CONFIG", "WEIGHTS", "write_detectron2"]

WEIGHTS, CONFIG = "model_final.pth", "config.yaml"


def write_detectron2(checkpoint: Checkpoint, out: Path, *, overwrite: bool = False) -> Path:
    """Write what `DefaultPredictor` needs.

    Args:
        checkpoint: Of a whole network whose model has `detectron2_files`.
        out: New folder.
        overwrite: Delete what it holds.

    Returns:
        `out`, with `WEIGHTS` (a dict with the state dict under `model`) and `CONFIG`.

    Raises:
        ConfigError: Detectron2 has no such model, or the network computes something that it cannot.
        CheckpointError: The weights do not fit their own options, or are of a backbone alone.
        OutputExistsError: `out` holds something and `overwrite` is false.
        VertinstError: The files cannot be written (disk full).
    """
    kept = [checkpoint.path]
    files.check_folder(out, overwrite=overwrite, inputs=kept)
    plugin, options = checkpoints.check_options(checkpoint)
    found = checkpoint.description
    if not hasattr(plugin, "detectron2_files"):
        raise ConfigError(
            f"model {found.model} cannot be exported to Detectron2, which has no such network",
            where=checkpoint.path,
            fix="Models of mask_rcnn and detectron2 can be.",
        )
    config, tensors = plugin.detectron2_files(options, found.classes, checkpoint.weights)
    files.prepare_folder(out, overwrite=overwrite, inputs=kept)
    files.write_with(out / WEIGHTS, lambda temporary: _save(tensors, temporary))
    # Last: a folder without it is none.
    files.write_text(out / CONFIG, config)
    return out


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    try:
        torch.save({"model": tensors}, path)
    except RuntimeError as error:
        # Torch's writer has no other word for a full disk.
        raise OSError(str(error)) from error
