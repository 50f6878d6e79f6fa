"""Plug-ins by file name: `models/yolact.py` is the model `yolact`. There is no other list to keep."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from types import ModuleType

from vertinst.errors import ConfigError

__all__ = ["load", "names"]

# What makes a module of a package a plug-in rather than a part that plug-ins share.
CONTRACTS = {"models": ("Options", "build"), "converters": ("read", "write")}


def names(kind: str) -> tuple[str, ...]:
    """Names of all modules of `vertinst.<kind>`, sorted, those starting with `_` left out."""
    package = importlib.import_module(f"vertinst.{kind}")
    return tuple(sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_")))


def load(kind: str, name: str) -> ModuleType:
    """Import the plug-in `name` of a kind.

    Args:
        kind: `models` or `converters`.
        name: File name without `.py`.

    Returns:
        The module: a model has `Options` and `build`, a converter `read` or `write` or both.

    Raises:
        ConfigError: There is no such plug-in.
    """
    if name in names(kind):
        module = importlib.import_module(f"vertinst.{kind}.{name}")
        contract = CONTRACTS[kind]
        present = [hasattr(module, part) for part in contract]
        if all(present) or (kind == "converters" and any(present)):
            return module
    known = ", ".join(names(kind))
    raise ConfigError(f"unknown name {name!r} among {kind}", fix=f"Known: {known}.")
