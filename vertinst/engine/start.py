"""What a training may start from: weights of vertinst for the same classes, or those of others as far as they fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from torch import nn

from vertinst import plugins
from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.checkpoint import Checkpoint
from vertinst.engine.taken import Taken
from vertinst.errors import CheckpointError

__all__ = ["check_classes", "check_start", "remarks", "start_from"]

# Options without which foreign weights mean nothing, even where shapes happen to fit.
ESSENTIAL_OPTIONS = (
    "backbone",
    "deformable_interval",
    "stride_in_1x1",
    "frozen_batch_norm",
    "fpn_norm",
    "rpn_convs",
    "head_norm",
)
# What of foreign weights may differ from the training's: ordinary weights are a start for deformable convolutions,
# whose shifts begin at none, and batch norm that was learnt can be held. Norms that were constant cannot be learnt
# again: Caffe2's and Detectron2's have factors that already contain the statistics.
HARMLESS = (("deformable_interval", 0), ("frozen_batch_norm", False))


def start_from(
    model: nn.Module, checkpoint: Checkpoint, name: str, options: BaseModel, classes: tuple[str, ...], *, strict: bool
) -> Taken:
    """Copy what a training starts from into its model.

    Weights of vertinst must fit whole, with the same classes, unless `strict` is off. Of foreign weights what fits is
    taken in any case (other classes and anchors start anew: that is what one takes them for), but `strict` asks for
    the same backbone.

    Args:
        model: The model to be trained.
        checkpoint: What it starts from.
        name: The model's name.
        options: Its options.
        classes: Its classes.
        strict: See above.

    Raises:
        CheckpointError: The weights are of another model, backbone or for other classes; or nothing of them fits.
    """
    check_start(checkpoint, name, options, classes, strict=strict)
    return checkpoints.load_weights(model, checkpoint, strict=strict and not checkpoint.foreign)


def check_start(
    checkpoint: Checkpoint, name: str, options: BaseModel, classes: tuple[str, ...], *, strict: bool
) -> None:
    """Refuse what no training can start from, as far as it shows without the model.

    Args:
        checkpoint: See `start_from`.
        name: See there.
        options: See there.
        classes: See there.
        strict: See there.

    Raises:
        CheckpointError: The weights are of another model, for other classes or, of foreign ones, of another backbone.
    """
    found = checkpoint.description
    if not checkpoint.foreign:
        # Without `strict`, models that share names of tensors may start from each other.
        if not strict:
            return
        if found.model == name:
            check_classes(checkpoint, classes)
            return
    if found.model != name:
        raise CheckpointError(
            f"weights must be of the model {name}, got {found.model}",
            where=checkpoint.path,
            fix=f"Train that: --set model.name={found.model}.",
        )
    wrong = _mismatches(found.options, options) if strict else {}
    if wrong:
        raise CheckpointError(
            "weights must have " + "; ".join(f"{o} {getattr(options, o, None)}, got {got}" for o, got in wrong.items()),
            where=checkpoint.path,
            fix=f"Train that: {' '.join(f'--set model.{option}={got}' for option, got in wrong.items())}. "
            "With --set init.strict=false all is taken that has the same shape.",
        )


def _mismatches(found: Mapping[str, Any], options: BaseModel) -> dict[str, Any]:
    """Essential options that weights have and the training has not, as the weights have them."""
    known = {option: found[option] for option in ESSENTIAL_OPTIONS if found.get(option) is not None}
    return {o: got for o, got in known.items() if got != getattr(options, o, None) and (o, got) not in HARMLESS}


def remarks(checkpoint: Checkpoint, options: BaseModel, classes: tuple[str, ...]) -> list[str]:
    """What a user should know of a start that is allowed: sentences, mostly none.

    Args:
        checkpoint: One that `check_start` has not refused.
        options: Of the model to be trained.
        classes: Its classes.
    """
    found = checkpoint.description
    if not checkpoint.foreign or not found.classes:
        return []
    texts = []
    shown = {name: found.options[name] for name in ("preset", "conventions") if name in found.options}
    original = plugins.load("models", found.model).Options.model_validate(shown)
    published, wanted = (getattr(part, "conventions", None) for part in (original, options))
    if published != wanted:
        texts.append(
            f"{checkpoint.path.name} was trained with the conventions of {published}, not of {wanted}: features of "
            f"boxes lie half a cell off at first. --set model.conventions={published} keeps its own."
        )
    if len(found.classes) == len(classes) and found.classes != classes:
        pairs = ", ".join(f"{name} for {own}" for name, own in zip(found.classes, classes, strict=True))
        texts.append(
            f"{checkpoint.path.name} has as many classes as this training: what it learnt of them is taken over in "
            f"this order: {pairs}."
        )
    return texts


def check_classes(checkpoint: Checkpoint, classes: tuple[str, ...]) -> None:
    """Refuse weights trained for other classes, or for the same in another order.

    Raises:
        CheckpointError: The names differ.
    """
    got = checkpoint.description.classes
    if got != classes:
        raise CheckpointError(
            f"weights must be for the classes {', '.join(classes)}, got {', '.join(got)}",
            where=checkpoint.path,
            fix=f"Train those (--set 'classes=[{', '.join(got)}]'), or start from weights for your classes; "
            "--set init.strict=false takes over the parts that fit.",
        )
