"""What a report reads from `metrics.json`, checked as a stranger's file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vertinst.errors import DataError
from vertinst.files import read_json
from vertinst.structures.spine import LEVELS

__all__ = [
    "ClassScore",
    "ContourScore",
    "FilmError",
    "FilmScores",
    "LevelCount",
    "Scores",
    "Truth",
    "by_level",
    "read_scores",
]

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Length = Annotated[float, Field(ge=0)]
Points = list[tuple[float, float]]


class _Part(BaseModel):
    # What later versions add is passed over: a report shows what it knows.
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class FilmError(_Part):
    """One vertebra that went wrong: `level` is the truth's, `predicted` the model's."""

    kind: Literal["missed", "wrong_level", "false"]
    level: str | None = None
    predicted: str | None = None

    def in_words(self) -> str:
        """The error as a reader of films would say it."""
        if self.kind == "missed":
            return f"{self.level or 'a vertebra'} was missed"
        if self.kind == "wrong_level":
            return f"{self.level} was called {self.predicted}"
        return f"{self.predicted} was marked where no vertebra is annotated"


class Truth(_Part):
    """One annotated instance as outlines: `polygons` are exteriors of xy px."""

    level: str | None = None
    category: str = ""
    polygons: list[Points] = []


class _Recognition(_Part):
    annotated: Count = 0
    found: Count = 0
    with_level: Count = 0
    labelled: Count | None = None
    false: Count = 0
    found_rate: Share | None = None
    labelled_rate: Share | None = None


class _Pixels(_Part):
    pixel_accuracy: Share | None = None
    mean_accuracy: Share | None = None
    mean_iou: Share | None = None
    frequency_weighted_iou: Share | None = None


class ContourScore(_Part):
    """Means over the objects that were found."""

    matched: Count = 0
    boundary_iou: Share | None = None
    hd95_px: Length | None = None


class FilmScores(_Recognition, _Pixels):
    """Numbers of one film; see `engine.evaluate`."""

    file_name: str
    patient: int | None = None
    contours: ContourScore = ContourScore()
    truth: list[Truth] = []
    errors: list[FilmError] = []


class _FilmsRight(_Part):
    films: Count = 0
    right: Count = 0
    rate: Share | None = None


class _Contours(ContourScore):
    per_class: dict[str, ContourScore] = {}


class _Summary(_Pixels):
    vertebrae: _Recognition = _Recognition()
    contours: _Contours = _Contours()
    films_all_levels_right: _FilmsRight = _FilmsRight()


class _Averages(_Part):
    AP: Share | None = None
    AP50: Share | None = None
    AP75: Share | None = None


class ClassScore(_Part):
    """Average precision of one class: null where the class is not annotated."""

    AP: Share | None = None
    box_AP: Share | None = None
    annotated: Count = 0
    predicted: Count = 0


class _Precision(_Part):
    mask: _Averages = _Averages()
    box: _Averages = _Averages()
    per_class: dict[str, ClassScore] = {}


class _Options(_Part):
    merged: str | list[str] = "bone"
    level_range: str = "all"
    iou_threshold: Share = 0.5
    boundary_width: Share = 0.02


class Scores(_Part):
    """A `metrics.json`: see `engine.evaluate` for what each number means."""

    schema_version: Literal[1]
    vertinst: str = ""
    options: _Options = _Options()
    summary: _Summary
    ap: _Precision = _Precision()
    images: list[FilmScores]
    missing: list[str] = []
    unknown: list[str] = []


class LevelCount(NamedTuple):
    """How one level fared over all films."""

    level: str
    annotated: int
    found: int
    right: int


def read_scores(path: Path) -> Scores:
    """Read a `metrics.json`.

    Raises:
        DataError: Missing, not JSON, or not of the form that evaluation writes.
    """
    content = read_json(path)
    try:
        return Scores.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise DataError(
            f"must be a metrics.json of vertinst; {place}: {first['msg']}",
            where=path,
            fix="Write it again with `vertinst evaluate --gt coco.json --pred DIR --out metrics.json`.",
        ) from error


def by_level(scores: Scores) -> list[LevelCount]:
    """How the levels fared, from the neck down as on a film; levels that are nowhere annotated are left out."""
    annotated = Counter(t.level for film in scores.images for t in film.truth if t.level in LEVELS)
    errors = [error for film in scores.images for error in film.errors]
    missed = Counter(error.level for error in errors if error.kind == "missed")
    wrong = Counter(error.level for error in errors if error.kind == "wrong_level")
    return [
        LevelCount(level, count, max(0, count - missed[level]), max(0, count - missed[level] - wrong[level]))
        for level in reversed(LEVELS)
        if (count := annotated[level])
    ]
