"""Which vertebra is which: levels counted upward from the sacrum or from an anchor that the user gives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vertinst.errors import ConfigError
from vertinst.postprocess.chain import along, centroids_xy, extent_along, spacings_px, spine_axis
from vertinst.structures import Rle
from vertinst.structures.spine import LEVELS, level_above

__all__ = ["GAP_RATIO", "Anchor", "Levels", "label_levels", "parse_anchor"]

GAP_RATIO = 1.6
"""A spacing above this many times the median of the others is flagged as a gap. A missing vertebra doubles it."""

# Between sacrum and lowest lumbar the centroids mislead where the whole sacrum is one instance: a gap must also lie
# between the outlines. A missing L5 leaves about one spacing and a disc, the disc alone about 0.3 of a spacing.
SACRAL_GAP_RATIO = 0.8


class Anchor(NamedTuple):
    """Where counting starts.

    Attributes:
        level: Name of the first vertebra of the chain, S5 to C1.
        position: `lowest`: that vertebra has the largest y of the chain. `highest`: the smallest, which means that
            the film lies upside down. Counting goes upward in the body from there in both cases.
    """

    level: str
    position: str


class Levels(NamedTuple):
    """Result of `label_levels`.

    Attributes:
        order: Positions of the named vertebrae, from the sacrum up.
        names: Their levels, none twice.
        unnamed: Positions for which no name is left (more than five sacral parts, or a chain beyond C1).
        out_of_order: Positions of sacral instances on the side of the chain where no sacrum can be.
        flags: What holds for the whole film.
    """

    order: list[int]
    names: list[str]
    unnamed: list[int]
    out_of_order: list[int]
    flags: list[str]


def parse_anchor(text: str) -> Anchor:
    """Read `LEVEL=lowest` or `LEVEL=highest`, in any case, e.g. `L5=lowest`.

    Raises:
        ConfigError: Anything else.
    """
    match = re.fullmatch(r"\s*([SLTC]\d{1,2})\s*=\s*(lowest|highest)\s*", text, re.IGNORECASE)
    if match is None or match[1].upper() not in LEVELS:
        raise ConfigError(
            f"anchor must be LEVEL=lowest or LEVEL=highest with a level from S5 to C1, got {text!r}",
            fix="Write --anchor L5=lowest (or L5=highest where the film lies upside down).",
        )
    return Anchor(match[1].upper(), match[2].lower())


def label_levels(
    masks: Sequence[Rle], sacral: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating], anchor: Anchor | None = None
) -> Levels:
    """Name the vertebrae of one film.

    The chain of vertebrae that are not sacral is ordered along its main axis. It starts at the end towards the sacrum
    (the best scored sacral instance), or where the anchor says; so it does not matter how the film lies. Sacral
    instances are S1, S2 ... by their distance from the chain's start. Nothing is guessed: a suspected gap is flagged
    and the names are left as counted; without sacrum and anchor the names are `+1`, `+2` ... from the lowest on the
    film. An anchor wins over the sacrum.

    Args:
        masks: N masks of vertebrae and sacral parts, none of them empty; N = 0 is allowed.
        sacral: (N,) which of them are sacral.
        scores: (N,).
        anchor: What the user says about the chain, if anything.

    Returns:
        Names and flags: `no_vertebra`, `no_sacrum`, `no_lumbar` (sacral instances alone: S1 is taken to be the
        upper one on the film), `anchor_disagrees_with_sacrum`, `sacrum_on_both_sides` (of the chain: the better scored
        one was believed, and if it is the false one every level is wrong), `gap_between_A_B`, `beyond_levels`.
    """
    if len(masks) == 0:
        return Levels([], [], [], [], ["no_vertebra", "no_sacrum"])
    centroids = centroids_xy(masks)
    lumbar_part, sacral_part = np.flatnonzero(~sacral), np.flatnonzero(sacral)
    flags = [] if len(sacral_part) else ["no_sacrum"]
    flags += [] if len(lumbar_part) else ["no_lumbar"]
    chain, up = _order_chain(centroids, lumbar_part, sacral_part, scores, anchor)
    if anchor and len(lumbar_part) and len(sacral_part) and _disagrees(centroids, chain, sacral_part, scores, anchor):
        flags.append("anchor_disagrees_with_sacrum")
    below, wrong_side = _order_sacral(centroids, chain, sacral_part, up)
    flags += ["sacrum_on_both_sides"] if wrong_side else []
    chain_names = _chain_names(len(chain), anchor, bool(len(sacral_part)))
    sacral_names = _sacral_names(len(below) + len(wrong_side), chain_names)
    named = dict(zip([*below, *wrong_side], sacral_names, strict=False)) | dict(zip(chain, chain_names, strict=False))
    # From the sacrum up: S3, S2, S1, L5 ...; sacral instances out of place keep to their name's place.
    order = [i for i in [*reversed([*below, *wrong_side]), *chain] if i in named]
    unnamed = [i for i in [*below, *wrong_side, *chain] if i not in named]
    flags += ["beyond_levels"] if unnamed else []
    flags += _gaps([i for i in order if i not in wrong_side], named, masks, centroids, sacral)
    return Levels(order, [named[i] for i in order], unnamed, wrong_side, flags)


def _order_chain(
    centroids: npt.NDArray[np.float64],
    lumbar: npt.NDArray[np.int64],
    sacral: npt.NDArray[np.int64],
    scores: npt.NDArray[np.floating],
    anchor: Anchor | None,
) -> tuple[list[int], npt.NDArray[np.float64]]:
    """Positions of the chain from its start on, and the direction (2,) in which it runs."""
    up = -spine_axis(centroids[lumbar])
    start = anchor.position if anchor else ("lowest" if len(sacral) == 0 else "")
    if start == "highest":
        up = -up
    elif not start and len(lumbar):
        best = _best(sacral, centroids, scores)
        # With one vertebra there is no axis: it runs away from the sacrum.
        up = centroids[lumbar[0]] - centroids[best] if len(lumbar) == 1 else up
        positions = along(centroids[lumbar], up)
        if along(centroids[[best]], up)[0] > np.median(positions):
            up = -up
    positions = along(centroids[lumbar], up)
    # Equal positions (a vertebra beside another) are told apart by their place on the film, never by input order.
    ties = np.lexsort((centroids[lumbar, 0], centroids[lumbar, 1], positions))
    return [int(i) for i in lumbar[ties]], up


def _best(sacral: npt.NDArray[np.int64], centroids: npt.NDArray[np.float64], scores: npt.NDArray[np.floating]) -> int:
    return int(min(sacral, key=lambda i: (-float(scores[i]), *centroids[i].tolist())))


def _disagrees(
    centroids: npt.NDArray[np.float64],
    chain: list[int],
    sacral: npt.NDArray[np.int64],
    scores: npt.NDArray[np.floating],
    anchor: Anchor,
) -> bool:
    """Whether the sacrum says another start, or another level for the start, than the anchor."""
    by_sacrum, _ = _order_chain(centroids, np.array(sorted(chain)), sacral, scores, None)
    return by_sacrum[0] != chain[0] or anchor.level != "L5"


def _order_sacral(
    centroids: npt.NDArray[np.float64], chain: list[int], sacral: npt.NDArray[np.int64], up: npt.NDArray[np.float64]
) -> tuple[list[int], list[int]]:
    """Sacral positions from S1 on, and those that lie on the upper side of the chain's middle."""
    if not chain:
        by_height = sorted(sacral.tolist(), key=lambda i: (centroids[i, 1], centroids[i, 0]))
        return by_height, []
    distance = np.linalg.norm(centroids - centroids[chain[0]], axis=1)
    nearest_first = sorted(sacral.tolist(), key=lambda i: (distance[i], *centroids[i].tolist()))
    middle = float(np.median(along(centroids[chain], up)))
    wrong = [i for i in nearest_first if len(chain) > 1 and float(along(centroids[[i]], up)[0]) > middle]
    return [i for i in nearest_first if i not in wrong], wrong


def _chain_names(count: int, anchor: Anchor | None, has_sacrum: bool) -> list[str]:
    if anchor is None and not has_sacrum:
        return [f"+{n + 1}" for n in range(count)]
    first = anchor.level if anchor else "L5"
    names = [level_above(first, n) for n in range(count)]
    return [name for name in names if name is not None]


def _sacral_names(count: int, chain_names: list[str]) -> list[str]:
    """S1, S2 ...; further down where an anchor gave the chain sacral names."""
    first = "S1"
    if chain_names and chain_names[0].startswith("S"):
        first = level_above(chain_names[0], -1) or ""
    names = [level_above(first, -n) for n in range(count)] if first else []
    return [name for name in names if name is not None]


def _gaps(
    order: list[int],
    names: dict[int, str],
    masks: Sequence[Rle],
    centroids: npt.NDArray[np.float64],
    sacral: npt.NDArray[np.bool_],
) -> list[str]:
    """Flags of spacings far above the median of the others; they need at least three vertebrae."""
    spacings = spacings_px(centroids[order])
    flags = []
    for place, spacing in enumerate(spacings):
        others = np.delete(spacings, place)
        lower, upper = order[place], order[place + 1]
        if len(others) == 0 or spacing <= GAP_RATIO * np.median(others):
            continue
        if sacral[lower] != sacral[upper]:
            axis = (centroids[upper] - centroids[lower]) / spacing
            free = extent_along(masks[upper], axis)[0] - extent_along(masks[lower], axis)[1]
            if free <= SACRAL_GAP_RATIO * np.median(others):
                continue
        flags.append(f"gap_between_{names[lower]}_{names[upper]}")
    return flags
