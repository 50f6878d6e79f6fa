"""VIA out: a project of VGG Image Annotator 2, to be opened, corrected and read again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vertinst.errors import ConfigError, DataError
from vertinst.files import write_json
from vertinst.structures.conversion import Skip
from vertinst.structures.dataset import Dataset, ImageRecord

from ._film_attributes import untold_fields
from ._source import as_mapping
from ._via_definitions import choose, complete, labels_of
from ._via_parts import Film, regions_of
from ._via_regions import class_attribute, name_all

__all__ = ["write"]

Section = dict[str, dict[str, Any]]

_MAX_TOLERANCE_PX = 1000.0


def write(dataset: Dataset, path: Path, *, film_path: str = "", tolerance_px: float = 0.0) -> tuple[Skip, ...]:
    """Write a VIA 2 project; `read` gives the same annotations again.

    Outlines, attributes, regions that could not be read, and attribute definitions are written as their source had
    them. Added is what would be missed when the project is read again: the class (a dropdown of the categories)
    unless an attribute of the source says it, the level, `ignore`, a common `instance` for the parts of one
    annotation, and patient, view and pixel spacing of films. Masks without outlines become polygons that cover exactly
    the same pixels; VIA has no holes, so that a mask with holes is cut through them into parts of one instance.

    The dropdown is known for ours when the project is read again, whatever its classes are called; VIA's annotation
    exports hold no definitions, so that classes that are not ours need `--class-attribute` there.

    Args:
        dataset: Possibly without films.
        path: Written aside and renamed; an existing file is replaced.
        film_path: Folder of the films, as a browser finds it from where VIA's page lies; VIA puts it before each
            name, so names are then those of the data set, relative to the folder. If empty, names are those that the
            source wrote (URLs, for example) as long as they name the same file, and the user adds the films in VIA,
            which knows them by name.
        tolerance_px: 0 gives every pixel of the masks without outlines; above that, their polygons have as few points
            as keep each boundary within this distance, for a person to correct, and parts of less area than a circle of
            this radius are left out where a larger one is there.

    Returns:
        What was thinned or left out, outlines that do not belong to their masks, and regions that no annotation was
        made of whose shapes would make VIA stop: they are written under another name, which VIA leaves alone.

    Raises:
        ConfigError: The tolerance is not from 0 to 1000 px.
        DataError: An attribute cannot be written as JSON.
        VertinstError: The file cannot be written.
    """
    if not 0 <= tolerance_px <= _MAX_TOLERANCE_PX:
        raise ConfigError(
            f"tolerance must be from 0 to {_MAX_TOLERANCE_PX:g} px, got {tolerance_px:g}",
            fix="Give a distance on your films, for example --tolerance 1.",
        )
    losses: list[Skip] = []
    films = [regions_of(image, losses, tolerance_px) for image in dataset.images]
    try:
        write_json(path, _project(dataset, films, path.stem, film_path, losses))
    except (ValueError, TypeError) as error:
        raise DataError("an attribute cannot be written as JSON", where=path, fix="Use text and numbers.") from error
    return tuple(losses)


def _project(dataset: Dataset, films: Sequence[Film], name: str, film_path: str, losses: list[Skip]) -> dict[str, Any]:
    unread = [as_mapping(r, "region_attributes") for image in dataset.images for r in image.unread]
    written = [p.attributes for film in films for _, parts in film.groups for p in parts]
    region = complete(_section(dataset, "region"), [*written, *unread])
    named, reader = class_attribute(dataset, films, region)
    name_all(films, reader, region)
    film = complete(_section(dataset, "file"), [image.attributes for image in dataset.images])
    attributes = [_film_attributes(image, film) for image in dataset.images]
    # Completed once more: what was just added has no definition yet.
    region, film = complete(region, written), complete(film, attributes)
    names = _names(dataset.images, own=bool(film_path))
    entries = [_entry(*each, losses) for each in zip(films, names, attributes, strict=True)]
    keys = _keys(entries)
    return {
        "_via_settings": _settings(name, film_path, _label(films, named), named),
        "_via_img_metadata": dict(zip(keys, entries, strict=True)),
        "_via_attributes": {"region": region, "file": film},
        "_via_data_format_version": "2.0.10",
        "_via_image_id_list": keys,
    }


def _section(dataset: Dataset, kind: str) -> Mapping[str, Any]:
    return dataset.attribute_definitions.get(kind) or {}


def _entry(film: Film, name: str, attributes: Mapping[str, Any], losses: list[Skip]) -> dict[str, Any]:
    parts = [part for _, parts in film.groups for part in parts]
    regions = [{"shape_attributes": p.shape, "region_attributes": p.attributes} for p in parts]
    size = film.image.source.get("size")
    known = isinstance(size, int | str) and not isinstance(size, bool)
    fileref = film.image.source.get("fileref")
    return {
        "filename": name,
        "size": size if known else -1,
        "regions": [*regions, *(_as_region(r, film.image.file_name, losses) for r in film.image.unread)],
        "file_attributes": dict(attributes),
        **({"fileref": fileref} if fileref else {}),
    }


def _as_region(unread: Mapping[str, Any], film: str, losses: list[Skip]) -> dict[str, Any]:
    """A region that VIA can load and draw whatever it holds."""
    shape, attributes = (dict(as_mapping(unread, key)) for key in ("shape_attributes", "region_attributes"))
    if _stops_via(shape):
        reason = f"{shape['name']} that no program can draw: kept as a shape that VIA does not know"
        losses.append(Skip("", film, None, reason, repaired=True))
        shape["name"] = f"unreadable {shape['name']}"
    return {**unread, "shape_attributes": shape, "region_attributes": attributes}


def _stops_via(shape: Mapping[str, Any]) -> bool:
    """Whether VIA, which passes over shapes that it does not know, would stop at this one when it shows the film."""
    name = shape.get("name")
    if name in ("polygon", "polyline"):
        return not all(isinstance(shape.get(key), list) for key in ("all_points_x", "all_points_y"))
    return name in ("circle", "ellipse") and any(_is_negative(shape.get(key)) for key in ("r", "rx", "ry"))


def _is_negative(value: Any) -> bool:
    """Whether a browser takes a value for a number below 0."""
    if isinstance(value, str):
        return value.strip().startswith("-")
    return isinstance(value, int | float) and value < 0


def _names(images: Sequence[ImageRecord], *, own: bool) -> list[str]:
    """Names as the source wrote them where they still name that file and no other; else (or if `own`) ours."""
    usable = [i.file_name if own else _written_name(i) for i in images]
    counts = Counter(usable)
    return [name if counts[name] == 1 else i.file_name for name, i in zip(usable, images, strict=True)]


def _written_name(image: ImageRecord) -> str:
    written = image.source.get("filename")
    if isinstance(written, str) and _base(written) == _base(image.file_name):
        return written
    return image.file_name


def _base(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).name


def _keys(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """VIA's ids: file name and size without a separator; where two are equal (`a1` + `2`, `a` + `12`) numbered."""
    keys: dict[str, None] = {}
    for entry in entries:
        key = wanted = f"{entry['filename']}{entry['size']}"
        number = 1
        while key in keys:
            number += 1
            key = f"{wanted}_{number}"
        keys[key] = None
    return list(keys)


def _film_attributes(image: ImageRecord, section: Section) -> dict[str, Any]:
    """A film's attributes, those that are only known otherwise put first, where they win."""
    added = untold_fields(image, labels_of(section))
    if "pixel_spacing_mm" in added:
        added["pixel_spacing_mm"] = ", ".join(map(repr, added["pixel_spacing_mm"]))
    # What the annotator wrote is never replaced.
    free = {name: text for name, text in added.items() if image.attributes.get(name) in (None, "")}
    return {name: choose(section, name, text) for name, text in free.items()} | {
        name: value for name, value in image.attributes.items() if name not in free
    }


def _label(films: Iterable[Film], named: str | None) -> str | None:
    """The attribute that VIA shows on every region: level or class. VIA stops drawing at one that is not text."""
    found: list[Mapping[str, Any]] = [p.attributes for film in films for _, parts in film.groups for p in parts]
    found += [as_mapping(r, "region_attributes") for film in films for r in film.image.unread]
    for name in ("level", named):
        if name is not None and found and all(isinstance(attributes.get(name), str) for attributes in found):
            return name
    return None


def _settings(name: str, film_path: str, label: str | None, color: str | None) -> dict[str, Any]:
    """VIA's own defaults, with the folder of the films, and level and class shown on the regions."""
    return {
        "ui": {
            "annotation_editor_height": 25,
            "annotation_editor_fontsize": 0.8,
            "leftsidebar_width": 18,
            "image_grid": {
                "img_height": 80,
                "rshape_fill": "none",
                "rshape_fill_opacity": 0.3,
                "rshape_stroke": "yellow",
                "rshape_stroke_width": 2,
                "show_region_shape": True,
                "show_image_policy": "all",
            },
            "image": {
                "region_label": label or "__via_region_id__",
                "region_color": color or "__via_default_region_color__",
                "region_label_font": "10px Sans",
                "on_image_annotation_editor_placement": "NEAR_REGION",
            },
        },
        "core": {
            "buffer_size": 18,
            "filepath": {},
            "default_filepath": film_path if film_path.endswith(("/", "\\")) or not film_path else f"{film_path}/",
        },
        "project": {"name": name},
    }
