"""Which patient a film belongs to: in its attributes, or in its file name as the user's pattern finds it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vertinst.errors import ConfigError, DataError
from vertinst.structures.conversion import ReadOptions

from ._film_attributes import attribute_text, same_name
from ._source import Entry, Labels

__all__ = ["PatientReader"]


class PatientReader:
    """Reads the patient of films.

    Args:
        entries: All films as found.
        options: `patient_regex` wins over `patient_attribute`, and that over the usual names.

    Attributes:
        unmatched: File names that the pattern did not match, in the order in which they were read.

    Raises:
        ConfigError: The pattern is no regular expression.
        DataError: No film has the attribute.
    """

    def __init__(self, entries: Sequence[Entry], options: ReadOptions) -> None:
        self.unmatched: list[str] = []
        self._attribute = options.patient_attribute if options.patient_regex is None else None
        self._pattern: re.Pattern[str] | None = None
        if options.patient_regex is not None:
            self._pattern = _compiled(options.patient_regex)
        if self._attribute is not None:
            _require(self._attribute, [e.attributes for e in entries])

    def read(self, file_name: str, attributes: Mapping[str, Any], labels: Labels, usual: str | None) -> str | None:
        """Patient of a film.

        Args:
            file_name: As it was found in the image folder.
            attributes: The film's attributes.
            labels: What ids of their options stand for.
            usual: What stands under a usual name, for when the user asked for nothing else.

        Returns:
            A pseudonym, or None: the film is its own patient.
        """
        if self._pattern is not None:
            match = self._pattern.search(file_name)
            text = (match[1] if self._pattern.groups else match[0]) if match is not None else None
            if not text:
                self.unmatched.append(file_name)
            return text or None
        if self._attribute is None:
            return usual
        names = [self._attribute, *(n for n in attributes if same_name(n, self._attribute))]
        texts = (attribute_text(attributes, labels, name) for name in names if name in attributes)
        return next((text for text in texts if text is not None), None)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"patient pattern must be a regular expression, got {pattern!r}: {error}",
            fix="For example --patient-regex '^([^_]+)_' for names like P7_lateral.png",
        ) from error


def _require(wanted: str, films: Iterable[Mapping[str, Any]]) -> None:
    present = dict.fromkeys(name for attributes in films for name in attributes)
    if any(same_name(name, wanted) for name in present):
        return
    found = ", ".join(present)
    raise DataError(
        f"no film has the attribute {wanted!r}; attributes of films found: {found or 'none'}",
        fix="Give one of those with --patient-attribute, or --patient-regex if the file name holds the patient.",
    )
