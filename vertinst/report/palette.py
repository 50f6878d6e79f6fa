"""Colours of curves and histograms, one set for light and one for dark pages."""

from __future__ import annotations

__all__ = ["COLOURS"]

# Okabe and Ito's palette, each page with the shades that it does not swallow.
COLOURS = {
    "light": ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    "dark": ("#56b4e9", "#e69f00", "#1fc79a", "#e59ac4", "#f0e442", "#ff8a4c"),
}
