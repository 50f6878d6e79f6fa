"""Corners and lordosis against the truth of phantoms.

`OMP_NUM_THREADS=1 python benchmarks/measure_accuracy.py --films 500`

Each film's masks are measured as they are, and with their outlines displaced by smooth noise (1.5 px standard
deviation, autocorrelation exp(-d^2 / (2 l^2)) with l = 15 px). Truth: the projected mid-sagittal corners. Bodies cut by
the border of the field are left out, and films on which L1 or S1 is.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from vertinst.data.phantom_disease import Disease
from vertinst.data.phantom_style import PhantomStyle
from vertinst.data.phantom_take import draw_patient, film_regions
from vertinst.data.phantom_truth import lordosis_deg
from vertinst.postprocess.contours import body_outline, disturb, even_samples
from vertinst.postprocess.landmarks import corners_with_samples, find_corners
from vertinst.postprocess.osteophytes import find_osteophytes
from vertinst.structures import rle
from vertinst.structures.measures import CORNERS, Orientation

SEED = 20
SD_PX, CORRELATION_PX = 1.5, 15.0
LIMIT_PX = 4.0
BINS_PX = (0.0, 2.0, 4.0, 8.0, np.inf)
Points = npt.NDArray[np.float64]


class Case(NamedTuple):
    """One body of one film."""

    film: int
    level: str
    sacral: bool
    outline: Points
    truth: Points
    orientation: Orientation
    size: tuple[int, int]
    spurs: tuple[str, ...]


class Result(NamedTuple):
    """What was found of a case."""

    case: Case
    corners: Points


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=500)
    parser.add_argument("--seed", type=int, default=SEED)
    options = parser.parse_args()
    films, seed = options.films, options.seed
    cv2.setNumThreads(1)
    began = time.perf_counter()
    cases = list(draw_cases(films, seed, PhantomStyle()))
    print(f"{films} films of 1024 px, {len(cases)} whole bodies, drawn in {time.perf_counter() - began:.0f} s")
    clean = measured(cases, lambda case: case.outline)
    rng = np.random.default_rng(seed)
    noisy = measured(cases, lambda case: _noisy(case, rng))
    for name, results in (("perfect masks", clean), ("noisy outlines", noisy)):
        _print_errors(name, results)
    _print_levels(noisy)
    _print_double_contours(clean, noisy)
    _print_spurs(cases[:800])
    _print_spurs(list(draw_cases(max(films // 10, 1), seed, PhantomStyle(disease=Disease(osteophyte_share=1.0)))))
    _print_times(cases[:80])
    print(f"{time.perf_counter() - began:.0f} s in all")


def draw_cases(films: int, seed: int, style: PhantomStyle) -> Iterator[Case]:
    """Whole bodies of the first films of different patients."""
    for number in range(1, films + 1):
        regions, truth = film_regions(draw_patient(seed, number, style), seed, 1, style)
        ahead = np.array([1.0 if truth["facing"] == "right" else -1.0, 0.0])
        for region in regions:
            if not region.level or region.visible < 0.999:
                continue
            corners = np.array(truth["corners_px"][region.level])
            outline = even_samples(region.outline, round(cv2.arcLength(region.outline.astype(np.float32), True)))
            yield Case(
                number,
                region.level,
                region.category == "sacral",
                outline,
                corners,
                Orientation(np.array([0.0, -1.0]), ahead),
                (truth["height"], truth["width"]),
                tuple(o["corner"] for o in truth["disease"].get("osteophytes", []) if o["level"] == region.level),
            )


def _noisy(case: Case, rng: np.random.Generator) -> Points:
    return disturb(case.outline, 1, sd_px=SD_PX, correlation_px=CORRELATION_PX, rng=rng)[0]


def measured(cases: list[Case], outline: Callable[[Case], Points]) -> list[Result]:
    """Corners of all cases from masks drawn of their outlines."""
    results = []
    for case in cases:
        mask = rle.polygons_to_rle([outline(case)], case.size)
        corners = find_corners(mask, case.orientation, sacral=case.sacral)
        assert corners is not None, f"no corners: film {case.film}, {case.level}"
        results.append(Result(case, corners))
    return results


def distances_px(results: list[Result]) -> Points:
    """(N, 4) from the truth."""
    return np.array([np.linalg.norm(found - case.truth, axis=1) for case, found in results])


def lordosis_errors_deg(results: list[Result]) -> Points:
    """One for each film with L1 and S1."""
    found: dict[int, dict[str, Result]] = {}
    for result in results:
        found.setdefault(result.case.film, {})[result.case.level] = result
    pairs = [(levels["L1"], levels["S1"]) for levels in found.values() if {"L1", "S1"} <= levels.keys()]
    return np.array([lordosis_deg(a.corners, b.corners) - lordosis_deg(a.case.truth, b.case.truth) for a, b in pairs])


def _print_errors(name: str, results: list[Result]) -> None:
    errors, apart = lordosis_errors_deg(results), distances_px(results)
    shares = ", ".join(f"{p} % {np.percentile(apart, p):.2f}" for p in (50, 90, 95, 99))
    print(f"{name}: lordosis mean absolute error {np.abs(errors).mean():.2f} deg (mean {errors.mean():+.2f},")
    print(f"  {len(errors)} films); corners: {shares} px, within {LIMIT_PX:.0f} px {_within(apart)}")


def _within(apart: Points) -> str:
    return f"{100 * (apart <= LIMIT_PX).mean():.1f} %" if apart.size else "-"


def _print_levels(results: list[Result]) -> None:
    print("noisy outlines, corners within 4 px by level:")
    for level in ("T12", "L1", "L2", "L3", "L4", "L5", "S1", "S2"):
        apart = distances_px([r for r in results if r.case.level == level]).reshape(-1, 4)
        print(f"  {level:3} {_within(apart)}, medians {np.round(np.median(apart, axis=0), 1).tolist()} px")


def bulge_px(case: Case) -> float:
    """How far the outline reaches beyond the line between the superior mid-sagittal corners: the double contour."""
    along = (case.truth[0] - case.truth[1]) / np.linalg.norm(case.truth[0] - case.truth[1])
    up = np.array([-along[1], along[0]])
    up *= np.sign(up @ (case.truth[:2].sum(axis=0) - case.truth[2:].sum(axis=0)))
    return float(((case.outline - case.truth[0]) @ up).max())


def _print_double_contours(clean: list[Result], noisy: list[Result]) -> None:
    print("by the double contour of the superior endplate (tilt of the body and divergence of the rays together):")
    bulges = np.array([bulge_px(r.case) for r in clean])
    for low, high in itertools.pairwise(BINS_PX):
        inside = np.flatnonzero((bulges >= low) & (bulges < high))
        rows = [distances_px([results[i] for i in inside]).reshape(-1, 4)[:, :2] for results in (clean, noisy)]
        if len(inside):
            medians = ", ".join(f"{np.median(row):.2f} px ({_within(row)} within 4 px)" for row in rows)
            print(f"  {low:.0f} to {high:.0f} px, {len(inside)} bodies: perfect and noisy {medians}")


def _print_spurs(cases: list[Case]) -> None:
    counts = np.zeros((2, 2), dtype=int)
    errors = []
    for case in cases:
        mask = rle.polygons_to_rle([case.outline], case.size)
        corners = find_corners(mask, case.orientation, sacral=case.sacral)
        assert corners is not None
        named = {spur.corner for spur in find_osteophytes(mask, corners)}
        for corner in CORNERS:
            counts[int(corner in case.spurs), int(corner in named)] += 1
        errors += [float(np.linalg.norm(corners - case.truth, axis=1)[CORNERS.index(c)]) for c in case.spurs]
    print(
        f"osteophytes: {counts[1, 1]} of {counts[1].sum()} found, {counts[0, 1]} at {counts[0].sum()} corners without;"
    )
    if errors:
        half, most = np.percentile(errors, (50, 90))
        print(f"  corners with one: median {half:.1f} px from the truth, 90 % within {most:.1f} px")


def _print_times(cases: list[Case]) -> None:
    masks = [(case, rle.polygons_to_rle([case.outline], case.size)) for case in cases]
    for name, count in (("corners", 0), ("corners and 16 samples", 16)):
        times = []
        for case, mask in masks:
            began = time.perf_counter()
            corners_with_samples(mask, case.orientation, sacral=case.sacral, count=count)
            times.append(time.perf_counter() - began)
        print(f"{name}: median {8e3 * np.median(times):.1f} ms for eight bodies")
    times = []
    for _, mask in masks:
        began = time.perf_counter()
        body_outline(mask)
        times.append(time.perf_counter() - began)
    print(f"of it the outlines: {8e3 * np.median(times):.1f} ms")


if __name__ == "__main__":
    main()
