"""From which side a film was taken, as people and programs write it."""

from __future__ import annotations

__all__ = ["view_name"]

_WRITTEN = {
    "lateral": ("LATERAL", "LAT", "LL", "RL", "L LATERAL", "R LATERAL", "LEFT LATERAL", "RIGHT LATERAL", "SEITLICH"),
    "ap": ("AP", "PA", "A.P.", "P.A.", "A-P", "P-A", "ANTERO-POSTERIOR", "ANTEROPOSTERIOR", "FRONTAL", "CORONAL"),
}


def view_name(text: str | None) -> str | None:
    """The view that a text means, `lateral` or `ap` (postero-anterior films too), or None for any other.

    `LL`, `RL`, `AP` and `PA` are DICOM's terms for View Position (0018,5101; PS3.3, C.8.1.1). Its obliques are neither;
    nor are its decubitus terms, which tell how the patient lay.
    """
    said = " ".join((text or "").upper().replace("_", " ").split())
    return next((view for view, names in _WRITTEN.items() if said in names), None)
