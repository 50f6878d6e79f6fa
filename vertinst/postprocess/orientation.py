"""How the body lies on the film: towards the head, towards the belly, for the whole chain and at every vertebra."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vertinst.postprocess.chain import centroids_xy, spine_axis
from vertinst.structures import Implant, Orientation, Rle, rle

__all__ = ["SURE", "anterior_votes", "find_orientation", "frames", "local", "tangents"]

Points = npt.NDArray[np.float64]

SURE = 1.0
"""Votes for front and back that add up to at least this are taken to be sure."""

# What each kind of evidence weighs: one vote for so much of it, and at most so many votes. The sacrum weighs most: no
# phantom film had its vote below 1.
_SACRUM_DEG, _SACRUM_MOST = 6.0, 4.0
_BEND_DEG, _BEND_MOST = 8.0, 1.5
_LEAN_DEG, _LEAN_MOST = 30.0, 0.8
_SKEW, _SKEW_MOST = 0.3, 3.0
_WEDGE, _WEDGE_MOST = 0.16, 0.8
_METAL, _METAL_MOST = 0.25, 3.0
# Only so many vertebrae above the sacrum are looked at for the lordotic bend: above them the spine bends back.
_LORDOTIC = 6
# Above this skewness the outline holds posterior elements, and its height in front and behind says nothing of wedging.
_PROCESSES = 0.15
# Of larger masks every other row and column is enough.
_COARSE_PX2 = 2000
# A sacrum in one piece is longer than deep, a single body less high than deep.
_LONG = 1.35
_CLEAR = 1.12


def find_orientation(
    centroids: Points,
    masks: Sequence[Rle],
    sacral: npt.NDArray[np.bool_],
    implants: Sequence[Implant],
    view: str,
) -> Orientation | None:
    """Find up and front, whichever way the film lies.

    Up is the main direction of the lumbar chain (`spine_axis`), in the order in which the chain is given. Of one
    vertebra alone it is the principal axis of its mask (the short one of a body, the long one of a sacrum in one piece;
    the one nearer to the film's vertical where neither is clear), towards the film's top. In front is where
    `anterior_votes` says; where their sum is below `SURE` the orientation is not sure, and where there are none it is
    the film's right when the head is up. On antero-posterior films it is always that side, and always sure.

    Args:
        centroids: (N, 2) xy px of the vertebrae from the sacrum up.
        masks: N, none of them empty.
        sacral: (N,) which of them are sacral.
        implants: Metal; screws and rods lie behind the bodies.
        view: `lateral` or `ap`.

    Returns:
        The orientation, or None for N = 0. A mirrored, turned or scaled film gives the orientation mirrored or turned,
        but for one vertebra, and for what hangs on `lean` alone.
    """
    if len(centroids) == 0:
        return None
    up = _up(centroids, masks, sacral)
    right = np.array([-up[1], up[0]])
    if view == "ap":
        return Orientation(up, right, True)
    votes = sum(anterior_votes(up, centroids, masks, sacral, implants).values())
    return Orientation(up, -right if votes < 0 else right, abs(votes) >= SURE)


def local(orientation: Orientation, centroids: Points, index: int) -> Orientation:
    """The frame at one vertebra: up along the chain's curve there, in front on the same side as in `orientation`.

    Args:
        orientation: Of the whole film.
        centroids: (N, 2) xy px of the vertebrae from the sacrum up.
        index: Which of them.
    """
    return frames(orientation, centroids)[index]


def frames(orientation: Orientation, centroids: Points) -> tuple[Orientation, ...]:
    """The frame at every vertebra, see `local`."""
    up, ahead = orientation.up, orientation.anterior
    side = np.sign(up[0] * ahead[1] - up[1] * ahead[0])
    return tuple(
        Orientation(tangent, side * np.array([-tangent[1], tangent[0]]), orientation.sure)
        for tangent in tangents(centroids, up)
    )


def tangents(centroids: Points, up: Points) -> Points:
    """Directions (N, 2) of a smooth curve through a chain, unit vectors.

    The angle of each chord belongs to its middle; at a vertebra the angles of the two chords beside it are interpolated
    along the curve, at both ends the change goes on. Chords without length are passed over.

    Args:
        centroids: (N, 2) xy px from the sacrum up.
        up: (2,) unit vector; the direction of a chain of one.
    """
    right = np.array([-up[1], up[0]])
    lean = _tangent_angles(centroids, up)
    return np.asarray(np.cos(lean)[:, None] * up + np.sin(lean)[:, None] * right, dtype=np.float64)


def _tangent_angles(centroids: Points, up: Points) -> Points:
    """Angles (N,) of the curve, radians from `up` towards the right of it."""
    chords = np.diff(centroids, axis=0)
    lengths = np.linalg.norm(chords, axis=1)
    stands = np.concatenate([[0.0], np.cumsum(lengths)])
    middles, angles = (stands[:-1] + lengths / 2)[lengths > 0], _lean(chords[lengths > 0], up)
    if len(angles) < 2:
        return np.full(len(centroids), angles[0] if len(angles) else 0.0)
    result = np.interp(stands, middles, angles)
    slopes = np.diff(angles) / np.diff(middles)
    before, after = stands < middles[0], stands > middles[-1]
    result[before] = angles[0] + slopes[0] * (stands[before] - middles[0])
    result[after] = angles[-1] + slopes[-1] * (stands[after] - middles[-1])
    return np.asarray(result, dtype=np.float64)


def _lean(directions: Points, up: Points) -> Points:
    """Angles (N,) of directions, radians from `up`, positive towards the right of it."""
    right = np.array([-up[1], up[0]])
    return np.asarray(np.arctan2(directions @ right, directions @ up), dtype=np.float64)


def anterior_votes(
    up: Points, centroids: Points, masks: Sequence[Rle], sacral: npt.NDArray[np.bool_], implants: Sequence[Implant]
) -> dict[str, float]:
    """What tells front from back on a lateral film, in votes: positive where front is to the right of `up`.

    Args:
        up: (2,) unit vector.
        centroids: (N, 2) xy px of the vertebrae from the sacrum up, N >= 1.
        masks: N.
        sacral: (N,).
        implants: Metal.

    Returns:
        By name: `sacrum` (it lies behind the lumbar line drawn on: the chain's angle there against that of the lowest
        lumbar chords), `bend` (lordosis: going up the lumbar chain turns backwards), `lean` (with less than two lumbar
        vertebrae: on a film that stands upright the sacrum leans forward; never sure by itself), `processes` (the mask
        reaches farther behind than in front), `wedge` (lower lumbar bodies are higher in front), `metal` (screws and
        rods lie behind the bodies).
    """
    angles = np.degrees(_lean(np.diff(centroids, axis=0), up))
    in_lumbar = angles[~sacral[:-1] & ~sacral[1:]]
    votes = {"sacrum": 0.0, "bend": 0.0, "lean": 0.0}
    if sacral.any() and len(in_lumbar):
        votes["sacrum"] = _sacrum_vote(up, centroids[sacral], centroids[~sacral])
    elif sacral[:-1].any():
        upright = np.array([0.0, -1.0 if up[1] <= 0 else 1.0])
        lean = np.degrees(_lean(np.diff(centroids, axis=0)[sacral[:-1]].mean(axis=0)[None], upright))[0]
        votes["lean"] = _capped(lean / _LEAN_DEG, _LEAN_MOST)
    if len(in_lumbar) >= 2:
        low = in_lumbar[: _LORDOTIC - 1]
        half = len(low) // 2
        votes["bend"] = _capped((low[:half].mean() - low[-half:].mean()) / _BEND_DEG, _BEND_MOST)
    return votes | _shape_votes(up, centroids, masks, sacral) | {"metal": _metal_vote(up, centroids, implants)}


def _sacrum_vote(up: Points, sacrum: Points, lumbar: Points) -> float:
    """The lean from the sacral parts to the lowest lumbar, beyond the lean among these; one false one does little."""
    low = lumbar[:4]
    first, second = np.triu_indices(len(low), k=1)
    among = np.median(_lean(low[second] - low[first], up))
    onto = np.median(_lean((low[None, :2] - sacrum[:, None]).reshape(-1, 2), up))
    return _capped(float(np.degrees(onto - among)) / _SACRUM_DEG, _SACRUM_MOST)


def _capped(votes: float, most: float) -> float:
    return float(np.clip(votes, -most, most))


def _shape_votes(
    up: Points, centroids: Points, masks: Sequence[Rle], sacral: npt.NDArray[np.bool_]
) -> dict[str, float]:
    """Votes of the masks' moments in their own frames: skewness along the depth, and height against depth."""
    bodies = np.flatnonzero(~sacral).tolist()
    along = tangents(centroids, up)
    moments = np.array([_moments(masks[i], along[i]) for i in bodies]).reshape(-1, 2)
    if len(moments) == 0:
        return {"processes": 0.0, "wedge": 0.0}
    skew = float(np.median(moments[:, 0]))
    processes = _capped(-skew / _SKEW, _SKEW_MOST) if abs(skew) > _PROCESSES else 0.0
    lower = moments[:2, 1].mean() if abs(skew) <= _PROCESSES and len(moments) > 1 and sacral.any() else 0.0
    return {"processes": processes, "wedge": _capped(lower / _WEDGE, _WEDGE_MOST)}


def _moments(mask: Rle, up: Points) -> tuple[float, float]:
    """Skewness of a mask towards the right of `up`, and how much higher it is on that side; both without unit.

    With a along the depth and h along the height, from the centre: mean(a^3) / sd(a)^3, and the correlation of a with
    h^2, mean(a h^2) / (sd(a) var(h)).
    """
    patch = rle.decode_crop(mask)[0]
    step = 2 if patch.size > _COARSE_PX2 else 1
    rows, columns = np.nonzero(patch[::step, ::step])
    if len(rows) == 0:
        return 0.0, 0.0
    x, y = columns - columns.mean(), rows - rows.mean()
    depth, height = -x * up[1] + y * up[0], x * up[0] + y * up[1]
    squares, high = depth**2, height**2
    spread, tall = squares.mean(), high.mean()
    if spread <= 0 or tall <= 0:
        return 0.0, 0.0
    return float((squares * depth).mean() / spread**1.5), float((high * depth).mean() / (spread**0.5 * tall))


def _metal_vote(up: Points, centroids: Points, implants: Sequence[Implant]) -> float:
    """How far screws and rods lie beside the chain, against the distance of neighbours; positive: to its left."""
    behind = [implant.mask for implant in implants if implant.category in ("screw", "rod")]
    if not behind or len(centroids) < 2:
        return 0.0
    right = np.array([-up[1], up[0]])
    offsets = []
    for point in centroids_xy(behind):
        offsets.append((point - _nearest_on(centroids, point)) @ right)
    spacing = float(np.median(np.linalg.norm(np.diff(centroids, axis=0), axis=1)))
    return _capped(-float(np.median(offsets)) / max(spacing, 1e-9) / _METAL, _METAL_MOST)


def _nearest_on(chain: Points, point: Points) -> Points:
    """The point of a polyline (N >= 2) that is nearest to another."""
    starts, steps = chain[:-1], np.diff(chain, axis=0)
    squares = np.maximum((steps**2).sum(axis=1), 1e-12)
    shares = np.clip(((point - starts) * steps).sum(axis=1) / squares, 0, 1)
    feet = starts + shares[:, None] * steps
    return np.asarray(feet[np.argmin(((feet - point) ** 2).sum(axis=1))], dtype=np.float64)


def _up(centroids: Points, masks: Sequence[Rle], sacral: npt.NDArray[np.bool_]) -> Points:
    chain = centroids[~sacral]
    if len(chain) >= 2 and np.ptp(chain, axis=0).max() > 0:
        axis = spine_axis(chain)
        rising = ((np.arange(len(chain)) - (len(chain) - 1) / 2) * (chain @ axis)).sum()
        return axis if rising > 0 else -axis
    whole = centroids[-1] - centroids[0]
    length = float(np.linalg.norm(whole))
    return np.asarray(whole / length) if length > 0 else _up_of_one(masks[0], bool(sacral[0]))


def _up_of_one(mask: Rle, sacral: bool) -> Points:
    rows, columns = np.nonzero(rle.decode_crop(mask)[0])
    if len(rows) < 2:
        return np.array([0.0, -1.0])
    sizes, axes = np.linalg.eigh(np.cov(np.stack([columns, rows])))
    ratio = float(np.sqrt(sizes[1] / max(sizes[0], 1e-9)))
    if sacral and ratio > _LONG:
        axis = axes[:, 1]
    elif ratio > _CLEAR:
        axis = axes[:, 0]
    else:
        axis = axes[:, int(np.argmax(np.abs(axes[1])))]
    return np.asarray(-axis if axis[1] > 0 or (axis[1] == 0 and axis[0] < 0) else axis, dtype=np.float64)
