"""Labelled JSON, overlays, masks and the HTML report."""
