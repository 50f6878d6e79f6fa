"""Timing that the comparisons share: all subjects in turn, so that whatever else the machine does hits them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Subjects", "compare", "peak_mib"]

Subjects = dict[str, Callable[[], Any]]


def compare(subjects: Subjects, rounds: int) -> None:
    """One run of each to warm up, then `rounds` of all in turn; the first is what the others are compared with."""
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for turn in range(rounds + 1):
        for name, run in subjects.items():
            started = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    base = seconds[next(iter(subjects))]
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, base, strict=True))
        print(f"  {name:<44} {1000 * statistics.median(values):9.1f} ms   x {ratio:.3f}")


def peak_mib() -> float:
    """The most memory that this process has had."""
    # Not getrusage: there a child starts with the peak of its parent.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
