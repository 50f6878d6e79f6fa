"""From a spine with levels to its measures: bodies, discs, and angles of the whole film, each with its uncertainty.

Formulas and their sources are in `vertinst.postprocess.formulas`. All of it works in square pixels: where rows and
columns are not equally far apart (which only a scale can tell), columns are stretched to the rows' distance, and
lengths in `_px` are pixels of that size. `_mm` is there with a scale alone, as a twin of every `_px`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from vertinst.postprocess.endplates import Landmarks, find_landmarks
from vertinst.postprocess.formulas import (
    body_values,
    cobb_deg,
    disc_heights_px,
    disc_values,
    genant_grade,
    inferior,
    lordosis_deg,
    meyerding_grade,
    side_of,
    slip_percent,
    superior,
    tilt_deg,
    turn_deg,
)
from vertinst.postprocess.osteophytes import find_osteophytes
from vertinst.structures import Body, Disc, Measure, Orientation, Scale, Spine
from vertinst.structures.spine import are_neighbours

__all__ = [
    "cobb",
    "cobb_deg",
    "disc_heights_px",
    "lordosis_deg",
    "measure",
    "slip_percent",
    "tilt_deg",
]

Points = npt.NDArray[np.float64]

PERHAPS_CUT = "perhaps_cut"
_LORDOSIS = (("L1", "S1"), ("L4", "S1"))
_SACRAL_VALUES = ("depth_superior_px", "tilt_deg")
# Rays of an antero-posterior film run along the endplates of bodies that lordosis tilts by up to 40 degrees: what shows
# is the height of a body with a part of its depth added, and of its disc that taken away. (Phantoms: 7 px too high and
# 9 px too low, up to 34.) Widths and angles stay.
_AP_VALUES = ("depth_superior_px", "depth_inferior_px", "wedge_deg", "tilt_deg")
_AP_DISC_VALUES = ("wedge_deg", "segment_deg")


def measure(spine: Spine, *, samples: int = 16) -> Spine:
    """Measure a spine whose vertebrae are named.

    Every vertebra gets its `body`, every two neighbours a disc (`Spine.discs`, from below; none between two sacral
    parts, nor across a missing level), and the film its `values`: on lateral films `lordosis_L1_S1_deg` and
    `lordosis_L4_S1_deg` (only where both levels were found) and `sacral_slope_deg`; on antero-posterior films
    `cobb_max_deg`, the largest Cobb angle of any two vertebrae that are not sacral, and the same with their names
    (`cobb_T12_L4_deg`). A value that hangs on a corner within `CUT_PX` of the film's edge is left out, and so are
    grades, slips and all heights and their ratios on antero-posterior films (which show bodies obliquely: heights would
    be false), and of sacral parts all but the superior depth and tilt. Sides, where nothing on a lateral film tells
    front from back, are those of `Spine.orientation`; the film is flagged `side_unsure`. A vertebra at an end of the
    chain in which a collimated field seems to end (see `endplates.SHORT`) is flagged `perhaps_cut`, and nothing hangs
    on its outer corners.

    Args:
        spine: With levels, orientation, view, and a scale or none. What was measured before is measured anew.
        samples: How often outlines are perturbed for the standard deviations; below 2 there are none.
    """
    orientation = spine.orientation
    if orientation is None or not spine.vertebrae:
        return replace(spine, discs=(), values={})
    marks = find_landmarks(spine, orientation, range(len(spine.vertebrae)), samples)
    lateral, side = spine.view == "lateral", side_of(orientation)
    bodies = _bodies(spine, orientation, marks)
    values = _lateral_values(spine, orientation, marks) if lateral else _ap_values(spine, marks)
    unsure = lateral and not orientation.sure and "side_unsure" not in spine.flags
    return replace(
        spine,
        vertebrae=tuple(
            replace(v, body=body, flags=_with_cut(v.flags, bool(cut)))
            for v, body, cut in zip(spine.vertebrae, bodies, marks.collimated, strict=True)
        ),
        discs=_discs(spine, marks, side),
        values=_with_mm(values, spine.scale),
        flags=(*spine.flags, "side_unsure") if unsure else spine.flags,
    )


def _with_cut(flags: tuple[str, ...], cut: bool) -> tuple[str, ...]:
    others = tuple(flag for flag in flags if flag != PERHAPS_CUT)
    return (*others, PERHAPS_CUT) if cut else others


def cobb(spine: Spine, upper: str, lower: str, *, samples: int = 16) -> Measure | None:
    """Cobb angle between two levels, degrees, see `cobb_deg`; None where one of them was not found or is cut.

    Args:
        spine: With levels and orientation.
        upper: Upper end vertebra; its superior endplate counts.
        lower: Lower end vertebra; its inferior endplate counts.
        samples: See `measure`.
    """
    places = {v.level: i for i, v in enumerate(spine.vertebrae)}
    if spine.orientation is None or upper not in places or lower not in places:
        return None
    corners = find_landmarks(spine, spine.orientation, [places[upper], places[lower]], samples).corners
    return _measure(cobb_deg(corners[:, 0], corners[:, 1]))


def _measure(values: Points) -> Measure | None:
    """The first of (1 + S) values with the standard deviation of the others, or None where it is not finite."""
    return _measures({"": values[:, None]})[""][0]


def _measures(values: Mapping[str, Points]) -> dict[str, list[Measure | None]]:
    """The same for K things at once: values (1 + S, K) by name."""
    result = {}
    for name, array in values.items():
        spreads = array[1:].std(axis=0, ddof=1) if len(array) > 2 else np.full(array.shape[1], np.nan)
        result[name] = [
            Measure(value, spread if np.isfinite(spread) else None) if np.isfinite(value) else None
            for value, spread in zip(array[0].tolist(), spreads.tolist(), strict=True)
        ]
    return result


def _with_mm(values: Mapping[str, Measure | None], scale: Scale | None) -> dict[str, Measure]:
    """Those that are known, and their twins in millimetres."""
    result = {name: value for name, value in values.items() if value is not None}
    for name, (value, sd) in list(result.items()) if scale else []:
        if name.endswith("_px") and scale is not None:
            result[f"{name[:-2]}mm"] = Measure(value * scale.row_mm, None if sd is None else sd * scale.row_mm)
    return result


def _bodies(spine: Spine, orientation: Orientation, marks: Landmarks) -> list[Body | None]:
    values = body_values(marks.corners, marks.middles[..., 0, :], marks.middles[..., 1, :], side_of(orientation))
    values["crush_ratio"] = values["height_posterior_px"] / _of_neighbours(spine, values["height_posterior_px"])
    values["tilt_deg"] = tilt_deg(marks.corners, orientation)
    measures = _measures(values)
    result: list[Body | None] = []
    for place, vertebra in enumerate(spine.vertebrae):
        found, sampled = marks.found_px[place], marks.sampled_px[place]
        if found is None:
            result.append(None)
            continue
        sacral = vertebra.category == "sacral"
        whole = tuple(values) if spine.view == "lateral" else _AP_VALUES
        names = _SACRAL_VALUES if sacral else whole
        mine = _with_mm({name: measures[name][place] for name in names}, spine.scale)
        grades = {} if sacral or spine.view != "lateral" else _genant(mine)
        result.append(Body(found, _spread_px(sampled), mine, grades, find_osteophytes(vertebra.mask, found)))
    return result


def _spread_px(sampled: Points | None) -> Points:
    """Root mean square distances (4,) of perturbed corners (S, 4, 2) from their mean; 0 without samples."""
    if sampled is None:
        return np.zeros(4)
    return np.asarray(np.sqrt(((sampled - sampled.mean(axis=0)) ** 2).sum(axis=-1).mean(axis=0)), dtype=np.float64)


def _of_neighbours(spine: Spine, heights: Points) -> Points:
    """Means (1 + S, V) of the heights of the true neighbours that are no part of the sacrum; NaN without any."""
    total, count = np.zeros_like(heights), np.zeros_like(heights)
    for lower, upper in _pairs(spine):
        for here, there in ((lower, upper), (upper, lower)):
            if spine.vertebrae[there].category != "sacral":
                known = np.isfinite(heights[:, there])
                total[:, here] += np.where(known, heights[:, there], 0)
                count[:, here] += known
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def _genant(values: Mapping[str, Measure]) -> dict[str, int]:
    ratios = [values[name].value for name in ("wedge_ratio", "biconcave_ratio", "crush_ratio") if name in values]
    return {"genant_grade": genant_grade(1 - min(ratios))} if ratios else {}


def _pairs(spine: Spine) -> list[tuple[int, int]]:
    """Places (lower, upper) of vertebrae with a disc between them."""
    return [
        (lower, upper)
        for lower, upper in pairwise(range(len(spine.vertebrae)))
        if are_neighbours(spine.vertebrae[lower].level, spine.vertebrae[upper].level)
        and spine.vertebrae[upper].category != "sacral"
    ]


def _discs(spine: Spine, marks: Landmarks, side: int) -> tuple[Disc, ...]:
    pairs = np.array(_pairs(spine), dtype=np.int64).reshape(-1, 2)
    lower, upper = pairs[:, 0], pairs[:, 1]
    corners, middles = marks.corners, marks.middles
    values = disc_values(corners[:, upper], corners[:, lower], middles[:, upper, 1], middles[:, lower, 0], side)
    if spine.view != "lateral":
        values = {name: values[name] for name in _AP_DISC_VALUES}
    measures = _measures(values)
    result = []
    for place in range(len(pairs)):
        mine = _with_mm({name: all_[place] for name, all_ in measures.items()}, spine.scale)
        grades = {"meyerding_grade": meyerding_grade(mine["slip_percent"].value)} if "slip_percent" in mine else {}
        if mine:
            above, below = (spine.vertebrae[int(i)].level for i in (upper[place], lower[place]))
            result.append(Disc(above, below, mine, grades))
    return tuple(result)


def _lateral_values(spine: Spine, orientation: Orientation, marks: Landmarks) -> dict[str, Measure | None]:
    places = {v.level: i for i, v in enumerate(spine.vertebrae)}
    values: dict[str, Measure | None] = {}
    for upper, lower in _LORDOSIS:
        if upper in places and lower in places:
            between = lordosis_deg(
                marks.corners[:, places[upper]], marks.corners[:, places[lower]], side_of(orientation)
            )
            values[f"lordosis_{upper}_{lower}_deg"] = _measure(between)
    if "S1" in places:
        values["sacral_slope_deg"] = _measure(tilt_deg(marks.corners[:, places["S1"]], orientation))
    return values


def _ap_values(spine: Spine, marks: Landmarks) -> dict[str, Measure | None]:
    """The largest Cobb angle; its standard deviation is that of the angle between these two levels."""
    chain = [i for i, v in enumerate(spine.vertebrae) if v.category != "sacral"]
    corners = marks.corners[:, chain]
    # (1 + S, upper, lower)
    angles = np.abs(turn_deg(superior(corners)[:, :, None], inferior(corners)[:, None, :], 1))
    first = np.where(np.tri(len(chain), k=-1, dtype=bool), angles[0], np.nan)
    if not np.isfinite(first).any():
        return {}
    upper, lower = np.unravel_index(np.nanargmax(first), first.shape)
    largest = _measure(angles[:, upper, lower])
    names = [spine.vertebrae[chain[int(i)]].level for i in (upper, lower)]
    return {f"cobb_{names[0]}_{names[1]}_deg": largest, "cobb_max_deg": largest}
