"""Drawn films, and a tiny model as a plug-in."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import vertinst.models
from vertinst.config import Config, load_config
from vertinst.structures import Annotation, Dataset, ImageRecord, rle

TINY_MODELS = Path(__file__).parent / "models"

Draw = Callable[[int], Dataset]


def draw_films(folder: Path, count: int, size: tuple[int, int] = (64, 48)) -> Dataset:
    """Films with three lumbar ellipses above a sacral one, named by level."""
    height, width = size
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    records = []
    for number in range(1, count + 1):
        film = rng.normal(60, 5, size)
        annotations = []
        x = width / 2 + rng.uniform(-4, 4)
        for row, level in enumerate(("L3", "L4", "L5", "S1")):
            mask = np.zeros(size, dtype=np.uint8)
            y = height * (0.2 + 0.2 * row)
            cv2.ellipse(mask, ((x, y), (width * 0.4, height * 0.13), float(rng.uniform(-8, 8))), 1, -1)
            film += mask * (100.0 if level[0] == "L" else 180.0)
            category = "sacral" if level == "S1" else "lumbar"
            annotations.append(Annotation(category, rle.encode(mask), attributes={"level": level}))
        cv2.imwrite(str(folder / f"{number}.png"), film.clip(0, 255).astype(np.uint8))
        records.append(ImageRecord(number, f"{number}.png", width, height, annotations=tuple(annotations)))
    return Dataset(("lumbar", "sacral"), tuple(records))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Folder of the films."""
    return tmp_path / "images"


@pytest.fixture
def films(images: Path) -> Dataset:
    """Four drawn films."""
    return draw_films(images, 4)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Config]:
    """Makes settings for the tiny model, which is a plug-in for the length of the test."""
    monkeypatch.setattr(vertinst.models, "__path__", [*vertinst.models.__path__, str(TINY_MODELS)])
    path = tmp_path / "tiny.yaml"
    path.write_text(
        "model: {name: tiny}\nclasses: [lumbar, sacral]\nprecision: '32'\ndevice: cpu\n"
        "schedule: {epochs: 3, batch_size: 2, warmup_epochs: 0}\noptim: {lr: 0.02}\n"
    )
    return lambda *overrides: load_config(path, overrides)
