"""From YAML and `--set` to settings, and from pydantic's errors to ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from vertinst.errors import ConfigError

__all__ = ["check_settings", "differences", "packaged_configs", "read_overrides", "read_settings"]

M = TypeVar("M", bound=BaseModel)
MAX_CONFIG_BYTES = 1_000_000
# What PyYAML ends in where a text is not what its tag says, or keys are no texts.
DAMAGED = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError)


def read_settings(name_or_path: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """Settings of a YAML file with single ones replaced; what they mean is not looked at here.

    Args:
        name_or_path: A YAML file, or the name of a packaged one with or without `.yaml`.
        overrides: `key=value` with dots between keys; the value is read as YAML.

    Returns:
        The mapping, and in words where it comes from.

    Raises:
        ConfigError: No such file, or it or a value is not YAML.
    """
    source, text = _read(name_or_path)
    content = _parse(text, source)
    if not isinstance(content, dict | None):
        raise ConfigError(f"must be a mapping of keys, got {type(content).__name__}", where=source)
    settings: dict[str, Any] = content or {}
    keys = [_override(settings, override) for override in overrides]
    return settings, f"{source} with --set {', '.join(keys)}" if keys else source


def read_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Settings of `key=value` texts alone, as `read_settings` reads them.

    Raises:
        ConfigError: One is not `key=value`, or its value is not YAML.
    """
    settings: dict[str, Any] = {}
    for override in overrides:
        _override(settings, override)
    return settings


def check_settings(
    model: type[M], settings: Mapping[str, Any], where: str | None = None, prefix: tuple[str, ...] = ()
) -> M:
    """Make a pydantic model from settings of the outside, its errors told as ours.

    Args:
        model: What they must fit.
        settings: Keys and values.
        where: What the user wrote them in.
        prefix: Keys above these, for the message.

    Raises:
        ConfigError: Every unknown key, with the nearest known ones, and every wrong value.
    """
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        problems = [_explain(e, model, prefix) for e in error.errors()]
        fixes = dict.fromkeys(fix for _, fix in problems if fix)
        raise ConfigError("; ".join(text for text, _ in problems), where=where, fix=" ".join(fixes)) from error


def packaged_configs() -> tuple[str, ...]:
    """Names of the packaged settings, sorted, without `.yaml`."""
    folder = resources.files("vertinst.configs")
    return tuple(sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml")))


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[str, ...]:
    """Dotted keys whose values differ between two dumped settings, sorted; a missing key differs from any value."""
    left, right = dict(_flat(a)), dict(_flat(b))
    absent = object()
    return tuple(sorted(k for k in left.keys() | right.keys() if left.get(k, absent) != right.get(k, absent)))


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", list(value) if isinstance(value, tuple) else value


def _read(name_or_path: str) -> tuple[str, str]:
    path = Path(name_or_path)
    name = name_or_path.removesuffix(".yaml")
    try:
        if path.is_file():
            if path.stat().st_size > MAX_CONFIG_BYTES:
                raise ConfigError(f"must be at most {MAX_CONFIG_BYTES} bytes", where=path, fix="Is this a config?")
            return str(path), path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read: {error}", where=path, fix="Save it as UTF-8 text.") from error
    known = packaged_configs()
    if name in known:
        return f"{name}.yaml", (resources.files("vertinst.configs") / f"{name}.yaml").read_text("utf-8")
    raise ConfigError(
        "no such config file, nor a packaged one of that name",
        where=name_or_path,
        fix=f"{_nearest(name, known)}Packaged: {', '.join(known)}.",
    )


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice: the first would be lost in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key {key.value!r} given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parse(text: str, source: str) -> Any:
    try:
        # A subclass of SafeLoader builds plain containers, numbers and text, nothing else.
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError, *DAMAGED) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        problem = getattr(error, "problem", None) or str(error) or type(error).__name__
        raise ConfigError(f"is not valid YAML: {place}{problem}", where=source, fix="Repair that line.") from error


def _override(settings: dict[str, Any], override: str) -> str:
    key, equals, value = override.partition("=")
    key = key.strip()
    if not equals or not key:
        raise ConfigError(f"--set must be key=value, got {override!r}", fix="For example --set optim.lr=0.001.")
    *parents, last = key.split(".")
    place = settings
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise ConfigError(f"{parent} has no keys of its own", where=f"--set {override}", fix="Check the dots.")
    place[last] = _parse(value, f"--set {key}")
    return key


def _explain(error: Any, model: type[BaseModel], prefix: tuple[str, ...]) -> tuple[str, str]:
    """One problem in words, and the way out."""
    location = [str(part) for part in error["loc"]]
    key = ".".join((*prefix, *location))
    if error["type"] == "extra_forbidden":
        known = _keys_at(model, location[:-1])
        return f"unknown key {key}", f"{_nearest(location[-1], known)}Known: {', '.join(sorted(known))}."
    got = "" if error["type"] == "value_error" else f", got {error['input']!r}"
    return f"{key or 'settings'}: {error['msg']}{got}", f"Correct {key}."


def _keys_at(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    for part in location:
        field = model.model_fields.get(part)
        kinds = [k for k in (field.annotation, *get_args(field.annotation)) if isinstance(k, type)] if field else []
        model = next((k for k in kinds if issubclass(k, BaseModel)), model)
    return list(model.model_fields)


def _nearest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(near)}? " if near else ""
