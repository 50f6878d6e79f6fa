"""The same phantom patient at a second date, with changes that are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.random import Generator

from vertinst.data import phantom_changes as changes
from vertinst.data.phantom_anatomy import Anatomy, rotation
from vertinst.data.phantom_disease import (
    draw_fracture,
    draw_levels,
    fracture_entry,
    may_break,
    narrowed_entry,
    slip_entry,
)
from vertinst.data.phantom_implants import Implant
from vertinst.data.phantom_solids import Points, Solid

if TYPE_CHECKING:
    # A patient holds what they will be at the second date: their module needs this one, not the other way round.
    from vertinst.data.phantom_take import PhantomPatient

__all__ = ["draw_follow_up", "second_date"]

_MOST_SLIP_PERCENT = 60.0
_IN_VIEW = 7
"""Levels from S1 up among which discs change: those up to T12, or L1 where there are six lumbar vertebrae."""

Entry = dict[str, Any]


def draw_follow_up(rng: Generator, patient: PhantomPatient, share: float) -> PhantomPatient:
    """With a probability, give a patient a second date, on which their last film is taken; they have two or more then.

    Args:
        rng: Not touched where the share is 0.
        patient: At their first date.
        share: 0 to 1.
    """
    if share == 0 or rng.random() >= share:
        return patient
    return replace(patient, films=max(patient.films, 2), later=second_date(rng, patient)[0])


def second_date(rng: Generator, patient: PhantomPatient) -> tuple[PhantomPatient, Entry]:
    """The patient at a later date, with none to three changes of different kinds.

    Amounts are measured on the spines of both dates, in the patient's space, in mm, degrees and per cent. By `kind`:

    - `narrowed`: a disc (`upper`, `lower`) has lost height: `height_anterior_mm` and `height_posterior_mm`, each a pair
      of before and after.
    - `slip`: `percent`, a pair, of `upper` on `lower`, as `phantom_changes.slip_percent` has it.
    - `fracture`: a `level` has broken (`fracture` is its kind): `loss` of the height that tells it, and the pairs
      `height_anterior_mm`, `height_middle_mm`, `height_posterior_mm`.
    - `screw_loosened`: the screw of a `level` and `side` has backed out by `mm` along its axis, and turned by `deg`
      about its head, positive where its tip went down.
    - `cage_subsided`: the cage of `levels` has sunk by `mm` into the endplate below it.
    - `rod_slid`: the rod of a `side` has slid down by `mm` along its chord.

    Nothing moves that a rod or a cage holds together, and no vertebra breaks that carries metal or cement or is broken.
    What stands above a change goes with it, metal too.

    Args:
        rng: Draws the changes.
        patient: At the first date.

    Returns:
        The patient at the second date, and what its films' truth says: `date` and `changes`.
    """
    count = int(rng.choice([0, 1, 2, 3], p=[0.2, 0.4, 0.25, 0.15]))
    # Bones in an order in which no later change undoes an earlier one; metal last, in the place where bones left it.
    kinds = rng.permutation(list(_CHANGES))
    notes: list[Entry] = []
    later = patient
    for kind in (kind for kind in _CHANGES if kind in _possible(patient, kinds)[:count]):
        later, note = _CHANGES[kind](rng, later)
        notes.append({"kind": kind, **note})
    notes = [note | _amounts(note, patient.anatomy, later.anatomy) for note in notes]
    later = replace(later, date=2, changes=notes, disease=_disease(patient, later.anatomy, notes))
    return later, {"date": 2, "changes": notes}


def _possible(patient: PhantomPatient, kinds: Points) -> list[str]:
    """Of kinds, those that a patient can have, in the given order."""
    metal = {implant.category for implant in patient.implants}
    can = {
        "fracture": bool(_sound_levels(patient)),
        "narrowed": bool(_free_discs(patient)),
        "slip": bool(_free_discs(patient)),
        "screw_loosened": "screw" in metal,
        "rod_slid": "rod" in metal,
        "cage_subsided": "cage" in metal,
    }
    return [str(kind) for kind in kinds if can[kind]]


def _free_discs(patient: PhantomPatient) -> list[str]:
    """Discs, named by the vertebra above, that no implant bridges and that are no remnant of a transition."""
    anatomy = patient.anatomy
    first = 2 if anatomy.variant.sacralised else 1
    bridged = [set(implant.levels) for implant in patient.implants]
    return [
        upper
        for upper in changes.column(anatomy)[first:_IN_VIEW]
        if not any({upper, changes.below(anatomy, upper)} <= levels for levels in bridged)
    ]


def _sound_levels(patient: PhantomPatient) -> list[str]:
    """Levels without metal, cement or fracture, where a vertebra may break."""
    taken = {level for implant in patient.implants for level in implant.levels}
    taken |= {entry["level"] for entry in patient.disease.get("fractures", [])}
    taken |= {level for level, vertebra in patient.anatomy.vertebrae.items() if vertebra.cement is not None}
    return [level for level in may_break(patient.anatomy) if level not in taken]


def _with_anatomy(patient: PhantomPatient, anatomy: Anatomy) -> PhantomPatient:
    """The patient with another spine; implants go where their vertebrae went."""
    return replace(patient, anatomy=anatomy, implants=[_carried(i, patient.anatomy, anatomy) for i in patient.implants])


def _carried(implant: Implant, before: Anatomy, after: Anatomy) -> Implant:
    old, new = (anatomy.vertebrae[implant.levels[0]].frame for anatomy in (before, after))
    if old is new:
        return implant
    turn = new.rotation @ old.rotation.T
    return _moved(implant, turn, new.origin - turn @ old.origin)


def _moved(implant: Implant, turn: Points, shift: Points) -> Implant:
    solids = tuple(Solid(solid.slices @ turn.T + shift, solid.integral) for solid in implant.solids)
    return replace(implant, solids=solids)


def _break(rng: Generator, patient: PhantomPatient) -> tuple[PhantomPatient, Entry]:
    level = draw_levels(rng, _sound_levels(patient), 1)[0]
    kind, loss = draw_fracture(rng)
    anatomy = changes.fracture(patient.anatomy, level, kind, loss)
    return _with_anatomy(patient, anatomy), {"level": level, "fracture": kind}


def _narrow(rng: Generator, patient: PhantomPatient) -> tuple[PhantomPatient, Entry]:
    upper = str(rng.choice(_free_discs(patient)))
    anatomy = changes.narrow(patient.anatomy, upper, float(rng.uniform(0.4, 0.8)))
    return _with_anatomy(patient, anatomy), {"upper": upper, "lower": changes.below(anatomy, upper)}


def _slip(rng: Generator, patient: PhantomPatient) -> tuple[PhantomPatient, Entry]:
    """A slip that was there goes on; else one begins at the lowest free discs."""
    free = _free_discs(patient)
    known = [entry["upper"] for entry in patient.disease.get("slips", []) if entry["upper"] in free]
    upper = str(rng.choice(known or free[:3]))
    percent = changes.slip_of(patient.anatomy, upper) + float(rng.uniform(5, 20))
    anatomy = changes.slip(patient.anatomy, upper, min(percent, _MOST_SLIP_PERCENT))
    return _with_anatomy(patient, anatomy), {"upper": upper, "lower": changes.below(anatomy, upper)}


def _loosen(rng: Generator, patient: PhantomPatient) -> tuple[PhantomPatient, Entry]:
    index = _draw_implant(rng, patient, "screw")
    screw = patient.implants[index]
    shaft, head = (solid.slices.reshape(-1, 3).mean(axis=0) for solid in screw.solids)
    out_mm, tip_deg = float(rng.uniform(1.5, 6)), float(rng.choice([-1, 1]) * rng.uniform(2, 8))
    shift = out_mm * (head - shaft) / np.linalg.norm(head - shaft)
    # The tip is anterior of the head: where the anterior end goes down, the angle of `rotation` is positive.
    turn = rotation(tip_deg)
    moved = _moved(screw, turn, head - turn @ head + shift)
    note = {"level": screw.levels[0], "side": screw.side, "mm": round(out_mm, 3), "deg": round(tip_deg, 3)}
    return _with_implant(patient, index, moved), note


def _subside(rng: Generator, patient: PhantomPatient) -> tuple[PhantomPatient, Entry]:
    index = _draw_implant(rng, patient, "cage")
    cage = patient.implants[index]
    _, up = changes.endplate_axes(patient.anatomy.vertebrae[cage.levels[0]])
    down_mm = float(rng.uniform(1.5, 5))
    note = {"levels": list(cage.levels), "mm": round(down_mm, 3)}
    return _with_implant(patient, index, _moved(cage, np.eye(3), -down_mm * up)), note


def _slide(rng: Generator, patient: PhantomPatient) -> tuple[PhantomPatient, Entry]:
    index = _draw_implant(rng, patient, "rod")
    rod = patient.implants[index]
    points = rod.solids[0].slices.reshape(-1, 3)
    low, high = points[points[:, 1].argmax()], points[points[:, 1].argmin()]
    down_mm = float(rng.uniform(4, 12))
    shift = down_mm * (low - high) / np.linalg.norm(low - high)
    return _with_implant(patient, index, _moved(rod, np.eye(3), shift)), {"side": rod.side, "mm": round(down_mm, 3)}


def _draw_implant(rng: Generator, patient: PhantomPatient, category: str) -> int:
    return int(rng.choice([i for i, implant in enumerate(patient.implants) if implant.category == category]))


def _with_implant(patient: PhantomPatient, index: int, implant: Implant) -> PhantomPatient:
    return replace(patient, implants=[*patient.implants[:index], implant, *patient.implants[index + 1 :]])


_CHANGES: dict[str, Callable[[Generator, PhantomPatient], tuple[PhantomPatient, Entry]]] = {
    "fracture": _break,
    "narrowed": _narrow,
    "slip": _slip,
    "screw_loosened": _loosen,
    "rod_slid": _slide,
    "cage_subsided": _subside,
}


def _amounts(note: Entry, before: Anatomy, after: Anatomy) -> Entry:
    """Pairs of before and after of what a change of bone says."""
    if note["kind"] == "fracture":
        level, kind = note["level"], note["fracture"]
        old, new = (fracture_entry(before, anatomy, level, kind) for anatomy in (before, after))
        return {"loss": new["loss"]} | {name: [old[name], new[name]] for name in new if name.endswith("_mm")}
    if note["kind"] == "narrowed":
        old_mm, new_mm = (changes.disc_heights(anatomy, note["upper"]) for anatomy in (before, after))
        return {
            f"height_{name}_mm": [round(a, 3), round(b, 3)]
            for name, a, b in zip(("anterior", "posterior"), old_mm, new_mm, strict=True)
        }
    if note["kind"] == "slip":
        return {"percent": [round(changes.slip_of(anatomy, note["upper"]), 3) for anatomy in (before, after)]}
    return {}


def _disease(patient: PhantomPatient, after: Anatomy, notes: list[Entry]) -> Entry:
    """What the patient has at the second date, in the words of the first."""
    lists = {name: {_place(entry): entry for entry in entries} for name, entries in patient.disease.items()}
    # A vertebra that breaks changes the endplate on which a slip is counted.
    slips = [*lists.get("slips", {}), *(note["upper"] for note in notes if note["kind"] == "slip")]
    if slips:
        lists["slips"] = {upper: slip_entry(after, upper) for upper in slips}
    for note in notes:
        if note["kind"] == "fracture":
            entry = fracture_entry(patient.anatomy, after, note["level"], note["fracture"])
            lists.setdefault("fractures", {})[note["level"]] = entry
        if note["kind"] == "narrowed":
            narrowed, upper = lists.setdefault("narrowed", {}), note["upper"]
            left = sum(changes.disc_heights(after, upper)) / sum(changes.disc_heights(patient.anatomy, upper))
            narrowed[upper] = narrowed_entry(after, upper, left * narrowed.get(upper, {"factor": 1.0})["factor"])
    return {name: list(entries.values()) for name, entries in lists.items()}


def _place(entry: Entry) -> str:
    """What tells an entry of a list from the others."""
    return str(entry.get("upper") or entry["level"] + entry.get("corner", ""))
