"""Seconds a phantom film takes: `OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/phantom_speed.py [8|16]`."""

import itertools
import statistics
import sys
import tempfile
import time
from pathlib import Path

import cv2

from vertinst.data.phantom import make_phantoms

FILMS = 30


def main() -> None:
    """Make films and print the median and the largest wall and processor time between two of them."""
    cv2.setNumThreads(1)
    bits = int(sys.argv[1]) if len(sys.argv) > 1 else 8
    marks: list[tuple[float, float]] = []

    def mark(done: int, total: int, text: str) -> None:
        marks.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as folder:
        make_phantoms(FILMS, 0, Path(folder) / "films", bits=bits, progress=mark)
    for name, clock in (("wall", 0), ("processor", 1)):
        seconds = [b[clock] - a[clock] for a, b in itertools.pairwise(marks)]
        print(f"{name}: median {statistics.median(seconds):.3f} s, largest {max(seconds):.3f} s")


if __name__ == "__main__":
    main()
