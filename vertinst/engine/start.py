"""What a training may start from: weights of vertinst for the same classes, or those of others as far as they fit."""

from __future__ import annotations

from pydantic import BaseModel
from torch import nn

from vertinst.engine import checkpoint as checkpoints
from vertinst.engine.checkpoint import Checkpoint
from vertinst.engine.taken import Taken
from vertinst.errors import CheckpointError

__all__ = ["check_classes", "check_start", "start_from"]

# Options without which foreign weights mean nothing, even where shapes happen to fit.
ESSENTIAL_OPTIONS = ("backbone", "deformable_interval", "stride_in_1x1")


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
        CheckpointError: The weights are for other classes or, of foreign ones, of another model or backbone.
    """
    found = checkpoint.description
    if not checkpoint.foreign:
        if strict:
            check_classes(checkpoint, classes)
        return
    if found.model != name:
        raise CheckpointError(
            f"weights must be of the model {name}, got {found.model}",
            where=checkpoint.path,
            fix=f"Train that: --set model.name={found.model}.",
        )
    for option in ESSENTIAL_OPTIONS if strict else ():
        wanted, got = getattr(options, option, None), found.options.get(option)
        # Ordinary weights are a start for deformable convolutions, whose shifts begin at none.
        if got is not None and got != wanted and not (option == "deformable_interval" and got == 0):
            raise CheckpointError(
                f"weights must have {option} {wanted}, got {got}",
                where=checkpoint.path,
                fix=f"Train that: --set model.{option}={got}. "
                "With --set init.strict=false all is taken that has the same shape.",
            )


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
