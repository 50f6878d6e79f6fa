"""How long suppression takes beside pycocotools: its matrix of all mask IoUs, and a greedy loop over it.

    OMP_NUM_THREADS=1 python benchmarks/suppression_speed.py --rounds 51

100 masks on a film of 1500 x 1000 px, all in turn in one run. Two cases are vertebrae found several times, and two are
no films: the easiest for pycocotools, where no box meets another and it skips every pair, and the hardest for us, where
everything has to be compared and little is removed. Both must keep the same instances. pycocotools knows no classes and
one limit, that of the IoU: so do we in the line `vertinst`; the other has the policy of every prediction.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from interleaved import Subjects, compare
from pycocotools import mask as coco_mask

from vertinst.postprocess.nms import suppress
from vertinst.postprocess.policy import Policy
from vertinst.structures import Instances, Rle, rle

SIZE = (1500, 1000)
COUNT = 100
IOU = 0.5
POLICY = Policy(pairs={"lumbar lumbar": {"iou": IOU, "over_smaller": 1}})

Points = npt.NDArray[np.float64]


def main() -> None:
    """Check that both keep the same, then time them."""
    parser = argparse.ArgumentParser(description="Suppression of 100 masks beside pycocotools' matrix and a loop.")
    parser.add_argument("--rounds", type=int, default=51, help="Runs of each, in turn.")
    rounds = parser.parse_args().rounds
    for name, make in CASES.items():
        instances = make(np.random.default_rng(0))
        kept = _theirs(instances)
        if sorted(kept) != sorted(suppress(instances, ("lumbar",), POLICY).kept):
            raise SystemExit(f"{name}: the two must keep the same")
        print(f"{name}: {len(instances)} masks, {len(kept)} kept")
        subjects: Subjects = {
            "pycocotools: matrix and loop": lambda instances=instances: _theirs(instances),
            "vertinst": lambda instances=instances: suppress(instances, ("lumbar",), POLICY),
            "vertinst, default policy": lambda instances=instances: suppress(instances, ("lumbar",)),
        }
        compare(subjects, rounds)


def _theirs(instances: Instances) -> list[int]:
    assert instances.scores is not None
    masks = list(instances.masks)
    above = coco_mask.iou(masks, masks, [0] * len(masks)) > IOU
    alive = np.ones(len(masks), dtype=bool)
    kept = []
    for index in np.argsort(-instances.scores, kind="stable"):
        if alive[index]:
            kept.append(int(index))
            alive &= ~above[index]
    return kept


def _doubled(rng: np.random.Generator, bodies: int) -> Instances:
    """Vertebrae down a bent chain, each found as often as makes 100, with outlines that differ a little."""
    masks = []
    for n in range(COUNT):
        step = n % bodies
        along = (step + 0.5) / bodies
        height = 1400 / bodies
        centre = np.array([500 + 90 * np.sin(3 * along), 50 + 1400 * along]) + rng.normal(0, 4, 2)
        size = np.array([min(1.45 * height, 300), 0.86 * height]) * rng.normal(1, 0.03, 2)
        masks.append(_mask(_body(centre, size, 0.3 * np.cos(3 * along), rng)))
    return _scored(masks, rng)


def _screws(rng: np.random.Generator) -> Instances:
    """Small slender masks, none of whose boxes meets another: pycocotools skips every pair of them."""
    masks = []
    for n in range(COUNT):
        centre = np.array([50 + 100 * (n % 10), 75 + 150 * (n // 10)], dtype=np.float64)
        masks.append(_mask(_body(centre, np.array([90.0, 12.0]), rng.uniform(-0.6, 0.6), rng)))
    return _scored(masks, rng)


def _pile(rng: np.random.Generator) -> Instances:
    """Thin large rings around one place: most share less than the limit, though their boxes and areas are alike."""
    masks = []
    for _ in range(COUNT):
        outer = _body(np.array([500.0, 750.0]) + rng.normal(0, 25, 2), rng.uniform(500, 560, 2), 0, rng)
        ring = rle.difference(_mask(outer), _mask(500 + (outer - 500) * 0.94 + [0, 15]))
        masks.append(ring)
    return _scored(masks, rng)


CASES: dict[str, Callable[[np.random.Generator], Instances]] = {
    "10 vertebrae, each found 10 times": lambda rng: _doubled(rng, 10),
    "20 vertebrae, each found 5 times": lambda rng: _doubled(rng, 20),
    "nothing meets (easiest for pycocotools)": _screws,
    "everything meets, little goes (hardest for us)": _pile,
}


def _body(centre: Points, size: Points, turn: float, rng: np.random.Generator) -> Points:
    """Outline (120, 2) of a rounded rectangle with smooth noise of 1.5 px."""
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    noise = np.convolve(np.tile(rng.normal(0, 4.5, 120), 3), np.full(9, 1 / 9), "same")[120:240]
    points = np.sign(unit) * np.sqrt(np.abs(unit)) * size / 2 + noise[:, None] * unit
    cosine, sine = np.cos(turn), np.sin(turn)
    return np.asarray(points @ np.array([[cosine, sine], [-sine, cosine]]) + centre, dtype=np.float64)


def _mask(outline: Points) -> Rle:
    return rle.polygons_to_rle([outline], SIZE)


def _scored(masks: list[Rle], rng: np.random.Generator) -> Instances:
    return Instances.from_masks(SIZE, masks, [1] * len(masks), rng.uniform(0.05, 1, len(masks)).tolist())


if __name__ == "__main__":
    main()
