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

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One tensor of a model, of a checkpoint, or of both.

    Attributes:
        name: Of the tensor.
        wanted: Its shape in the model; None if the model has no such tensor.
        got: Its shape in the checkpoint; None if it is missing there.
    """

    name: str
    wanted: Shape | None
    got: Shape | None

    @property
    def outcome(self) -> Literal["taken", "anew", "skipped"]:
        """`taken` over; `anew`: the model's own start was kept; `skipped`: the model has no such tensor."""
        if self.wanted is None:
            return "skipped"
        return "taken" if self.wanted == self.got else "anew"

    @property
    def reason(self) -> str:
        """Why it was not taken, to be read after its name; empty if it was."""
        if self.wanted is None:
            return "is not part of the model"
        if self.got is None:
            return "is missing"
        return "" if self.wanted == self.got else f"must be {self.wanted}, got {self.got}"


@dataclass(frozen=True)
class Part:
    """Numbers of tensors of one part of a network.

    Attributes:
        name: Of the part: the first word of its tensors' names.
        taken: Tensors taken over.
        anew: Tensors of the model that start anew.
        skipped: Tensors of the checkpoint that the model does not have.
        reasons: For each kind of reason how many tensors were not taken, with the first of them.
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
        parts: dict[str, list[Row]] = {}
        for row in self.rows:
            parts.setdefault(row.name.split(".", 1)[0], []).append(row)
        return tuple(_part(name, rows) for name, rows in parts.items())

    def record(self) -> dict[str, Any]:
        """For JSON: counts by part, and every tensor that was not taken with the reason."""
        left = [row for row in self.rows if row.outcome != "taken"]
        return {
            "weights": self.weights,
            "not_taken": list(self.anew),
            "parts": [{**asdict(part), "reasons": list(part.reasons)} for part in self.parts()],
            "tensors": [{"name": row.name, "outcome": row.outcome, "reason": row.reason} for row in left],
        }


def _part(name: str, rows: list[Row]) -> Part:
    counts = Counter(row.outcome for row in rows)
    kinds: dict[tuple[bool, bool], list[Row]] = {}
    for row in rows:
        if row.outcome != "taken":
            kinds.setdefault((row.wanted is None, row.got is None), []).append(row)
    reasons = tuple(f"{first.name} {first.reason}{_more(len(others))}" for first, *others in kinds.values())
    return Part(name, counts["taken"], counts["anew"], counts["skipped"], reasons)


def _more(others: int) -> str:
    return f"; {others} more like it" if others else ""


def compare(weights: str, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> Taken:
    """Which tensors fit by name and shape.

    Args:
        weights: File name of the checkpoint.
        wanted: The model's `state_dict()`.
        found: The checkpoint's tensors. Batch norm's counters may be missing or left over.
    """
    rows = [Row(name, _shape(wanted.get(name)), _shape(found.get(name))) for name in {**wanted, **found}]
    return Taken(weights, tuple(row for row in rows if row.outcome == "taken" or not row.name.endswith(COUNTER)))


def _shape(tensor: Tensor | None) -> Shape | None:
    return None if tensor is None else tuple(tensor.shape)
