"""One family of errors: what was expected, what was got, where, and the way out."""

from __future__ import annotations

from typing import Any

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DownloadError",
    "NonFiniteLossError",
    "OutputExistsError",
    "VertinstError",
]


class VertinstError(Exception):
    """A fault that the user can mend. The command line shows it as one message and exits with code 2.

    Args:
        message: What was expected and what was got.
        where: File, image or region concerned. Never anything that names a patient.
        fix: What the user can do about it.
    """

    def __init__(self, message: str, *, where: object | None = None, fix: str | None = None) -> None:
        super().__init__(message, where, fix)
        self.message = message
        self.where = where
        self.fix = fix

    def __reduce__(self) -> tuple[Any, ...]:
        # The usual way would give `where` and `fix` by position, so that no process could send an error to another.
        return _again, (type(self), self.message, self.where, self.fix)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where is not None else ""
        way_out = f"\n{self.fix}" if self.fix else ""
        return f"{place}{self.message}{way_out}"


def _again(kind: type[VertinstError], message: str, where: object | None, fix: str | None) -> VertinstError:
    return kind(message, where=where, fix=fix)


class DataError(VertinstError):
    """A film, an annotation or a data set that cannot be used as it is."""


class ConfigError(VertinstError):
    """A setting that is unknown, misspelled or out of its range."""


class CheckpointError(VertinstError):
    """A weights file that is broken, foreign, or made for other classes."""


class DownloadError(VertinstError):
    """A public file that could not be fetched."""


class OutputExistsError(VertinstError):
    """An output that would be overwritten."""


class NonFiniteLossError(VertinstError):
    """Training produced a loss that is not a finite number."""
