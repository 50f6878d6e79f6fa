"""Which class a region belongs to: which attribute says so, and what its value stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vertinst.errors import DataError
from vertinst.structures.dataset import CLASSES

from ._class_names import ClassNames
from ._shapes import RegionFault
from ._source import Entry, Options

__all__ = ["CLASS_NOTE", "ClassReader", "choose_classes", "require_instances", "ticked", "truth"]

CLASS_NOTE = "class of the annotation, as vertinst wrote it"
"""Description of the dropdown that our own projects hold the class in: its options are the classes, whatever they are
called."""

# Searched in turn: whichever group holds a fitting attribute decides. Names that usually mean something else come last.
_USUAL = frozenset(
    {"class", "classes", "klasse", "label", "labels", "objekte", "objekt", "object", "objects", "type", "typ", "name"}
    | {"category", "kategorie", "structure", "struktur", "anatomy", "anatomie"}
)
_RESERVED = frozenset({"instance", "instanz", "ignore", "level", "höhe", "side", "seite", "comment", "kommentar"})
_LAST = frozenset({"level", "höhe"})
_NO = frozenset({"", "0", "false", "no", "nein", "n", "none"})


@dataclass(frozen=True)
class ClassReader:
    """Reads the class of regions.

    Attributes:
        attribute: Name of the region attribute that holds it; None if none does.
        names: What its values stand for.
        keep_unknown: Values that stand for nothing known are classes of their own.
    """

    attribute: str | None
    names: ClassNames
    keep_unknown: bool = False

    def read(self, attributes: Mapping[str, Any], options: Options) -> tuple[str, str | None]:
        """Class of a region, and its level if the class value was the name of one.

        Raises:
            RegionFault: The region has no class, several, an unknown one, or one that the user's list skips.
        """
        choices = ticked(attributes, self.attribute, options) if self.attribute is not None else []
        if not choices:
            return self._unnamed()
        known = {found for texts in choices if (found := _first_known(texts, self.names)) is not None}
        value = ", ".join(texts[0] for texts in choices)[:80]
        if len(known) > 1:
            raise RegionFault(f"must have one class, got {value!r}")
        if not known and not (self.keep_unknown and len(choices) == 1):
            raise RegionFault(f"unknown class {value!r}")
        category, level = known.pop() if known else (value, None)
        if category is None:
            raise RegionFault(f"class {value!r} is skipped by the class map")
        return category, level

    def _unnamed(self) -> tuple[str, None]:
        found = self.names.find("")
        if found is None:
            raise RegionFault(f"has no class (attribute {self.attribute!r} is absent or empty)")
        if found.category is None:
            raise RegionFault("has no class: skipped by the class map")
        return found.category, None


def choose_classes(
    entries: Sequence[Entry], requested: str | None, class_map: Mapping[str, str | None] | None
) -> ClassReader:
    """Decide which region attribute holds the class.

    Without `requested`, an attribute fits if at least half of the regions that have it hold a known class there: one
    of the class map, of ours, an alias, or the name of a level. Attributes with usual names (class, Objekte, label,
    type, name ...) are looked at first, then all others, and only then `level`. With `requested`, if none of its
    values is known and there is no class map, every value becomes a class of its own; if some are known, regions with
    other values are skipped. In projects that we wrote, the attribute that we put the class in goes before all others,
    and its options are classes as they stand.

    Raises:
        DataError: No attribute fits, several do, the requested one does not exist, or no region has a known class.
    """
    names = ClassNames(dict(class_map or {}))
    regions = [(r.attributes, e.options) for e in entries for r in e.regions]
    if not regions:
        return ClassReader(requested, names)
    present = dict.fromkeys(name for attributes, _ in regions for name in attributes)
    declared, classes = _declared(entries)
    if declared is not None and requested in (None, declared):
        return ClassReader(declared, ClassNames({**classes, **names.user_map}))
    if requested is not None:
        return _requested(requested, regions, names, present)
    known, filled = _count(regions, names)
    fitting = [name for name in present if known[name] and 2 * known[name] >= filled[name]]
    for group in (_USUAL, None, _LAST):
        found = [n for n in fitting if (n.casefold() in group if group else n.casefold() not in _USUAL | _RESERVED)]
        if len(found) > 1:
            raise DataError(
                f"the class must be in one region attribute, got several that fit: {', '.join(found)}",
                fix=f"Name the right one: --class-attribute {found[0]}",
            )
        if found:
            return ClassReader(found[0], names)
    if names.find("") is not None and not present:
        return ClassReader(None, names)
    raise _nothing_fits(present)


def _declared(entries: Iterable[Entry]) -> tuple[str | None, dict[str, str | None]]:
    """The attribute that we wrote the class to, in all files that have regions, and its options' ids and labels."""
    sections = {id(e.options): e.options.definitions.get("region", {}) for e in entries if e.regions}
    found = [
        [(name, d) for name, d in section.items() if isinstance(d, Mapping) and d.get("description") == CLASS_NOTE]
        for section in sections.values()
    ]
    names = {name for declared in found for name, _ in declared}
    if len(names) != 1 or any(len(declared) != 1 for declared in found):
        return None, {}
    options = [d["options"] for declared in found for _, d in declared if isinstance(d.get("options"), Mapping)]
    labels = [(str(key), str(label).strip() or str(key)) for o in options for key, label in o.items()]
    return names.pop(), {text: label for key, label in labels for text in (key, label) if text.strip()}


def require_instances(entries: Sequence[Entry], attribute: str | None) -> None:
    """Refuse an attribute, meant to join the parts of instances, that no region has; None is fine.

    Raises:
        DataError: There are regions, and none has it.
    """
    present = dict.fromkeys(name for e in entries for r in e.regions for name in r.attributes) if attribute else {}
    if attribute and attribute not in present and any(e.regions for e in entries):
        raise DataError(
            f"no region has the attribute {attribute!r}; attributes found: {', '.join(present) or 'none'}",
            fix="Give one of those with --instance-attribute.",
        )


def ticked(attributes: Mapping[str, Any], name: str, options: Options) -> list[tuple[str, ...]]:
    """What an attribute says: for each chosen option the texts that may name it, its label before its id.

    Args:
        attributes: A region's attributes.
        name: Which one; it may be absent.
        options: Labels of the options.

    Returns:
        One tuple for text, numbers, dropdowns and radio buttons; one for each ticked box of a checkbox dict; none if
        the value is absent, null or blank.
    """
    value = attributes.get(name)
    if type(value) is str and name not in options.region:
        # What nearly all of them are.
        text = value.strip()
        return [(text,)] if text else []
    ids = [k for k, on in value.items() if _text(on).casefold() not in _NO] if isinstance(value, dict) else [value]
    labels = options.region.get(name, {})
    texts = [text for i in ids if (text := _text(i))]
    return [(labels[t].strip(), t) if t in labels else (t,) for t in texts]


def truth(attributes: Mapping[str, Any], name: str, options: Options) -> bool:
    """Whether a yes-or-no attribute says yes; absent, blank, `0`, `false`, `no` and `nein` are no."""
    return any(all(t.casefold() not in _NO for t in texts) for texts in ticked(attributes, name, options))


def _requested(
    requested: str, regions: Sequence[tuple[Mapping[str, Any], Options]], names: ClassNames, present: Iterable[str]
) -> ClassReader:
    if requested not in present:
        found = ", ".join(present)
        raise (
            _nothing_fits(present)
            if not found
            else DataError(
                f"no region has the attribute {requested!r}; attributes found: {found}",
                fix="Give one of those with --class-attribute.",
            )
        )
    known, _ = _count(regions, names, only=requested)
    if not known[requested] and names.user_map and names.find("") is None:
        raise DataError(
            f"none of the values of {requested!r} is in the class map or is one of {', '.join(CLASSES)}",
            fix="Write the values as they are in VIA into the class map.",
        )
    return ClassReader(requested, names, keep_unknown=not known[requested] and not names.user_map)


def _count(
    regions: Iterable[tuple[Mapping[str, Any], Options]], names: ClassNames, only: str | None = None
) -> tuple[Counter[str], Counter[str]]:
    """How many regions have a known class in each attribute, and how many have anything there."""
    known: Counter[str] = Counter()
    filled: Counter[str] = Counter()
    # Most regions say one of a few words: each is looked up once.
    judged: dict[tuple[str, str, int], tuple[bool, bool]] = {}
    for attributes, options in regions:
        for name in attributes if only is None else (only,):
            value = attributes.get(name)
            key = (name, value, id(options)) if isinstance(value, str) else None
            verdict = judged.get(key) if key is not None else None
            if verdict is None:
                choices = ticked(attributes, name, options)
                verdict = bool(choices), any(_first_known(texts, names) is not None for texts in choices)
            if key is not None:
                judged[key] = verdict
            filled[name] += verdict[0]
            known[name] += verdict[1]
    return known, filled


def _nothing_fits(present: Iterable[str]) -> DataError:
    found = ", ".join(present)
    if not found:
        return DataError(
            "no region has an attribute, so none has a class",
            fix='Name the classes in VIA, or give all regions one: --class-map FILE with the line  "": lumbar',
        )
    return DataError(
        f"no region attribute holds {', '.join(CLASSES)} or a known name of one; attributes found: {found}",
        fix="Name the one that holds the class with --class-attribute, or translate its values with --class-map.",
    )


def _first_known(texts: tuple[str, ...], names: ClassNames) -> tuple[str | None, str | None] | None:
    for text in texts:
        found = names.find(text)
        if found is not None:
            return found.category, found.level
    return None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, int | float) else ""
