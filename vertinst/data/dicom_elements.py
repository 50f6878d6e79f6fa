"""Values of DICOM elements from their bytes: pydicom's own conversion warns, and its warnings quote values."""

from __future__ import annotations

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

__all__ = ["FilmFault", "integer", "items", "numbers", "raw", "texts"]

_LONGEST_TEXT = 1024
_LARGEST = 1e9


class FilmFault(ValueError):
    """A film that cannot be read. The text says why and the way out, with no value of the header but pixel facts."""

    def __init__(self, message: str, fix: str = "Export it again, uncompressed, or as 16-bit PNG or TIFF.") -> None:
        super().__init__(message)
        self.fix = fix


def raw(dataset: Dataset, keyword: str) -> tuple[bytes, str]:
    """Bytes of an element and `little` or `big`; no bytes where it is missing or a sequence."""
    element = dataset.get_item(keyword)
    if isinstance(element, RawDataElement) and isinstance(element.value, bytes):
        return element.value, "little" if element.is_little_endian else "big"
    return b"", "little"


def texts(dataset: Dataset, keyword: str) -> list[str]:
    """Values of a text element without blanks and padding; none where it is missing or far too long."""
    value = raw(dataset, keyword)[0]
    if len(value) > _LONGEST_TEXT:
        return []
    return [part.strip(" \0") for part in value.decode("ascii", "replace").split("\\")]


def numbers(dataset: Dataset, keyword: str) -> list[float]:
    """Values of a decimal element; none if one of them is no number, or beyond any sense."""
    try:
        found = [float(text) for text in texts(dataset, keyword)]
    except ValueError:
        return []
    return found if all(abs(value) <= _LARGEST for value in found) else []


def integer(dataset: Dataset, keyword: str, *, signed: bool = False) -> int | None:
    """The one value of a 16-bit element; None where it is missing or of another length."""
    value, order = raw(dataset, keyword)
    if len(value) != 2:
        return None
    return int.from_bytes(value, "little" if order == "little" else "big", signed=signed)


def items(dataset: Dataset, keyword: str) -> list[Dataset]:
    """Items of a sequence; none where it is missing or none that can be read."""
    if keyword not in dataset:
        return []
    try:
        return [item for item in dataset[keyword].value or () if isinstance(item, Dataset)]
    except Exception:
        # pydicom raises of many kinds. A film without its table is still a film.
        return []
