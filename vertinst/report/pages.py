"""Templates of the pages, filled without a chance for strangers' files to write HTML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jinja2

__all__ = ["template"]


def template(name: str, filters: Mapping[str, Any]) -> jinja2.Template:
    """A template of this folder.

    Args:
        name: Its file.
        filters: Its own filters, functions that return text, by name. What they return is escaped, as everything is:
            names of films and classes, flags and levels come from strangers' files.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vertinst.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    return environment.get_template(name)
