"""Grey values reach a network in the tone that its options name."""

from collections.abc import Callable
from pathlib import Path

import pytest

from vertinst import plugins
from vertinst.config import Config
from vertinst.data.films import FilmDataset
from vertinst.engine.train import train
from vertinst.structures import Dataset


def test_films_get_the_tone_that_the_models_options_name(
    films: Dataset, images: Path, tmp_path: Path, tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny("schedule.epochs=1")
    tones = []
    monkeypatch.setattr(FilmDataset, "_fill", lambda self, progress: tones.append(self.tone))
    train(config, films, Dataset(films.categories), images, tmp_path / "a")
    monkeypatch.setattr(plugins.load("models", "tiny").Options, "film_tone", "stored", raising=False)
    train(config, films, Dataset(films.categories), images, tmp_path / "b")
    assert tones == ["window", "stored"]
