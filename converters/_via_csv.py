"""CSV exports of VIA 1 and 2: one line for each region, with JSON in three of the cells."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vertinst.errors import DataError
from vertinst.files import MAX_JSON_BYTES
from vertinst.json_text import MAX_JSON_DEPTH, unique
from vertinst.structures.conversion import Skip

from ._source import Entry, Options, Region, tidy

__all__ = ["is_csv", "read_csv"]

_COLUMNS = (
    "filename",
    "file_size",
    "file_attributes",
    "region_count",
    "region_id",
    "region_shape_attributes",
    "region_attributes",
)
# VIA ends lines with any of these; Python's own list of line ends has more, which VIA leaves in its cells.
_LINE_END = re.compile(r"\r\n|\n|\r")
# Spreadsheets may part cells by other marks than VIA.
_HEADER = re.compile(r'\s*+#?\s*+"?filename"?([,;\t])')
# VIA 1 reads files without a header too: what follows the name, and what follows the attributes of the film.
_AFTER_NAME, _AFTER_FILM = re.compile(r',-?\d*+,"\{'), re.compile(r',\d++,\d++,"\{')
_NAME_AND_SIZE = {separator: re.compile(rf"(.*?){separator}(-?\d*+){separator}") for separator in ",;\t"}
_VIA_3 = re.compile(r"\s*+#[^\r\n]*\n(?:#[^\r\n]*\n)*# CSV_HEADER = metadata_id,")
# Quoted, with quotes doubled or escaped; or plain.
_INNER = {'"': r'(?:[^"]++|"")*+', "\\": r'(?:[^"\\]++|\\.)*+'}
_CELL = {
    (escape, separator): re.compile(rf'(?:"({inner})"|([^{separator}]*+))({separator}|$)')
    for escape, inner in _INNER.items()
    for separator in ",;\t"
}
_SNIFFED_BYTES = 65_536
_FIX = "In VIA choose Annotation > Export Annotations (as json), or Project > Save."


@dataclass
class _Film:
    """A film on its way through the lines that name it."""

    name: str
    size: str
    attributes: dict[str, Any] = field(default_factory=dict)
    regions: list[Region] = field(default_factory=list)
    stated: int = 0
    differ: bool = False


def is_csv(path: Path) -> bool:
    """Whether a file is a VIA CSV by its first lines; its name does not matter. False if it cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(_SNIFFED_BYTES).decode("utf-8-sig", "replace")
    except OSError:
        return False
    return bool(_HEADER.match(start) or _VIA_3.match(start)) or _is_row(_LINE_END.split(start, 1)[0])


def _is_row(line: str) -> bool:
    name = _AFTER_NAME.search(line)
    return name is not None and _AFTER_FILM.search(line, name.end()) is not None


def read_csv(path: Path) -> tuple[list[Entry], list[Skip]]:
    """Read all films of a CSV of VIA 1 (`#filename,...`, or no header) or VIA 2 (`filename,...`).

    VIA quotes the cells that hold JSON and doubles the quotes in them, and does not quote file names: commas that a
    line has too many belong to the name. Quotes escaped by a backslash, as other writers have it, and cells parted by
    `;` or tabs, as spreadsheets save them, are understood too. The lines of a film need not follow each other.

    Args:
        path: The file.

    Returns:
        The films in the order in which they are first named, those without regions included, and the lines that could
        not be read. Those of a film that other lines name as well are kept among its regions, as they stand.

    Raises:
        DataError: The file is not readable, larger than 2 GB, not UTF-8, without one of VIA's columns, or of VIA 3.
    """
    text = _text(path)
    if _VIA_3.match(text):
        raise DataError("is a CSV of VIA 3, which cannot be read", where=path, fix="Save the project itself in VIA 3.")
    lines = _LINE_END.split(text)
    found = _HEADER.match(text)
    separator = found[1] if found is not None else ","
    columns = _columns(lines, separator, path) if found is not None else list(_COLUMNS)
    films: dict[tuple[str, str], _Film] = {}
    damaged: dict[int, str] = {}
    skips: list[Skip] = []
    for number, line in enumerate(lines, start=1):
        # Spreadsheets write a row of empty cells for a blank one.
        if not line.replace(separator, "").strip() or _HEADER.match(line):
            continue
        cells = _row(line, columns, separator)
        if cells is None:
            damaged[number] = line
            continue
        key = str(cells["filename"]), str(cells["file_size"])
        _add(films.setdefault(key, _Film(*key)), cells)
    for number, line in damaged.items():
        skips.append(Skip(str(path), f"line {number}", None, "is not as VIA writes it: left out"))
        start = _NAME_AND_SIZE[separator].match(line)
        if start is not None and (film := films.get((start[1], start[2]))) is not None:
            _keep(film, number, line)
    options = Options()
    entries = []
    for film in films.values():
        skips += _doubts(film, str(path))
        source = {"filename": tidy(film.name), "size": int(film.size) if _is_whole(film.size) else tidy(film.size)}
        entries.append(Entry(str(path), film.name, film.attributes, _numbered(film.regions), options, source))
    return entries, skips


def _keep(film: _Film, number: int, line: str) -> None:
    """Keep a line that cannot be read as a region that cannot be drawn."""
    region_id = max(len(film.regions), film.regions[-1].number + 1 if film.regions else 0)
    film.regions.append(Region(region_id, {"name": f"line {number} of a CSV", "text": tidy(line)}, {}))


def _text(path: Path) -> str:
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise DataError(f"must be at most {MAX_JSON_BYTES} bytes, got {size}", where=path, fix="Split the file.")
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(
            f"cannot be read: {error.strerror}", where=path, fix="Check the path and permissions."
        ) from error
    except UnicodeDecodeError as error:
        raise DataError("must be UTF-8 text", where=path, fix="Save it as CSV UTF-8, or export it again.") from error


def _columns(lines: Sequence[str], separator: str, path: Path) -> list[str]:
    header = next(line for line in lines if line.strip())
    columns = [cell.strip().strip('"').lstrip("#").strip() for cell in header.split(separator)]
    missing = [c for c in _COLUMNS if c not in columns and c not in ("region_count", "region_id")]
    if missing:
        raise DataError(f"must have the column {', '.join(missing)}", where=path, fix=_FIX)
    return columns


def _row(line: str, columns: Sequence[str], separator: str) -> dict[str, Any] | None:
    """Cells by column, those with JSON read; None if they are not as VIA writes them."""
    for escape in _INNER:
        cells = _cells(line, separator, escape)
        if len(cells) < len(columns):
            continue
        surplus = len(cells) - len(columns)
        name = line[cells[0][0] : cells[surplus][1]] if surplus else cells[0][2]
        row: dict[str, Any] = dict(zip(columns, [name, *(cell[2] for cell in cells[surplus + 1 :])], strict=True))
        read = {key: _json(row[key]) for key in ("file_attributes", "region_shape_attributes", "region_attributes")}
        if row["filename"].strip() and None not in read.values():
            return row | read
    return None


def _cells(line: str, separator: str, escape: str) -> list[tuple[int, int, str]]:
    """Start, end and text of each cell. A quote that closes before no separator is an ordinary character."""
    cell = _CELL[escape, separator]
    found, start = [], 0
    while (match := cell.match(line, start)) is not None:
        quoted, plain, end = match.groups()
        text = plain if quoted is None else _unquoted(quoted, escape)
        found.append((start, match.start(3), text))
        if not end:
            break
        start = match.end()
    return found


def _unquoted(text: str, escape: str) -> str:
    return text.replace('""', '"') if escape == '"' else re.sub(r'\\(["\\])', r"\1", text)


def _json(cell: str) -> dict[str, Any] | None:
    """An object, empty where the cell is; None if the cell holds something else."""
    if not cell.strip():
        return {}
    try:
        content = json.loads(cell, object_pairs_hook=unique)
    except (ValueError, RecursionError):
        return None
    if cell.count("[") + cell.count("{") > MAX_JSON_DEPTH and _depth(content) > MAX_JSON_DEPTH:
        return None
    return {} if content is None else content if isinstance(content, dict) else None


def _depth(content: Any) -> int:
    level, depth = [content], 0
    while level := [v for v in level if isinstance(v, dict | list)]:
        level = [child for v in level for child in (v.values() if isinstance(v, dict) else v)]
        depth += 1
    return depth


def _add(film: _Film, cells: Mapping[str, Any]) -> None:
    attributes = tidy(cells["file_attributes"])
    film.differ |= any(name in film.attributes and film.attributes[name] != v for name, v in attributes.items())
    film.attributes |= attributes
    count, number = cells.get("region_count", ""), cells.get("region_id", "")
    stated = int(count) if _is_whole(count) else 0
    film.stated = max(film.stated, stated)
    shape, own = cells["region_shape_attributes"], cells["region_attributes"]
    # A film without regions has one line, with empty cells.
    if shape or own or stated > 0:
        position = len(film.regions)
        film.regions.append(Region(int(number) if _is_whole(number) else position, shape, tidy(own)))


def _numbered(regions: Sequence[Region]) -> tuple[Region, ...]:
    """Regions with numbers of their own: some programs write 0 on every line."""
    if len({region.number for region in regions}) < len(regions):
        return tuple(replace(region, number=number) for number, region in enumerate(regions))
    return tuple(regions)


def _doubts(film: _Film, file: str) -> Iterator[Skip]:
    if film.differ:
        reason = "lines of the film differ in its attributes: those of the last taken"
        yield Skip(file, film.name, None, reason, repaired=True)
    if film.stated > len(film.regions):
        yield Skip(file, film.name, None, f"should have {film.stated} regions, has {len(film.regions)}")


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"-?\d{1,15}", text, re.ASCII) is not None
