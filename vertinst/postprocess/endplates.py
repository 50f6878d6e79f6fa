"""Corners and hollow endplates of all vertebrae of a film, as found and with perturbed outlines, ready for formulas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vertinst.postprocess.body_shape import NOISE
from vertinst.postprocess.chain import centroids_xy
from vertinst.postprocess.landmarks import corners_with_samples
from vertinst.postprocess.orientation import frames
from vertinst.structures import Orientation, Rle, Scale, Spine, rle

__all__ = ["CUT_PX", "Landmarks", "find_landmarks", "hollow_middles"]

Points = npt.NDArray[np.float64]

CUT_PX = 2.0
"""A corner this close to the film's edge is taken to be cut off."""
SHORT = 0.86
"""A body at an end of the chain whose higher wall is below this share of its neighbour's may be cut: T12 has 0.93 of
L1's height (Panjabi et al. 1992), and a wedge fracture leaves the posterior wall."""
_FIELD = 0.1
"""Collimated fields end within this share of the film's longer side from its edge."""

# Where rays meet an endplate, as shares of its length: near its ends, and in its middle. Between these lies so much of
# the depth of a parabola through both corners.
_RAYS = np.array([0.09, 0.12, 0.15, 0.46, 0.5, 0.54, 0.85, 0.88, 0.91])
_SEEN = 0.576


@dataclass(frozen=True)
class Landmarks:
    """Corners as found and as perturbed, in film pixels, and both in square pixels with cut ones as NaN.

    Attributes:
        found_px: V times (4, 2), or None.
        sampled_px: V times (S, 4, 2), or None.
        corners: (1 + S, V, 4, 2), as found first.
        middles: (1 + S, V, 2, 2) of the superior and the inferior endplate.
        collimated: (V,) whether the field of the rays seems to end in the body.
    """

    found_px: list[Points | None]
    sampled_px: list[Points | None]
    corners: Points
    middles: Points
    collimated: npt.NDArray[np.bool_]


def find_landmarks(spine: Spine, orientation: Orientation, which: Sequence[int], samples: int) -> Landmarks:
    """Landmarks of some vertebrae of a spine.

    A sacrum on a lateral film is looked for in the frame of the film, from whose up its endplate slopes as is usual;
    everything else in the frame of the chain there.

    Args:
        spine: With levels and view.
        orientation: Of the film.
        which: Places of V vertebrae.
        samples: Number S of perturbed outlines; below 2 there are none.
    """
    own = frames(orientation, centroids_xy([v.mask for v in spine.vertebrae]))
    count = samples if samples >= 2 else 0
    corners = np.full((1 + count, len(which), 4, 2), np.nan)
    middles = np.full((1 + count, len(which), 2, 2), np.nan)
    found: list[Points | None] = []
    sampled: list[Points | None] = []
    for place, index in enumerate(which):
        vertebra, frame = spine.vertebrae[index], own[index]
        sacral = vertebra.category == "sacral" and spine.view == "lateral"
        frame = orientation if sacral else frame
        # Seeded one by one: the errors of neighbours must not be the same.
        both = corners_with_samples(vertebra.mask, frame, sacral=sacral, count=count, seed=index)
        base, noisy = (None, None) if both is None else both
        found.append(base)
        sampled.append(noisy if count else None)
        if base is None or noisy is None:
            continue
        corners[0, place], middles[0, place] = base, hollow_middles(vertebra.mask, base)
        corners[1:, place] = noisy
    middles[1:] = middles[0] + _middle_noise(corners)
    beyond_field = _collimated(corners[0], spine, which)
    lost = _cut(corners[0], spine.image_size) | beyond_field
    corners[:, lost] = np.nan
    # Half of an endplate has its middle elsewhere.
    middles[:, np.stack([lost[:, :2].any(axis=1), lost[:, 2:].any(axis=1)], axis=1)] = np.nan
    for points in (corners, middles):
        points *= _stretch(spine.scale)
    return Landmarks(found, sampled, corners, middles, np.asarray(beyond_field.any(axis=1), dtype=np.bool_))


def hollow_middles(mask: Rle, corners: Points) -> Points:
    """The middles (2, 2) of the superior and the inferior endplate, xy px: between the corners, less what is hollow.

    How far the mask's outline sinks in between the ends of an endplate and its middle is taken for a part of a parabola
    through both corners; an outline that bulges out is not hollow. Of a hollow h of which the outline's noise is s (see
    `NOISE`), h - s^2 / h is kept, and up to s nothing: counted in full, noise alone would make sound bodies hollow (the
    non-negative garrote: Breiman 1995, Technometrics 37:373-384). The outline itself is not the endplate: on a tilted
    body it is that of the rims nearer and farther from the film, and overhangs the endplate's corners as well.

    Args:
        mask: Not empty.
        corners: (4, 2) xy px, finite.
    """
    patch, left, top = rle.decode_crop(mask)
    share = _RAYS[:, None]
    above = corners[1] + share * (corners[0] - corners[1])
    below = corners[2] + share * (corners[3] - corners[2])
    half = (above - below) / 2
    # Of the difference of three groups' means: the middle one counts once, the two ends half.
    noise = float(np.sqrt(1.5)) / _SEEN * NOISE * float(np.sqrt(patch.sum())) / float(np.hypot(*half.mean(axis=0)))
    reach = float(np.hypot(*half[len(_RAYS) // 2]))
    ends = []
    for direction, middle in ((half, corners[:2].mean(axis=0)), (-half, corners[2:].mean(axis=0))):
        # From a third of the way on: a hole in the middle of the mask is no endplate.
        steps = np.linspace(0.33, 1.4, max(int(4 * reach), 8))
        column, row = (
            np.floor((above + below)[:, axis, None] / 2 + steps * direction[:, axis, None]).astype(np.int64) - first
            for axis, first in enumerate((left, top))
        )
        inside = (row >= 0) & (column >= 0) & (row < patch.shape[0]) & (column < patch.shape[1])
        # What lies outside of the box reads any pixel of it, and is not counted.
        out = ~(inside & patch.take(row * patch.shape[1] + column, mode="clip"))
        first = np.where(out.any(axis=1), steps[np.argmax(out, axis=1)], 1.0)
        at_ends = (2 * _RAYS - 1) ** 2 > 0.25
        seen = float(first[at_ends].mean() - first[~at_ends].mean()) / _SEEN
        hollow = max(0.0, seen - noise**2 / seen) if seen > 0 else 0.0
        ends.append(middle - hollow * direction.mean(axis=0))
    return np.array(ends)


def _middle_noise(corners: Points) -> Points:
    """Displacements (S, V, 2, 2) of the endplates' middles, as far as their corners move across the endplate.

    An endplate is longer than outlines are correlated, so that its middle moves by itself. Seeded: the same every time.
    """
    samples = corners[1:]
    if len(samples) == 0:
        return np.zeros((0, corners.shape[1], 2, 2))
    across = samples.mean(axis=0)[:, :2] - samples.mean(axis=0)[:, [3, 2]]
    across = across.mean(axis=1) / np.hypot(*across.mean(axis=1).T)[:, None]
    moved = np.einsum("svcx,vx->svc", samples - samples.mean(axis=0), across).var(axis=0, ddof=1)
    spread = np.sqrt(np.stack([moved[:, :2].mean(axis=1), moved[:, 2:].mean(axis=1)], axis=1))
    normal = np.random.default_rng(0).normal(size=(len(samples), *spread.shape))
    return np.asarray((normal * spread)[..., None] * across[:, None], dtype=np.float64)


def _cut(points: Points, image_size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    height, width = image_size
    near = (points < CUT_PX) | (points > np.array([width, height]) - CUT_PX)
    return np.asarray(near.any(axis=-1), dtype=np.bool_)


def _collimated(corners: Points, spine: Spine, which: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which corners (V, 4) lie where the collimated field seems to end: nothing but a short body tells.

    Looked at are the uppermost vertebra and, where no sacrum was found, the lowest, each beside its neighbour.
    """
    lost = np.zeros((len(which), 4), dtype=np.bool_)
    places = {index: place for place, index in enumerate(which)}
    lumbar = [i for i, v in enumerate(spine.vertebrae) if v.category != "sacral"]
    if len(lumbar) < 2:
        return lost
    heights = np.linalg.norm(corners[:, (0, 1)] - corners[:, (3, 2)], axis=-1).max(axis=-1)
    ends = [(lumbar[-1], lumbar[-2], slice(0, 2))]
    ends += [(lumbar[0], lumbar[1], slice(2, 4))] if len(lumbar) == len(spine.vertebrae) else []
    for end, neighbour, outer in ends:
        if end in places and neighbour in places:
            place = places[end]
            short = heights[place] < SHORT * heights[places[neighbour]]
            lost[place, outer] = short and _near_edge(corners[place, outer], spine.image_size)
    return lost


def _near_edge(points: Points, image_size: tuple[int, int]) -> bool:
    height, width = image_size
    nearest = np.minimum(points, np.array([width, height]) - points).min()
    return bool(nearest < _FIELD * max(image_size))


def _stretch(scale: Scale | None) -> Points:
    return np.array([1.0 if scale is None else scale.column_mm / scale.row_mm, 1.0])
