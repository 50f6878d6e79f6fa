"""VIA in and out: all versions of VGG Image Annotator (Dutta & Zisserman 2019, doi 10.1145/3343031.3350535)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vertinst.collector import collector_paused
from vertinst.progress import Progress, silent
from vertinst.structures.conversion import ReadOptions, Skip
from vertinst.structures.dataset import Dataset

from ._build import build
from ._class_names import read_class_map
from ._source import Entry
from ._via_files import read_entries
from ._via_project import write

__all__ = ["read", "read_class_map", "write"]


@collector_paused()
def read(
    paths: Sequence[Path],
    images: Path | None,
    options: ReadOptions | None = None,
    *,
    progress: Progress = silent,
) -> tuple[Dataset, tuple[Skip, ...]]:
    """Read VIA files as one data set.

    Annotation exports (JSON and CSV) of VIA 1 and 2 and projects of VIA 2 and 3 are told apart by what they hold.

    Args:
        paths: VIA files; several are merged.
        images: Folder that holds the films. VIA does not write their sizes, so it is needed.
        options: See `ReadOptions`; None for the defaults.
        progress: Told after each film.

    Returns:
        The data set and everything that was skipped or repaired; see `build`.

    Raises:
        DataError: A file or film is missing or cannot be read, a name leads outside of `images`, the class cannot be
            found, no region or film has an attribute that was asked for, or there is no film at all.
        ConfigError: The line width is not positive, or the patient pattern is no regular expression.
    """
    skips: list[Skip] = []
    entries: list[Entry] = []
    for path in paths:
        found, faults = read_entries(path)
        entries += found
        skips += faults
    return build(paths, entries, skips, images, options or ReadOptions(), progress)
