"""What two instances may share before one of them goes: a rule for each pair of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, field_validator

from vertinst.structures.dataset import BONE, IMPLANTS

__all__ = ["PairRule", "Policy", "pair_name"]

Limits = npt.NDArray[np.float64]


class PairRule(BaseModel):
    """What two instances of a pair of classes may share. Above either limit the worse one goes; at equality both stay.

    Attributes:
        iou: 0..1; of their masks. 1 allows any.
        over_smaller: 0..1; the intersection of their masks over the smaller area. 1 allows any.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    iou: float = Field(default=1.0, ge=0, le=1)
    over_smaller: float = Field(default=1.0, ge=0, le=1)


# Outlines of whole neighbouring vertebrae share up to 0.67 of the smaller where the film cuts one of them.
_BONE_RULE = PairRule(iou=0.5, over_smaller=0.85)
# On lateral films the left screw or rod lies over the right one: of the annotated pairs of phantoms 89 of 109 screws
# share an IoU above 0.5, 11 above 0.8. A piece of a larger one may be another.
_METAL_RULE = PairRule(iou=0.8)


def pair_name(first: str, second: str) -> str:
    """How a pair of classes is written: in either order, by a space, or by a comma where a name has a space itself."""
    low, high = sorted((first, second))
    return f"{low}, {high}" if " " in low + high else f"{low} {high}"


_DEFAULTS = {pair_name(*pair): _BONE_RULE for pair in combinations_with_replacement(BONE, 2)} | {
    pair_name(name, name): _METAL_RULE for name in IMPLANTS
}


class Policy(BaseModel):
    """How much instances may overlap, and whether pieces of one vertebra become one. Unknown keys are refused.

    In YAML, with what is not written staying as it is::

        suppression:
          pairs:
            lumbar lumbar: {iou: 0.4}
            screw, pedicle screw: {iou: 0.8, over_smaller: 0.9}

    Attributes:
        pairs: Rules by pair of classes, in either order (see `pair_name`). Bone on bone is limited: a bone found as
            lumbar and as sacral is one bone. Metal is limited on metal of its class. What is written here changes
            single limits of these; a new pair is allowed whatever is not limited.
        same_class: Of two instances of one class that `pairs` does not name. Two classes that it does not name may
            overlap: metal lies on bone and on other metal.
        join_fragments: Make one instance of the pieces of one vertebra; see `fragments.join_fragments`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pairs: Mapping[str, PairRule] = Field(default_factory=lambda: dict(_DEFAULTS))
    same_class: PairRule = _METAL_RULE
    join_fragments: bool = True

    @field_validator("pairs", mode="before")
    @classmethod
    def _over_the_defaults(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        rules: dict[str, Any] = dict(_DEFAULTS)
        seen: dict[str, Any] = {}
        for key, rule in value.items():
            name = pair_name(*_classes(key))
            if name in seen:
                raise ValueError(f"{seen[name]!r} and {key!r} are the same pair: write it once")
            seen[name] = key
            known = _DEFAULTS.get(name)
            rules[name] = {**known.model_dump(), **rule} if known and isinstance(rule, Mapping) else rule
        return rules

    @classmethod
    def allowing_all(cls) -> Policy:
        """The policy that removes and joins nothing."""
        anything = PairRule()
        return cls(pairs=dict.fromkeys(_DEFAULTS, anything), same_class=anything, join_fragments=False)

    def rule(self, first: str, second: str) -> PairRule:
        """The rule of two classes, in either order."""
        named = self.pairs.get(pair_name(first, second))
        return named or (self.same_class if first == second else PairRule())

    def limits(self, categories: Sequence[str]) -> tuple[Limits, Limits]:
        """Limits of IoU and of intersection over the smaller, (C, C) float64 each, symmetric, of C classes."""
        iou, smaller = np.ones((2, len(categories), len(categories)))
        for (i, first), (j, second) in combinations_with_replacement(enumerate(categories), 2):
            rule = self.rule(first, second)
            iou[i, j] = iou[j, i] = rule.iou
            smaller[i, j] = smaller[j, i] = rule.over_smaller
        return iou, smaller

    def unknown_classes(self, known: Sequence[str]) -> tuple[str, ...]:
        """Classes that `pairs` names and that neither `known` nor the defaults have, sorted: misspelt ones."""
        named = {name for key in self.pairs for name in _classes(key)}
        return tuple(sorted(named - {*known, *BONE, *IMPLANTS}))


def _classes(key: Any) -> tuple[str, str]:
    """The two classes of a pair as it is written."""
    text = key if isinstance(key, str) else ""
    names = [name.strip() for name in text.split(",")] if "," in text else text.split()
    if len(names) != 2 or not all(names):
        raise ValueError(
            f"a pair must be two classes with a space between (cage screw), or a comma where a name has a space itself "
            f"(cage, pedicle screw), got {key!r}"
        )
    return names[0], names[1]
