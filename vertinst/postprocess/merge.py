"""From single instances to one mask: binary unions and label maps."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vertinst.errors import DataError
from vertinst.structures import Implant, Rle, Spine, Vertebra, rle
from vertinst.structures.dataset import BONE, IMPLANTS

__all__ = ["Part", "label_map", "merged_classes", "merged_mask", "union_of"]


class Part(Protocol):
    """Anything with a class and a mask: `Annotation`, `Vertebra`, `Implant`."""

    @property
    def category(self) -> str:
        """Name of the class."""

    @property
    def mask(self) -> Rle:
        """RLE of the image's size."""


def merged_classes(choice: str | Sequence[str], known: Collection[str]) -> tuple[str, ...]:
    """Names of the classes that a merged mask is made of.

    Args:
        choice: `bone` (lumbar and sacral), `bone+implants`, or names of classes.
        known: Classes of the data or of the model.

    Returns:
        Those of bone, or of bone and implants, that are known (possibly none), or the names as given.

    Raises:
        DataError: A class was named that is not known.
    """
    groups = {"bone": BONE, "bone+implants": BONE + IMPLANTS}
    if isinstance(choice, str) and choice in groups:
        return tuple(c for c in groups[choice] if c in known)
    names = (choice,) if isinstance(choice, str) else tuple(choice)
    for name in names:
        if name not in known:
            raise DataError(
                f"classes of the merged mask must be bone, bone+implants or among {', '.join(known)}, got {name!r}",
                fix="Correct the name, or leave it out.",
            )
    return names


def union_of(parts: Iterable[Part], image_size: Sequence[int], *, classes: Collection[str] = BONE) -> Rle:
    """Pixels covered by any part of these classes, as RLE; the empty mask for none.

    Args:
        parts: Annotations, vertebrae or implants of one film.
        image_size: (height, width) px.
        classes: Names; parts of others are left out.
    """
    return rle.union([part.mask for part in parts if part.category in classes], image_size)


def merged_mask(spine: Spine, classes: Collection[str] = BONE) -> Rle:
    """Binary mask of a film: all bone by default, any classes by choice. Candidates never belong to it.

    Args:
        spine: What was found on the film.
        classes: Names, e.g. `BONE + IMPLANTS` for bone with implants.
    """
    return union_of((*spine.vertebrae, *spine.implants), spine.image_size, classes=classes)


def label_map(spine: Spine) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """One number per pixel: 0 for none, then the vertebrae from the sacrum up and after them the implants.

    Where two overlap the higher score wins, at equal scores the one with the lower number; but metal lies over bone
    whatever the scores, or most of a screw would vanish in its vertebra.

    Returns:
        (H, W) uint8 up to 255 instances, else uint16. `spine.vertebrae[i]` is i + 1, `spine.implants[j]` is
        len(spine.vertebrae) + j + 1.
    """
    parts: list[Vertebra | Implant] = [*spine.vertebrae, *spine.implants]
    labels = np.zeros(spine.image_size, dtype=np.uint8 if len(parts) < 256 else np.uint16)
    below_first = sorted(range(len(parts)), key=lambda i: (parts[i].category in IMPLANTS, parts[i].score, -i))
    for index in below_first:
        left, top, right, bottom = (int(v) for v in rle.box_xyxy(parts[index].mask))
        patch = rle.decode(parts[index].mask)[top:bottom, left:right]
        labels[top:bottom, left:right][patch] = index + 1
    return labels
