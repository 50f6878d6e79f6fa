"""Where the metal lies: each screw in its vertebra, each cage in its disc space, each rod along the levels it spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import cv2
import numpy as np
import numpy.typing as npt

from vertinst.postprocess.construct import describe_construct
from vertinst.structures import Implant, Rle, Vertebra, rle
from vertinst.structures.spine import are_neighbours

__all__ = ["BONE_SHARE", "DISC_SHARE", "relate_implants"]

Points = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

BONE_SHARE = 0.15
"""A screw of which a smaller share overlaps a vertebra is flagged `outside_bone`: the head always lies outside."""

DISC_SHARE = 0.5
"""A cage of which a larger share overlaps one vertebra may be flagged `outside_disc`."""

# A screw that no vertebra covers to this share belongs to none: its own was not found, or it is no screw.
_LEAST_SHARE = 0.04
# Bodies that are seen obliquely overlap: a cage this near to the middle between two centres (of their distance) is
# between them all the same.
_MIDDLE = 0.25
# Phantoms' screws have a skewness of 0.24 and more towards the tip.
_HEADLESS = 0.12
# What a rod may be apart from the screws it holds, against the distance of neighbouring vertebrae.
_TOUCH = 0.08


@dataclass(frozen=True)
class _Patch:
    """A mask within its tight box."""

    inside: Mask
    left: int
    top: int

    @classmethod
    def of(cls, mask: Rle) -> _Patch:
        return cls(*rle.decode_crop(mask))

    def meets(self, other: _Patch) -> bool:
        """Whether the boxes overlap."""
        return all(
            a < b + d and b < a + c
            for a, b, c, d in (
                (self.left, other.left, self.inside.shape[1], other.inside.shape[1]),
                (self.top, other.top, self.inside.shape[0], other.inside.shape[0]),
            )
        )

    def overlap(self, other: _Patch) -> Mask:
        """Which pixels of this patch are in the other, too."""
        result = np.zeros_like(self.inside)
        left, top = max(self.left, other.left), max(self.top, other.top)
        right = min(self.left + self.inside.shape[1], other.left + other.inside.shape[1])
        bottom = min(self.top + self.inside.shape[0], other.top + other.inside.shape[0])
        if left < right and top < bottom:
            mine = (slice(top - self.top, bottom - self.top), slice(left - self.left, right - self.left))
            its = (slice(top - other.top, bottom - other.top), slice(left - other.left, right - other.left))
            result[mine] = self.inside[mine] & other.inside[its]
        return result

    @property
    def centre(self) -> Points:
        """Its centre of mass (2,), xy px."""
        columns, rows = self.inside.sum(axis=0), self.inside.sum(axis=1)
        middle = np.array([columns @ np.arange(len(columns)), rows @ np.arange(len(rows))]) / columns.sum()
        return np.asarray(middle + np.array([self.left + 0.5, self.top + 0.5]), dtype=np.float64)

    def points(self) -> Points:
        """Centres (P, 2) of its pixels, xy px."""
        rows, columns = np.nonzero(self.inside)
        return np.stack([columns + self.left, rows + self.top], axis=1).astype(np.float64) + 0.5

    def hull(self) -> _Patch:
        """With everything that its convex hull holds: bone that was left out where metal lies over it."""
        hull = cv2.convexHull(np.argwhere(self.inside)[:, ::-1].astype(np.int32))
        filled = cv2.fillConvexPoly(np.zeros(self.inside.shape, dtype=np.uint8), hull, 1)
        return _Patch(filled.astype(np.bool_), self.left, self.top)


def relate_implants(vertebrae: Sequence[Vertebra], implants: Sequence[Implant]) -> tuple[tuple[Implant, ...], str]:
    """Give each implant the levels it belongs to and its flags, and describe the construct.

    - A screw belongs to the vertebra that covers most of its tip, the half of its mask away from the head (a head may
      lie over processes of the vertebra above). Left and right in one mask are one screw. It is flagged `outside_bone`
      where less than `BONE_SHARE` of it lies over that vertebra, and belongs to none where next to nothing does.
    - A cage belongs to the two true neighbours between whose centres its own lies; where a vertebra is missing there,
      to none. It is flagged `outside_disc` where more than `DISC_SHARE` of it lies over one vertebra and its centre is
      not half-way to the next, or lies beyond the ends of the endplates (by corners where both vertebrae have them,
      else by masks).
    - A rod spans all vertebrae from the lowest to the highest whose screws it touches; without such screws those whose
      centres lie between its ends, along the chain.

    Metal of other classes stays as it is. Levels and flags that an implant had before are given anew, other flags stay.

    Args:
        vertebrae: From the sacrum up, with levels; possibly none: then no implant has levels or a flag of these.
        implants: In any order, which is kept.

    Returns:
        The implants, and the construct in one line (see `describe_construct`).
    """
    plain = [_without(implant) for implant in implants]
    if not vertebrae:
        return tuple(plain), describe_construct(plain, [])
    bodies = [_Patch.of(v.mask) for v in vertebrae]
    chain = _Chain(bodies, np.array([body.centre for body in bodies]), vertebrae)
    patches = [_Patch.of(implant.mask) for implant in plain]
    seated: dict[int, tuple[list[int], list[str]]] = {}
    for place, implant in enumerate(plain):
        if implant.category == "screw":
            seated[place] = _seat_screw(patches[place], chain)
        elif implant.category == "cage":
            seated[place] = _seat_cage(patches[place], chain)
    for place, implant in enumerate(plain):
        if implant.category == "rod":
            screws = [(patches[i], seated[i][0]) for i, other in enumerate(plain) if other.category == "screw"]
            seated[place] = (_span_rod(patches[place], chain, screws), [])
    for place, (levels, flags) in seated.items():
        plain[place] = replace(
            plain[place],
            levels=tuple(vertebrae[i].level for i in levels),
            flags=(*plain[place].flags, *flags),
        )
    return tuple(plain), describe_construct(plain, [v.level for v in vertebrae])


def _without(implant: Implant) -> Implant:
    flags = tuple(flag for flag in implant.flags if flag not in ("outside_bone", "outside_disc"))
    return replace(implant, levels=(), flags=flags)


@dataclass(frozen=True)
class _Chain:
    """The vertebrae as patches, their centres (N, 2) xy px, and themselves."""

    patches: list[_Patch]
    centres: Points
    vertebrae: Sequence[Vertebra]

    @property
    def spacing(self) -> float:
        """Median distance of neighbours, px; the size of the body where there is only one."""
        if len(self.centres) < 2:
            return float(np.sqrt(self.patches[0].inside.sum()))
        return float(np.median(np.linalg.norm(np.diff(self.centres, axis=0), axis=1)))


def _seat_screw(screw: _Patch, chain: _Chain) -> tuple[list[int], list[str]]:
    """The vertebra that holds a screw, if any, and the screw's flags."""
    near = [i for i, patch in enumerate(chain.patches) if screw.meets(patch)]
    best, share = -1, 0.0
    for solid in (False, True) if near else ():
        covered = [screw.overlap(chain.patches[i].hull() if solid else chain.patches[i]) for i in near]
        tip = _tip(screw, covered)
        most = max(range(len(near)), key=lambda i: (int((covered[i] & tip).sum()), int(covered[i].sum()), -i))
        best, share = near[most], int(covered[most].sum()) / int(screw.inside.sum())
        if share >= BONE_SHARE:
            return [best], []
    return ([best] if share >= _LEAST_SHARE else []), ["outside_bone"]


def _tip(screw: _Patch, covered: Sequence[Mask]) -> Mask:
    """The half of a screw with its tip, cut across its long axis.

    The head is thick: the longer, thinner half has the tip. Without a head in the mask it is the half with more bone.
    """
    rows, columns = np.nonzero(screw.inside)
    x, y = columns - columns.mean(), rows - rows.mean()
    axis = np.linalg.eigh(np.array([[x @ x, x @ y], [x @ y, y @ y]], dtype=np.float64))[1][:, 1]
    along = x * axis[0] + y * axis[1]
    skew = float((along**3).mean() / max(float((along**2).mean()), 1e-9) ** 1.5)
    if abs(skew) < _HEADLESS:
        bone = np.any(covered, axis=0)[rows, columns]
        skew = float((bone * np.sign(along)).sum())
    chosen = along * np.sign(skew) >= 0
    half = np.zeros_like(screw.inside)
    half[rows[chosen], columns[chosen]] = True
    return half


def _seat_cage(cage: _Patch, chain: _Chain) -> tuple[list[int], list[str]]:
    """The vertebrae around the disc space of a cage, from below, and the cage's flags."""
    centre = cage.centre
    covered = max(float(cage.overlap(patch).sum()) for patch in chain.patches) / int(cage.inside.sum())
    pair, share = _pair_around(centre, chain)
    in_bone = covered > DISC_SHARE and abs(share - 0.5) > _MIDDLE
    if pair is None or not are_neighbours(*(chain.vertebrae[i].level for i in pair)):
        return [], ["outside_disc"] if in_bone else []
    return [*pair], ["outside_disc"] if in_bone or _beyond_endplates(centre, *pair, chain) else []


def _pair_around(point: Points, chain: _Chain) -> tuple[tuple[int, int] | None, float]:
    """The vertebrae (places) between whose centres a point lies, or nearest to it, not both sacral; where, 0..1."""
    best: tuple[int, int] | None = None
    least, place = np.inf, 0.0
    for lower, upper in pairwise(range(len(chain.centres))):
        if chain.vertebrae[upper].category == "sacral":
            continue
        start, step = chain.centres[lower], chain.centres[upper] - chain.centres[lower]
        share = float(np.clip((point - start) @ step / max(float(step @ step), 1e-12), 0, 1))
        distance = float(np.linalg.norm(start + share * step - point))
        if distance < least:
            best, least, place = (lower, upper), distance, share
    return best, place


def _beyond_endplates(point: Points, lower: int, upper: int, chain: _Chain) -> bool:
    step = chain.centres[upper] - chain.centres[lower]
    across = np.array([-step[1], step[0]]) / max(float(np.hypot(*step)), 1e-12)
    bodies = chain.vertebrae[lower].body, chain.vertebrae[upper].body
    if bodies[0] is not None and bodies[1] is not None:
        ends = [bodies[0].corners_px[:2] @ across, bodies[1].corners_px[2:] @ across]
    else:
        ends = [chain.patches[i].points() @ across for i in (lower, upper)]
    position = float(point @ across)
    return position < min(float(e.min()) for e in ends) or position > max(float(e.max()) for e in ends)


def _span_rod(rod: _Patch, chain: _Chain, screws: Sequence[tuple[_Patch, list[int]]]) -> list[int]:
    """Places of the vertebrae that a rod spans, from below."""
    reach = max(1, round(_TOUCH * chain.spacing))
    wide = _Patch(
        cv2.dilate(
            np.pad(rod.inside, reach).view(np.uint8), np.ones((2 * reach + 1, 2 * reach + 1), dtype=np.uint8)
        ).astype(np.bool_),
        rod.left - reach,
        rod.top - reach,
    )
    held = [place for screw, places in screws for place in places if wide.meets(screw) and screw.overlap(wide).any()]
    if held:
        return list(range(min(held), max(held) + 1))
    if len(chain.centres) < 2:
        return [0]
    along = _positions(rod.points()[::7], chain.centres)
    own = _positions(chain.centres, chain.centres)
    return np.flatnonzero((own >= along.min()) & (own <= along.max())).tolist()


def _positions(points: Points, chain: Points) -> Points:
    """Positions (P,) px of the feet of points on a polyline (N >= 2) that goes straight on beyond its ends."""
    steps = np.diff(chain, axis=0)
    lengths = np.maximum(np.linalg.norm(steps, axis=1), 1e-9)
    units = steps / lengths[:, None]
    away = points[:, None] - chain[:-1]
    place = (away * units).sum(axis=2)
    low, high = np.zeros(len(steps)), lengths.copy()
    low[0], high[-1] = -np.inf, np.inf
    place = np.clip(place, low, high)
    distance = np.linalg.norm(away - place[..., None] * units, axis=2)
    nearest = distance.argmin(axis=1)
    starts = np.concatenate([[0.0], np.cumsum(lengths)])[:-1]
    return np.asarray(starts[nearest] + place[np.arange(len(points)), nearest], dtype=np.float64)
