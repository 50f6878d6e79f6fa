"""From the values that a DICOM film stores to grey: modality, window, inversion, by DICOM PS3.3 C.11 and PS3.4 N.2.

A film has at most 65536 different values, so everything is worked out once for each of them.

The window rule, the same for training, prediction and reports: the header's first VOI table, else its first window,
if it shows something of this film; else no window. It shows something if at least a tenth of the pixels lie inside it
(neither black nor white; the film's own two extreme values, collimation and burnt-in letters, not counted), and if
these spread over at least a sixteenth of the grey scale. Afterwards films of every format, DICOM or not, are stretched
between the same percentiles (`radiograph.window`): a DICOM film and its PNG export look alike to a network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset

from vertinst.data.dicom_elements import integer, items, numbers, raw, texts

__all__ = ["Display", "Table", "Window", "read_display"]

Values: TypeAlias = npt.NDArray[np.float64]

_DARK, _BRIGHT = 0.005, 0.995
_LEAST_INSIDE, _LEAST_SPREAD = 0.1, 1 / 16
_WHITE = 65535


@dataclass(frozen=True)
class Window:
    """A VOI window.

    Attributes:
        center: Modality value that becomes middle grey.
        width: Of the range shown; at least 1 for LINEAR, above 0 for the others.
        function: `LINEAR`, `LINEAR_EXACT` or `SIGMOID`.
    """

    center: float
    width: float
    function: str = "LINEAR"

    def apply(self, values: Values) -> Values:
        """Grey 0..1 of modality values, by the formulas of PS3.3 C.11.2.1.2 and C.11.2.1.3."""
        if self.function == "SIGMOID":
            # Beyond +-700 the exponential overflows, and the curve is flat.
            grey: Values = 1 / (1 + np.exp(np.clip(-4 * (values - self.center) / self.width, -700, 700)))
            return grey
        if self.function == "LINEAR_EXACT":
            return np.clip((values - self.center) / self.width + 0.5, 0, 1)
        if self.width == 1:
            return (values > self.center - 0.5).astype(np.float64)
        return np.clip((values - (self.center - 0.5)) / (self.width - 1) + 0.5, 0, 1)


@dataclass(frozen=True, eq=False)
class Table:
    """A modality or VOI table.

    Attributes:
        first: Value of the first entry; what lies below gets that entry, what lies above the last.
        entries: (N,) float64.
        brightest: Highest entry that its bits allow.
    """

    first: int
    entries: Values
    brightest: float

    def look_up(self, values: Values) -> Values:
        """Entries for values."""
        index = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        found: Values = self.entries[index.astype(np.int64)]
        return found

    def apply(self, values: Values) -> Values:
        """Grey 0..1 of modality values."""
        return np.clip(self.look_up(values) / self.brightest, 0, 1)


@dataclass(frozen=True, eq=False)
class Display:
    """How stored values become grey.

    Attributes:
        bits: Stored bits of a value, 1..16.
        is_signed: Stored values are in two's complement.
        slope: Of the rescaling; not 0.
        intercept: Of the rescaling.
        table: Modality table, instead of the rescaling, or None.
        voi: Tables and windows of the header, the first that shows something is taken.
        padding: Stored value of pixels outside of the picture, or None.
    """

    bits: int
    is_signed: bool
    slope: float = 1.0
    intercept: float = 0.0
    table: Table | None = None
    voi: tuple[Window | Table, ...] = ()
    padding: int | None = None

    def show(self, stored: npt.NDArray[np.uint16], *, inverted: bool) -> npt.NDArray[np.uint16]:
        """Grey of stored values.

        Args:
            stored: (H, W), the stored bits and no others, two's complement not yet interpreted.
            inverted: White is 0, as in MONOCHROME1; turned around after the window.

        Returns:
            (H, W) uint16, 0 black, 65535 white.
        """
        counts = np.bincount(stored.ravel(), minlength=1 << self.bits)
        values = self._modality(self._signed(np.arange(1 << self.bits)))
        if self.padding is not None and counts.sum() > (padded := counts[self.padding & (len(counts) - 1)]):
            counts[self.padding & (len(counts) - 1)] -= padded
        shown = (voi.apply(values) for voi in self.voi)
        grey = next((g for g in shown if _shows_something(g, values, counts)), None)
        if grey is None:
            grey = _full_range(values, counts)
        grey = 1 - grey if inverted else grey
        shades: npt.NDArray[np.uint16] = np.rint(grey * _WHITE).astype(np.uint16)[stored]
        return shades

    def _signed(self, values: npt.NDArray[np.int64]) -> Values:
        half = 1 << (self.bits - 1)
        return (((values + half) & ((1 << self.bits) - 1)) - half if self.is_signed else values).astype(np.float64)

    def _modality(self, values: Values) -> Values:
        return values * self.slope + self.intercept if self.table is None else self.table.look_up(values)


def _shows_something(grey: Values, values: Values, counts: npt.NDArray[np.int64]) -> bool:
    used = np.flatnonzero(counts)
    extremes = values[used].min(), values[used].max()
    middle = used[(values[used] > extremes[0]) & (values[used] < extremes[1])]
    inside = middle[(grey[middle] > _DARK) & (grey[middle] < _BRIGHT)]
    if counts[inside].sum() < max(1, _LEAST_INSIDE * counts[middle].sum()):
        return False
    return bool(grey[used].max() - grey[used].min() >= _LEAST_SPREAD)


def _full_range(values: Values, counts: npt.NDArray[np.int64]) -> Values:
    used = values[counts > 0]
    lowest, highest = used.min(), used.max()
    grey: Values = np.clip((values - lowest) / ((highest - lowest) or 1), 0, 1)
    return grey


def read_display(dataset: Dataset, bits: int, *, is_signed: bool) -> Display:
    """What a header says about the display; whatever in it is unusable (no numbers, slope 0, width 0) is passed over.

    Args:
        dataset: The header.
        bits: Stored bits of a value, 1..16.
        is_signed: Stored values are in two's complement.
    """
    slope = next(iter(numbers(dataset, "RescaleSlope")), 1.0) or 1.0
    intercept = next(iter(numbers(dataset, "RescaleIntercept")), 0.0)
    modality = next(_tables(dataset, "ModalityLUTSequence", is_signed=is_signed), None)
    # A table of the window may count from below 0 even where the stored values do not.
    after = is_signed or (modality is None and min(intercept, intercept + slope * ((1 << bits) - 1)) < 0)
    voi: list[Window | Table] = list(_tables(dataset, "VOILUTSequence", is_signed=after))
    voi[1:] = []
    voi += _windows(dataset)
    padding = integer(dataset, "PixelPaddingValue")
    return Display(bits, is_signed, slope, intercept, modality, tuple(voi), padding)


def _windows(dataset: Dataset) -> list[Window]:
    function = next(iter(texts(dataset, "VOILUTFunction")), "") or "LINEAR"
    centers, widths = numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth")
    if not centers or not widths or function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        return []
    usable = widths[0] >= 1 if function == "LINEAR" else widths[0] > 0
    return [Window(centers[0], widths[0], function)] if usable else []


def _tables(dataset: Dataset, keyword: str, *, is_signed: bool) -> Iterator[Table]:
    for item in items(dataset, keyword):
        descriptor, order = raw(item, "LUTDescriptor")
        data = raw(item, "LUTData")[0]
        if len(descriptor) != 6 or not data:
            continue
        byte_order = "<" if order == "little" else ">"
        count, first, bits = (int(v) for v in np.frombuffer(descriptor, f"{byte_order}u2"))
        count = count or 65536
        words = len(data) >= 2 * count
        entries = np.frombuffer(data[: count * (1 + words)], f"{byte_order}u2" if words else "u1")
        if len(entries) == count and 1 <= bits <= 16:
            signed_first = first - 65536 if is_signed and first >= 32768 else first
            yield Table(signed_first, entries.astype(np.float64), float((1 << bits) - 1))
