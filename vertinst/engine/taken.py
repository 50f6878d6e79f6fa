"""What of a checkpoint a model took over, what was skipped, and what of the model starts anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from torch import Tensor

__all__ = ["Part", "Row", "Taken", "compare"]

# Batch norm's count of batches: unused with its usual momentum, and older files lack it.
COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Row:
    """One tensor of a model, of a checkpoint, or of both.

    Attributes:
        name: Of the tensor.
        outcome: `taken` over; `anew`: the model's own start was kept; `skipped`: the model has no such tensor.
        reason: Why it was not taken; empty if it was.
    """

    name: str
    outcome: Literal["taken", "anew", "skipped"]
    reason: str = ""

    @property
    def part(self) -> str:
        """Part of the network: the first word of the name."""
        return self.name.split(".", 1)[0]


@dataclass(frozen=True)
class Part:
    """Numbers of tensors of one part of a network.

    Attributes:
        name: Of the part.
        taken: Tensors taken over.
        anew: Tensors of the model that start anew.
        skipped: Tensors of the checkpoint that the model does not have.
        reasons: Why tensors were not taken: how many and which, e.g. `2 missing (head.bias ...)`.
    """

    name: str
    taken: int
    anew: int
    skipped: int
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Taken:
    """All tensors of a model and of the checkpoint that it started from.

    Attributes:
        weights: File name of the checkpoint.
        rows: In the model's order, then what was skipped.
    """

    weights: str
    rows: tuple[Row, ...]

    @property
    def anew(self) -> tuple[str, ...]:
        """Names of the model's tensors that kept what they had."""
        return tuple(row.name for row in self.rows if row.outcome == "anew")

    @property
    def whole(self) -> bool:
        """Whether everything fitted, and nothing was left over."""
        return all(row.outcome == "taken" for row in self.rows)

    def parts(self) -> tuple[Part, ...]:
        """One line for each part of the network, in its order."""
        names = dict.fromkeys(row.part for row in self.rows)
        return tuple(_part(name, [row for row in self.rows if row.part == name]) for name in names)

    def record(self) -> dict[str, Any]:
        """For JSON: counts by part, and every tensor that was not taken with the reason."""
        return {
            "weights": self.weights,
            "not_taken": list(self.anew),
            "parts": [{**asdict(part), "reasons": list(part.reasons)} for part in self.parts()],
            "tensors": [asdict(row) for row in self.rows if row.outcome != "taken"],
        }


def _part(name: str, rows: list[Row]) -> Part:
    counts = Counter(row.outcome for row in rows)
    places: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            places.setdefault(row.reason, []).append(row.name)
    reasons = tuple(
        f"{len(names)} {reason} ({names[0]}{' ...' if len(names) > 1 else ''})" for reason, names in places.items()
    )
    return Part(name, counts["taken"], counts["anew"], counts["skipped"], reasons)


def compare(weights: str, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Taken:
    """Which tensors fit by name and shape.

    Args:
        weights: File name of the checkpoint.
        wanted: The model's `state_dict()`.
        found: The checkpoint's tensors. Batch norm's counters are not compared: they may be missing or left over.
    """
    rows = [_row(name, wanted.get(name), found.get(name)) for name in {**wanted, **found}]
    return Taken(weights, tuple(row for row in rows if row.outcome == "taken" or not row.name.endswith(COUNTER)))


def _row(name: str, wanted: Tensor | None, got: Tensor | None) -> Row:
    if wanted is None:
        return Row(name, "skipped", "not part of the model")
    if got is None:
        return Row(name, "anew", "missing")
    if wanted.shape == got.shape:
        return Row(name, "taken")
    return Row(name, "anew", f"must be {tuple(wanted.shape)}, got {tuple(got.shape)}")
