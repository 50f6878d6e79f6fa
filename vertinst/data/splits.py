"""Splits by patient: no patient on two sides."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vertinst import plugins
from vertinst.errors import ConfigError, DataError
from vertinst.files import prepare_folder
from vertinst.structures.dataset import Dataset, ImageRecord

__all__ = ["Split", "check_apart", "split_by_patient", "write_split"]

_SIDES = ("train", "val", "test")
# Rounded thirds (0.33 three times) are meant to be all.
_SUM_TOLERANCE = 0.011


@dataclass(frozen=True)
class Split:
    """A data set in two or three parts without a common patient.

    Attributes:
        train: To learn from.
        val: To choose the best checkpoint by.
        test: To report on; without films if only two shares were asked for.
        grouped: Every film names its patient. False if any does not: such a film counted as a patient of its own, so
            films of one patient may lie on two sides, which the user must be told.
    """

    train: Dataset
    val: Dataset
    test: Dataset
    grouped: bool

    @property
    def sides(self) -> dict[str, Dataset]:
        """The parts that have films, by name."""
        return {name: side for name in _SIDES if len(side := getattr(self, name))}


def split_by_patient(dataset: Dataset, ratios: Sequence[float], seed: int) -> Split:
    """Split a data set by patient, deterministically.

    Patients are taken in random order. Each goes to the side where the chi-square distance of the films, and of the
    annotations of each class, from the wanted shares grows least (films weigh as much as all classes together). Every
    side with a share above 0 gets at least one patient. Films keep their order and their ids.

    Args:
        dataset: At least as many patients as there are shares above 0.
        ratios: Two or three shares (train, val, test), at least 0, that add up to 1; train above 0.
        seed: Same seed, same split, whatever the order of the films.

    Raises:
        ConfigError: The shares are not like that.
        DataError: Too few patients.
    """
    shares = _shares(ratios)
    groups = _groups(dataset.images)
    sides = int(np.count_nonzero(shares))
    grouped = all(image.patient is not None for image in dataset.images)
    if len(groups) < sides:
        what = "patients" if grouped else "patients (films that name none count as one each)"
        raise DataError(
            f"must have at least {sides} {what} to split into {sides} parts, got {len(groups)}",
            fix="Ask for fewer parts, for example 0.8,0.2, or add films of other patients.",
        )
    order = np.random.default_rng(seed).permutation(len(groups))
    chosen = _assign(_portions([groups[i] for i in order], dataset.categories), shares)
    ids: list[set[int]] = [set() for _ in _SIDES]
    for position, side in zip(order, chosen, strict=True):
        ids[side].update(image.image_id for image in groups[position])
    train, val, test = (dataset.subset(members) for members in ids)
    split = Split(train, val, test, grouped)
    check_apart(split.sides)
    return split


def check_apart(sides: Mapping[str, Dataset]) -> None:
    """Refuse sides with a common patient: what is learnt from a patient's films makes their others look easy.

    Args:
        sides: Data sets by name. A film that names no patient counts as one of its own.

    Raises:
        DataError: A patient lies on two sides; says how many do, and names none.
    """
    found = {name: {_patient(image) for image in side.images} for name, side in sides.items()}
    for (one, patients), (other, others) in combinations(found.items(), 2):
        shared = len(patients & others)
        if shared:
            raise DataError(
                f"no patient may be on two sides, got {shared} in both {one} and {other}",
                fix="Split by patient: vertinst split coco.json --out split/",
            )


def write_split(split: Split, out: Path, *, overwrite: bool = False) -> tuple[Path, ...]:
    """Write `train.json`, `val.json` and `test.json` (COCO), those with films only.

    Args:
        split: From `split_by_patient`.
        out: Folder, made if need be.
        overwrite: Delete what the folder holds.

    Returns:
        The files written.

    Raises:
        OutputExistsError: The folder is not empty and `overwrite` is false.
    """
    prepare_folder(out, overwrite=overwrite)
    coco = plugins.load("converters", "coco")
    paths = []
    for name, side in split.sides.items():
        coco.write(side, out / f"{name}.json")
        paths.append(out / f"{name}.json")
    return tuple(paths)


def _shares(ratios: Sequence[float]) -> npt.NDArray[np.float64]:
    """The three shares, adding up to exactly 1."""
    fix = "Give two or three shares for train, val and test, for example 0.8,0.1,0.1"
    if len(ratios) not in (2, 3) or not all(math.isfinite(r) and r >= 0 for r in ratios) or ratios[0] == 0:
        raise ConfigError(f"ratios must be two or three numbers of at least 0, got {list(ratios)}", fix=fix)
    total = math.fsum(ratios)
    if abs(total - 1) > _SUM_TOLERANCE:
        raise ConfigError(f"ratios must add up to 1, got {total:g}", fix=fix)
    return np.array([*ratios, 0.0][:3]) / total


def _groups(images: Sequence[ImageRecord]) -> list[list[ImageRecord]]:
    """Films by patient, in an order that does not depend on the order of the films."""
    groups: dict[tuple[bool, str], list[ImageRecord]] = {}
    for image in images:
        groups.setdefault(_patient(image), []).append(image)
    return [groups[key] for key in sorted(groups)]


def _patient(image: ImageRecord) -> tuple[bool, str]:
    """A key for the patient: a film that names none is one of its own."""
    return (True, image.file_name) if image.patient is None else (False, image.patient)


def _portions(groups: Sequence[Sequence[ImageRecord]], categories: Sequence[str]) -> npt.NDArray[np.float64]:
    """What part of all films, and of all annotations of each class, each patient brings: (P, 1 + C) float64.

    Columns are weighted so that the classes that occur count together as much as the films.
    """
    column = {name: number for number, name in enumerate(categories, start=1)}
    amounts = np.zeros((len(groups), 1 + len(categories)))
    for row, group in zip(amounts, groups, strict=True):
        row[0] = len(group)
        for image in group:
            for annotation in image.annotations:
                row[column[annotation.category]] += 1
    present = amounts[:, amounts.sum(axis=0) > 0]
    weights = np.full(present.shape[1], 1 / max(1, present.shape[1] - 1))
    weights[0] = 1
    # The distance below is quadratic in the portions.
    return np.asarray(present / present.sum(axis=0) * np.sqrt(weights))


def _assign(portions: npt.NDArray[np.float64], shares: npt.NDArray[np.float64]) -> list[int]:
    """Side of each patient, in the order given."""
    used = np.flatnonzero(shares)
    wanted = shares[used, None] * portions.sum(axis=0)
    have = np.zeros_like(wanted)
    members = np.zeros(len(used), dtype=int)
    chosen = []
    for number, portion in enumerate(portions):
        growth = ((have + portion - wanted) ** 2 - (have - wanted) ** 2).sum(axis=1) / shares[used]
        empty = members == 0
        if len(portions) - number <= empty.sum():
            growth = np.where(empty, growth, np.inf)
        side = int(np.argmin(growth))
        have[side] += portion
        members[side] += 1
        chosen.append(int(used[side]))
    return chosen
