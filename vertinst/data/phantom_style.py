"""What kind of phantom films are drawn: size, prevalences and ranges."""

import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from vertinst.data.phantom_disease import Disease
from vertinst.errors import ConfigError, DataError

__all__ = ["STYLES", "PhantomStyle", "explained_shares", "named_style", "with_shares"]

Range = tuple[float, float]

_LIMITS: dict[str, Range] = {
    "bone_density": (0.1, 10.0),
    "girth": (0.1, 3.0),
    "scatter": (0.0, 0.9),
    "photons": (1.0, 1e9),
    "focus_blur_px": (0.1, 20.0),
    "detector_blur_px": (0.1, 20.0),
    "equalisation": (0.0, 1.0),
    "gamma": (0.1, 10.0),
    "scoliosis_deg": (0.0, 60.0),
}


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
        six_lumbar_share: Share of patients with an L6 between S1 and L5, 0 to 1.
        four_lumbar_share: Share of patients without an L5, whose L4 sits on S1; at most 1 with six_lumbar_share.
        sacralised_share: Share of the patients with five lumbar vertebrae whose L5 is partly fused with the sacrum:
            low, with a rudimentary disc below and sunk between the iliac wings, 0 to 1.
        no_sacrum_share: Share of films that end above S1, 0 to 1; they may cut L5.
        ap_share: Share of patients whose films are antero-posterior and whose spine is scoliotic, 0 to 1.
        scoliosis_deg: Range of their Cobb angle, within 0 to 60.
        follow_up_share: Share of patients whose last film shows them at a second date, with known changes, 0 to 1; they
            have two films or more.
        films_per_patient: Most films of one patient, 1 or more; the number is drawn from 1 to this.
        disease: How many patients have what; nobody has anything by default.
        lordosis_deg: Mean, standard deviation, lowest and highest drawn L1-S1 lordosis.
        bone_density: Range of the factor on the attenuation of bone, within 0.1 to 10; low means osteoporotic.
        girth: Range of the factor on the thickness of soft tissue, within 0.1 to 3.
        scatter: Range of the share of scattered radiation, within 0 to 0.9.
        photons: Range of the quanta per pixel behind the median of the field, 1 or more; drawn on a logarithmic scale.
        focus_blur_px: Range of the blur before the noise, within 0.1 to 20.
        detector_blur_px: Range of the blur after the noise, within 0.1 to 20.
        equalisation: Range of the share of the coarse brightness differences taken away, within 0 to 1.
        gamma: Range of the exponent of the display curve, within 0.1 to 10; above 1 darkens.

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
    six_lumbar_share: float = 0.0
    four_lumbar_share: float = 0.0
    sacralised_share: float = 0.0
    no_sacrum_share: float = 0.0
    ap_share: float = 0.0
    scoliosis_deg: Range = (5.0, 35.0)
    follow_up_share: float = 0.0
    films_per_patient: int = 3
    lordosis_deg: tuple[float, float, float, float] = (46.0, 11.0, 20.0, 70.0)
    bone_density: Range = (0.7, 1.15)
    girth: Range = (0.75, 1.25)
    scatter: Range = (0.25, 0.5)
    photons: Range = (250.0, 3000.0)
    focus_blur_px: Range = (0.6, 1.3)
    detector_blur_px: Range = (0.35, 0.7)
    equalisation: Range = (0.25, 0.65)
    gamma: Range = (0.85, 1.35)
    disease: Disease = field(default_factory=Disease)

    def __post_init__(self) -> None:
        for name in ("height_px", "width_px"):
            _require(getattr(self, name) >= 64, name, "64 or more", getattr(self, name))
        for name in share_names(self):
            _require(0.0 <= getattr(self, name) <= 1.0, name, "between 0 and 1", getattr(self, name))
        counted = self.six_lumbar_share + self.four_lumbar_share
        _require(counted <= 1.0, "six_lumbar_share", "at most 1 with four_lumbar_share", self.six_lumbar_share)
        _require(self.films_per_patient >= 1, "films_per_patient", "1 or more", self.films_per_patient)
        _, spread, lowest, highest = self.lordosis_deg
        _require(
            spread >= 0 and lowest <= highest, "lordosis_deg", "(mean, spread >= 0, low <= high)", self.lordosis_deg
        )
        for name, (least, most) in _LIMITS.items():
            low, high = getattr(self, name)
            _require(least <= low <= high <= most, name, f"(low, high) within {least} to {most}", (low, high))


def share_names(choices: Any) -> list[str]:
    """Names of the fields of a dataclass that are shares: those that end in `_share`."""
    return [entry.name for entry in fields(choices) if entry.name.endswith("_share")]


def explained_shares() -> dict[str, str]:
    """What may be given to `with_shares`: every share, of diseases too, without its `_share`, and what it means."""
    explained = {}
    for kind in (PhantomStyle, Disease):
        for name in share_names(kind):
            # In a docstring an attribute stands four columns in, and the lines that follow eight.
            found = re.search(rf"^ {{4}}{name}: (.+(?:\n {{8}}.+)*)", inspect.getdoc(kind) or "", re.MULTILINE)
            explained[name.removesuffix("_share")] = " ".join(found[1].split()) if found else ""
    return explained


def with_shares(style: PhantomStyle, asked: Sequence[str]) -> PhantomStyle:
    """A style with some shares set.

    Args:
        style: The others stay as they are here.
        asked: Each like `six_lumbar=0.1`, a name of `explained_shares` and a number; of a name given twice the last.

    Raises:
        ConfigError: One is not like that, a name is unknown, or a share lies outside 0..1.
        DataError: Two shares do not go together.
    """
    values: dict[str, Any] = {}
    for text in asked:
        name, _, number = text.partition("=")
        if name not in explained_shares():
            listed = "".join(f"\n  {known}: {means}" for known, means in explained_shares().items())
            raise ConfigError(f"{name!r} is nothing that phantoms may have", where=text, fix=f"Name one of:{listed}")
        try:
            values[f"{name}_share"] = float(number)
        except ValueError:
            message = f"the share of {name} must be a number, got {number!r}"
            raise ConfigError(message, where=text, fix=f"Write it like {name}=0.1.") from None
        if not 0 <= float(number) <= 1:
            message = f"the share of {name} must be between 0 and 1, got {number}"
            raise ConfigError(message, where=text, fix=f"Write it like {name}=0.1.")
    ill = {name: values.pop(name) for name in share_names(Disease) if name in values}
    return replace(style, **values, disease=replace(style.disease, **ill))


def _require(good: bool, name: str, expected: str, got: object) -> None:
    if not good:
        raise DataError(f"{name} must be {expected}, got {got}", where="PhantomStyle", fix=f"choose another {name}")


STYLES: dict[str, PhantomStyle] = {
    "standard": PhantomStyle(),
    # Few quanta, much scatter, an unsharp picture that little evens out, and older patients with thin, flat spines.
    "portable": PhantomStyle(
        lordosis_deg=(36.0, 11.0, 12.0, 62.0),
        bone_density=(0.6, 0.95),
        girth=(0.85, 1.3),
        scatter=(0.4, 0.6),
        photons=(100.0, 700.0),
        focus_blur_px=(0.9, 1.8),
        detector_blur_px=(0.5, 0.9),
        equalisation=(0.1, 0.35),
        gamma=(0.75, 1.1),
    ),
}
"""Styles by name: what `vertinst phantom --style` offers. `standard` is a film as a department takes it, `portable` one
of a mobile machine."""


def named_style(name: str) -> PhantomStyle:
    """The style of this name.

    Raises:
        DataError: There is none.
    """
    _require(name in STYLES, "style", " or ".join(STYLES), name)
    return STYLES[name]
