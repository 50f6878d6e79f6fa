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
        "lumbar vertebra, lumbar vertebrae, lumbar vertebral body, lumbar vertebral bodies, lumbar spine, lumbal, lwk, "
        "lwks, lws, lendenwirbel, lendenwirbelkörper, lumbalwirbel, lumbalwirbelkörper, lendenwirbelsäule, wirbel, "
        "wirbelkörper, wk, vertebra, vertebrae, vertebral body, vertebral bodies"
    ),
    "sacral": (
        "sacrum, sacral vertebra, sacral vertebrae, sacral body, sacral vertebral body, os sacrum, sakral, sakrum, "
        "kreuzbein, kreuzbeinwirbel, sakralwirbel, sakralwirbelkörper, swk"
    ),
    "cage": "cages, interbody cage, intervertebral cage, fusion cage, käfig, käfige, bandscheibenkäfig",
    "screw": "screws, pedicle screw, pedicle screws, schraube, schrauben, pedikelschraube, pedikelschrauben",
    "rod": "rods, spinal rod, spinal rods, fixation rod, stab, stäbe, längsstab, längsstäbe, stange, stangen",
}
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue"})
_SEPARATORS = re.compile(r"[\s_\-./]+")
# The paper counts T12 among the lumbar vertebrae and annotates no higher one; of the sacrum S1 and S2.
_LEVEL_CLASS = {"T12": "lumbar", **{f"L{n}": "lumbar" for n in range(1, 6)}, "S1": "sacral", "S2": "sacral"}
_MAX_MAP_BYTES = 10_000_000


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
        DataError: The file cannot be read, is no such list, or is empty.
    """
    content = _read_yaml(path) if path.suffix.lower() in (".yaml", ".yml") else read_json(path)
    fix = "Write one line for each name, like\n  Lendenwirbel: lumbar\n  Bandscheibe: null"
    if not isinstance(content, dict) or not content:
        raise DataError("class map must be a list of `their name: our class`", where=path, fix=fix)
    result = {}
    for name, target in content.items():
        if not (target is None or (isinstance(target, str) and target.strip())):
            raise DataError(f"class must be a name or null, got {target!r} for {name!r}", where=path, fix=fix)
        result["" if name is None else str(name)] = target.strip() if target is not None else None
    return result


def _read_yaml(path: Path) -> Any:
    try:
        if path.stat().st_size > _MAX_MAP_BYTES:
            raise DataError(f"must be at most {_MAX_MAP_BYTES} bytes", where=path, fix="Give a list of class names.")
        return yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=path, fix="Check the path.") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        place = getattr(error, "problem_mark", None)
        line = f" (line {place.line + 1})" if place is not None else ""
        raise DataError(f"is not valid YAML{line}", where=path, fix="Correct the file.") from error


def _target(target: str | None) -> str | None:
    """Our own class however it is capitalised; a new class as written."""
    return target.casefold() if target is not None and target.casefold() in CLASSES else target


def _fold(text: str) -> str:
    folded = unicodedata.normalize("NFC", text).casefold().translate(_UMLAUTS)
    return _SEPARATORS.sub(" ", folded).strip()


@functools.lru_cache(maxsize=4096)
def _known(name: str) -> Named | None:
    category = _aliases().get(_fold(name))
    if category is not None:
        return Named(category)
    level = level_name(name)
    return Named(_LEVEL_CLASS[level], level) if level in _LEVEL_CLASS else None


@functools.cache
def _aliases() -> dict[str, str]:
    table = {_fold(alias): category for category, names in _ALIASES.items() for alias in names.split(",")}
    return table | {name: name for name in CLASSES}
