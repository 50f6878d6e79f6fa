"""An exponential moving average of a model's weights: calmer than the last step's, most of all after short runs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage", "decay_at"]


def decay_at(update: int, decay: float) -> float:
    """The decay of one update, min(decay, (1 + n) / (10 + n)) for the n-th.

    So the average is over about the last ninth of the updates until that is longer than `decay` reaches back, and a
    run of a few hundred steps does not end with weights that it started from. The formula is that of TensorFlow's
    `ExponentialMovingAverage`.

    Args:
        update: Number of the update, from 1.
        decay: The largest decay, 0..1.
    """
    return min(decay, (1 + update) / (10 + update))


class WeightAverage:
    """A second copy of a model that follows it.

    Parameters and statistics of batch norm are averaged alike; counters are copied.

    Args:
        model: The model that is trained, on its device and in its memory layout.
        decay: See `decay_at`.

    Attributes:
        model: The copy, in evaluation mode and without gradients.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    def restart(self, model: nn.Module) -> None:
        """Forget the average: the copy becomes what the model is."""
        self.model.load_state_dict(model.state_dict())

    @torch.no_grad()
    def update(self, model: nn.Module, number: int) -> None:
        """Move the copy towards the model.

        Args:
            model: After the optimiser's step.
            number: Of the update, from 1.
        """
        averaged, current = [], []
        for kept, now in zip(_tensors(self.model), _tensors(model), strict=True):
            if kept.is_floating_point():
                averaged.append(kept)
                current.append(now)
            else:
                kept.copy_(now)
        # One call for all tensors: a GPU would otherwise be sent hundreds of small ones at each step.
        torch._foreach_lerp_(averaged, current, 1 - decay_at(number, self.decay))


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    return chain(model.parameters(), model.buffers())
