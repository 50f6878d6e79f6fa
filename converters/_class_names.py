"""Names that people give to our classes, in English and German, and the user's own list of them."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vertinst.errors import DataError
from vertinst.files import read_json
from vertinst.structures.dataset import CLASSES
from vertinst.structures.spine import level_name

__all__ = ["ClassNames", "Named", "read_class_map"]

_ALIASES = {
    "lumbar": (
        "lumbar vertebra, lumbar vertebrae, lumbar vertebras, lumbar body, lumbar bodies, lumbar vertebral body, "
        "lumbar vertebral bodies, lumbar spine, l spine, vertebra lumbalis, vertebrae lumbales, lumbal, lumbale, lwk, "
        "lwks, lws, lw, lendenwirbel, lendenwirbelkörper, lumbalwirbel, lumbalwirbelkörper, lendenwirbelsäule, wirbel, "
        "wirbelkörper, wk, vb, vertebra, vertebrae, vertebras, vertebral body, vertebral bodies, corpus vertebrae"
    ),
    "sacral": (
        "sacrum, sacral vertebra, sacral vertebrae, sacral vertebras, sacral body, sacral bodies, sacral bone, "
        "sacral spine, sacral vertebral body, sacral vertebral bodies, os sacrum, vertebra sacralis, "
        "vertebrae sacrales, sakral, sakrale, sakrum, kreuzbein, kreuzbeine, kreuzbeinwirbel, kreuzwirbel, "
        "sakralwirbel, sakralwirbelkörper, sakralwirbelsäule, swk, sw"
    ),
    "cage": (
        "cages, interbody cage, interbody cages, interbody device, interbody spacer, intervertebral cage, fusion cage, "
        "spinal cage, peek cage, titanium cage, tlif cage, plif cage, alif cage, olif cage, xlif cage, llif cage, "
        "expandable cage, käfig, käfige, bandscheibenkäfig, zwischenwirbelkäfig, titankäfig, fusionskäfig, "
        "bandscheibencage, zwischenwirbelcage, titancage, fusionscage"
    ),
    "screw": (
        "screws, pedicle screw, pedicle screws, pedicular screw, pedicular screws, transpedicular screw, "
        "transpedicular screws, polyaxial screw, bone screw, spinal screw, sacral screw, lumbar screw, titanium screw, "
        "schraube, schrauben, pedikelschraube, pedikelschrauben, knochenschraube, knochenschrauben, polyaxialschraube, "
        "wirbelschraube, sakralschraube, titanschraube"
    ),
    "rod": (
        "rods, spinal rod, spinal rods, fixation rod, fixation rods, connecting rod, connecting rods, titanium rod, "
        "stab, stäbe, längsstab, längsstäbe, verbindungsstab, verbindungsstäbe, titanstab, fixateurstab, "
        "fixationsstab, längsträger, stange, stangen, gestänge"
    ),
}
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})
_SEPARATORS = re.compile(r"[\s_\-./]+")
# The paper counts T12 among the lumbar vertebrae and annotates no higher one; of the sacrum S1 and S2.
_LEVEL_CLASS = {"T12": "lumbar", **{f"L{n}": "lumbar" for n in range(1, 6)}, "S1": "sacral", "S2": "sacral"}
# `Wirbel L5`, `L5 vertebra`: the words say nothing more. `Lendenwirbel 5` may be a running number, and is no level.
_BONE_WORD = re.compile(r"vertebra|vertebral body|body|wirbel|wirbelkoerper|wk|corpus")
_ORDINAL = re.compile(r"(\d{1,2})\.\s*(lwk|bwk|swk|lendenwirbel|brustwirbel|sakralwirbel|kreuzbeinwirbel)(koerper)?")
_REGION = {"l": "L", "b": "T", "s": "S", "k": "S"}
_MAX_MAP_BYTES = 10_000_000
_NULLS = {"", "~", "null", "Null", "NULL"}


@dataclass(frozen=True)
class Named:
    """What a name stands for.

    Attributes:
        category: Our class, or None if the user's list says to skip it.
        level: L5, S1 ... if the name was one of a level, else None.
    """

    category: str | None
    level: str | None = None


@dataclass(frozen=True)
class ClassNames:
    """The user's list of names, and behind it the aliases.

    Attributes:
        user_map: Name in the annotations -> class, or None to skip it. Letter case, umlauts (ä = ae), blanks, `_`,
            `-` and `.` make no difference unless the list holds both spellings. The name "" stands for regions
            without a class.
    """

    user_map: Mapping[str, str | None] = field(default_factory=dict)

    @functools.cached_property
    def _folded(self) -> dict[str, str | None]:
        return {_fold(name): _target(target) for name, target in self.user_map.items()}

    def find(self, name: str) -> Named | None:
        """What `name` stands for, or None if it is unknown."""
        if name in self.user_map:
            return Named(_target(self.user_map[name]))
        if self._folded and (key := _fold(name)) in self._folded:
            return Named(self._folded[key])
        return _known(name)


def read_class_map(path: Path) -> dict[str, str | None]:
    """Read the user's list of class names.

    Args:
        path: YAML or JSON file: `their name: our class`, or `their name: null` for regions to be skipped. A class
            that is not one of ours is a new one. The name "" gives a class to regions without one.

    Raises:
        DataError: The file cannot be read, is no such list, is empty, or names something twice.
    """
    content = _read_yaml(path) if path.suffix.lower() in (".yaml", ".yml") else read_json(path)
    fix = "Write one line for each name, like\n  Lendenwirbel: lumbar\n  Bandscheibe: null"
    if not isinstance(content, dict) or not content:
        raise DataError("class map must be a list of `their name: our class`", where=path, fix=fix)
    result = {}
    for name, target in content.items():
        if not (target is None or (isinstance(target, str) and target.strip())):
            what = f"class must be a name or null, got {type(target).__name__} for {name!r}"
            raise DataError(what, where=path, fix=fix)
        result[name] = target.strip() if target is not None else None
    return result


def _read_yaml(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_MAP_BYTES:
            raise DataError(f"must be at most {_MAX_MAP_BYTES} bytes", where=path, fix="Give a list of class names.")
        return yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Texts)
    except IsADirectoryError as error:
        raise DataError("must be a file, got a folder", where=path, fix="Name the file in it.") from error
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, fix="Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        place = getattr(error, "problem_mark", None)
        line = f" (line {place.line + 1})" if place is not None else ""
        what = getattr(error, "problem", None) or "no UTF-8 text"
        raise DataError(f"is not valid YAML: {what}{line}", where=path, fix="Correct the file.") from error


class _Texts(yaml.BaseLoader):
    """Reads every scalar but null as a text: `no`, `on` and `05` are names here, no truth values and numbers."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        value = super().construct_object(node, deep)
        return None if isinstance(node, yaml.ScalarNode) and not node.style and value in _NULLS else value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        pairs = [(self.construct_object(key, deep=True), self.construct_object(v, deep=True)) for key, v in node.value]
        names = ["" if name is None else name for name, _ in pairs]
        if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            problem = "each name must be a text that stands once"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)
        return {name: value for name, (_, value) in zip(names, pairs, strict=True)}


def _target(target: str | None) -> str | None:
    """Our own class however it is capitalised; a new class as written."""
    return target.casefold() if target is not None and target.casefold() in CLASSES else target


def _fold(text: str) -> str:
    return _SEPARATORS.sub("", _plain(text))


def _plain(text: str) -> str:
    return unicodedata.normalize("NFC", text).casefold().translate(_UMLAUTS)


@functools.lru_cache(maxsize=4096)
def _known(name: str) -> Named | None:
    category = _aliases().get(_fold(name))
    if category is not None:
        return Named(category)
    level = _level(name)
    return Named(_LEVEL_CLASS[level], level) if level in _LEVEL_CLASS else None


def _level(name: str) -> str | None:
    level = level_name(name)
    if level is not None:
        return level
    text = _plain(name).strip()
    ordinal = _ORDINAL.fullmatch(text)
    if ordinal is not None:
        return level_name(f"{_REGION[ordinal[2][0]]}{ordinal[1]}")
    first, _, rest = re.sub(r"[\s_\-]+", " ", text).partition(" ")
    if _BONE_WORD.fullmatch(rest):
        return level_name(first)
    words, _, last = re.sub(r"[\s_\-]+", " ", text).rpartition(" ")
    return level_name(last) if _BONE_WORD.fullmatch(words) else None


@functools.cache
def _aliases() -> dict[str, str]:
    table = {_fold(alias): category for category, names in _ALIASES.items() for alias in names.split(",")}
    return table | {name: name for name in CLASSES}
