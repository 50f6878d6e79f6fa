"""Detectron2's YAML files, read without running anything in them.

Detectron2 itself loads them with `yaml.unsafe_load` and takes a file's `_BASE_` from anywhere, the web included. Here a
file is plain YAML, and its bases lie in its own folder or in Detectron2's zoo.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from vertinst import files
from vertinst.errors import ConfigError, DataError

__all__ = ["read_config"]

BASE = "_BASE_"
MAX_BASES = 10
MAX_BYTES = 1_000_000
# What PyYAML ends in where a text is not what its tag says.
DAMAGED = (ValueError, LookupError, AttributeError, ArithmeticError)


class _Loader(yaml.SafeLoader):
    """Plain YAML without aliases, by which a few bytes can say what no memory holds."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="an alias, written with *")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


def read_config(name: str, zoo: Path) -> dict[str, Any]:
    """A YAML file of Detectron2 with its bases merged in; Detectron2 itself is not asked.

    Args:
        name: A path, or a name below `zoo`.
        zoo: Folder of Detectron2's configs.

    Returns:
        Plain values, nested.

    Raises:
        ConfigError: No such file, another kind of file, not plain YAML, or a base outside of its folder.
    """
    if not name.endswith((".yaml", ".yml")):
        raise ConfigError(
            "must be a YAML file of Detectron2",
            where=f"model.config={name}",
            fix="Its .py configs are programs, which are not run here.",
        )
    path = Path(name)
    if not path.is_file():
        path = _in_zoo(name, zoo)
    return _read(path, path.parent, zoo, [])


def _in_zoo(name: str, zoo: Path) -> Path:
    try:
        path = files.inside(zoo, name)
    except DataError:
        path = None
    if path is not None and path.is_file():
        return path
    known = sorted(p.relative_to(zoo).as_posix() for p in zoo.rglob("*.yaml"))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    near = near or ["COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml", "Misc/cascade_mask_rcnn_R_50_FPN_3x.yaml"]
    raise ConfigError(
        "no such config file, nor one of Detectron2's zoo", where=name, fix=f"Did you mean {' or '.join(near)}?"
    )


def _read(path: Path, folder: Path, zoo: Path, read: list[Path]) -> dict[str, Any]:
    # All of them count, not only those one below the other: each can have many.
    if len(read) > MAX_BASES:
        raise ConfigError(f"must have at most {MAX_BASES} bases in all", where=path, fix=f"Check {BASE}.")
    read.append(path)
    content = _load(path)
    bases = content.pop(BASE, [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list) else [bases]:
        merged = _over(merged, _read(_find_base(str(base), path, folder, zoo), folder, zoo, read))
    return _over(merged, content)


def _load(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"must be at most {MAX_BYTES} bytes", where=path, fix="Is this a config?")
        content = yaml.load(path.read_text("utf-8-sig"), _Loader)
    except (OSError, yaml.YAMLError, RecursionError, *DAMAGED) as error:
        problem = getattr(error, "problem", None) or type(error).__name__
        raise ConfigError(
            f"must be plain YAML ({problem})",
            where=path,
            fix="Tags such as !!python run code and are refused, as aliases are: write values out.",
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"must be a mapping of keys, got {type(content).__name__}", where=path)
    return content


def _find_base(base: str, path: Path, folder: Path, zoo: Path) -> Path:
    """The file meant by a base; one that leads outside (a project's `../../../../configs/x`) is sought in the zoo."""
    found = (path.parent / base).resolve() if "\0" not in base else None
    inside = found is not None and any(found.is_relative_to(place.resolve()) for place in (folder, zoo))
    if found is not None and inside and found.is_file():
        return found
    tail = base.rpartition("configs/")[2]
    try:
        return _in_zoo(tail, zoo)
    except ConfigError:
        raise ConfigError(
            f"{BASE} must lie in the folder of the config or in Detectron2's zoo, got {base[:100]!r}",
            where=path,
            fix="Copy the base beside the config.",
        ) from None


def _over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with the values of `above` laid over it."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged
