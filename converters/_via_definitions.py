"""VIA 2's attribute definitions (`_via_attributes`), made complete: VIA's editor stumbles over what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ._classes import CLASS_NOTE

__all__ = ["choose", "complete", "define_classes", "labels_of"]

_CHOICES = ("dropdown", "radio", "checkbox", "image")


def complete(section: Mapping[str, Any], found: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Definitions of one section, `region` or `file`, as VIA's editor needs them.

    What is defined stays as it is, and only gets the keys that VIA reads without looking. Attributes that occur and
    have no definition become text, or checkboxes if they hold dicts.

    Args:
        section: Attribute -> definition; may be anything.
        found: Attributes of all regions (or films).

    Returns:
        A copy: attribute -> definition.
    """
    result = {name: _usable(definition) for name, definition in section.items()}
    own = set(result)
    for attributes in found:
        for name, value in attributes.items():
            if name in own:
                continue
            if isinstance(value, Mapping):
                if result.get(name, {}).get("type") != "checkbox":
                    result[name] = _of_type("checkbox")
                result[name]["options"] |= {key: key for key in value}
            elif name not in result:
                result[name] = _of_type("text")
    return result


def define_classes(section: dict[str, dict[str, Any]], name: str, categories: Iterable[str]) -> None:
    """Define the dropdown that holds the class, so that it is known for ours when it is read again."""
    for definition in section.values():
        if definition.get("description") == CLASS_NOTE:
            definition["description"] = ""
    options = {category: category for category in categories}
    section[name] = {**_of_type("dropdown"), "description": CLASS_NOTE, "options": options}


def choose(section: dict[str, dict[str, Any]], name: str, text: str) -> Any:
    """A value for an attribute in the form its definition asks for; the option is added where there is none such.

    Args:
        section: Complete definitions; gets the option.
        name: Of the attribute, defined or not.
        text: Option id or text.
    """
    definition = section.get(name, {})
    if definition.get("type") not in _CHOICES:
        return text
    definition["options"].setdefault(text, text)
    return {text: True} if definition["type"] == "checkbox" else text


def labels_of(section: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """What option ids stand for: attribute -> id -> label."""
    options = {name: d.get("options") for name, d in section.items()}
    return {
        name: {str(key): label for key, label in found.items() if isinstance(label, str) and label.strip()}
        for name, found in options.items()
        if isinstance(found, Mapping)
    }


def _of_type(kind: str) -> dict[str, Any]:
    more: dict[str, Any] = {"default_value": ""} if kind == "text" else {"options": {}, "default_options": {}}
    return {"type": kind, "description": "", **more}


def _usable(definition: Any) -> dict[str, Any]:
    if not isinstance(definition, Mapping):
        return _of_type("text")
    kind = definition.get("type")
    result = {**definition, "type": kind if isinstance(kind, str) else "text"}
    if result["type"] in _CHOICES:
        for key in ("options", "default_options"):
            value = result.get(key)
            result[key] = dict(value) if isinstance(value, Mapping) else {}
    return result
