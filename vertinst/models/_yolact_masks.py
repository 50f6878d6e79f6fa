"""From prototypes and coefficients to masks on the film, without ever making a mask of pixels.

Between the rows of the prototypes an enlarged mask is linear down each column of the film, so it crosses its threshold
at most once there. Each column is therefore computed at the rows of the prototypes alone, and the film's rows where its
runs begin and end follow from the crossings: the work grows with the box's width on the film, not with its area.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vertinst.models._inputs import check_outputs
from vertinst.structures.rle import Rle, empty, from_edges

__all__ = ["CROP_MARGIN", "film_masks"]

# The original widens its boxes by this much before it crops, in training too, in pixels of the prototypes.
CROP_MARGIN = 1.0
# What lies beyond a mask's border, in whichever direction it is looked at: probability 0, less the threshold.
OUTSIDE = -0.5

Crop: TypeAlias = Literal["film", "prototype"]
Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Grid: TypeAlias = npt.NDArray[np.float32]


class _Window(NamedTuple):
    """What of one axis a mask needs."""

    first: int
    """First pixel of the prototypes."""
    last: int
    """The pixel of the prototypes after the last."""
    start: int
    """First pixel of the film that can belong to the mask."""
    stop: int
    """The pixel of the film after the last."""

    @property
    def is_solid(self) -> bool:
        """Whether there is anything in it."""
        return self.first < self.last and self.start < self.stop


def film_masks(
    prototypes: Tensor,
    coefficients: Tensor,
    boxes: Tensor,
    image_size: tuple[int, int],
    prototype_scale: tuple[float, float],
    *,
    crop: Crop = "film",
    interpolate: Literal["logit", "probability"] = "logit",
    box_expansion: float = 0.0,
) -> list[Rle]:
    """Masks of one film's detections (equation 1 of the paper, arXiv 1904.02689).

    The enlarged values are those of `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` of the
    whole mask up to rounding: pixels whose value lies within 1e-5 of the threshold may differ. Work and memory are
    those of the boxes. With `crop="prototype"`, `interpolate="probability"` and no expansion the pixels are the
    original's.

    Args:
        prototypes: (k, h, w). On a GPU they are copied to the processor once.
        coefficients: (N, k).
        boxes: (N, 4) xyxy px of the film; what lies outside of it counts as nothing.
        image_size: (H, W) of the film.
        prototype_scale: Pixels of the prototypes per pixel of the film, (vertical, horizontal). Rows and columns of the
            prototypes beyond the film are padding; beyond the prototypes their border goes on.
        crop: `film` cuts at the box, rounded outwards to whole pixels of the film. `prototype` cuts at the pixels of
            the prototypes that are less than one beyond the box: probabilities count as zero in all others, and fade
            towards them; logits end half-way.
        interpolate: Whether logits or probabilities are enlarged; the threshold (above 0, or a half) comes after.
        box_expansion: Share of its sides by which each box grows on each side, before anything else.

    Returns:
        N masks of the film's size, empty for boxes beside the film. A box without any area has a mask where it is cut
        at the prototypes, as in the original, and none where it is cut at the film.

    Raises:
        CheckpointError: A box, a coefficient or a logit inside a box is no finite number.
    """
    check_outputs(boxes, coefficients)
    grid, weights = (tensor.detach().float().cpu() for tensor in (prototypes, coefficients))
    corners = boxes.detach().double().cpu().numpy().reshape(-1, 4)
    grown = (corners[:, 2:] - corners[:, :2]) * box_expansion
    fading = crop == "prototype" and interpolate == "probability"
    down, across = (_Axis(*sides) for sides in zip(image_size, grid.shape[1:], prototype_scale, strict=True))
    rows = down.windows(corners[:, 1] - grown[:, 1], corners[:, 3] + grown[:, 1], crop, fading=fading)
    columns = across.windows(corners[:, 0] - grown[:, 0], corners[:, 2] + grown[:, 0], crop, fading=fading)
    seen = [i for i, windows in enumerate(zip(rows, columns, strict=True)) if all(w.is_solid for w in windows)]
    masks = [empty(image_size)] * len(rows)
    for i, logits in zip(seen, _logits(grid, weights, rows, columns, seen), strict=True):
        values = logits.sigmoid() - 0.5 if interpolate == "probability" else logits
        enlarged = _enlarge(values.T.numpy(), across, columns[i], fading=fading)
        masks[i] = from_edges(_edges(enlarged, down, rows[i]) + columns[i].start * image_size[0], image_size)
    return masks


def _logits(
    prototypes: Tensor, coefficients: Tensor, rows: list[_Window], columns: list[_Window], seen: list[int]
) -> list[Tensor]:
    """Logits (r, c) inside the windows of the masks that can be seen.

    Raises:
        CheckpointError: One of them is no finite number.
    """
    patches = [prototypes[:, rows[i].first : rows[i].last, columns[i].first : columns[i].last] for i in seen]
    logits = [
        torch.mv(patch.reshape(len(patch), -1).T, coefficients[i]).view(patch.shape[1:])
        for i, patch in zip(seen, patches, strict=True)
    ]
    if logits:
        check_outputs(torch.stack([patch.sum() for patch in logits]))
    return logits


class _Axis:
    """Where the centres of the film's pixels lie among those of the prototypes, along one axis.

    Args:
        film: Pixels of the film.
        prototypes: Pixels of the prototypes.
        scale: Pixels of the prototypes per pixel of the film.
    """

    def __init__(self, film: int, prototypes: int, scale: float) -> None:
        self.film, self.prototypes, self.scale = film, prototypes, scale
        # In float32 and in this order, as torch computes them: its rounding moves pixels of steep masks.
        centres = np.arange(film, dtype=np.float32) + np.float32(0.5)
        positions = centres * np.float32(scale) - np.float32(0.5)
        self.positions: Floats = positions.clip(0, prototypes - 1).astype(np.float64)

    def windows(self, low: Floats, high: Floats, crop: Crop, *, fading: bool) -> list[_Window]:
        """What is needed for boxes from `low` to `high` px of the film, (N,) each."""
        if crop == "film":
            return self._between(np.floor(low), np.ceil(high))
        # Bounds before they become integers: boxes may lie far beyond the film.
        first = np.ceil(low * self.scale - CROP_MARGIN).clip(0, self.prototypes)
        last = np.ceil(high * self.scale + CROP_MARGIN).clip(0, self.prototypes)
        if fading:
            start, stop = self.positions.searchsorted(first - 1, "right"), self.positions.searchsorted(last, "left")
            return _as_windows(first, last, start, stop)
        start, stop = (self.positions.searchsorted(ends - 0.5, "left") for ends in (first, last))
        # Positions end with the prototypes: the film's last pixels all lie on the last of them.
        stop = np.where(last == self.prototypes, self.film, stop)
        return self._between(start.astype(np.float64), stop.astype(np.float64))

    def _between(self, start: Floats, stop: Floats) -> list[_Window]:
        """All pixels of the prototypes that have a share in the film's from `start` to `stop`."""
        begin, end = (bound.clip(0, self.film).astype(np.int64) for bound in (start, stop))
        first = np.floor(self.positions.take(begin, mode="clip"))
        last = np.floor(self.positions.take(end - 1, mode="clip")) + 2
        return _as_windows(first, last.clip(max=self.prototypes), begin, end)


def _as_windows(*ends: npt.NDArray[np.generic]) -> list[_Window]:
    return [_Window(*row) for row in np.stack(ends, axis=1).astype(np.int64).tolist()]


def _enlarge(values: Grid, axis: _Axis, columns: _Window, *, fading: bool) -> Grid:
    """Enlarge a patch (c, r) to the film's columns, (m, r + 2): with a row outside at both ends.

    Fading masks have a column outside at both ends too, between which and the next they fade.
    """
    margin = int(fading)
    padded = np.full((values.shape[0] + 2 * margin, values.shape[1] + 2), OUTSIDE, dtype=np.float32)
    padded[margin : margin + len(values), 1:-1] = values
    positions = axis.positions[columns.start : columns.stop] - (columns.first - margin)
    left = positions.astype(np.int64)
    share = (positions - left).astype(np.float32)[:, None]
    enlarged: Grid = padded.take(left, axis=0)
    step = padded.take(np.minimum(left + 1, len(padded) - 1), axis=0)
    step -= enlarged
    step *= share
    enlarged += step
    return enlarged


def _edges(enlarged: Grid, axis: _Axis, rows: _Window) -> Integers:
    """Where runs above zero begin and end, in the order of an RLE.

    Args:
        enlarged: (m, r + 2) as `_enlarge` gives it.
        axis: The vertical one.
        rows: Which rows these are.

    Returns:
        (2 K,) row of the film plus its height times the column: by turns that of a run's first pixel and of the one
        after its last; never falling.
    """
    flat = enlarged.ravel()
    inside = flat > 0
    # Columns start and end outside: no change falls between two of them, and changes begin and end runs by turns.
    above = np.flatnonzero(inside[1:] != inside[:-1])
    column, row = np.divmod(above, enlarged.shape[1])
    upper, lower = flat[above].astype(np.float64), flat[above + 1].astype(np.float64)
    crossing = row + (rows.first - 1) + upper / (upper - lower)
    film_row = np.empty(len(above), dtype=np.int64)
    # A pixel on the crossing itself is not above zero: neither a run's first nor its last.
    film_row[0::2] = axis.positions.searchsorted(crossing[0::2], "right")
    film_row[1::2] = axis.positions.searchsorted(crossing[1::2], "left")
    edges: Integers = column * axis.film + film_row.clip(rows.start, rows.stop)
    return edges
