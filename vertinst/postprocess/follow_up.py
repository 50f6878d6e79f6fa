"""Two dates of one patient: levels and implants matched, what changed, and what of it is more than measuring errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import hypot, sqrt
from typing import NamedTuple

from vertinst.errors import DataError
from vertinst.postprocess.implant_motion import Moved, match_implants
from vertinst.postprocess.shifted_levels import better_shift
from vertinst.structures.measures import Measure
from vertinst.structures.spine import Spine, Vertebra, is_level

__all__ = ["COVERAGE", "Change", "FollowUp", "ImplantChange", "Lengths", "LevelChange", "follow_up"]

COVERAGE = 2.0
"""A change counts as more than measuring errors from so many standard deviations of a difference on."""

_PX, _PX2 = "_px", "_px2"

# To the film's horizontal: how the film was placed and the patient lay changes these, and no outline tells how much.
_TO_THE_FILM = ("tilt_deg", "sacral_slope_deg")

# Standard deviations between films of one patient who did not change, beyond those of the outlines: a film from another
# place shows screws, which lie beside the middle plane, elsewhere on their vertebra. Lengths by the mean depth of the
# bodies. Robust (1.4826 x median absolute difference / sqrt(2), less the outlines' variance) over the screws on pairs
# of phantom films without changes; benchmarks/follow_up.py prints both. Other measures differ by less than outlines do.
_BETWEEN_LENGTHS = {"screw anterior": 0.018, "screw up": 0.018}
_BETWEEN = {"screw rotation_deg": 0.8}


class Change(NamedTuple):
    """One measure at two dates.

    Attributes:
        name: Its unit is its end; `_by_depth_ratio` is a length by the mean depth of the bodies.
        before: At the first date.
        after: At the second date.
        change: After less before; of the rotation of an implant between -90 and 90.
        uncertainty: `COVERAGE` x sqrt(sd_before^2 + sd_after^2 + 2 x between^2), the standard deviation of a difference
            of independent errors (JCGM 100:2008, 5.1.2), where `between` is what two films of an unchanged patient
            differ by beyond their outlines (0 but for screws); None where one of them has no standard deviation, and
            for angles to the film's horizontal, which tell how it was placed.
    """

    name: str
    before: Measure
    after: Measure
    change: float
    uncertainty: float | None

    @property
    def beyond(self) -> bool | None:
        """Whether the change exceeds its uncertainty; None where that is unknown. At equality it does not."""
        return None if self.uncertainty is None else abs(self.change) > self.uncertainty


class LevelChange(NamedTuple):
    """What changed at one vertebra or disc.

    Attributes:
        name: `L4`, or of a disc `L4/5`.
        changes: Measures that both dates have, by name.
        grades: Hints that both dates have, by name: before and after.
    """

    name: str
    changes: tuple[Change, ...]
    grades: Mapping[str, tuple[int, int]]


class ImplantChange(NamedTuple):
    """One implant at two dates.

    Attributes:
        category: Its class.
        levels: Those it belongs to.
        before: Its place in `implants` of the first date.
        after: Its place in `implants` of the second date.
        changes: Position in the frame of its lowest vertebra (`anterior_`, `up_`, none of rods, whose ends the film may
            cut), and `rotation_deg` of its long axis.
    """

    category: str
    levels: tuple[str, ...]
    before: int
    after: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, eq=False)
class FollowUp:
    """What changed between two dates.

    Attributes:
        film: Of the whole film.
        vertebrae: From below; levels that both dates have.
        discs: From below; those that both dates have.
        implants: Those of the same class and levels, the nearest ones matched.
        only_before: Levels that only the first date has, from below.
        only_after: Levels that only the second date has.
        implants_only_before: Places in `implants` of the first date: removed, hidden, or not found.
        implants_only_after: Places in `implants` of the second date.
        length_unit: `mm`, `body_depth` (lengths by the mean depth of the bodies that both dates have: a scale is
            missing), or `none` (no lengths compared).
        flags: `levels_not_anchored` (no level is matched), `levels_may_be_shifted`, `no_common_scale`,
            `scales_from_different_sources`, `front_and_back_unsure`, `no_common_level`.
        shift: Levels by which the names of the second date would have to go up to fit better, or None.
    """

    film: tuple[Change, ...]
    vertebrae: tuple[LevelChange, ...]
    discs: tuple[LevelChange, ...]
    implants: tuple[ImplantChange, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    implants_only_before: tuple[int, ...]
    implants_only_after: tuple[int, ...]
    length_unit: str
    flags: tuple[str, ...]
    shift: int | None = None

    @property
    def changes(self) -> list[tuple[str, Change]]:
        """Every change with what it is of: `film`, a level, a disc, or an implant with its levels."""
        parts = [("film", self.film)]
        parts += [(part.name, part.changes) for part in (*self.vertebrae, *self.discs)]
        parts += [(f"{part.category} {'-'.join(part.levels)}", part.changes) for part in self.implants]
        return [(name, change) for name, changes in parts for change in changes]


class Lengths(NamedTuple):
    """How px of one date become comparable with those of the other.

    Attributes:
        unit: As `FollowUp.length_unit`.
        factors: Unit per px along x and y.
        relative_sd: Of the factors.
        depth: Mean depth of the bodies in this unit; 0 where it is not known.
    """

    unit: str
    factors: tuple[float, float]
    relative_sd: float = 0.0
    depth: float = 0.0

    def named(self, stem: str) -> str:
        """Name of a length or area, its unit at the end."""
        return f"{stem}_mm" if self.unit == "mm" else f"{stem}_by_depth_ratio"

    def convert(self, name: str, measure: Measure) -> tuple[str, Measure] | None:
        """A measure under a name and in a unit that both dates share; None where it has none or has it twice."""
        if name.endswith(("_mm", "_mm2")):
            return (name, measure) if self.unit == "mm" else None
        if not name.endswith((_PX, _PX2)):
            return name, measure
        if self.unit != "body_depth":
            # With a scale its twin in mm says it.
            return None
        power = 2 if name.endswith(_PX2) else 1
        value = measure.value * self.factors[0] ** power
        sd = None
        if measure.sd is not None:
            # First order, errors independent (JCGM 100:2008, 5.1.2).
            sd = hypot(measure.sd * self.factors[0] ** power, power * value * self.relative_sd)
        return self.named(name.removesuffix(_PX2 if power == 2 else _PX)), Measure(value, sd)


def follow_up(before: Spine, after: Spine) -> FollowUp:
    """Compare two dates of one patient, level by level.

    Levels are matched by their names and never by guess: where the names of one date seem to be shifted by one, the
    flag `levels_may_be_shifted` says so and the names stay. Names counted without an anchor (`+1`) match nothing.

    Angles, ratios and per cents are compared as they are; lengths in mm where both dates have a scale, else by the mean
    depth of the bodies that both have, for a film's pixels say nothing about another's. The uncertainty is that of
    the outlines and of where the beam came from (see `Change`); how the patient stood comes on top.

    Args:
        before: First date, measured.
        after: Second date, measured.

    Raises:
        DataError: The two are of different views.
    """
    if before.view != after.view:
        raise DataError(
            f"both films must be of one view, got {before.view} and {after.view}",
            fix="Compare lateral with lateral and ap with ap films, or state the view: vertinst measure --view.",
        )
    first, second = _by_level(before), _by_level(after)
    common = [level for level in first if level in second]
    units = _lengths(before, after, common)
    shift = better_shift(before, after)
    old_discs, new_discs = ({disc.name: disc for disc in spine.discs} for spine in (before, after))
    moved = match_implants(before, after, (units[0].factors, units[1].factors)) if units[0].unit != "none" else []
    matched = ({m.before for m in moved}, {m.after for m in moved})
    return FollowUp(
        film=_changes(before.values, after.values, units),
        vertebrae=tuple(
            _level_change(level, old.values, new.values, old.grades, new.grades, units)
            for level in common
            if (old := first[level].body) is not None and (new := second[level].body) is not None
        ),
        discs=tuple(
            _level_change(name, disc.values, now.values, disc.grades, now.grades, units)
            for name, disc in old_discs.items()
            if (now := new_discs.get(name)) is not None and {disc.upper, disc.lower} <= set(common)
        ),
        implants=tuple(_implant_change(before, m, units) for m in moved),
        only_before=tuple(v.level for v in before.vertebrae if v.level not in common),
        only_after=tuple(v.level for v in after.vertebrae if v.level not in common),
        implants_only_before=tuple(n for n in range(len(before.implants)) if n not in matched[0]),
        implants_only_after=tuple(n for n in range(len(after.implants)) if n not in matched[1]),
        length_unit=units[0].unit,
        flags=tuple(_flags(before, after, common, shift)),
        shift=shift,
    )


def _by_level(spine: Spine) -> dict[str, Vertebra]:
    return {v.level: v for v in spine.vertebrae if is_level(v.level)}


def _lengths(before: Spine, after: Spine, common: list[str]) -> tuple[Lengths, Lengths]:
    dates = before, after
    depths = [_mean_depth(spine, common, dates) for spine in dates]
    if before.scale and after.scale:
        scales = before.scale, after.scale
        first, second = (
            Lengths("mm", (scale.column_mm, scale.row_mm), depth=depth.value * scale.column_mm if depth else 0.0)
            for scale, depth in zip(scales, depths, strict=True)
        )
        return first, second
    if depths[0] is None or depths[1] is None:
        return Lengths("none", (1.0, 1.0)), Lengths("none", (1.0, 1.0))
    first, second = (
        Lengths("body_depth", (1 / d.value, 1 / d.value), (d.sd or 0.0) / d.value, 1.0) for d in depths if d is not None
    )
    return first, second


def _mean_depth(spine: Spine, levels: Iterable[str], dates: tuple[Spine, Spine]) -> Measure | None:
    """Mean depth (px) of the bodies at levels where both dates have both depths, sacral ones left out."""
    names = ("depth_superior_px", "depth_inferior_px")

    def depths(vertebra: Vertebra) -> list[Measure]:
        values = vertebra.body.values if vertebra.body else {}
        return [values[name] for name in names if name in values]

    both = [_by_level(date) for date in dates]
    usable = [
        level for level in levels if not level.startswith("S") and all(len(depths(date[level])) == 2 for date in both)
    ]
    found = [depth for level in usable for depth in depths(_by_level(spine)[level])]
    if not found or sum(depth.value for depth in found) <= 0:
        return None
    return Measure(
        sum(depth.value for depth in found) / len(found),
        sqrt(sum((depth.sd or 0.0) ** 2 for depth in found)) / len(found),
    )


def _changes(
    before: Mapping[str, Measure], after: Mapping[str, Measure], units: tuple[Lengths, Lengths]
) -> tuple[Change, ...]:
    old, new = (
        dict(entry for name, measure in values.items() if (entry := unit.convert(name, measure)))
        for values, unit in zip((before, after), units, strict=True)
    )
    return tuple(_change(name, old[name], new[name], _between(name, units)) for name in old if name in new)


def _between(name: str, units: tuple[Lengths, Lengths], kind: str = "") -> float:
    """Standard deviation between films of an unchanged patient, beyond that of the outlines."""
    full = f"{kind} {name}".strip()
    stem = full.removesuffix("_mm").removesuffix("_by_depth_ratio")
    if stem != full:
        return _BETWEEN_LENGTHS.get(stem, 0.0) * (units[0].depth + units[1].depth) / 2
    return _BETWEEN.get(full, 0.0)


def _change(name: str, before: Measure, after: Measure, between: float) -> Change:
    known = before.sd is not None and after.sd is not None and name not in _TO_THE_FILM
    uncertainty = COVERAGE * hypot(before.sd or 0.0, after.sd or 0.0, sqrt(2) * between) if known else None
    return Change(name, before, after, after.value - before.value, uncertainty)


def _level_change(
    name: str,
    before: Mapping[str, Measure],
    after: Mapping[str, Measure],
    old_grades: Mapping[str, int],
    new_grades: Mapping[str, int],
    units: tuple[Lengths, Lengths],
) -> LevelChange:
    grades = {grade: (old_grades[grade], new_grades[grade]) for grade in old_grades if grade in new_grades}
    return LevelChange(name, _changes(before, after, units), grades)


def _implant_change(before: Spine, moved: Moved, units: tuple[Lengths, Lengths]) -> ImplantChange:
    implant = before.implants[moved.before]
    changes = []
    for name, old, new in moved.positions:
        sizes = [
            Measure(m.value, hypot(m.sd or 0.0, m.value * unit.relative_sd))
            for m, unit in zip((old, new), units, strict=True)
        ]
        full = units[0].named(name)
        changes.append(_change(full, sizes[0], sizes[1], _between(full, units, implant.category)))
    if moved.angles is not None:
        between = _between("rotation_deg", units, implant.category)
        turned = _change("rotation_deg", *moved.angles, between)
        changes.append(turned._replace(change=(turned.change + 90) % 180 - 90))
    return ImplantChange(implant.category, implant.levels, moved.before, moved.after, tuple(changes))


def _flags(before: Spine, after: Spine, common: list[str], shift: int | None) -> list[str]:
    flags = []
    relative = any(not is_level(v.level) for spine in (before, after) for v in spine.vertebrae)
    if relative:
        flags.append("levels_not_anchored")
    elif not common:
        flags.append("no_common_level")
    if shift is not None:
        flags.append("levels_may_be_shifted")
    if before.scale is None or after.scale is None:
        flags.append("no_common_scale")
    elif before.scale.source != after.scale.source:
        flags.append("scales_from_different_sources")
    if any(spine.orientation is not None and not spine.orientation.sure for spine in (before, after)):
        flags.append("front_and_back_unsure")
    return flags
