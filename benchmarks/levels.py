"""How often levels are right, and how sure they say they are, on phantoms with the errors of a detector.

    OMP_NUM_THREADS=1 python benchmarks/levels.py --films 500

Phantoms of which a tenth have four or six lumbar vertebrae; 5 % of all objects missed (a third of them still there as
candidates), 5 % found twice, and 5 % false bones for each true one (`vertinst.data.synthetic_detections` says how they
are drawn). A film counts as right when every vertebra that was found, true or not, bears its true level. `--curve`
writes the reliability curve as a picture. No pixels are made.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from vertinst.data.phantom_style import PhantomStyle
from vertinst.data.phantom_take import draw_patient, film_regions
from vertinst.data.phantom_truth import Region
from vertinst.data.synthetic_detections import DetectorErrors, imitate_detector
from vertinst.postprocess.pipeline import build_spine
from vertinst.structures import Spine, rle
from vertinst.structures.dataset import BONE, CLASSES

SEED = 31
FOUND_IOU = 0.5
DOUBT = ("no_sacrum", "possible_", "gap_between", "levels_unsure", "sacrum_on_both_sides")
"""Beginnings of the flags that put the numbering in doubt."""
BINS = (0.0, 0.3, 0.6, 0.8, 0.9, 0.97, 0.99, 1.0)


def main() -> None:
    """Draw, label, count."""
    parser = argparse.ArgumentParser(description="Levels on phantoms with the errors of a detector.")
    parser.add_argument("--films", type=int, default=500, help="One of each patient.")
    parser.add_argument("--rate", type=float, default=0.05, help="Of missed, doubled and false ones, each.")
    parser.add_argument("--curve", type=Path, help="PNG of the reliability curve.")
    chosen = parser.parse_args()
    style = PhantomStyle(films_per_patient=1, six_lumbar_share=0.05, four_lumbar_share=0.05)
    errors = DetectorErrors(chosen.rate, chosen.rate, chosen.rate)
    counts: Counter[str] = Counter()
    confidence: list[tuple[float, bool]] = []
    for regions, spine, sacrum in _films(chosen.films, style, errors):
        named = list(_named(regions, spine))
        wrong = any(level != vertebra.level for level, vertebra in named)
        doubted = any(flag.startswith(DOUBT) for flag in spine.flags)
        five = sum(region.level.startswith("L") for region in regions) == 5
        counts["films"] += 1
        counts["wrong without a flag"] += wrong and not doubted
        counts["judged"] += sacrum and five
        counts["right"] += sacrum and five and not wrong
        counts["right, flagged"] += sacrum and five and not wrong and doubted
        counts.update(flag.split("_between")[0] for flag in spine.flags)
        confidence += [(v.confidence, level == v.level) for level, v in named if v.confidence is not None]
    _tell(counts, confidence)
    if chosen.curve:
        _draw(confidence, chosen.curve)


def _films(count: int, style: PhantomStyle, errors: DetectorErrors) -> Iterator[tuple[list[Region], Spine, bool]]:
    """Truth, spine, and whether the sacrum was found."""
    for number in range(1, count + 1):
        regions, truth = film_regions(draw_patient(SEED, number, style), SEED, 1, style)
        size = (truth["height"], truth["width"])
        found = imitate_detector(np.random.default_rng([SEED, number]), regions, size, CLASSES, errors)
        sacral = [r for r in regions if r.category == "sacral"]
        kept = [m for m, c, s in zip(found.masks, found.category_ids, found.scores, strict=True) if s >= 0.5 and c == 2]
        masks = [rle.polygons_to_rle([r.outline], size) for r in sacral]
        seen = bool(masks and kept and rle.iou(masks, kept).max() >= FOUND_IOU)
        yield regions, build_spine(found, CLASSES, measured=False), seen


def _named(regions: Sequence[Region], spine: Spine) -> Iterator[tuple[str, object]]:
    """True level and vertebra of every vertebra that is one."""
    bones = [r for r in regions if r.category in BONE]
    if not bones or not spine.vertebrae:
        return
    masks = [rle.polygons_to_rle([r.outline], spine.image_size) for r in bones]
    overlaps = rle.iou(masks, [v.mask for v in spine.vertebrae])
    for column, vertebra in enumerate(spine.vertebrae):
        best = int(overlaps[:, column].argmax())
        if overlaps[best, column] >= FOUND_IOU:
            yield bones[best].level, vertebra


def _tell(counts: Counter[str], confidence: Sequence[tuple[float, bool]]) -> None:
    films, judged = counts["films"], max(counts["judged"], 1)
    print(f"{films} films; sacrum found and five lumbar vertebrae: {counts['judged']}")
    print(f"of these all levels right: {counts['right']} ({100 * counts['right'] / judged:.1f} %)")
    print(f"of these with a flag of doubt all the same: {counts['right, flagged']}")
    print(f"a wrong level without a flag: {counts['wrong without a flag']} of {films} films")
    told = {
        name: n for name, n in counts.most_common() if name.split()[0] not in ("films", "judged", "right,", "right")
    }
    print("flags:", ", ".join(f"{name} {n}" for name, n in told.items() if not name.startswith("wrong")))
    print(f"{'confidence':>14} {'vertebrae':>10} {'said':>7} {'right':>7}")
    for low, high, number, said, right in _reliability(confidence):
        print(f"{low:6.2f} - {high:4.2f} {number:10d} {said:7.3f} {right:7.3f}")


def _reliability(confidence: Sequence[tuple[float, bool]]) -> Iterator[tuple[float, float, int, float, float]]:
    values = np.array(confidence, dtype=np.float64).reshape(-1, 2)
    for low, high in pairwise(BINS):
        inside = values[(values[:, 0] > low) & (values[:, 0] <= high)]
        if len(inside):
            yield low, high, len(inside), float(inside[:, 0].mean()), float(inside[:, 1].mean())


def _draw(confidence: Sequence[tuple[float, bool]], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    rows = list(_reliability(confidence))
    figure, axes = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
    axes.plot([0, 1], [0, 1], color="0.7", linestyle="--")
    axes.plot([row[3] for row in rows], [row[4] for row in rows], marker="o")
    for _, _, number, said, right in rows:
        axes.annotate(str(number), (said, right), textcoords="offset points", xytext=(6, -10), fontsize=8)
    axes.set(xlabel="confidence of a level", ylabel="share of these levels that are right", xlim=(0, 1), ylim=(0, 1.02))
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
