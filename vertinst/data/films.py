"""Annotated films as a torch data set: decoded once, reduced to the training size and kept small in memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils import data

from vertinst import files
from vertinst.data.radiograph import Tone, read_film, read_size
from vertinst.data.repeats import draw_repeats
from vertinst.data.transforms import Augment, augment, mask_boxes
from vertinst.errors import DataError
from vertinst.progress import Progress, silent, track
from vertinst.structures import rle
from vertinst.structures.dataset import Dataset, ImageRecord

__all__ = ["Batch", "EpochSampler", "FilmDataset", "Key", "Sample", "check_films", "collate", "start_worker"]

Grey = TypeVar("Grey", np.float32, np.uint8)

Key: TypeAlias = tuple[int, int, int]
"""Epoch, index of the film, and how often it came before in the epoch; all from 0."""

Sample: TypeAlias = tuple[Tensor, dict[str, Tensor], str]
"""Film (3, H, W) float32 0..1, its target, its file name."""

Batch: TypeAlias = tuple[list[Tensor], list[dict[str, Tensor]], list[str]]
"""Films, targets and file names of a step."""


@dataclass(frozen=True, eq=False)
class Reduced:
    """A film and its instances at the training size: uint16 grey values and RLE masks."""

    pixels: npt.NDArray[np.uint16]
    masks: tuple[rle.Rle, ...]
    labels: tuple[int, ...]


class FilmDataset(data.Dataset[Sample]):
    """Films with targets by torchvision's detection contract.

    Items are asked for by (epoch, index, repeat): the random changes depend on the seed and these three alone, so that
    neither the number of worker processes nor a resumed run alters them.

    Annotations marked `ignore` are left out of the targets. So are instances that vanish at the training size.

    Args:
        dataset: The annotated films.
        images: Folder of the film files.
        classes: Names of the labels, from 1 in this order; must contain every class that is annotated.
        longest_side_px: Films are reduced to this longest side; smaller ones keep their size.
        tone: How grey values become 0..1, as `read_film` says: what the model expects.
        transform: Random changes, or None.
        seed: For these.
        cache: Keep the reduced films in memory.
        progress: Told while the cache is filled.

    Raises:
        DataError: See `check_films`.
    """

    def __init__(
        self,
        dataset: Dataset,
        images: Path,
        classes: tuple[str, ...],
        *,
        longest_side_px: int,
        tone: Tone = "window",
        transform: Augment | None = None,
        seed: int = 0,
        cache: bool = True,
        progress: Progress = silent,
    ) -> None:
        check_films(dataset, images, classes)
        self.records = dataset.images
        self.images = images
        self.classes = classes
        self.longest_side_px = longest_side_px
        self.tone = tone
        self.transform = transform
        self.seed = seed
        self.cached = self._fill(progress) if cache else None

    def _fill(self, progress: Progress) -> list[Reduced]:
        # Decoding and resizing release the interpreter's lock.
        with ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            films = pool.map(self._reduce, self.records)
            return list(track(films, len(self.records), "reading films", progress))

    def _reduce(self, record: ImageRecord) -> Reduced:
        film = read_film(files.inside(self.images, record.file_name), tone=self.tone)
        size = _reduced_size(film.image_size, self.longest_side_px)
        pixels = np.rint(_resize(film.pixels, size) * 65535).astype(np.uint16)
        learnt = [a for a in record.annotations if not a.ignore]
        masks = [rle.encode(_resize(rle.decode(a.mask).view(np.uint8) * 255, size) >= 128) for a in learnt]
        kept = [i for i, mask in enumerate(masks) if rle.area(mask) > 0]
        labels = tuple(self.classes.index(learnt[i].category) + 1 for i in kept)
        return Reduced(pixels, tuple(masks[i] for i in kept), labels)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: Key) -> Sample:
        """The film `index` as changed in `epoch`, and differently at each repeat in it.

        The target has `boxes` (N, 4) float32 xyxy px, tight around the masks, `labels` (N,) int64 from 1 and `masks`
        (N, H, W) uint8; N = 0 is ordinary.
        """
        index = key[1]
        reduced = self.cached[index] if self.cached is not None else self._reduce(self.records[index])
        film = torch.from_numpy(reduced.pixels.astype(np.float32) / 65535)[None]
        height, width = reduced.pixels.shape
        dense = [torch.from_numpy(rle.decode(mask)) for mask in reduced.masks]
        masks = torch.stack(dense) if dense else torch.zeros((0, height, width), dtype=torch.bool)
        labels = torch.tensor(reduced.labels, dtype=torch.int64)
        if self.transform is not None:
            film, masks, labels = augment(film, masks, labels, self.transform, _seed(self.seed, *key))
        target = {"boxes": mask_boxes(masks), "labels": labels, "masks": masks.to(torch.uint8)}
        return film.expand(3, -1, -1), target, self.records[index].file_name

    def __getitems__(self, keys: Sequence[Key]) -> list[Sample] | DataError:
        """The films of a batch, or the error of one that cannot be read: see `collate`."""
        try:
            return [self[key] for key in keys]
        except DataError as error:
            return error


class EpochSampler(data.Sampler[Key]):
    """The films of an epoch in an order drawn from seed and epoch; set `epoch` before each pass and before `len`.

    Args:
        factors: (N,) how often each film is shown in an epoch, 1 or more: see `draw_repeats`. Where all are 1, every
            film comes once.
        seed: 0 or more.
    """

    def __init__(self, factors: npt.NDArray[np.float64], seed: int) -> None:
        self.factors, self.seed, self.epoch = factors, seed, 0

    def __len__(self) -> int:
        return len(self._films())

    def __iter__(self) -> Iterator[Key]:
        came: Counter[int] = Counter()
        for index in self._films().tolist():
            yield self.epoch, index, came[index]
            came[index] += 1

    def _films(self) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng([self.seed, self.epoch])
        order = rng.permutation(len(self.factors))
        again = np.repeat(np.arange(len(order)), draw_repeats(self.factors, rng) - 1)
        return np.insert(order, rng.integers(0, len(order) + 1, len(again)), again)


def collate(samples: Sequence[Sample] | DataError) -> Batch | DataError:
    """Samples of a step side by side; films keep their sizes.

    An error is passed on, for the training process to raise: of one raised in a worker process, torch would leave
    nothing but a text with the traceback in it.
    """
    if isinstance(samples, DataError):
        return samples
    films, targets, names = zip(*samples, strict=True)
    return list(films), list(targets), list(names)


def start_worker(number: int) -> None:
    """What a process that prepares films does first: OpenCV would start as many threads in each as there are cores."""
    cv2.setNumThreads(0)


def check_films(dataset: Dataset, images: Path, classes: tuple[str, ...]) -> None:
    """Look at every film's header before hours of training.

    Raises:
        DataError: A film is missing, no image or of another size than its annotation says; a name leads outside of
            the folder; a class is annotated that is not to be learnt.
    """
    for record in dataset.images:
        size = read_size(files.inside(images, record.file_name))
        if size != record.image_size:
            raise DataError(
                f"film must be {record.width} x {record.height} px as its annotation says, got {size[1]} x {size[0]}",
                where=record.file_name,
                fix="Give the films that were annotated, or convert the annotation again with these.",
            )
        unknown = sorted({a.category for a in record.annotations if not a.ignore} - set(classes))
        if unknown:
            raise DataError(
                f"annotated class must be one of {', '.join(classes)}, got {', '.join(unknown)}",
                where=record.file_name,
                fix=f"Learn it too (--set 'classes=[{', '.join((*classes, *unknown))}]'), or map it to another class "
                "when converting (--class-map).",
            )


def _seed(seed: int, epoch: int, index: int, repeat: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, index, repeat]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _reduced_size(image_size: tuple[int, int], longest_side_px: int) -> tuple[int, int]:
    scale = min(1.0, longest_side_px / max(image_size))
    return max(1, round(image_size[0] * scale)), max(1, round(image_size[1] * scale))


def _resize(pixels: npt.NDArray[Grey], size: tuple[int, int]) -> npt.NDArray[Grey]:
    if pixels.shape == size:
        return pixels
    resized: npt.NDArray[Any] = cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    return resized.astype(pixels.dtype, copy=False)
