"""What a user can do about the commonest losses of a conversion, in words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vertinst.data.radiograph import read_header
from vertinst.errors import VertinstError
from vertinst.files import inside
from vertinst.structures.conversion import ReadOptions, Skip
from vertinst.structures.dataset import Dataset

__all__ = ["advice"]

_UNKNOWN = re.compile(r"unknown class (['\"].*['\"])", re.DOTALL)
_OUTSIDE = "outside of the film"
_SHOWN_NAMES = 5
_FILMS_LOOKED_AT = 20


def advice(dataset: Dataset, skips: Sequence[Skip], images: Path | None, options: ReadOptions) -> list[str]:
    """Say what would keep more of the annotations.

    Args:
        dataset: What the conversion gave.
        skips: What it skipped or repaired.
        images: Folder of the films, if there is one.
        options: What the user set already.

    Returns:
        Sentences for the user; none where there is nothing to be done.
    """
    return [*_unknown_classes(skips), *_turned_films(skips, images, options), *_nothing(dataset)]


def _unknown_classes(skips: Sequence[Skip]) -> list[str]:
    found = [match[1] for skip in skips if not skip.repaired and (match := _UNKNOWN.fullmatch(skip.reason))]
    if not found:
        return []
    names = [name for name, _ in Counter(found).most_common()]
    more = ", ..." if len(names) > _SHOWN_NAMES else ""
    regions = "region was" if len(found) == 1 else "regions were"
    return [
        f"{len(found)} {regions} left out because these are no known classes: {', '.join(names[:_SHOWN_NAMES])}{more}. "
        f"--class-map FILE keeps them, with a line in the file for each, like {names[0]}: lumbar; "
        f"{names[0]}: null leaves them out."
    ]


def _turned_films(skips: Sequence[Skip], images: Path | None, options: ReadOptions) -> list[str]:
    """Regions beyond the edge of a film that its EXIF data turn were probably drawn on it unturned."""
    if images is None or options.ignore_exif:
        return []
    names = dict.fromkeys(skip.image for skip in skips if _OUTSIDE in skip.reason)
    turned = [name for name in list(names)[:_FILMS_LOOKED_AT] if _is_turned(images, name)]
    if not turned:
        return []
    return [
        f"Regions lie outside of films that are turned as their EXIF data say, such as {turned[0]}. If they were drawn "
        "with a VIA or a browser that did not turn films, convert with --ignore-exif."
    ]


def _is_turned(images: Path, name: str) -> bool:
    try:
        return read_header(inside(images, name)).orientation != 1
    except VertinstError:
        return False


def _nothing(dataset: Dataset) -> list[str]:
    if any(image.annotations for image in dataset.images):
        return []
    return ["No film has an annotation: look whether these are the right files, and what was left out."]
