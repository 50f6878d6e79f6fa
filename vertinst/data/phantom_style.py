"""What kind of phantom films are drawn: size, prevalences and ranges."""

from dataclasses import dataclass

from vertinst.errors import DataError


@dataclass(frozen=True)
class PhantomStyle:
    """Everything about phantoms that is a choice and not anatomy.

    Attributes:
        height_px: Rows of a film, 64 or more.
        width_px: Columns of a film, 64 or more.
        metal_share: Share of patients with implants, 0 to 1.
        cage_only_share: Share of the patients with implants who have cages and neither screws nor rods, 0 to 1.
        cage_share: Share of the disc spaces within a screwed range that hold a cage, 0 to 1.
        close_up_share: Share of films taken so close that T12 may be cut by the upper border, 0 to 1.
        parallel_share: Share of films with parallel rays; the others diverge from a point source, 0 to 1.
        films_per_patient: Most films of one patient, 1 or more; the number is drawn from 1 to this.
        lordosis_deg: Mean, standard deviation, lowest and highest drawn L1-S1 lordosis.

    Raises:
        DataError: A value lies outside its range.
    """

    height_px: int = 1024
    width_px: int = 768
    metal_share: float = 0.7
    cage_only_share: float = 0.15
    cage_share: float = 0.6
    close_up_share: float = 0.06
    parallel_share: float = 0.15
    films_per_patient: int = 3
    lordosis_deg: tuple[float, float, float, float] = (46.0, 11.0, 20.0, 70.0)

    def __post_init__(self) -> None:
        for name in ("height_px", "width_px"):
            _require(getattr(self, name) >= 64, name, "64 or more", getattr(self, name))
        for name in ("metal_share", "cage_only_share", "cage_share", "close_up_share", "parallel_share"):
            _require(0.0 <= getattr(self, name) <= 1.0, name, "between 0 and 1", getattr(self, name))
        _require(self.films_per_patient >= 1, "films_per_patient", "1 or more", self.films_per_patient)
        _, spread, lowest, highest = self.lordosis_deg
        _require(
            spread >= 0 and lowest <= highest, "lordosis_deg", "(mean, spread >= 0, low <= high)", self.lordosis_deg
        )


def _require(good: bool, name: str, expected: str, got: object) -> None:
    if not good:
        raise DataError(f"{name} must be {expected}, got {got}", where="PhantomStyle", fix=f"choose another {name}")
