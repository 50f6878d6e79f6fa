"""Diseases of a phantom's spine: slips, osteophytes, compression fractures, cement and narrowed discs.

What is drawn here is stated in the truth as it is in the patient's space, before any tilt and any ray; what a film
shows of it is to be had from the film's true corners.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.random import Generator

from vertinst.data import phantom_changes as changes
from vertinst.data.phantom_anatomy import Anatomy
from vertinst.data.phantom_cement import Cement
from vertinst.data.phantom_osteophytes import Osteophyte
from vertinst.errors import DataError

__all__ = ["Disease", "apply_disease"]

_FRACTURED = {"T12": 0.25, "L1": 0.3, "L2": 0.15, "L3": 0.12, "L4": 0.12, "L5": 0.06}
_LOSS = {"wedge": (0.2, 0.5), "biconcave": (0.2, 0.45), "crush": (0.2, 0.45)}


@dataclass(frozen=True)
class Disease:
    """How many patients have what; a patient may have several.

    Attributes:
        slip_share: Share of patients with one or two slipped vertebrae of 5 to 45 % (spondylolisthesis), 0 to 1.
        osteophyte_share: Share with spurs of 3 to 9 mm anterior, 2 to 4.5 mm posterior at two to five discs, 0 to 1.
        fracture_share: Share with one to three fractured vertebrae (wedge, biconcave, crush) that have lost 20 to 50 %
            of a height, 0 to 1.
        cement_share: Share with one or two cemented vertebrae, the fractured ones first, 0 to 1.
        narrowing_share: Share with one or two discs of 30 to 70 % of their height, 0 to 1.

    Raises:
        DataError: A share lies outside its range.
    """

    slip_share: float = 0.0
    osteophyte_share: float = 0.0
    fracture_share: float = 0.0
    cement_share: float = 0.0
    narrowing_share: float = 0.0

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not 0.0 <= value <= 1.0:
                raise DataError(
                    f"{entry.name} must be between 0 and 1, got {value}",
                    where="Disease",
                    fix=f"choose another {entry.name}",
                )


def apply_disease(rng: Generator, anatomy: Anatomy, disease: Disease) -> tuple[Anatomy, dict[str, Any]]:
    """Draw what a patient has, and what becomes of their spine.

    Lists of the truth, each there only where it is not empty: `fractures` (`level`, `kind`, `loss`, the heights left),
    `narrowed` (`upper`, `lower`, `factor`, the heights left), `slips` (`upper`, `lower`, `percent` as
    `phantom_changes.slip_percent` defines it), `osteophytes` (`level`, `corner`, `size_mm`), `cemented` (`level`,
    `leak`).

    Args:
        rng: Not touched where all shares are 0.
        anatomy: The patient in health.
        disease: Shares.

    Returns:
        The patient, and what stands under `disease` in the truth.
    """
    if not any(getattr(disease, entry.name) for entry in fields(disease)):
        return anatomy, {}
    ill = {entry.name: rng.random() < getattr(disease, entry.name) for entry in fields(disease)}
    truth: dict[str, list[dict[str, Any]]] = {}
    if ill["fracture_share"]:
        anatomy, truth["fractures"] = _break(rng, anatomy)
    if ill["narrowing_share"]:
        anatomy, truth["narrowed"] = _narrow(rng, anatomy)
    if ill["slip_share"]:
        anatomy, truth["slips"] = _slip(rng, anatomy)
    if ill["osteophyte_share"]:
        anatomy, truth["osteophytes"] = _grow(rng, anatomy)
    if ill["cement_share"]:
        anatomy, truth["cemented"] = _cement(rng, anatomy, [entry["level"] for entry in truth.get("fractures", [])])
    return anatomy, {name: entries for name, entries in truth.items() if entries}


def draw_levels(rng: Generator, levels: Sequence[str], count: int) -> list[str]:
    """Of levels that `may_break`, different ones, most often those at the thoracolumbar junction."""
    weights = np.array([_FRACTURED[level] for level in levels])
    drawn = rng.choice(len(levels), size=min(count, len(levels)), replace=False, p=weights / weights.sum())
    return [levels[index] for index in drawn]


def may_break(anatomy: Anatomy) -> list[str]:
    """Levels on which fractures and cement are drawn, from below: L5 to T12, as far as the patient has them."""
    return [level for level in changes.column(anatomy) if level in _FRACTURED]


def draw_discs(rng: Generator, anatomy: Anatomy, weights: tuple[float, ...], count: int) -> list[str]:
    """Different discs, each named by the vertebra above, with weights from the lowest disc up."""
    uppers = changes.column(anatomy)[1 : 1 + len(weights)]
    drawn = rng.choice(len(uppers), size=count, replace=False, p=np.array(weights) / sum(weights))
    return [uppers[index] for index in drawn]


def draw_fracture(rng: Generator) -> tuple[str, float]:
    """Kind of a fracture and share of the height that it takes."""
    kind = str(rng.choice(list(changes.FRACTURES), p=[0.5, 0.3, 0.2]))
    return kind, float(rng.uniform(*_LOSS[kind]))


def fracture_entry(before: Anatomy, after: Anatomy, level: str, kind: str) -> dict[str, Any]:
    """What the truth says of a fracture: `loss` is that of the height which tells its kind."""
    old, left = (changes.heights(anatomy.vertebrae[level]) for anatomy in (before, after))
    loss = 1 - left[changes.FRACTURES[kind]] / old[changes.FRACTURES[kind]]
    heights = {f"height_{part}_mm": round(value, 3) for part, value in left.items()}
    return {"level": level, "kind": kind, "loss": round(loss, 4), **heights}


def narrowed_entry(anatomy: Anatomy, upper: str, factor: float) -> dict[str, Any]:
    """What the truth says of a disc that has a share (`factor`) of its height left."""
    anterior, posterior = changes.disc_heights(anatomy, upper)
    heights = {"height_anterior_mm": round(anterior, 3), "height_posterior_mm": round(posterior, 3)}
    return {"upper": upper, "lower": changes.below(anatomy, upper), "factor": round(factor, 4), **heights}


def slip_entry(anatomy: Anatomy, upper: str) -> dict[str, Any]:
    """What the truth says of a slip."""
    lower = changes.below(anatomy, upper)
    return {"upper": upper, "lower": lower, "percent": round(changes.slip_of(anatomy, upper), 3)}


def _break(rng: Generator, anatomy: Anatomy) -> tuple[Anatomy, list[dict[str, Any]]]:
    entries = []
    for level in draw_levels(rng, may_break(anatomy), int(rng.choice([1, 2, 3], p=[0.65, 0.25, 0.1]))):
        kind, loss = draw_fracture(rng)
        broken = changes.fracture(anatomy, level, kind, loss)
        entries.append(fracture_entry(anatomy, broken, level, kind))
        anatomy = broken
    return anatomy, entries


def _narrow(rng: Generator, anatomy: Anatomy) -> tuple[Anatomy, list[dict[str, Any]]]:
    entries = []
    for upper in draw_discs(rng, anatomy, (0.3, 0.3, 0.15, 0.15, 0.1), int(rng.integers(1, 3))):
        factor = float(rng.uniform(0.3, 0.7))
        anatomy = changes.narrow(anatomy, upper, factor)
        entries.append(narrowed_entry(anatomy, upper, factor))
    return anatomy, entries


def _slip(rng: Generator, anatomy: Anatomy) -> tuple[Anatomy, list[dict[str, Any]]]:
    uppers = draw_discs(rng, anatomy, (0.35, 0.45, 0.2), 2 if rng.random() < 0.15 else 1)
    for upper in uppers:
        anatomy = changes.slip(anatomy, upper, float(rng.uniform(5, 45)))
    return anatomy, [slip_entry(anatomy, upper) for upper in uppers]


def _grow(rng: Generator, anatomy: Anatomy) -> tuple[Anatomy, list[dict[str, Any]]]:
    entries: list[dict[str, Any]] = []
    vertebrae = dict(anatomy.vertebrae)
    for upper in draw_discs(rng, anatomy, (1.0,) * 6, int(rng.integers(2, 6))):
        anterior_mm, posterior_mm = changes.disc_heights(anatomy, upper)
        for level, end in ((upper, "inferior"), (changes.below(anatomy, upper), "superior")):
            for side, chance, sizes, gap_mm in (
                ("anterior", 0.85, (3.0, 9.0), anterior_mm),
                ("posterior", 0.35, (2.0, 4.5), posterior_mm),
            ):
                if rng.random() < chance:
                    spur = _spur(rng, f"{end}_{side}", sizes, gap_mm)
                    old = vertebrae[level]
                    vertebrae[level] = replace(old, osteophytes=(*old.osteophytes, spur))
                    entries.append({"level": level, "corner": spur.corner, "size_mm": round(spur.size_mm, 3)})
    return replace(anatomy, vertebrae=vertebrae), entries


def _spur(rng: Generator, corner: str, sizes: tuple[float, float], gap_mm: float) -> Osteophyte:
    size = float(rng.uniform(*sizes))
    # Two spurs that meet would make one outline of two neighbours.
    rise = min(size * float(rng.uniform(0.1, 0.6)), 0.4 * max(gap_mm, 0.0))
    return Osteophyte(corner, size, rise, float(rng.uniform(0.4, 0.75)))


def _cement(rng: Generator, anatomy: Anatomy, fractured: list[str]) -> tuple[Anatomy, list[dict[str, Any]]]:
    count = int(rng.integers(1, 3))
    others = [level for level in draw_levels(rng, may_break(anatomy), count) if level not in fractured]
    levels = [*fractured, *others][:count]
    vertebrae, entries = dict(anatomy.vertebrae), []
    for level in levels:
        leak = str(rng.choice(["none", "disc", "anterior"], p=[0.7, 0.2, 0.1]))
        vertebrae[level] = replace(
            vertebrae[level], cement=Cement(int(rng.integers(2**32)), int(rng.integers(5, 11)), leak)
        )
        entries.append({"level": level, "leak": leak})
    return replace(anatomy, vertebrae=vertebrae), entries
