"""Masks out: label maps, one picture per instance, or binary masks, with a legend that says what they hold."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vertinst.errors import DataError
from vertinst.files import inside, prepare_folder, write_json
from vertinst.structures import rle as rle_masks
from vertinst.structures.conversion import Skip
from vertinst.structures.dataset import IMPLANTS, Annotation, Dataset, ImageRecord

from ._mask_files import write_values
from ._pieces import film_attributes, output_names, refuse_empty, unread_regions, written_attributes
from ._stated import UNREAD

__all__ = ["LEGEND", "write"]

LEGEND = "legend.json"
_KINDS = ("label-map", "instances", "binary")
_MAX_VALUE = 65_535

Listed = dict[str, Any]


def write(dataset: Dataset, path: Path, *, kind: str = "label-map") -> tuple[Skip, ...]:
    """Write masks as PNG, and `legend.json` with class, level, number and attributes of each.

    - `label-map`: one PNG of 16 bits a film, the n-th instance n, others 0. Where two overlap the later one lies on
      top, but metal on bone.
    - `instances`: a folder a film with one PNG (0 and 255) an instance, `<class>_<n>.png`. Overlaps are kept.
    - `binary`: one PNG (0 and 255) a film and class, `<class>/<film>.png`. Instances that touch become one.

    `read` gives films, classes, levels and attributes again, and the masks as far as the kind holds them. Outlines and
    keypoints are lost.

    Args:
        dataset: At least one film.
        path: Folder, new or empty.
        kind: `label-map`, `instances` or `binary`.

    Returns:
        What could not be written as it is: overlaps, touching instances, outlines, keypoints.

    Raises:
        OutputExistsError: The folder is not empty, or a file.
        DataError: Unknown kind, no film, more than 65,535 instances on one, a name that leads outside of the folder,
            or an attribute that JSON cannot hold.
        VertinstError: A file cannot be written.
    """
    if kind not in _KINDS:
        raise DataError(f"kind must be one of {', '.join(_KINDS)}, got {kind!r}")
    refuse_empty(dataset, path)
    names = output_names(dataset, ".png")
    for name in names.values():
        inside(path, name)
    prepare_folder(path)
    losses: list[Skip] = []
    films = []
    for image in dataset.images:
        kept = _kept(image, losses)
        writer = {"label-map": _label_map, "instances": _instances, "binary": _binary}[kind]
        listed = list(writer(image, kept, path, names[image.file_name], losses))
        record: Listed = {"file_name": image.file_name, "height": image.height, "width": image.width, "masks": listed}
        if attributes := film_attributes(image):
            record["attributes"] = attributes
        if image.unread:
            record[UNREAD] = unread_regions(image)
        films.append(record)
    try:
        write_json(path / LEGEND, {"kind": kind, "films": films}, indent=1)
    except (ValueError, TypeError) as error:
        raise DataError("an attribute cannot be written as JSON", where=path, fix="Use text and numbers.") from error
    return tuple(losses)


def _kept(image: ImageRecord, losses: list[Skip]) -> dict[int, Annotation]:
    """Annotations that have a pixel, by their number on the film from 1."""
    kept = {}
    for number, annotation in enumerate(image.annotations):
        if rle_masks.area(annotation.mask) == 0:
            losses.append(Skip("", image.file_name, number, "covers no pixel: left out"))
            continue
        kept[number + 1] = annotation
    lost = [name for name in ("outlines", "keypoints") if any(getattr(a, name) for a in kept.values())]
    if lost:
        losses.append(Skip("", image.file_name, None, f"masks have no place for: {', '.join(lost)}", repaired=True))
    return kept


def _label_map(
    image: ImageRecord, kept: Mapping[int, Annotation], path: Path, name: str, losses: list[Skip]
) -> Iterator[Listed]:
    if len(image.annotations) > _MAX_VALUE:
        raise DataError(f"must have at most {_MAX_VALUE} instances", where=image.file_name, fix="Write `instances`.")
    values = np.zeros(image.image_size, dtype=np.uint16)
    for number in sorted(kept, key=lambda n: (kept[n].category in IMPLANTS, n)):
        values[rle_masks.decode(kept[number].mask)] = number
    write_values(path / name, values)
    seen = np.bincount(values.ravel(), minlength=len(image.annotations) + 1).tolist()
    for number, annotation in kept.items():
        hidden = rle_masks.area(annotation.mask) - seen[number]
        if hidden:
            reason = f"{hidden} of its {hidden + seen[number]} pixels lie under other instances: lost in a label map"
            losses.append(Skip("", image.file_name, number - 1, reason, repaired=bool(seen[number])))
        yield {"file": name, "value": number, **_facts(number, annotation)}


def _instances(
    image: ImageRecord, kept: Mapping[int, Annotation], path: Path, name: str, losses: list[Skip]
) -> Iterator[Listed]:
    for number, annotation in kept.items():
        file = f"{name.removesuffix('.png')}/{_plain(annotation.category)}_{number}.png"
        write_values(inside(path, file), rle_masks.decode(annotation.mask).astype(np.uint8) * 255)
        yield {"file": file, "value": 255, **_facts(number, annotation)}


def _binary(
    image: ImageRecord, kept: Mapping[int, Annotation], path: Path, name: str, losses: list[Skip]
) -> Iterator[Listed]:
    for category in dict.fromkeys(a.category for a in kept.values()):
        own = [a for a in kept.values() if a.category == category]
        together = rle_masks.decode(rle_masks.union([a.mask for a in own], image.image_size))
        file = f"{_plain(category)}/{name}"
        write_values(inside(path, file), together.astype(np.uint8) * 255)
        reason = f"{len(own)} instances of {category} in one binary mask: attributes and what touches are lost"
        losses.append(Skip("", image.file_name, None, reason, repaired=True))
        yield {"file": file, "value": 255, "class": category, "connected": True}


def _facts(number: int, annotation: Annotation) -> Listed:
    facts: Listed = {"class": annotation.category, "level": annotation.level, "instance": number}
    return {**facts, "attributes": written_attributes(annotation, annotation.attributes)}


def _plain(category: str) -> str:
    """A class as part of a file name."""
    return re.sub(r"[^\w-]+", "_", category)[:60] or "class"
