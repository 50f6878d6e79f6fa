"""The audit of a conversion: what was taken over, what was not, and what a human should look at again."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vertinst.data.near_duplicates import HASH_BITS, THRESHOLD, NearPair
from vertinst.report.audit_films import film_files, known_films
from vertinst.report.audit_measures import MAX_OVERLAP_OBJECTS, Measures, histogram, measure, summary
from vertinst.report.audit_suspects import FILM_RULES, INSTANCE_RULES, suspicious_films, suspicious_instances
from vertinst.structures import Dataset, ImageRecord
from vertinst.structures.conversion import FilmFacts, Skip
from vertinst.structures.spine import LEVELS
from vertinst.version import __version__

__all__ = ["SCHEMA_VERSION", "audit", "known_films"]

SCHEMA_VERSION = 1
_BINS = 24
# Names stand in quotation marks, and their digits tell them apart.
_NUMBER = re.compile(r"('[^']*'|\"[^\"]*\")|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")
# The word `of` and a file name after a region's number: one reason, whatever the file.
_OF_FILE = re.compile(r"(region …) of .*?(: left out)")


def audit(
    dataset: Dataset,
    skips: Sequence[Skip],
    *,
    near: Sequence[NearPair] | None = None,
    sides: Mapping[str, Sequence[str]] | None = None,
    images: Path | None = None,
    sources: Iterable[str] = (),
    known: Mapping[str, FilmFacts] | None = None,
) -> dict[str, Any]:
    """Count and measure a converted data set. Patients are counted and never named.

    Args:
        dataset: What the conversion gave.
        skips: What it skipped or repaired.
        near: Films that are nearly the same picture, from `near_identical`; None if it was not looked for. Without
            `images` nothing was looked for either.
        sides: Names of the films on each side of the split, or None without a split.
        images: Folder of the films, for the facts that a second conversion can use; None leaves these out.
        sources: Annotation files, as the user gave them.
        known: Facts of films' headers, as far as they are known.

    Returns:
        JSON-ready: `attention` (numbers of what is to be looked at), `counts`, `classes`, `levels`, `skips`,
        `suspicious`, `distributions`, `split`, `near_identical`, `film_files`. Shares are 0..1, sizes px.
    """
    measures = measure(dataset)
    reasons = _skips(skips)
    instances, films = suspicious_instances(dataset, measures), suspicious_films(dataset, measures)
    compared = near is not None and (images is not None or len(near) > 0)
    likeness = _near(dataset, near, sides or {}) if compared and near is not None else None
    kept = sum(skip.repaired for skip in skips)
    return {
        "schema_version": SCHEMA_VERSION,
        "vertinst": __version__,
        "sources": list(sources),
        "attention": {
            "skipped": len(skips) - kept,
            "changed": kept,
            "suspicious_instances": len(instances),
            "suspicious_films": len({film["image"] for film in films}),
            "near_identical": len(likeness["pairs"]) if likeness else None,
            "near_identical_across_sides": likeness["across_sides"] if likeness and sides else None,
        },
        "counts": _counts(dataset),
        "classes": _classes(dataset, measures),
        "levels": _levels(dataset),
        "skips": reasons,
        "suspicious": {
            "rules": {"instances": INSTANCE_RULES, "films": FILM_RULES},
            "kinds": dict(Counter(r["kind"] for entry in instances for r in entry["reasons"])),
            "instances": instances,
            "films": films,
        },
        "distributions": _distributions(dataset, measures),
        "split": _split(dataset, sides) if sides else None,
        "near_identical": likeness,
        "film_files": list(film_files(dataset, images, known or {})) if images is not None else [],
    }


def _skips(skips: Sequence[Skip]) -> dict[str, Any]:
    """Each one, and how many there are of each reason: reasons that differ in numbers only are one."""
    found: dict[tuple[bool, str], int] = Counter(
        (skip.repaired, _OF_FILE.sub(r"\1 of another file\2", _NUMBER.sub(lambda found: found[1] or "…", skip.reason)))
        for skip in skips
    )
    ranked = sorted(found.items(), key=lambda item: (item[0][0], -item[1], item[0][1]))
    return {
        "reasons": [{"reason": reason, "kept": kept, "count": count} for (kept, reason), count in ranked],
        "all": [
            {"file": s.file, "image": s.image, "region": s.region, "reason": s.reason, "kept": s.repaired}
            for s in skips
        ],
    }


def _counts(dataset: Dataset) -> dict[str, Any]:
    without = [image.file_name for image in dataset.images if not image.annotations]
    return {
        "films": len(dataset),
        "films_with_annotations": len(dataset) - len(without),
        "films_without_annotations": len(without),
        "without_annotations": without,
        "films_of_known_patient": sum(image.patient is not None for image in dataset.images),
        "patients": len({image.patient for image in dataset.images} - {None}),
        "instances": sum(not a.ignore for image in dataset.images for a in image.annotations),
        "ignored": sum(a.ignore for image in dataset.images for a in image.annotations),
        "unread_regions": sum(len(image.unread) for image in dataset.images),
    }


def _classes(dataset: Dataset, measures: Measures) -> list[dict[str, Any]]:
    ignored = Counter(a.category for image in dataset.images for a in image.annotations if a.ignore)
    films = Counter(name for image in dataset.images for name in {a.category for a in image.annotations})
    classes = []
    for name, rows in zip(dataset.categories, _rows_by_class(dataset, measures), strict=True):
        seen = rows[measures.area_px[rows] > 0]
        width, height = measures.sides_px[seen].T
        classes.append(
            {
                "name": name,
                "films": films[name],
                "instances": len(rows),
                "ignored": ignored[name],
                "area_share": summary(measures.area_share[seen]),
                "width_px": summary(width),
                "height_px": summary(height),
                "width_over_height": summary(width / height),
            }
        )
    return classes


def _rows_by_class(dataset: Dataset, measures: Measures) -> list[npt.NDArray[np.int64]]:
    order = np.argsort(measures.category, kind="stable")
    borders = np.searchsorted(measures.category[order], np.arange(1, len(dataset.categories)))
    return list(np.split(order, borders)) if dataset.categories else []


def _levels(dataset: Dataset) -> dict[str, Any]:
    """Instances by level from the top of the spine; other texts are counted, not shown: they may say anything."""
    found = Counter(a.level for image in dataset.images for a in image.annotations if not a.ignore)
    named = {level: found[level] for level in reversed(LEVELS) if found[level]}
    return {"counts": named, "none": found[None], "other_text": found.total() - found[None] - sum(named.values())}


def _distributions(dataset: Dataset, measures: Measures) -> dict[str, Any]:
    """Histograms: `edges` (one more than bins) and `counts` by class."""
    by_class = _rows_by_class(dataset, measures)
    seen = {name: rows[measures.area_px[rows] > 0] for name, rows in zip(dataset.categories, by_class, strict=True)}
    width, height = measures.sides_px.T
    longer = np.maximum(width, height)
    per_film = np.bincount(measures.film, minlength=len(dataset)).astype(np.float64)
    top = int(per_film.max(initial=0)) + 1
    film_edges = np.arange(top + 1.0) if top <= 60 else np.linspace(0, top, 41).round()
    first, second = measures.pairs.T
    same = measures.category[first] == measures.category[second]
    # Whole numbers lie in the middle of their bins.
    film_edges -= 0.5
    overlap_edges = np.linspace(0, 1, 21)
    return {
        "area_share": _logarithmic(measures.area_share, seen),
        "longer_side_px": _logarithmic(longer, seen),
        "width_over_height": _logarithmic(width / np.maximum(height, 1e-9), seen),
        "objects_per_film": {
            "edges": film_edges.tolist(),
            "counts": {"films": histogram(per_film, film_edges)},
            "summary": summary(per_film),
        },
        "overlap": {
            "edges": overlap_edges.round(2).tolist(),
            "counts": {
                "same class": histogram(measures.over_smaller[same], overlap_edges),
                "different classes": histogram(measures.over_smaller[~same], overlap_edges),
            },
            "pairs": len(same),
            "iou": summary(measures.iou),
            "over_smaller": summary(measures.over_smaller),
            "films_not_compared": [dataset.images[film].file_name for film in measures.not_compared],
            "max_objects": MAX_OVERLAP_OBJECTS,
        },
    }


def _logarithmic(values: npt.NDArray[np.float64], seen: Mapping[str, npt.NDArray[np.int64]]) -> dict[str, Any]:
    """Histogram with bins of equal ratio over the range of the values; no bins for no values."""
    used = {name: values[rows] for name, rows in seen.items() if len(rows)}
    if not used:
        return {"edges": [], "counts": {}}
    low = min(float(part.min()) for part in used.values())
    high = max(float(part.max()) for part in used.values())
    edges = np.geomspace(low * 0.999, high * 1.001, _BINS + 1)
    counts = {name: histogram(part, edges) for name, part in used.items()}
    return {"edges": [float(f"{edge:.4g}") for edge in edges], "counts": counts}


def _split(dataset: Dataset, sides: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    records = {image.file_name: image for image in dataset.images}
    members = {side: [records[name] for name in names if name in records] for side, names in sides.items()}
    whole = Counter(a.category for image in dataset.images for a in image.annotations)
    patients = Counter(p for images in members.values() for p in {i.patient for i in images} - {None})
    return {
        "sides": [_side(name, images, len(dataset), whole) for name, images in members.items()],
        "patients_on_several_sides": sum(count > 1 for count in patients.values()),
        "films_on_no_side": len(dataset) - sum(map(len, members.values())),
    }


def _side(name: str, images: Sequence[ImageRecord], films: int, whole: Counter[str]) -> dict[str, Any]:
    own = Counter(a.category for image in images for a in image.annotations)
    return {
        "name": name,
        "films": len(images),
        "films_share": round(len(images) / films, 4) if films else None,
        "patients": len({image.patient for image in images} - {None}),
        "films_of_unknown_patient": sum(image.patient is None for image in images),
        "classes": {
            category: {"instances": own[category], "share": round(own[category] / count, 4)}
            for category, count in whole.items()
        },
    }


def _near(dataset: Dataset, near: Sequence[NearPair], sides: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Pairs, and groups of films that chains of pairs join: a group, not a pair, tells whether films lie apart."""
    side_of = {name: side for side, names in sides.items() for name in names}
    patient_of = {image.file_name: image.patient for image in dataset.images}
    place = {name: number for number, name in enumerate(patient_of)}
    groups: list[dict[str, Any]] = [
        {
            "films": films,
            "sides": sorted({side_of[name] for name in films if name in side_of}),
            "one_patient": _one_patient([patient_of.get(name) for name in films]),
        }
        for films in (sorted(group, key=lambda name: place.get(name, 0)) for group in _joined(near))
    ]
    groups.sort(key=lambda group: (-len(group["sides"]), group["one_patient"] is not False))
    return {
        "bits": HASH_BITS,
        "threshold": THRESHOLD,
        "pairs": [{"a": pair.a, "b": pair.b, "distance": pair.distance} for pair in near],
        "groups": groups,
        "across_sides": sum(len(group["sides"]) > 1 for group in groups),
        "across_patients": sum(group["one_patient"] is False for group in groups),
    }


def _one_patient(patients: Sequence[str | None]) -> bool | None:
    known = set(patients) - {None}
    if len(known) > 1:
        return False
    return None if None in patients else True


def _joined(near: Sequence[NearPair]) -> list[list[str]]:
    """Films that chains of pairs join, in the order of their first pairs."""
    group: dict[str, list[str]] = {}
    for pair in near:
        a, b = (group.setdefault(name, [name]) for name in (pair.a, pair.b))
        if a is not b:
            small, large = sorted((a, b), key=len)
            large += small
            group.update(dict.fromkeys(small, large))
    distinct = {id(films): films for films in group.values()}
    return list(distinct.values())
