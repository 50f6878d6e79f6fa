"""What a film's own attributes say of its patient, view and pixel spacing, under the names people use."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping
from typing import Any, TypedDict

from vertinst.structures.dataset import ImageRecord

__all__ = ["FilmFields", "attribute_text", "film_fields", "same_name", "untold_fields"]

_PATIENT = ("patient", "patientid", "patientenid", "patid", "pseudonym", "subject", "subjectid")
_VIEW = ("view", "viewposition", "projection", "projektion", "ansicht", "strahlengang")
_SPACING = ("pixelspacingmm", "pixelspacing", "imagerpixelspacing", "mmperpixel", "mmperpx")
_SOURCE = ("pixelspacingsource",)


class FilmFields(TypedDict):
    """Fields of an `ImageRecord` that come from attributes."""

    patient: str | None
    view: str | None
    pixel_spacing_mm: tuple[float, float] | None
    pixel_spacing_source: str | None


def film_fields(
    attributes: Mapping[str, Any], options: Mapping[str, Mapping[str, str]]
) -> tuple[FilmFields, str | None]:
    """Read patient, view and pixel spacing from a film's attributes.

    Letter case, blanks, `_` and `-` in the attributes' names make no difference (`PatientID`, `patient_id`). A spacing
    is one number for both directions or two (row, column), as list or as text parted by a blank, `,`, `;`, `x` or a
    backslash, in mm. Its source is the attribute `pixel_spacing_source`, or the name of the attribute that held it.

    Args:
        attributes: `file_attributes` as found.
        options: Labels of the options of dropdowns and radio buttons, by attribute and id.

    Returns:
        The fields, and what was wrong with the pixel spacing (without its value), or None.
    """
    patient, _ = _find(attributes, options, _PATIENT)
    view, _ = _find(attributes, options, _VIEW)
    text, name = _find(attributes, options, _SPACING)
    source, _ = _find(attributes, options, _SOURCE)
    spacing = _spacing(text) if text is not None else None
    fault = f"{name} must be one or two positive numbers: left out" if text is not None and spacing is None else None
    fields = FilmFields(
        patient=patient,
        view=view,
        pixel_spacing_mm=spacing,
        pixel_spacing_source=(source or name) if spacing is not None else None,
    )
    return fields, fault


def untold_fields(image: ImageRecord, options: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Patient, view and pixel spacing (with its source) of a film, as far as its attributes do not say the same.

    A reader finds the first attribute that has one of the usual names: they belong before the film's own.

    Args:
        image: The film.
        options: Labels of the options of its attributes, by attribute and id.
    """
    said, _ = film_fields(image.attributes, options)
    untold: dict[str, Any] = {}
    if image.patient is not None and said["patient"] != image.patient:
        untold["patient"] = image.patient
    if image.view is not None and said["view"] != image.view:
        untold["view"] = image.view
    spacing = image.pixel_spacing_mm, image.pixel_spacing_source
    if spacing[0] is not None and (said["pixel_spacing_mm"], said["pixel_spacing_source"]) != spacing:
        untold["pixel_spacing_mm"], untold["pixel_spacing_source"] = spacing
    return untold


def same_name(one: str, other: str) -> bool:
    """Whether two names of attributes differ in letter case, blanks, `_` and `-` at most."""
    return _fold(one) == _fold(other)


def attribute_text(attributes: Mapping[str, Any], options: Mapping[str, Mapping[str, str]], name: str) -> str | None:
    """What an attribute says, as text and by the label of its option; None if that is blank."""
    text = _text(attributes[name])
    return options.get(name, {}).get(text, text).strip() or None


@functools.lru_cache(maxsize=4096)
def _fold(name: str) -> str:
    return re.sub(r"[\s_-]", "", name).casefold()


def _find(
    attributes: Mapping[str, Any], options: Mapping[str, Mapping[str, str]], wanted: tuple[str, ...]
) -> tuple[str | None, str | None]:
    """Text and name of the first attribute with one of the wanted names that is not blank."""
    folded = {_fold(name): name for name in reversed(list(attributes))}
    for name in (folded[w] for w in wanted if w in folded):
        text = attribute_text(attributes, options, name)
        if text is not None:
            return text, name
    return None, None


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = [key for key, on in value.items() if on]
    parts = value if isinstance(value, list) else [value]
    usable = [p for p in parts if isinstance(p, str | int | float) and not isinstance(p, bool)]
    return ",".join(str(int(p)) if isinstance(p, float) and p.is_integer() else str(p).strip() for p in usable)


def _spacing(text: str) -> tuple[float, float] | None:
    try:
        numbers = [float(part) for part in re.split(r"[\s,;x\\]+", text.strip("[]() \t"))]
    except ValueError:
        return None
    if len(numbers) not in (1, 2) or not all(math.isfinite(n) and n > 0 for n in numbers):
        return None
    return numbers[0], numbers[-1]
