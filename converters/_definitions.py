"""Attribute definitions of several files as one, so that no option id means two things."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vertinst.structures.conversion import Skip

from ._source import Entry, Labels, Options

__all__ = ["Definitions", "unite_definitions"]

Definitions = dict[str, dict[str, Any]]
_Renamed = dict[str, dict[str, str]]
_Counts = Counter[tuple[str, str, str]]
_KINDS = ("region", "file")
_HOLDERS = {"region": "regions", "file": "films"}
_REWRITTEN = "mean something else in an earlier file: rewritten"
_BORROWED = "are not explained in this file: read as another file defines them"


def unite_definitions(entries: Sequence[Entry]) -> tuple[list[Entry], Definitions, list[Skip]]:
    """Make the option ids of several files agree.

    Options are joined under the ids of the first file that defines the attribute. Where a later file's id stands for
    another label, its values are rewritten to the id that has this label already, or else to a new one, which is the
    label itself. Where the first file has the attribute as text, the later file's ids become their labels. The ids of
    a file without any definitions (exports, CSV) are read as the other files define them, and that is listed.

    Args:
        entries: In the order of the files.

    Returns:
        The films, with values and labels changed where need was; the definitions of all files, as VIA 2 writes
        `_via_attributes`; and a list of the files and attributes whose values were rewritten or read so.
    """
    united: Definitions = {}
    labels: dict[str, dict[str, dict[str, str]]] = {kind: {} for kind in _KINDS}
    changes: dict[int, tuple[dict[str, _Renamed], Options]] = {}
    for options in {id(e.options): e.options for e in entries}.values():
        renamed = {kind: _join(kind, options, united, labels) for kind in _KINDS}
        if any(renamed.values()):
            changes[id(options)] = renamed, _relabelled(options, renamed)
    result, rewritten, borrowed = [], _Counts(), _Counts()
    shared = Options(labels["region"], labels["file"])
    for entry in entries:
        change = changes.get(id(entry.options))
        if change is not None:
            result.append(_rewritten(entry, *change, rewritten))
        elif united and not (entry.options.definitions or entry.options.region or entry.options.film):
            _count_ids(entry, shared, borrowed)
            result.append(replace(entry, options=shared))
        else:
            result.append(entry)
    return result, united, [*_listed(rewritten, _REWRITTEN), *_listed(borrowed, _BORROWED)]


def _join(kind: str, options: Options, united: Definitions, labels: dict[str, dict[str, dict[str, str]]]) -> _Renamed:
    """Add a file's definitions to those of the files before; the ids that must be renamed in it, by attribute."""
    renamed: _Renamed = {}
    own = _labels(options, kind)
    for name, definition in options.definitions.get(kind, {}).items():
        added = own.get(name, {})
        if name not in united.setdefault(kind, {}):
            united[kind][name] = definition
            labels[kind][name] = dict(added)
            continue
        known = labels[kind][name]
        changed = _rename(known, added)
        if changed:
            renamed[name] = changed
        if known:
            known.update({changed.get(i, i): label for i, label in added.items()})
            united[kind][name] = _with_options(united[kind][name], known)
    return renamed


def _rename(known: Mapping[str, str], added: Mapping[str, str]) -> dict[str, str]:
    if not known:
        return {i: label.strip() for i, label in added.items() if i != label.strip()}
    ids = {label.strip(): i for i, label in reversed(list(known.items()))}
    changed: dict[str, str] = {}
    taken = {*known, *added}
    numbered: dict[str, Iterator[int]] = {}
    for i, label in added.items():
        text = label.strip()
        if i not in known or known[i].strip() == text:
            continue
        new = ids.get(text)
        if new is None:
            # Counted on from where the label was last: thousands of options may be called the same.
            numbers = numbered.setdefault(text, itertools.count(2))
            new = text if text not in taken else next(t for n in numbers if (t := f"{text} {n}") not in taken)
            taken.add(new)
        changed[i] = new
    return changed


def _with_options(definition: Any, labels: Mapping[str, str]) -> Any:
    if not isinstance(definition, dict):
        return definition
    written = definition.get("options")
    return {**definition, "options": {**labels, **(written if isinstance(written, dict) else {})}}


def _labels(options: Options, kind: str) -> Labels:
    return options.region if kind == "region" else options.film


def _relabelled(options: Options, renamed: Mapping[str, _Renamed]) -> Options:
    region, film = (
        {
            name: {renamed[kind].get(name, {}).get(i, i): label for i, label in found.items()}
            for name, found in _labels(options, kind).items()
        }
        for kind in _KINDS
    )
    return Options(region, film, options.definitions)


def _rewritten(entry: Entry, renamed: Mapping[str, _Renamed], options: Options, counts: _Counts) -> Entry:
    def rewrite(kind: str, attributes: Mapping[str, Any]) -> Mapping[str, Any]:
        result = dict(attributes)
        for name, found in attributes.items():
            if name in renamed[kind] and (value := _value(found, renamed[kind][name])) != found:
                result[name] = value
                counts[entry.file, kind, name] += 1
        return result

    regions = tuple(replace(r, attributes=rewrite("region", r.attributes)) for r in entry.regions)
    return replace(entry, attributes=rewrite("file", entry.attributes), regions=regions, options=options)


def _count_ids(entry: Entry, options: Options, counts: _Counts) -> None:
    """Count the values of an entry that are ids of options."""
    holders = [("file", entry.attributes), *(("region", region.attributes) for region in entry.regions)]
    for kind, attributes in holders:
        defined = _labels(options, kind)
        for name, value in attributes.items():
            if name in defined:
                # Whatever is not an id stays as it is, and so does an id that is its own label.
                counts[entry.file, kind, name] += _value(value, defined[name]) != value


def _value(value: Any, ids: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        result: dict[str, Any] = {}
        for i, on in value.items():
            # Two old ids may have become one: ticked if either was.
            result[ids.get(i, i)] = result.get(ids.get(i, i)) or on
        return result
    if isinstance(value, str | int) and not isinstance(value, bool):
        return ids.get(str(value).strip(), value)
    return value


def _listed(counts: _Counts, what: str) -> list[Skip]:
    return [
        Skip(file, "", None, f"option ids of attribute {name!r} {what} in {count} {_HOLDERS[kind]}", repaired=True)
        for (file, kind, name), count in counts.items()
        if count
    ]
