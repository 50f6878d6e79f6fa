"""What is measured on a spine: values with their uncertainty, per vertebra, per disc and per film."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vertinst.errors import DataError

__all__ = ["CORNERS", "VIEWS", "Body", "Disc", "Measure", "Orientation", "Osteophyte", "Scale"]

CORNERS = ("superior_anterior", "superior_posterior", "inferior_posterior", "inferior_anterior")
"""Order of the corners of a body. On antero-posterior films `anterior` stands for the side that is the film's right
when the head is up (see `Orientation`)."""

VIEWS = ("lateral", "ap")


class Measure(NamedTuple):
    """One number.

    Its unit is the end of its name: `_deg`, `_px`, `_mm`, `_px2`, `_mm2`, `_percent`; a name that ends in `_ratio` has
    none.

    Attributes:
        value: Finite.
        sd: Standard deviation when the outlines are perturbed and the shape of bodies is as uncertain as it is, in the
            unit of the value; None where it is unknown.
    """

    value: float
    sd: float | None = None


class Osteophyte(NamedTuple):
    """Bone that stands out at a corner of a body.

    Attributes:
        corner: One of `CORNERS`.
        area_px2: Above 0.
        centre_px: xy px.
    """

    corner: str
    area_px2: float
    centre_px: tuple[float, float]


class Scale(NamedTuple):
    """Size of a pixel.

    Attributes:
        row_mm: Distance between rows.
        column_mm: Distance between columns.
        source: Where it comes from (`ImagerPixelSpacing`, `stated by the user` ...): no millimetre without it.
    """

    row_mm: float
    column_mm: float
    source: str


@dataclass(frozen=True, eq=False)
class Orientation:
    """How the body lies on the film.

    Attributes:
        up: (2,) float64 unit vector xy: towards the head.
        anterior: (2,) float64 unit vector xy at a right angle to `up`: towards the belly; on antero-posterior films
            the film's right when the head is up.
        sure: False where nothing on the film tells front from back and the film's right was taken.
    """

    up: npt.NDArray[np.float64]
    anterior: npt.NDArray[np.float64]
    sure: bool = True


@dataclass(frozen=True, eq=False)
class Body:
    """Landmarks and measures of one vertebra.

    Attributes:
        corners_px: (4, 2) float64 xy px in the order of `CORNERS`.
        corners_sd_px: (4,) float64 px: root mean square distance of the perturbed corners from their mean.
        values: Measures by name.
        grades: Hints by name, such as `genant_grade`.
        osteophytes: Possibly none.
    """

    corners_px: npt.NDArray[np.float64]
    corners_sd_px: npt.NDArray[np.float64]
    values: Mapping[str, Measure] = field(default_factory=dict)
    grades: Mapping[str, int] = field(default_factory=dict)
    osteophytes: tuple[Osteophyte, ...] = ()

    def __post_init__(self) -> None:
        for name, shape in (("corners_px", (4, 2)), ("corners_sd_px", (4,))):
            if getattr(self, name).shape != shape:
                raise DataError(
                    f"{name} must have shape {shape}, got {getattr(self, name).shape}", fix="Give four corners."
                )


@dataclass(frozen=True, eq=False)
class Disc:
    """Measures of the space between two neighbouring vertebrae.

    Attributes:
        upper: Level of the vertebra above.
        lower: Level of the vertebra below.
        values: Measures by name.
        grades: Hints by name, such as `meyerding_grade`.
    """

    upper: str
    lower: str
    values: Mapping[str, Measure] = field(default_factory=dict)
    grades: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As surgeons write it: `L4/5` within a region, `L5/S1` between two."""
        same = self.upper[0] == self.lower[0] and self.upper[0] != "+"
        return f"{self.upper}/{self.lower[1:] if same else self.lower}"
