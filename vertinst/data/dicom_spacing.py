"""Millimetres between the pixels of a DICOM film, and what they were measured at."""

from __future__ import annotations

from typing import NamedTuple

from pydicom.dataset import Dataset

from vertinst.data.dicom_elements import numbers, texts

__all__ = ["Spacing", "read_spacing"]

# Films have pixels of 0.05 to 0.4 mm, MR and CT of up to 2; what lies outside was typed or converted wrongly.
_SMALLEST_MM, _LARGEST_MM = 0.005, 10.0
_LARGEST_RATIO = 10.0
_LARGEST_MAGNIFICATION = 5.0
_CALIBRATIONS = ("GEOMETRY", "FIDUCIAL")


class Spacing(NamedTuple):
    """Distance of neighbouring pixels.

    Attributes:
        row_mm: Between rows.
        column_mm: Between columns.
        source: The element it was taken from, and where it holds.
    """

    row_mm: float
    column_mm: float
    source: str


def read_spacing(dataset: Dataset) -> Spacing | None:
    """The best spacing of a header, by DICOM PS3.3, 10.7.1.3.

    In this order:

    1. PixelSpacing, its calibration named (`PixelSpacing, calibrated: GEOMETRY`), or without a name where it differs
       from the detector's (`PixelSpacing, calibrated`). Where the two are alike it is the detector's spacing copied.
    2. ImagerPixelSpacing through EstimatedRadiographicMagnificationFactor (`ImagerPixelSpacing with magnification`):
       in the plane of the patient that the factor was given for.
    3. ImagerPixelSpacing alone (`ImagerPixelSpacing, at the detector`): distances in the patient are shorter.
    4. PixelSpacing alone (`PixelSpacing`), as in MR and CT.
    5. NominalScannedPixelSpacing (`NominalScannedPixelSpacing, on the film sheet`).

    Spacings that are no two positive numbers, beyond 0.005 to 10 mm, or ten times longer one way count as missing.
    So does a magnification outside of 1 to 5.
    """
    pixel, imager = _pair(dataset, "PixelSpacing"), _pair(dataset, "ImagerPixelSpacing")
    if pixel is not None:
        named = next((text for text in texts(dataset, "PixelSpacingCalibrationType") if text in _CALIBRATIONS), None)
        if named is not None:
            return Spacing(*pixel, f"PixelSpacing, calibrated: {named}")
        if imager is not None and pixel != imager:
            return Spacing(*pixel, "PixelSpacing, calibrated")
    if imager is not None:
        factor = next(iter(numbers(dataset, "EstimatedRadiographicMagnificationFactor")), 0.0)
        if 1 <= factor <= _LARGEST_MAGNIFICATION:
            return Spacing(imager[0] / factor, imager[1] / factor, "ImagerPixelSpacing with magnification")
        return Spacing(*imager, "ImagerPixelSpacing, at the detector")
    if pixel is not None:
        return Spacing(*pixel, "PixelSpacing")
    scanned = _pair(dataset, "NominalScannedPixelSpacing")
    return Spacing(*scanned, "NominalScannedPixelSpacing, on the film sheet") if scanned is not None else None


def _pair(dataset: Dataset, keyword: str) -> tuple[float, float] | None:
    found = numbers(dataset, keyword)
    if len(found) != 2 or not all(_SMALLEST_MM <= value <= _LARGEST_MM for value in found):
        return None
    return (found[0], found[1]) if max(found) <= _LARGEST_RATIO * min(found) else None
