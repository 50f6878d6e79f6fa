"""From annotation files to a data set on disk with its audit, and from a data set to other formats."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vertinst import plugins
from vertinst.data.near_duplicates import near_identical
from vertinst.data.pictures import SHOWN_BY_BROWSERS, write_pictures
from vertinst.data.splits import Split, split_by_patient, write_split
from vertinst.errors import ConfigError, DataError, OutputExistsError
from vertinst.files import check_folder, inside, prepare_folder, refuse_to_replace
from vertinst.progress import Progress, silent
from vertinst.report.audit import audit, known_films
from vertinst.report.audit_advice import advice
from vertinst.report.audit_page import write_audit
from vertinst.report.results import has_results, read_films
from vertinst.report.tables import write_tables
from vertinst.structures.conversion import ReadOptions, Skip
from vertinst.structures.dataset import Dataset

__all__ = ["Conversion", "convert", "export", "read_formats", "write_formats"]

# Formats of one file; the others are folders.
_FILES = ("cvat", "coco", "via")
TABLES = "csv"
"""The form of `export` that is no data set: tables for statistics."""

Listing = Callable[[Sequence[Skip]], None]


@dataclass(frozen=True)
class Conversion:
    """What a conversion made.

    Attributes:
        dataset: All films.
        skips: What was skipped or repaired.
        split: The parts, or None if none were asked for.
        advice: What the user can do about what was left out, in sentences.
        attention: How much of what needs a look there is, as the audit counts it; None what was not looked for.
        page: The audit as a page; its JSON lies beside it.
    """

    dataset: Dataset
    skips: tuple[Skip, ...]
    split: Split | None
    advice: tuple[str, ...]
    attention: Mapping[str, int | None]
    page: Path


def read_formats() -> tuple[str, ...]:
    """Formats that `convert` reads."""
    return tuple(
        n for n in plugins.names("converters") if n != "coco" and hasattr(plugins.load("converters", n), "read")
    )


def write_formats() -> tuple[str, ...]:
    """Formats that `export` writes: those of data sets, and tables (`csv`), which are made of predictions only."""
    forms = (n for n in plugins.names("converters") if hasattr(plugins.load("converters", n), "write"))
    return tuple(sorted((*forms, TABLES)))


def convert(
    form: str,
    sources: Sequence[Path],
    images: Path | None,
    out: Path,
    options: ReadOptions,
    *,
    ratios: Sequence[float] | None = None,
    seed: int = 0,
    strict: bool = False,
    overwrite: bool = False,
    listed: Listing = lambda skips: None,
    progress: Progress = silent,
) -> Conversion:
    """Read annotations and write them as COCO, whole or split by patient, with an audit beside them.

    Args:
        form: One of `read_formats`.
        sources: Annotation files or folders; several are merged.
        images: Folder of the films; None where the annotations state their sizes.
        out: COCO file, or with `ratios` the folder for train.json, val.json and test.json. The audit is
            `<out>.audit.json` and `.html`, or `audit.json` and `.html` in the folder.
        options: See `ReadOptions`; `known_films` is filled from the audit of an earlier conversion to `out`.
        ratios: Shares of train, val and test; None does not split.
        seed: Of the split.
        strict: Write nothing if anything was skipped or repaired.
        overwrite: Delete what the folder holds, or replace a file that no conversion wrote.
        listed: Told what was skipped or repaired, before anything is written or refused.
        progress: Told of each step.

    Raises:
        ConfigError: Unknown format, wrong shares, or `strict` and something was skipped.
        DataError: The annotations cannot be read; see the format.
        OutputExistsError: `out` is one of the inputs; or, and `overwrite` is false, a folder that is not empty, or a
            file without an audit beside it.
    """
    reader = _reader(form)
    if options.mask_kind is not None and form != "masks":
        raise ConfigError(f"{form} has no setting mask_kind", fix="Leave it out.")
    record = out / "audit.json" if ratios is not None else out.with_suffix(".audit.json")
    _check_output(out, [*sources, *([images] if images is not None else [])], ratios, overwrite=overwrite)
    options = replace(options, known_films=known_films(record))
    dataset, skips = reader.read(sources, images, options, progress=progress)
    listed(skips)
    if strict and skips:
        raise ConfigError(
            f"{len(skips)} regions were skipped or repaired and --strict is set; nothing was written",
            fix="Mend the regions listed above, or leave out --strict.",
        )
    split = split_by_patient(dataset, ratios, seed) if ratios is not None else None
    near = near_identical(dataset, images, progress) if images is not None else None
    sides = {name: [i.file_name for i in side.images] for name, side in split.sides.items()} if split else None
    findings = audit(
        dataset,
        skips,
        near=near,
        sides=sides,
        images=images,
        sources=[str(path) for path in sources],
        known=options.known_films,
    )
    findings["advice"] = advice(dataset, skips, images, options)
    if split is not None:
        write_split(split, out, overwrite=overwrite)
    else:
        plugins.load("converters", "coco").write(dataset, out)
    page = write_audit(findings, dataset, images, record, progress=progress)
    return Conversion(dataset, skips, split, tuple(findings["advice"]), findings["attention"], page)


def export(
    source: Path,
    form: str,
    out: Path,
    images: Path | None = None,
    *,
    pictures: Path | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
    **settings: Any,
) -> tuple[Dataset, tuple[Skip, ...]]:
    """Write a COCO file, or the predictions of a results folder, in another format, or predictions as tables.

    Args:
        source: COCO file, or folder made by `predict`.
        form: One of `write_formats`.
        out: File or folder to write, as the format has it.
        images: Folder of the films; VIA knows films by their sizes in bytes, which only the films tell.
        pictures: New folder for the films as PNG, which the export then is about; None writes none.
        overwrite: Delete what a folder `out` holds, or replace a file.
        progress: Told of each picture.
        settings: Settings of the format's `write`; those that are None are left to it.

    Returns:
        The data set, and what of it the format cannot hold.

    Raises:
        ConfigError: Unknown format, a setting that it does not have, or `pictures` without `images`.
        DataError: The source cannot be read, `images` is no folder, or tables are to be made of something else than
            the folder that `predict` wrote.
        OutputExistsError: `out` is the source; or, and `overwrite` is false, a folder that is not empty or a file.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if form == TABLES:
        asked = {"images": images, "pictures": pictures}
        given |= {name: value for name, value in asked.items() if value is not None}
        return _export_tables(source, out, given, overwrite=overwrite, progress=progress), ()
    write = _format(form, "write").write
    _refuse_settings(form, given.keys() - inspect.signature(write).parameters.keys())
    inputs = [source, *([images] if images is not None else [])]
    if form in _FILES and out.is_dir():
        raise OutputExistsError(f"must be a file for {form}, got a folder", where=out, fix="Name a file in it.")
    _check_export(out, inputs, images, pictures, overwrite=overwrite)
    dataset = _read_house(source, images)
    if pictures is not None and images is not None:
        prepare_folder(pictures, overwrite=overwrite, inputs=[*inputs, out])
        dataset = write_pictures(dataset, images, pictures, progress=progress)
    if out.is_dir():
        prepare_folder(out, overwrite=overwrite, inputs=inputs)
    losses = write(dataset, out, **given)
    return dataset, (*_not_shown(dataset, form), *(losses or ()))


def _refuse_settings(form: str, unknown: Set[str]) -> None:
    if unknown:
        raise ConfigError(f"{form} has no setting {', '.join(sorted(unknown))}", fix="Leave it out.")


def _export_tables(
    source: Path, out: Path, settings: Mapping[str, Any], *, overwrite: bool, progress: Progress
) -> Dataset:
    """Predictions as CSV; the data set is what they were made of."""
    _refuse_settings(TABLES, settings.keys())
    _check_export(out, [source], None, None, overwrite=overwrite)
    if not has_results(source):
        raise DataError(
            "tables are made of results, got no folder that `vertinst predict` wrote",
            where=source,
            fix="Give that folder; data sets of annotations hold no measures.",
        )
    check_folder(out, overwrite=overwrite, inputs=[source])
    films = read_films(source)
    dataset: Dataset = plugins.load("converters", "labelled").of_results(films, None, progress=progress)
    write_tables(films, prepare_folder(out, overwrite=overwrite, inputs=[source]))
    return dataset


def _check_export(
    out: Path, inputs: Sequence[Path], images: Path | None, pictures: Path | None, *, overwrite: bool
) -> None:
    """Before the work, not after it."""
    if any(out.resolve() == path.resolve() for path in inputs):
        raise OutputExistsError("the output would overwrite the input", where=out, fix="Choose another --out.")
    if images is not None and not images.is_dir():
        raise DataError("must be the folder of the films", where=images, fix="Give that folder with --images.")
    if pictures is not None and images is None:
        raise ConfigError("--pictures needs the films", fix="Give their folder with --images.")
    if out.is_file() and not overwrite:
        raise OutputExistsError(
            "exists, and may hold corrections by hand", where=out, fix="Choose another --out or add --overwrite."
        )


def _read_house(source: Path, images: Path | None) -> Dataset:
    """A COCO file, or the predictions of a results folder; with the films' sizes in bytes where there are films."""
    dataset: Dataset
    if not source.is_dir():
        dataset = plugins.load("converters", "coco").read(source)
        return _with_bytes(dataset, images) if images is not None else dataset
    if (source / "train.json").is_file():
        raise DataError(
            "is a folder of COCO files, of which one can be exported at a time",
            where=source,
            fix=f"Name one of them, for example {source / 'train.json'}",
        )
    dataset, _ = plugins.load("converters", "labelled").read([source], images)
    return dataset


def _not_shown(dataset: Dataset, form: str) -> tuple[Skip, ...]:
    """Films that VIA, which runs in a browser, cannot show."""
    names = [i.file_name for i in dataset.images if Path(i.file_name).suffix.lower() not in SHOWN_BY_BROWSERS]
    if form != "via" or not names:
        return ()
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    reason = f"this film{more} cannot be shown by VIA: --pictures FOLDER writes PNG films for it"
    return (Skip("", names[0], None, reason, repaired=True),)


def _reader(form: str) -> Any:
    if form == "coco":
        raise ConfigError(
            "COCO needs no conversion", fix="Use the file as it is; a broken one: vertinst convert repair."
        )
    return _format(form, "read")


def _format(form: str, what: str) -> Any:
    """A format's module; all others are loaded only to tell their names."""
    module = plugins.load("converters", form) if form in plugins.names("converters") else None
    if not hasattr(module, what):
        formats = read_formats() if what == "read" else write_formats()
        raise ConfigError(f"cannot {what} {form!r}", fix=f"Formats: {', '.join(formats)}.")
    return module


def _check_output(out: Path, inputs: Sequence[Path], ratios: Sequence[float] | None, *, overwrite: bool) -> None:
    """Before the work, not after it."""
    refuse_to_replace(out, inputs)
    if ratios is None:
        if out.is_dir():
            raise OutputExistsError("must be a file, got a folder", where=out, fix="Name a file: --out coco.json")
        if out.is_file() and not (out.with_suffix(".audit.json").is_file() or overwrite):
            raise OutputExistsError(
                "exists, and no conversion wrote it (no audit beside it)",
                where=out,
                fix="Choose another --out or add --overwrite.",
            )
        return
    check_folder(out, overwrite=overwrite, inputs=inputs)


def _with_bytes(dataset: Dataset, images: Path) -> Dataset:
    """The data set with the present sizes in bytes of the films that are there."""
    records = []
    for image in dataset.images:
        path = inside(images, image.file_name)
        size = {"size": path.stat().st_size} if path.is_file() else {}
        records.append(replace(image, source={**image.source, **size}))
    return replace(dataset, images=tuple(records))
