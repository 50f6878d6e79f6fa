"""Films that are nearly the same picture: perceptual hashes, and the pairs of hashes that differ little.

Measured on 210 phantom films of 113 patients, 12 projections of CT and 40 photographs: films of different patients
differ in at least 64 of 256 bits (12,800 pairs of phantoms; 1 % below 82, half below 124). Of 150 copies each, those
saved as JPEG of quality 50, scaled by 0.5 or 1.7, or given noise differ in at most 4; within the threshold of 31 are
95 % at gamma 0.7 and all at 1.4, 97 % windowed anew, 99 % cropped by 1 % on every side, but 21 % cropped by 2 %.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from vertinst.data.radiograph import read_film
from vertinst.errors import DataError
from vertinst.files import inside
from vertinst.progress import Progress, silent, track
from vertinst.structures.dataset import Dataset

__all__ = ["HASH_BITS", "THRESHOLD", "NearPair", "film_hash", "find_near_pairs", "near_identical"]

Words = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]

THRESHOLD = 31
"""Largest number of differing bits at which two films count as nearly identical."""
_SIDE = 16
HASH_BITS = _SIDE * _SIDE
_REDUCED_PX = 64
_BANDS, _BAND_BITS = 16, 16
_MAX_THREADS = 8
# Candidates looked at in one go: some 20 MB.
_CHUNK = 250_000
_PAIRS_PER_FILM = 10


class NearPair(NamedTuple):
    """Two films that are nearly the same picture.

    Attributes:
        a: File name of the film that comes first.
        b: File name of the other.
        distance: Bits in which their hashes differ, 0 to `THRESHOLD`.
    """

    a: str
    b: str
    distance: int


def film_hash(pixels: npt.NDArray[np.float32]) -> bytes | None:
    """The picture's rough shape in 256 bits: of copies that were saved again, scaled or slightly cropped, few differ.

    The film is reduced to 64 x 64 px; of its discrete cosine transform the 16 x 16 lowest frequencies without the
    constant ones are compared with their median. Source: Zauner, "Implementation and benchmarking of perceptual image
    hash functions" (2010), section 3.2.1, with 256 bits instead of 64, because lateral films of different patients
    resemble each other: with 64 bits they are found as close as 6 bits, as close as copies of one film are.

    Args:
        pixels: (H, W) float32 0..1, as `read_film` gives it.

    Returns:
        32 bytes, or None for a film of one grey value, which resembles nothing.
    """
    small = cv2.resize(pixels, (_REDUCED_PX, _REDUCED_PX), interpolation=cv2.INTER_AREA)
    if np.ptp(small) == 0:
        return None
    frequencies = cv2.dct(small)[1 : _SIDE + 1, 1 : _SIDE + 1]
    bits = frequencies > np.median(frequencies)
    # Diagonals: every band of `_near` gets its share of low and high frequencies, so that none is alike in all films.
    row = np.arange(_SIDE)
    return np.packbits(bits[row, (row + row[:, None]) % _SIDE]).tobytes()


def near_identical(dataset: Dataset, images: Path, progress: Progress = silent) -> tuple[NearPair, ...]:
    """Pairs of films of a data set that are nearly the same picture.

    Films that are missing, broken or of one grey value are compared with none.

    Args:
        dataset: Films, in whose order the pairs are given.
        images: Folder that holds them.
        progress: Told after each film.
    """
    names = [image.file_name for image in dataset.images]
    # Decoding and reducing release the interpreter's lock.
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
        hashes = threads.map(lambda name: _hash_file(images, name), names)
        found = dict(zip(names, track(hashes, len(names), "comparing films", progress), strict=True))
    return tuple(find_near_pairs({name: value for name, value in found.items() if value is not None}))


def _hash_file(images: Path, name: str) -> bytes | None:
    try:
        return film_hash(read_film(inside(images, name)).pixels)
    except DataError:
        return None


def find_near_pairs(hashes: Mapping[str, bytes], threshold: int = THRESHOLD) -> list[NearPair]:
    """Pairs of hashes that differ in at most `threshold` bits.

    Films with the very same hash are paired with the first of them only, which then stands for all. Every other pair
    is found; but where there are more than ten pairs to a film (a series of frames), only pairs that join films which
    no chain of pairs joins yet are added, so that the result stays linear in the number of films.

    Args:
        hashes: 32 bytes by file name, possibly none.
        threshold: 0 to `THRESHOLD`.

    Returns:
        Each pair once, `a` before `b` in the order of `hashes`; in the order of `a`, then of `b`.
    """
    groups: dict[bytes, list[str]] = {}
    for name, value in hashes.items():
        groups.setdefault(value, []).append(name)
    first = [group[0] for group in groups.values()]
    pairs = [NearPair(group[0], other, 0) for group in groups.values() for other in group[1:]]
    words = np.frombuffer(b"".join(groups), dtype=np.uint64).reshape(-1, HASH_BITS // 64)
    pairs += [NearPair(first[a], first[b], distance) for a, b, distance in _near(words, threshold)]
    position = {name: number for number, name in enumerate(hashes)}
    return sorted(pairs, key=lambda pair: (position[pair.a], position[pair.b]))


def _near(words: Words, threshold: int) -> Iterator[tuple[int, int, int]]:
    """Numbers and distance of near pairs of distinct hashes, lower number first.

    Two hashes that differ in at most 31 bits differ in at most one bit of some of their 16 bands (pigeonholes), so
    only those that do are compared. Source: Norouzi et al., "Fast search in Hamming space with multi-index hashing"
    (2012).
    """
    if not 0 <= threshold < 2 * _BANDS:
        raise ValueError(f"threshold must be 0 to {2 * _BANDS - 1}, got {threshold}")
    found = _Found(len(words))
    flips = (0, *(1 << bit for bit in range(_BAND_BITS))) if threshold >= _BANDS else (0,)
    for keys in words.view(np.uint16).T:
        for flip in flips:
            _join(words, keys, flip, threshold, found)
        found.tidy()
    for code in found.codes.tolist():
        a, b = divmod(code, len(words))
        yield a, b, int(np.bitwise_count(words[a] ^ words[b]).sum())


class _Found:
    """Near pairs so far, as `first * count + second`, and which hashes they join."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.codes: Numbers = np.empty(0, dtype=np.int64)
        self.new: list[Numbers] = []
        self.amount = 0
        self.joined: Numbers | None = None
        """Smallest number among the hashes that each is joined with; None while there are few pairs."""

    def add(self, codes: Numbers) -> None:
        if self.joined is not None:
            codes = self._joining(codes, self.joined)
        self.new.append(codes)
        self.amount += len(codes)
        if self.joined is None and self.amount > 2 * _CHUNK:
            self.tidy()

    def tidy(self) -> None:
        """Drop what was found twice, and begin to be choosy where there is too much."""
        self.codes = np.unique(np.concatenate([self.codes, *self.new]))
        self.new, self.amount = [], 0
        if self.joined is None and len(self.codes) > _PAIRS_PER_FILM * self.count:
            self.joined = np.arange(self.count)
            chosen = self._joining(self.codes, self.joined)
            rest = np.setdiff1d(self.codes, chosen)[: _PAIRS_PER_FILM * self.count]
            self.codes = np.union1d(chosen, rest)

    def _joining(self, codes: Numbers, joined: Numbers) -> Numbers:
        """Those pairs that join what was apart; `joined` is brought up to date."""
        first, second = np.divmod(codes, self.count)
        # Of all pairs between the same two groups of joined hashes one is enough.
        one_each = np.unique(joined[first] * self.count + joined[second], return_index=True)[1]
        parent = joined.tolist()
        chosen = []
        for code in codes[one_each].tolist():
            a, b = (_root(parent, n) for n in divmod(code, self.count))
            if a != b:
                parent[max(a, b)] = min(a, b)
                chosen.append(code)
        joined[:] = [_root(parent, n) for n in range(self.count)]
        return np.array(chosen, dtype=np.int64)


def _root(parent: list[int], number: int) -> int:
    while parent[number] != number:
        parent[number] = parent[parent[number]]
        number = parent[number]
    return number


def _join(words: Words, keys: npt.NDArray[np.uint16], flip: int, threshold: int, found: _Found) -> None:
    """Compare hashes whose band is `keys` with those whose band is the same with the bits `flip` turned."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    target = ordered ^ np.uint16(flip)
    start = np.searchsorted(ordered, target, side="left")
    stop = np.searchsorted(ordered, target, side="right")
    # Each pair once: with its equals a hash is compared if they come later, with others if their band is larger.
    start = np.arange(len(keys)) + 1 if flip == 0 else np.where(target > ordered, start, stop)
    row = 0
    while row < len(keys):
        if found.joined is not None:
            stop = _passed_over(found.joined[order], start, stop)
        until = row + max(1, int(np.searchsorted(np.cumsum(stop[row:] - start[row:]), _CHUNK)))
        first, second = _expand(order, start[row:until], stop[row:until], row)
        row = until
        near = np.bitwise_count(words[first] ^ words[second]).sum(axis=1) <= threshold
        first, second = first[near], second[near]
        if len(first):
            found.add(np.minimum(first, second) * len(words) + np.maximum(first, second))


def _passed_over(joined: Numbers, start: Numbers, stop: Numbers) -> Numbers:
    """`stop`, or `start` where the whole range is joined with its own position already."""
    runs = np.cumsum(np.diff(joined, prepend=joined[:1]) != 0)
    last = len(joined) - 1
    begin, end = np.minimum(start, last), np.maximum(stop - 1, 0)
    return np.where((runs[begin] == runs[end]) & (joined[begin] == joined), start, stop)


def _expand(order: Numbers, start: Numbers, stop: Numbers, row: int) -> tuple[Numbers, Numbers]:
    """Each position from `row` on with every position of its range, as numbers of hashes."""
    counts = stop - start
    before = np.cumsum(counts) - counts
    second = np.arange(counts.sum()) + np.repeat(start - before, counts)
    return order[np.repeat(np.arange(row, row + len(counts)), counts)], order[second]
