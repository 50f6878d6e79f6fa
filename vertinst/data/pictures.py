"""Films as PNG pictures, for programs that show neither DICOM nor 16 bits, such as browsers."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from vertinst.data.radiograph import read_film
from vertinst.errors import VertinstError
from vertinst.files import film_stem, inside, write_bytes
from vertinst.progress import Progress, silent, track
from vertinst.structures.dataset import Dataset

__all__ = ["SHOWN_BY_BROWSERS", "write_pictures"]

SHOWN_BY_BROWSERS = (".png", ".jpg", ".jpeg")


def write_pictures(dataset: Dataset, images: Path, out: Path, *, progress: Progress = silent) -> Dataset:
    """Write every film as a PNG of 8 bits: upright, between the same percentiles that networks are shown.

    Args:
        dataset: Its films; annotations stay as they are, for the pictures have the films' sizes.
        images: Folder of the films.
        out: Folder for the pictures, which are called after the films; those of films that differ in their suffix only
            keep it (`a.dcm.png`).
        progress: Told after each film.

    Returns:
        The data set of the pictures: their names, and their sizes in bytes for VIA.

    Raises:
        DataError: A film is missing or broken, or a name leads outside of a folder.
        VertinstError: A picture cannot be written.
    """
    stems = Counter(film_stem(image.file_name) for image in dataset.images)
    records = []
    for image in track(dataset.images, len(dataset), "writing pictures", progress):
        pixels = read_film(inside(images, image.file_name)).pixels
        stem = film_stem(image.file_name)
        name = (stem if stems[stem] == 1 else image.file_name.replace("\\", "/")) + ".png"
        good, content = cv2.imencode(".png", np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8))
        if not good:
            raise VertinstError("could not be encoded as PNG", where=image.file_name, fix="Leave this film out.")
        write_bytes(inside(out, name), content.tobytes())
        source = {**image.source, "filename": name, "size": len(content)}
        source.pop("fileref", None)
        records.append(replace(image, file_name=name, source=source))
    return replace(dataset, images=tuple(records))
