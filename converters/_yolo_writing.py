"""YOLO-seg out: one line an instance, parts and holes joined by cuts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import yaml

from vertinst.files import film_stem, inside, prepare_folder, write_text
from vertinst.structures import rle as rle_masks
from vertinst.structures.conversion import Skip
from vertinst.structures.dataset import Annotation, Dataset, ImageRecord

from ._pieces import is_faithful, output_names, refuse_empty
from ._shapes import trace

__all__ = ["write"]


def write(dataset: Dataset, path: Path) -> tuple[Skip, ...]:
    """Write a YOLO-seg data set: `labels/` with a text file for each film, sub-folders kept, and `data.yaml`.

    Put the films into `images/` beside `labels/`. A line of YOLO is one closed polygon, and nothing else. So:
    - Several parts of an instance, and holes, are joined into one polygon by cuts of no width, as the usual tools do.
      Filled by the even-odd rule it gives the mask, and `read` takes it apart again at the cuts.
    - Outlines are written vertex by vertex where one polygon gives the mask, else the mask's own outline is followed.
    - Levels, attributes, keypoints, patients, views, pixel spacings and regions that are no annotations are lost.
    - Annotations marked `ignore` are left out: a line would make them truth.

    Args:
        dataset: At least one film and one class.
        path: Folder, new or empty.

    Returns:
        What could not be written as it is: for every film what it lost, and every annotation changed or left out.

    Raises:
        OutputExistsError: The folder is not empty, or a file.
        DataError: No film, or a name that leads outside of the folder.
        VertinstError: A file cannot be written.
    """
    refuse_empty(dataset, path)
    names = output_names(dataset, ".txt")
    targets = {film: inside(path / "labels", name) for film, name in names.items()}
    prepare_folder(path)
    losses: list[Skip] = []
    for image in dataset.images:
        lines = list(_lines(dataset, image, losses))
        write_text(targets[image.file_name], "".join(f"{line}\n" for line in lines))
        losses += _film_losses(image)
        if names[image.file_name] != f"{film_stem(image.file_name)}.txt":
            reason = "another film differs in the suffix only: kept in the label's name, where other programs miss it"
            losses.append(Skip("", image.file_name, None, reason, repaired=True))
    classes = dict(enumerate(dataset.categories))
    # Without `path`, which Ultralytics would look for in its own folder and not here.
    content = {"train": "images", "val": "images", "names": classes}
    write_text(path / "data.yaml", yaml.safe_dump(content, allow_unicode=True, sort_keys=False))
    return tuple(losses)


def _lines(dataset: Dataset, image: ImageRecord, losses: list[Skip]) -> Iterator[str]:
    for number, annotation in enumerate(image.annotations):
        if annotation.ignore:
            losses.append(Skip("", image.file_name, number, "marked `ignore`: left out"))
            continue
        if rle_masks.area(annotation.mask) == 0:
            losses.append(Skip("", image.file_name, number, "covers no pixel: left out"))
            continue
        ring, reason = _ring(annotation, image)
        if reason:
            losses.append(Skip("", image.file_name, number, reason, repaired=True))
        shares = ring / np.array([image.width, image.height])
        yield " ".join([str(dataset.category_id(annotation.category) - 1), *map(_share_text, shares.ravel().tolist())])


def _share_text(value: float) -> str:
    return f"{value:.12f}".rstrip("0").rstrip(".")


def _ring(annotation: Annotation, image: ImageRecord) -> tuple[npt.NDArray[np.float64], str]:
    """One polygon for an annotation, and what it does not say."""
    shapes = [outline for outline in annotation.outlines if outline.get("name") != "point"]
    height, width = image.image_size
    if len(shapes) == 1 and is_faithful(annotation, image.image_size):
        points = trace(shapes[0])
        low, high = points.min(axis=0), points.max(axis=0)
        # Readers of YOLO refuse shares outside of 0..1: what leaves the film is followed along its edge.
        if low.min() >= 0 and high[0] <= width and high[1] <= height:
            return points, ""
    parts = rle_masks.rle_to_polygons(annotation.mask)
    rings = [ring for part in parts for ring in (part.exterior, *part.holes) if len(ring) >= 3]
    if len(rings) == 1:
        return rings[0], "its outline was followed on the mask" if shapes else ""
    holes = sum(len(part.holes) for part in parts)
    return _joined(rings), f"{len(parts)} parts and {holes} holes joined into one polygon"


def _joined(rings: Sequence[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """One closed line through all rings, each entered and left by the same cut at its nearest point."""
    line = rings[0]
    for ring in rings[1:]:
        start, end = _nearest(line, ring)
        turned = np.roll(ring, -end, axis=0)
        line = np.concatenate([line[: start + 1], turned, turned[:1], line[start:]])
    return line


def _nearest(line: npt.NDArray[np.float64], ring: npt.NDArray[np.float64]) -> tuple[int, int]:
    """The two points, one of each, that are nearest to each other."""
    if len(ring) < len(line):
        end, start = _nearest(ring, line)
        return start, end
    # In steps of bounded memory, as few as there can be: outlines of thousands of points are usual.
    distances = [np.square(ring - point).sum(axis=1) for point in line]
    start = int(np.argmin([d.min() for d in distances]))
    return start, int(np.argmin(distances[start]))


def _film_losses(image: ImageRecord) -> list[Skip]:
    lost = {
        "attributes": any(a.attributes for a in image.annotations) or bool(image.attributes),
        "levels": any(a.level for a in image.annotations),
        "keypoints": any(a.keypoints for a in image.annotations),
        "patient": image.patient is not None,
        "view": image.view is not None,
        "pixel spacing": image.pixel_spacing_mm is not None,
        f"{len(image.unread)} regions that are no annotations": bool(image.unread),
    }
    names = ", ".join(name for name, is_lost in lost.items() if is_lost)
    return [Skip("", image.file_name, None, f"YOLO has no place for: {names}", repaired=True)] if names else []
