"""Detections as a network might make them of a known film: missed, doubled and false ones, scores, unsteady outlines.

Post-processing is tried with these where a real network would bring its own training into the result. The rates are
what the caller says; scores and shapes of errors are choices, stated below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.random import Generator

from vertinst.data.phantom_truth import Region
from vertinst.structures import Instances, Rle, rle
from vertinst.structures.dataset import BONE

__all__ = ["DetectorErrors", "imitate_detector"]

Points = npt.NDArray[np.float64]

_SCORE_SPREAD = 0.12
_AS_CANDIDATE = 1 / 3
"""Share of the missed ones that were seen, but below the threshold."""
_CANDIDATE_SCORES = (0.05, 0.45)
_DOUBLE_SCORES = (0.5, 0.95)
_FALSE_SCORES = (0.5, 0.9)
_BESIDE = 0.85
"""Share of false bones that lie beside the spine (bowel gas); the others go on beyond its upper end."""


@dataclass(frozen=True)
class DetectorErrors:
    """How often a detector errs.

    Attributes:
        missed: 0..1; probability that an object is not found, or only below a score of 0.5.
        doubled: 0..1; probability that a found object is found twice, the second time moved and of another size.
        false: 0 or more; false bones for each true one.
        noise_px: Standard deviation of the outline's smooth displacement, on a film of 1024 px.
    """

    missed: float = 0.05
    doubled: float = 0.05
    false: float = 0.05
    noise_px: float = 1.5


def imitate_detector(
    rng: Generator,
    regions: Sequence[Region],
    image_size: tuple[int, int],
    categories: Sequence[str],
    errors: DetectorErrors = DetectorErrors(),
) -> Instances:
    """Detections of one film, in any order.

    Args:
        rng: Drawn from.
        regions: Truth.
        image_size: (height, width) px.
        categories: Names of the classes, in the order of the ids from 1.
        errors: How often what goes wrong.

    Returns:
        Scored instances; those whose outline shrank to nothing are left out.
    """
    noise = errors.noise_px * max(image_size) / 1024
    found: list[tuple[Points, str, float]] = []
    for region in regions:
        outline = _unsteady(rng, region.outline, noise)
        if rng.random() < errors.missed:
            if rng.random() < _AS_CANDIDATE:
                found.append((outline, region.category, rng.uniform(*_CANDIDATE_SCORES)))
            continue
        found.append((outline, region.category, float(np.clip(1 - abs(rng.normal(0, _SCORE_SPREAD)), 0.5, 1))))
        if rng.random() < errors.doubled:
            found.append((_moved(rng, outline), region.category, rng.uniform(*_DOUBLE_SCORES)))
    bones = [region for region in regions if region.category in BONE]
    found += [_false_bone(rng, bones) for _ in range(rng.poisson(errors.false * len(bones)))]
    kept = [(mask, name, score) for mask, name, score in _drawn(found, image_size) if rle.area(mask)]
    ids = [list(categories).index(name) + 1 for _, name, _ in kept]
    return Instances.from_masks(image_size, [mask for mask, _, _ in kept], ids, [score for _, _, score in kept])


def _drawn(found: Sequence[tuple[Points, str, float]], image_size: tuple[int, int]) -> list[tuple[Rle, str, float]]:
    return [(rle.polygons_to_rle([outline], image_size), name, score) for outline, name, score in found]


def _unsteady(rng: Generator, outline: Points, noise_px: float) -> Points:
    """An outline, every vertex displaced, neighbours alike."""
    offsets = rng.normal(0, 1, outline.shape)
    smooth = (np.roll(offsets, 1, axis=0) + offsets + np.roll(offsets, -1, axis=0)) / np.sqrt(3)
    moved: Points = outline + noise_px * smooth + rng.normal(0, noise_px, 2)
    return moved


def _moved(rng: Generator, outline: Points) -> Points:
    """A second detection of an object: up to a third of its size aside, 0.75 to 1.15 of its size."""
    centre = outline.mean(axis=0)
    size = float(np.sqrt(np.ptp(outline, axis=0).prod()))
    moved: Points = centre + (outline - centre) * rng.uniform(0.75, 1.15) + rng.normal(0, 0.12, 2) * size
    return moved


def _false_bone(rng: Generator, bones: Sequence[Region]) -> tuple[Points, str, float]:
    """A bone's outline where none is: beside the spine, or where the next one above would be."""
    model = bones[int(rng.integers(len(bones)))]
    centres = np.array([bone.outline.mean(axis=0) for bone in bones])
    size = float(np.sqrt(np.ptp(model.outline, axis=0).prod()))
    if rng.random() < _BESIDE or len(bones) < 2:
        place = centres[int(rng.integers(len(bones)))] + [rng.choice([-1, 1]) * rng.uniform(0.8, 4.0) * size, 0]
        place = place + rng.normal(0, 0.5, 2) * size
    else:
        place = 2 * centres[-1] - centres[-2] + rng.normal(0, 0.2, 2) * size
    outline: Points = place + (model.outline - model.outline.mean(axis=0)) * rng.uniform(0.6, 1.2)
    category = "lumbar" if rng.random() < 0.8 else "sacral"
    return outline, category, float(rng.uniform(*_FALSE_SCORES))
