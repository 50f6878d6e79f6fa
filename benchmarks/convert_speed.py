"""VIA -> COCO against what reading and writing the JSON takes alone, on one core, and the memory it needs.

`OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/convert_speed.py [--films 100 1000 10000] [--rounds 5]`
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from vertinst.converters import coco, via
from vertinst.structures.conversion import FilmFacts, ReadOptions

WIDTH, HEIGHT = 2000, 1500
REGIONS, POINTS = 10, 60
SUBJECTS = ("JSON alone", "headers read", "headers known")


def main() -> None:
    """Print for each number of films the median processor time, its ratio to the JSON alone, and the peak memory."""
    arguments = _arguments()
    if arguments.memory is not None:
        _report_memory(arguments.memory, *arguments.child)
        return
    print(f"{'films':>7} {'regions':>8} {'subject':<14} {'seconds':>8} {'to JSON alone':>14} {'peak MiB':>9}")
    for films in arguments.films:
        with tempfile.TemporaryDirectory() as folder:
            _measure(Path(folder), films, arguments.rounds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", choices=SUBJECTS, help=argparse.SUPPRESS)
    parser.add_argument("child", type=Path, nargs="*", help=argparse.SUPPRESS)
    return parser.parse_args()


def _measure(folder: Path, films: int, rounds: int) -> None:
    source, images = folder / "via.json", folder / "films"
    make_data(source, images, films)
    known = _facts(images)
    subjects = {
        "JSON alone": lambda: _json_alone(source),
        "headers read": lambda: _convert(source, images, ReadOptions()),
        "headers known": lambda: _convert(source, images, ReadOptions(known_films=known)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, subject in subjects.items():
            seconds[name].append(_timed(subject))
    for name, taken in seconds.items():
        # Neighbours in time: how fast the machine is changes from minute to minute.
        ratio = statistics.median(a / b for a, b in zip(taken, seconds["JSON alone"], strict=True))
        peak = _peak_mib(name, source, images)
        median = statistics.median(taken)
        print(f"{films:>7} {films * REGIONS:>8} {name:<14} {median:>8.3f} {ratio:>14.2f} {peak:>9.0f}", flush=True)


def make_data(source: Path, images: Path, films: int) -> None:
    """Write a VIA 2 export of `films` films and bit-packed PNGs of their size in place of the films.

    Each region is a wavy closed outline of 60 whole-numbered vertices, about as large as a vertebra.
    """
    rng = np.random.default_rng(0)
    images.mkdir()
    Image.new("1", (WIDTH, HEIGHT)).save(images / "0.png")
    angles = np.arange(POINTS) * (2 * np.pi / POINTS)
    with source.open("w") as file:
        for number in range(films):
            name = f"film{number:06d}.png"
            shutil.copyfile(images / "0.png", images / name)
            entry = {"filename": name, "size": 100_000 + number, "regions": _regions(rng, angles)}
            entry["file_attributes"] = {"patient": f"P{number // 2}", "view": "lateral"}
            file.write(("{" if number == 0 else ",") + f'"{name}{entry["size"]}":' + json.dumps(entry))
        file.write("}")
    (images / "0.png").unlink()


def _regions(rng: np.random.Generator, angles: np.ndarray) -> list[dict[str, object]]:
    centers = rng.uniform((150, 150), (WIDTH - 150, HEIGHT - 150), (REGIONS, 2))
    radii = 80 + 20 * np.sin(rng.integers(2, 5, (REGIONS, 1)) * angles + rng.uniform(0, 6, (REGIONS, 1)))
    radii += rng.uniform(-1, 1, radii.shape)
    xs = np.rint(centers[:, :1] + radii * np.cos(angles)).astype(int).tolist()
    ys = np.rint(centers[:, 1:] + radii * np.sin(angles)).astype(int).tolist()
    return [
        {
            "shape_attributes": {"name": "polygon", "all_points_x": x, "all_points_y": y},
            "region_attributes": {"Objekte": "lumbar", "level": f"L{number % 5 + 1}"},
        }
        for number, (x, y) in enumerate(zip(xs, ys, strict=True))
    ]


def _facts(images: Path) -> dict[str, FilmFacts]:
    stats = {path.name: path.stat() for path in images.iterdir()}
    return {name: FilmFacts(s.st_size, s.st_mtime_ns, WIDTH, HEIGHT) for name, s in stats.items()}


def _json_alone(source: Path) -> None:
    json.dumps(json.loads(source.read_bytes()))


def _convert(source: Path, images: Path, options: ReadOptions) -> None:
    dataset, _ = via.read([source], images, options)
    coco.write(dataset, source.with_name("coco.json"))


def _timed(subject: Callable[[], None]) -> float:
    """Processor seconds: others at work on the machine count less in them than in those of the clock."""
    before = time.process_time()
    subject()
    return time.process_time() - before


def _peak_mib(name: str, source: Path, images: Path) -> float:
    """Largest resident memory of a fresh process that does nothing else."""
    command = [sys.executable, __file__, "--memory", name, str(source), str(images)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _report_memory(name: str, source: Path, images: Path) -> None:
    if name == "JSON alone":
        _json_alone(source)
    else:
        _convert(source, images, ReadOptions(known_films=_facts(images) if name == "headers known" else {}))
    # Not getrusage: its peak is also that of the parent, from which the process was forked.
    status = Path("/proc/self/status").read_text()
    print(int(status.split("VmHWM:")[1].split()[0]) / 1024)


if __name__ == "__main__":
    main()
