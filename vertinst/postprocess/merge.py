"""From single instances to one mask: binary unions, a mask for each class, label maps, and where instances overlap."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from vertinst.errors import DataError
from vertinst.structures import Implant, Rle, Spine, Vertebra, rle
from vertinst.structures.dataset import BONE, IMPLANTS

__all__ = ["Part", "class_masks", "label_map", "merged_classes", "merged_mask", "overlaps", "union_of"]


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


def class_masks(spine: Spine) -> dict[str, Rle]:
    """Pixels of each class that was found on a film, by its name: bone first, then metal, then any others.

    They may share pixels: a screw lies on its vertebra. Candidates never belong to them. Empty for an empty spine.
    """
    parts = _numbered(spine)
    known = (*BONE, *IMPLANTS)
    found = {part.category for part in parts}
    names = [*(name for name in known if name in found), *sorted(found.difference(known))]
    return {name: union_of(parts, spine.image_size, classes=(name,)) for name in names}


def label_map(spine: Spine) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """One number per pixel: 0 for none, then the vertebrae from the sacrum up and after them the implants.

    Where two overlap the higher score wins, at equal scores the one with the lower number; but metal lies over bone
    whatever the scores, or most of a screw would vanish in its vertebra.

    Returns:
        (H, W) uint8 up to 255 instances, else uint16. `spine.vertebrae[i]` is i + 1, `spine.implants[j]` is
        len(spine.vertebrae) + j + 1.
    """
    parts = _numbered(spine)
    labels = np.zeros(spine.image_size, dtype=np.uint8 if len(parts) < 256 else np.uint16)
    for index in sorted(range(len(parts)), key=lambda i: _height(parts, i)):
        patch, left, top = rle.decode_crop(parts[index].mask)
        labels[top : top + patch.shape[0], left : left + patch.shape[1]][patch] = index + 1
    return labels


def overlaps(spine: Spine) -> list[dict[str, Any]]:
    """Every two instances of a film that share pixels, and whose they are in the label map.

    Returns:
        One JSON-ready dict a pair, by the numbers of the label map: `first` and `second` (each `label`, the number
        in the map, `name`, the level of a vertebra or the class of an implant, `category`, `score`), `area_px2` (the
        pixels that they share), `wins` (`first` or `second`: whose these pixels are, if no third one lies over both).
    """
    parts = _numbered(spine)
    masks = [part.mask for part in parts]
    iou, areas = rle.iou(masks, masks), rle.areas(masks)
    # The intersection follows from the IoU, and is a whole number.
    shared = np.rint(iou / (1 + iou) * np.add.outer(areas, areas)).astype(np.int64)
    return [
        {
            "first": _named(parts, first),
            "second": _named(parts, second),
            "area_px2": int(shared[first, second]),
            "wins": "first" if _height(parts, first) > _height(parts, second) else "second",
        }
        for first, second in np.argwhere(np.triu(shared, 1)).tolist()
    ]


def _numbered(spine: Spine) -> list[Vertebra | Implant]:
    """In the order of the label map's numbers."""
    return [*spine.vertebrae, *spine.implants]


def _height(parts: Sequence[Vertebra | Implant], index: int) -> tuple[bool, float, int]:
    """How far up a part lies in the label map: metal over bone, then by score, then the lower number first."""
    part = parts[index]
    return part.category in IMPLANTS, part.score, -index


def _named(parts: Sequence[Vertebra | Implant], index: int) -> dict[str, Any]:
    part = parts[index]
    name = part.level if isinstance(part, Vertebra) else part.category
    return {"label": index + 1, "name": name, "category": part.category, "score": round(part.score, 4)}
