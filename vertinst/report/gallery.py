"""The films that a report shows: best and worst, each beside its labelled overlay."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
from PIL import Image

from vertinst.postprocess.stated import needs_anchor
from vertinst.report.outlines import Shape, vertebra_shapes
from vertinst.report.results import FilmResult, film_paths
from vertinst.report.scores import FilmScores, Truth
from vertinst.structures import Spine

__all__ = ["Card", "Group", "Outline", "choose", "make_card"]

Group: TypeAlias = tuple[str, list[FilmResult]]
"""Heading and films."""

SHOWN_PER_GROUP = 6
IMAGE_PX = 900
MAX_IMAGE_PIXELS = 100_000_000
"""Larger pictures than any overlay of ours are not opened."""


class Outline(NamedTuple):
    """An annotated instance, ready to be drawn over the film.

    Attributes:
        path: SVG path in px of the film.
        level: Name, or empty.
        x: Where the name stands, px.
        y: Where the name stands, px.
        anchor: SVG's text-anchor: the side on which it stands.
    """

    path: str
    level: str
    x: float
    y: float
    anchor: str


class Card(NamedTuple):
    """One film of the gallery.

    Attributes:
        file_name: The film's.
        width: px.
        height: px.
        film: Data URI, or None where the results hold no copy of the film.
        overlay: Data URI, or None where there is no overlay.
        truth: Outlines of what was annotated; none without metrics.
        spine: What was found.
        scores: The film's numbers, or None without metrics.
        shapes: Its vertebrae, to be chosen on the page.
        needs_anchor: Its levels are open until somebody names a vertebra.
    """

    file_name: str
    width: int
    height: int
    film: str | None
    overlay: str | None
    truth: list[Outline]
    spine: Spine
    scores: FilmScores | None
    shapes: list[Shape]
    needs_anchor: bool


def choose(films: Sequence[FilmResult], scores: Mapping[str, FilmScores]) -> list[Group]:
    """Choose the films to show: by mean IoU, at equal mean IoU by vertebrae rightly labelled, then by name.

    Args:
        films: Of the results folder.
        scores: Numbers by film name; films without any are not ranked.

    Returns:
        Heading and films of each group: all ranked films from the worst up where there are at most 12, else the worst
        6 and the best 6. Without any score the first 12 by name. After these up to 12 others that need an anchor. No
        group without films.
    """
    groups = _by_rank(films, scores)
    shown = {film.file_name for _, group in groups for film in group}
    others = [film for film in films if film.file_name not in shown and needs_anchor(film.spine)]
    first = others[: 2 * SHOWN_PER_GROUP]
    if first:
        of_all = f"The first {len(first)} of {len(others)} other" if len(others) > len(first) else "Other"
        groups.append((f"{of_all} films that need an anchor", first))
    return groups


def _by_rank(films: Sequence[FilmResult], scores: Mapping[str, FilmScores]) -> list[Group]:
    ranked = sorted(
        (film for film in films if film.file_name in scores), key=lambda film: _rank(scores[film.file_name])
    )
    if not ranked:
        first = list(films[: 2 * SHOWN_PER_GROUP])
        return [(f"The first {len(first)} of {len(films)} films, by name", first)] if first else []
    if len(ranked) <= 2 * SHOWN_PER_GROUP:
        return [("All films, the hardest first", ranked)]
    return [
        (f"The {SHOWN_PER_GROUP} hardest films", ranked[:SHOWN_PER_GROUP]),
        (f"The {SHOWN_PER_GROUP} best films", ranked[: -SHOWN_PER_GROUP - 1 : -1]),
    ]


def _rank(score: FilmScores) -> tuple[float, float, str]:
    # A film without a number is not a bad one, but it is one to look at.
    return score.mean_iou or 0.0, score.labelled_rate or 0.0, score.file_name


def make_card(folder: Path, film: FilmResult, scores: FilmScores | None) -> Card:
    """Load what is shown of one film; pictures that are missing or broken are None.

    Args:
        folder: The results folder.
        film: One of it.
        scores: Its numbers, or None.
    """
    height, width = film.spine.image_size
    paths = film_paths(folder, film.file_name)
    return Card(
        film.file_name,
        width,
        height,
        _picture(paths.film),
        _picture(paths.overlay),
        [_outline(truth, width) for truth in scores.truth if any(truth.polygons)] if scores else [],
        film.spine,
        scores,
        vertebra_shapes(film.spine),
        needs_anchor(film.spine),
    )


def _picture(path: Path) -> str | None:
    """A picture as JPEG in a data URI, at most `IMAGE_PX` px on its longer side."""
    try:
        # Opening reads the header alone: nothing is decoded before the size is known.
        with Image.open(path, formats=("PNG", "JPEG")) as opened:
            if opened.width * opened.height > MAX_IMAGE_PIXELS:
                return None
            image = np.asarray(opened.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    factor = min(1.0, IMAGE_PX / max(image.shape[:2]))
    size = max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 84])
    return "data:image/jpeg;base64," + base64.b64encode(content.tobytes()).decode("ascii")


def _outline(truth: Truth, width: int) -> Outline:
    path = "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in ring) + "Z" for ring in truth.polygons if ring)
    columns = [x for ring in truth.polygons for x, _ in ring]
    rows = [y for ring in truth.polygons for _, y in ring]
    # The model's level is written on the vertebra; the truth's goes beside it, on the side that has room.
    room_on_left = min(columns) > 0.12 * width
    x = min(columns) - 0.01 * width if room_on_left else max(columns) + 0.01 * width
    anchor = "end" if room_on_left else "start"
    return Outline(path, truth.level or "", round(x, 1), round((min(rows) + max(rows)) / 2, 1), anchor)
