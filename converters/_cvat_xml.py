"""CVAT out: a data set as XML of CVAT for images 1.1."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np

from vertinst.errors import DataError
from vertinst.files import write_with
from vertinst.structures import rle as rle_masks
from vertinst.structures.conversion import Skip
from vertinst.structures.dataset import Dataset, ImageRecord
from vertinst.structures.rle import Rle

from ._pieces import Piece, film_attributes, pieces, refuse_empty
from ._shapes import RegionFault, trace
from ._stated import UNREAD

__all__ = ["FILM_TAG", "write"]

FILM_TAG = "film"
"""Label of the tag whose attributes are the film's."""

# Characters that XML 1.0 has not, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# Attributes that CVAT has a place of its own for.
_OWN = {"occluded": "0", "z_order": "0"}


def write(dataset: Dataset, path: Path) -> tuple[Skip, ...]:
    """Write one XML file of CVAT for images 1.1; `read` gives the same films, classes and masks again.

    To import it, make a task of the same films with the labels and attributes listed at the head of the file: CVAT
    drops attributes that its labels do not name. Outlines are written vertex by vertex where they give the mask, else
    the mask itself; parts share a `group_id`. Attributes are text in CVAT: numbers, null, true and false come back as
    text, and what is neither text nor number as JSON. A film's attributes are those of a tag `film`. Regions that are
    no annotations get the label `unread` where CVAT has such a shape.

    Args:
        dataset: At least one film.
        path: Written aside and renamed; an existing file is replaced.

    Returns:
        What could not be written as it is.

    Raises:
        DataError: There is no film.
        VertinstError: The file cannot be written.
    """
    refuse_empty(dataset, path)
    losses: list[Skip] = []
    films = [_film(number, image, losses) for number, image in enumerate(dataset.images)]
    for film, image in zip(films, dataset.images, strict=True):
        if _clean(film):
            reason = "characters that XML has not, in names or attributes: written as `?`, ends of lines in its own way"
            losses.append(Skip("", image.file_name, None, reason, repaired=True))
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    root.append(_meta(dataset, films))
    root.extend(films)
    indent(root)
    try:
        write_with(path, lambda temporary: ElementTree(root).write(temporary, encoding="utf-8", xml_declaration=True))
    except (TypeError, UnicodeError) as error:
        raise DataError("a name or attribute cannot be written as XML", where=path, fix="Use plain text.") from error
    return tuple(losses)


def _meta(dataset: Dataset, films: Sequence[Element]) -> Element:
    meta = Element("meta")
    task = SubElement(meta, "task")
    for name, text in (("name", "vertinst"), ("size", str(len(films))), ("mode", "annotation")):
        SubElement(task, name).text = text
    used: dict[str, dict[str, None]] = {_cleaned(name): {} for name in dataset.categories}
    for film in films:
        for shape in film:
            names = used.setdefault(shape.get("label", ""), {})
            names.update(dict.fromkeys(a.get("name", "") for a in shape.iter("attribute")))
    labels = SubElement(task, "labels")
    for label, names in used.items():
        element = SubElement(labels, "label")
        SubElement(element, "name").text = label
        SubElement(element, "type").text = "tag" if label == FILM_TAG else "any"
        attributes = SubElement(element, "attributes")
        for name in names:
            attribute = SubElement(attributes, "attribute")
            fields = (
                ("name", name),
                ("mutable", "False"),
                ("input_type", "text"),
                ("default_value", ""),
                ("values", ""),
            )
            for key, text in fields:
                SubElement(attribute, key).text = text
    return meta


def _film(number: int, image: ImageRecord, losses: list[Skip]) -> Element:
    size = {"width": str(image.width), "height": str(image.height)}
    film = Element("image", {"id": str(number), "name": image.file_name, **size})
    attributes = film_attributes(image)
    if attributes:
        _add_attributes(SubElement(film, "tag", {"label": FILM_TAG, "source": "manual"}), attributes)
    for piece in pieces(image, losses):
        film.append(_shape(piece))
    for region in image.unread:
        shape = _unread(region)
        if shape is None:
            losses.append(Skip("", image.file_name, None, "a region that could not be read has no shape that CVAT has"))
        else:
            film.append(shape)
    return film


def _unread(region: Mapping[str, Any]) -> Element | None:
    shape, attributes = region.get("shape_attributes"), region.get("region_attributes")
    if not isinstance(shape, Mapping) or not isinstance(attributes, Mapping):
        return None
    try:
        if shape.get("name") not in ("point", "polyline"):
            trace(shape)
        return _shape(Piece(UNREAD, shape, None, attributes))
    except (RegionFault, KeyError, TypeError, ValueError, OverflowError):
        return None


def _shape(piece: Piece) -> Element:
    name, fields = _mask(piece.mask) if piece.mask is not None else _outline(piece.shape or {})
    own = {key: _text(piece.attributes.get(key, default)) or default for key, default in _OWN.items()}
    group = {"group_id": str(piece.group)} if piece.group else {}
    occluded = "0" if own["occluded"].casefold() in ("0", "false", "no") else "1"
    z_order = own["z_order"] if re.fullmatch(r"-?\d{1,9}", own["z_order"]) else "0"
    head = {"label": piece.category, "source": "manual", "occluded": occluded}
    element = Element(name, {**head, **fields, "z_order": z_order, **group})
    # What the two fields do not say is said among the attributes.
    said = {"occluded": occluded, "z_order": z_order}
    _add_attributes(element, {k: v for k, v in piece.attributes.items() if k not in said or _text(v) != said[k]})
    return element


def _outline(shape: Mapping[str, Any]) -> tuple[str, dict[str, str]]:
    name = shape["name"]
    if name == "rect" and shape["width"] > 0 and shape["height"] > 0:
        x, y = shape["x"], shape["y"]
        corners = {"xtl": x, "ytl": y, "xbr": x + shape["width"], "ybr": y + shape["height"]}
        return "box", {key: _decimal(value) for key, value in corners.items()}
    if name in ("circle", "ellipse"):
        radii = (shape["r"], shape["r"]) if name == "circle" else (shape["rx"], shape["ry"])
        values = dict(zip(("cx", "cy", "rx", "ry"), (shape["cx"], shape["cy"], *radii), strict=True))
        fields = {key: _decimal(value) for key, value in values.items()}
        turned = math.degrees(shape.get("theta", 0))
        return "ellipse", {**fields, **({"rotation": _decimal(turned)} if turned else {})}
    if name == "point":
        return "points", {"points": f"{_decimal(shape['cx'])},{_decimal(shape['cy'])}"}
    if name in ("polygon", "polyline"):
        pairs = list(zip(shape["all_points_x"], shape["all_points_y"], strict=True))
    else:
        pairs = trace(shape).tolist()
    points = ";".join(f"{_decimal(x)},{_decimal(y)}" for x, y in pairs)
    return "polyline" if name == "polyline" else "polygon", {"points": points}


def _mask(mask: Rle) -> tuple[str, dict[str, str]]:
    """CVAT's runs: along the rows of the mask's box, those outside first."""
    left, top, right, bottom = (int(v) for v in rle_masks.box_xyxy(mask))
    flat = rle_masks.decode(mask)[top:bottom, left:right].ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=False))
    runs = np.diff(edges, prepend=0, append=flat.size).tolist()
    box = {"left": left, "top": top, "width": right - left, "height": bottom - top}
    return "mask", {"rle": ", ".join(map(str, runs)), **{key: str(value) for key, value in box.items()}}


def _add_attributes(element: Element, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        SubElement(element, "attribute", {"name": str(name)}).text = _text(value)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _clean(film: Element) -> bool:
    """Make the texts of an element fit for XML; whether any had to be changed."""
    is_changed = False
    for element in film.iter():
        for key, value in element.attrib.items():
            element.set(key, _cleaned(value))
            is_changed |= element.get(key) != value
        text = element.text or ""
        # Parsers make one of all ends of lines.
        element.text = _cleaned(text).replace("\r\n", "\n").replace("\r", "\n")
        is_changed |= element.text != text
    return is_changed


def _cleaned(text: str) -> str:
    return _NOT_XML.sub("?", text)


def _decimal(value: float) -> str:
    """The shortest text that gives the same number again."""
    if not math.isfinite(value):
        raise ValueError("not a number")
    return repr(float(value)) if value != int(value) else f"{int(value)}.00"
