"""How often front and back, the levels of implants, grades and Cobb angles are right on phantom films.

    OMP_NUM_THREADS=1 python benchmarks/anatomy.py --films 200

Truth masks, truth levels, no pixels. Four kinds of films: as usual; with diseases (each in 30 % of the patients);
without the sacrum; antero-posterior with scoliosis. Every film is measured as it is; for front and back it also lies
turned by a random angle, and mirrored. An implant counts as right where its levels are those that were drawn, as far as
these are on the film. The medians of the times say how much each stage takes; other work on the machine counts in.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from vertinst.data.phantom_disease import Disease
from vertinst.data.phantom_style import PhantomStyle
from vertinst.data.phantom_take import draw_patient, film_regions
from vertinst.data.phantom_truth import Region
from vertinst.postprocess.chain import centroids_xy
from vertinst.postprocess.formulas import body_values, disc_values
from vertinst.postprocess.implants import relate_implants
from vertinst.postprocess.morphometry import measure
from vertinst.postprocess.orientation import find_orientation
from vertinst.structures import Implant, Measure, Orientation, Spine, Vertebra, rle
from vertinst.structures.spine import LEVELS, TRANSITIONAL

STYLES = {
    "usual": PhantomStyle(),
    "diseases": PhantomStyle(disease=Disease(*[0.3] * 5)),
    "no sacrum": PhantomStyle(no_sacrum_share=1.0),
    "antero-posterior": PhantomStyle(ap_share=1.0),
}

Points = npt.NDArray[np.float64]


@dataclass
class Tally:
    """What was seen on the films of one kind: yes or no, and errors, by name."""

    right: dict[str, list[bool]]
    errors: dict[str, list[float]]

    def check(self, name: str, good: bool) -> None:
        """Count one answer."""
        self.right.setdefault(name, []).append(bool(good))

    def miss(self, name: str, found: Measure | None, truth: float) -> None:
        """Keep one error; nothing where it was not measured."""
        if found is not None:
            self.errors.setdefault(name, []).append(found.value - truth)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Front and back, implants, grades and Cobb angles on phantoms.")
    parser.add_argument("--films", type=int, default=200, help="Films of each kind.")
    parser.add_argument("--seed", type=int, default=11)
    arguments = parser.parse_args()
    for name, style in STYLES.items():
        tally = Tally({}, {})
        for number, (regions, truth) in enumerate(films(arguments.films, arguments.seed, style)):
            judge(regions, truth, np.random.default_rng(number), tally)
        print(f"\n{name}: {arguments.films} films")
        for what, answers in tally.right.items():
            print(f"  {what:38s} {np.mean(answers):7.2%} of {len(answers)}")
        for what, errors in tally.errors.items():
            if what.endswith("ms"):
                print(f"  {what:38s} {np.median(errors):7.2f} median")
            else:
                size = np.abs(errors)
                tail = np.percentile(size, 95)
                print(
                    f"  {what:38s} {size.mean():7.2f} mean error, 95 % within {tail:.2f}, bias {np.mean(errors):+.2f}"
                )


def films(count: int, seed: int, style: PhantomStyle) -> Iterator[tuple[list[Region], dict[str, Any]]]:
    """One film of each patient."""
    for number in range(1, count + 1):
        yield film_regions(draw_patient(seed, number, style), seed, 1, style)


def rank(level: str) -> float:
    """Place of a level from the sacrum up."""
    return LEVELS.index(TRANSITIONAL[level][1]) - 0.5 if level in TRANSITIONAL else LEVELS.index(level)


def as_spine(regions: list[Region], size: tuple[int, int], view: str) -> tuple[Spine, float]:
    """A spine with truth levels, and how long its orientation took, ms."""
    masks = {id(region): rle.polygons_to_rle([region.outline], size) for region in regions}
    bones = sorted((r for r in regions if r.level), key=lambda r: rank(r.level))
    vertebrae = tuple(Vertebra(r.level, r.category, 1.0, rle.box_xyxy(masks[id(r)]), masks[id(r)]) for r in bones)
    metal = tuple(Implant(r.category, 1.0, rle.box_xyxy(masks[id(r)]), masks[id(r)]) for r in regions if not r.level)
    start = perf_counter()
    bone_masks = [v.mask for v in vertebrae]
    sacral = np.array([v.category == "sacral" for v in vertebrae], dtype=bool)
    found = find_orientation(centroids_xy(bone_masks), bone_masks, sacral, metal, view)
    return Spine(size, vertebrae, metal, view=view, orientation=found), 1000 * (perf_counter() - start)


def judge(regions: list[Region], truth: dict[str, Any], rng: np.random.Generator, tally: Tally) -> None:
    """Everything that is asked of one film."""
    size, view = (truth["height"], truth["width"]), truth["view"]
    spine, took = as_spine(regions, size, view)
    facing = 1.0 if truth["facing"] in ("right", None) else -1.0
    tally.miss("orientation, ms", Measure(took), 0)
    judge_orientation("as it is", spine.orientation, np.array([facing, 0.0]), tally)
    turned, frame = turn(regions, size, rng)
    other, _ = as_spine(turned, (2000, 2000), view)
    judge_orientation("turned and mirrored", other.orientation, frame @ np.array([facing, 0.0]), tally, ap=view == "ap")
    start = perf_counter()
    measured = measure(spine)
    tally.miss("measures with corners, ms", Measure(1000 * (perf_counter() - start)), 0)
    start = perf_counter()
    related, _ = relate_implants(measured.vertebrae, measured.implants)
    tally.miss("implants, ms", Measure(1000 * (perf_counter() - start)), 0)
    seen = [v.level for v in spine.vertebrae]
    for implant, drawn in zip(related, truth["implants"], strict=True):
        wanted = [level for level in drawn["levels"] if level in seen]
        complete = len(wanted) == len(drawn["levels"])
        if implant.category == "rod" or complete:
            tally.check(f"{implant.category}: levels", list(implant.levels) == wanted)
            tally.check(f"{implant.category}: no flag", not implant.flags)
    judge_measures(replace(measured, implants=related), truth, int(facing), tally)


def judge_orientation(name: str, found: Orientation | None, ahead: Points, tally: Tally, *, ap: bool = False) -> None:
    """Whether front is in front. On antero-posterior films it is a side of the film, whatever was mirrored."""
    if found is None:
        return
    right = abs(found.anterior @ ahead) > 0.7 if ap else found.anterior @ ahead > 0
    tally.check(f"front, {name}", bool(right))
    tally.check(f"sure, {name}", found.sure)
    tally.check(f"wrong and sure, {name}", found.sure and not right)


def turn(regions: list[Region], size: tuple[int, int], rng: np.random.Generator) -> tuple[list[Region], Points]:
    """The film turned about its middle, half of the time mirrored, on a larger one; and the matrix of that."""
    angle = rng.uniform(-np.pi, np.pi)
    matrix = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = matrix * np.array([rng.choice([-1.0, 1.0]), 1.0])
    middle = np.array(size[::-1]) / 2
    return [replace(r, outline=(r.outline - middle) @ matrix.T + 1000.0) for r in regions], matrix


def judge_measures(spine: Spine, truth: dict[str, Any], side: int, tally: Tally) -> None:
    """Angles, lengths in px and grades against the truth's corners and diseases."""
    corners = {level: np.array(points) for level, points in truth["corners_px"].items()}
    middles = {level: np.array(points) for level, points in truth["middles_px"].items()}
    for name in ("lordosis_L1_S1_deg", "cobb_max_deg"):
        if name in truth:
            tally.miss(name, spine.values.get(name), truth[name])
    if "cobb_levels" in truth:
        tally.check("cobb: both levels", f"cobb_{'_'.join(truth['cobb_levels'])}_deg" in spine.values)
    whole = {level for level, share in truth["visible"].items() if share > 0.99}
    for disc in spine.discs:
        if {disc.upper, disc.lower} <= whole:
            roof, floor = middles[disc.upper][1], middles[disc.lower][0]
            drawn = disc_values(corners[disc.upper], corners[disc.lower], roof, floor, side)
            for name, value in drawn.items():
                tally.miss(f"disc {name}", disc.values.get(name), float(value))
    ill = truth["disease"]
    broken = {entry["level"]: entry["loss"] for entry in ill.get("fractures", ())}
    slipped = {entry["upper"]: abs(entry["percent"]) for entry in ill.get("slips", ())}
    for vertebra in spine.vertebrae:
        if vertebra.level in whole and vertebra.body is not None and vertebra.category != "sacral":
            top, bottom = middles[vertebra.level]
            drawn = body_values(corners[vertebra.level], top, bottom, side)
            for name, value in drawn.items():
                tally.miss(f"body {name}", vertebra.body.values.get(name), float(value))
            if "genant_grade" in vertebra.body.grades:
                kind = "fractured: graded" if vertebra.level in broken else "sound: Genant 0"
                tally.check(kind, (vertebra.body.grades["genant_grade"] > 0) is (vertebra.level in broken))
    for disc in spine.discs:
        if "meyerding_grade" in disc.grades:
            large = slipped.get(disc.upper, 0.0) > 12
            if large or disc.upper not in slipped:
                name = "slip above 12 %: graded" if large else "no slip: Meyerding 0"
                tally.check(name, (disc.grades["meyerding_grade"] > 0) is large)


if __name__ == "__main__":
    main()
