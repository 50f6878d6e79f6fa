"""Random numbers that depend on seed and epoch alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["reproducible", "seed_everything"]


def seed_everything(seed: int, epoch: int) -> None:
    """Seed all generators that a model may draw from, in each epoch differently."""
    value = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    random.seed(value)
    np.random.seed(value)  # noqa: NPY002 - for models of others that draw from the old generator
    torch.manual_seed(value)


@contextmanager
def reproducible(seed: int, *, deterministic: bool) -> Iterator[None]:
    """Seed, and ask torch for deterministic algorithms (it warns where it has none); that switch is put back after.

    Args:
        seed: Of everything drawn at random.
        deterministic: Whether to ask.
    """
    seed_everything(seed, 0)
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if deterministic:
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
