"""What converters are asked for, and what they could not take over as it stood."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field

__all__ = ["FilmFacts", "ReadOptions", "Skip"]


@dataclass(frozen=True)
class Skip:
    """One region (or film) that was skipped, repaired or clipped, so that nothing is lost in silence.

    Attributes:
        file: The annotation file, as the user gave it.
        image: Name of the film in that file.
        region: Number of the region in that file, from 0; None if the whole film is meant.
        reason: What was wrong and what was done about it. Holds no attribute but the class.
        repaired: The region was kept, changed as `reason` says; false if it was left out.
    """

    file: str
    image: str
    region: int | None
    reason: str
    repaired: bool = False


@dataclass(frozen=True)
class FilmFacts:
    """What an earlier conversion learnt from a film's header; holds for the file as long as size and time are the same.

    Attributes:
        size_bytes: Of the file.
        modified_ns: Time of its last change, nanoseconds.
        width: px, as stored.
        height: px, as stored.
        orientation: EXIF orientation, 1..8.
        pixel_spacing_mm: (row, column), or None.
        pixel_spacing_source: Where it comes from, or None.
    """

    size_bytes: int
    modified_ns: int
    width: int
    height: int
    orientation: int = 1
    pixel_spacing_mm: tuple[float, float] | None = None
    pixel_spacing_source: str | None = None


@dataclass(frozen=True)
class ReadOptions:
    """How annotations are to be understood; every converter that reads a foreign format takes them.

    Attributes:
        class_attribute: Attribute that holds the class; None finds it if only one fits.
        class_map: The user's names -> classes, or None to skip; known aliases need none.
        instance_attribute: Regions of one film and class with the same value of it are parts of one instance; None
            takes `instance` or `instanz`.
        patient_attribute: Film attribute that names the patient (a pseudonym); None takes `patient`, `patient_id` ...
        patient_regex: Searched in the film's file name: its first group (or all of it, if it has none) is the patient.
            Wins over attributes.
        line_width_px: Width that open lines are given; None lists and skips them.
        drop_duplicates: Of exactly repeated regions keep one; else they are kept and listed.
        ignore_exif: The films were annotated as stored, not turned as EXIF says: annotations are turned with the film.
        known_films: Headers read before, by file name relative to the image folder; readers add those that they read.
        mask_kind: What the pictures of a folder of masks hold: `instances` (a number or a file for each), `classes` (a
            number for each class) or `binary`; None finds out.
    """

    class_attribute: str | None = None
    class_map: Mapping[str, str | None] | None = None
    instance_attribute: str | None = None
    patient_attribute: str | None = None
    patient_regex: str | None = None
    line_width_px: float | None = None
    drop_duplicates: bool = False
    ignore_exif: bool = False
    known_films: MutableMapping[str, FilmFacts] = field(default_factory=dict)
    mask_kind: str | None = None
