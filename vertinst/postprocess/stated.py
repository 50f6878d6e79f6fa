"""What the user says about films: where counting starts, from which side they were taken, the size of a pixel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from vertinst.errors import ConfigError, DataError
from vertinst.files import read_json
from vertinst.postprocess.labelling import Anchor, parse_anchor
from vertinst.structures import Scale, Spine
from vertinst.structures.measures import VIEWS

__all__ = ["STATED_BY_USER", "Stated", "check_names", "needs_anchor", "read_anchors", "stated"]

STATED_BY_USER = "stated by the user"
_SMALLEST_MM, _LARGEST_MM = 0.005, 10.0
_NAMED = 5
_UNSURE = {"no_sacrum", "sacrum_cut", "possible_L6", "possible_L4_only"}


@dataclass(frozen=True)
class Stated:
    """What the user says about films.

    Attributes:
        anchor: Of every film that has none of its own, or None.
        anchors: By the name that a film has in the results.
        view: `lateral` or `ap`, or None: as the film says.
        scale: Of every film, or None: as the film says.
        views: By the name that a film has in the results, where data about the films say it; `view` wins.
    """

    anchor: Anchor | None = None
    anchors: Mapping[str, Anchor] = field(default_factory=dict)
    view: str | None = None
    scale: Scale | None = None
    views: Mapping[str, str] = field(default_factory=dict)

    def anchor_of(self, film: str) -> Anchor | None:
        """The anchor of a film, by its name in the results."""
        return self.anchors.get(film, self.anchor)

    def view_of(self, film: str) -> str | None:
        """The view of a film where it is stated, by its name in the results."""
        return self.view or self.views.get(film)


def stated(
    *, anchor: str | None = None, anchors: Path | None = None, view: str = "auto", pixel_spacing_mm: float | None = None
) -> Stated:
    """Read what the user typed.

    Args:
        anchor: As `parse_anchor` takes it.
        anchors: File of anchors, see `read_anchors`.
        view: `auto`, `lateral` or `ap`.
        pixel_spacing_mm: Distance of neighbouring pixels, both ways, 0.005 to 10 mm.

    Raises:
        ConfigError: One of them is out of its range.
        DataError: The file is not as it should be.
    """
    if view not in ("auto", *VIEWS):
        raise ConfigError(f"view must be auto, {' or '.join(VIEWS)}, got {view!r}", fix="Correct --view.")
    if pixel_spacing_mm is not None and not _SMALLEST_MM <= pixel_spacing_mm <= _LARGEST_MM:
        raise ConfigError(
            f"pixel spacing must lie in {_SMALLEST_MM} to {_LARGEST_MM:g} mm, got {pixel_spacing_mm:g}",
            fix="Give the distance between the centres of neighbouring pixels: --pixel-spacing-mm 0.15.",
        )
    return Stated(
        parse_anchor(anchor) if anchor else None,
        read_anchors(anchors) if anchors else {},
        None if view == "auto" else view,
        Scale(pixel_spacing_mm, pixel_spacing_mm, STATED_BY_USER) if pixel_spacing_mm else None,
    )


def read_anchors(path: Path) -> dict[str, Anchor]:
    """Read a file of anchors: `{"P0001_1.png": "L5@120,340", "ward/b.png": "L5=lowest"}`.

    Raises:
        DataError: No JSON object of texts, or a text that is no anchor.
    """
    content = read_json(path)
    fix = 'Write it like {"film.png": "L5@120,340"}, or save it from the report.'
    if not isinstance(content, dict):
        raise DataError(f"must be an object of anchors by film, got {type(content).__name__}", where=path, fix=fix)
    anchors = {}
    for film, text in content.items():
        if not isinstance(text, str):
            raise DataError(f"an anchor must be a text, got {type(text).__name__}", where=f"{path}, {film}", fix=fix)
        try:
            anchors[film] = parse_anchor(text)
        except ConfigError as error:
            raise DataError(error.message, where=f"{path}, {film}", fix=fix) from error
    return anchors


def check_names(anchors: Iterable[str], films: Iterable[str]) -> None:
    """Refuse anchors of films that are not there: what was said about them would be lost in silence.

    Raises:
        DataError: Some are not; they are named.
    """
    known = set(films)
    unknown = sorted(set(anchors) - known)
    if unknown:
        more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
        shown = ", ".join(unknown[:_NAMED]) + more
        example = f", such as {min(known)}" if known else ""
        raise DataError(
            f"anchors must be of films that are there, got {shown}",
            fix=f"Write the films' names as the results have them{example}.",
        )


def needs_anchor(spine: Spine) -> bool:
    """Whether the levels of a film are open until somebody names a vertebra.

    They are without a sacrum or with a small part of one, and where there may be six or four lumbar vertebrae, unless
    an anchor is given.
    """
    anchored = spine.naming is not None and spine.naming.anchor is not None
    return bool(spine.vertebrae) and not anchored and not _UNSURE.isdisjoint(spine.flags)
