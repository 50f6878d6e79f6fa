"""Whether the names of two dates seem to be shifted against each other: a wrong level at one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import log, sqrt

import numpy as np

from vertinst.structures import rle
from vertinst.structures.spine import Spine, Vertebra, is_level, level_above

__all__ = ["better_shift"]

# What changes between two dates and with the direction of the beam, beside the outlines' own errors.
_REAL_SD = 0.04
# One feature is never believed further: a fracture changes its vertebra and no other.
_MOST = 9.0
_LEAST_PAIRS = 3
# Sum of squared standardised differences by which another reading must fit better, and its share at most.
_LEAST_GAIN, _MOST_SHARE = 12.0, 0.5


def better_shift(before: Spine, after: Spine) -> int | None:
    """Levels (-1 or 1) by which the names of `after` would have to go up to fit `before` clearly better, or None.

    Compared are the shapes of the bodies (wedge, biconcavity, height by depth), their sizes against the others of their
    film, which vertebrae are sacral, and which carry screws and cages where both dates have some. Each difference is
    squared by its variance and bounded, so that what happened to one vertebra does not decide. Where everybody looks
    alike nothing is said: this finds shifted constructs and fractures, not every wrong count.
    """
    first, second = ({v.level: v for v in spine.vertebrae if is_level(v.level)} for spine in (before, after))
    metal = _metal(before), _metal(after)
    costs: dict[int, tuple[float, int]] = {}
    for shift in (0, -1, 1):
        pairs = [
            (level, low)
            for low in second
            if low not in ("L6", "T13") and (level := level_above(low, shift)) is not None and level in first
        ]
        if len(pairs) >= _LEAST_PAIRS:
            total = _shapes([(first[a], second[b]) for a, b in pairs]) + _carried(pairs, *metal)
            costs[shift] = total / len(pairs), len(pairs)
    if 0 not in costs or len(costs) < 2:
        return None
    best = min((shift for shift in costs if shift), key=lambda shift: costs[shift][0])
    cost, count = costs[best]
    named = costs[0][0]
    return best if (named - cost) * count >= _LEAST_GAIN and cost <= _MOST_SHARE * named else None


def _shapes(pairs: list[tuple[Vertebra, Vertebra]]) -> float:
    total = _MOST * sum((a.category == "sacral") != (b.category == "sacral") for a, b in pairs)
    alike = [(a, b) for a, b in pairs if "sacral" not in (a.category, b.category)]
    if not alike:
        return total
    features: dict[str, Callable[[Vertebra], tuple[float, float] | None]] = {
        "wedge": lambda v: _value(v, "wedge_ratio"),
        "biconcave": lambda v: _value(v, "biconcave_ratio"),
        "height": _height_by_depth,
    }
    for feature in features.values():
        for a, b in alike:
            old, new = feature(a), feature(b)
            if old is not None and new is not None:
                total += min(_MOST, (old[0] - new[0]) ** 2 / (old[1] ** 2 + new[1] ** 2 + _REAL_SD**2))
    sizes = np.array([_log_size(a) - _log_size(b) for a, b in alike])
    # Against the other vertebrae: films have scales of their own.
    squares = ((sizes - np.median(sizes)) / _REAL_SD) ** 2
    return total + float(np.minimum(squares, _MOST).sum())


def _value(vertebra: Vertebra, name: str) -> tuple[float, float] | None:
    measure = vertebra.body.values.get(name) if vertebra.body else None
    return (measure.value, measure.sd or 0.0) if measure else None


def _height_by_depth(vertebra: Vertebra) -> tuple[float, float] | None:
    height, depth = (_value(vertebra, name) for name in ("height_middle_px", "depth_superior_px"))
    if height is None or depth is None or height[0] <= 0 or depth[0] <= 0:
        return None
    return log(height[0] / depth[0]), sqrt((height[1] / height[0]) ** 2 + (depth[1] / depth[0]) ** 2)


def _log_size(vertebra: Vertebra) -> float:
    depth = _value(vertebra, "depth_superior_px")
    return log(depth[0]) if depth and depth[0] > 0 else 0.5 * log(max(rle.area(vertebra.mask), 1))


def _metal(spine: Spine) -> Mapping[str, set[str]]:
    """Levels that carry screws, and those below a cage."""
    return {
        kind: {i.levels[0] for i in spine.implants if i.category == kind and i.levels} for kind in ("screw", "cage")
    }


def _carried(pairs: list[tuple[str, str]], before: Mapping[str, set[str]], after: Mapping[str, set[str]]) -> float:
    kinds = [kind for kind in before if before[kind] and after[kind]]
    return _MOST * sum((a in before[kind]) != (b in after[kind]) for kind in kinds for a, b in pairs)
