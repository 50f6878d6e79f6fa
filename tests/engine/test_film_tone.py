"""Grey values reach a network in the tone that its options name."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from vertinst import plugins
from vertinst.config import Config
from vertinst.data.films import FilmDataset
from vertinst.data.radiograph import read_film
from vertinst.engine.predict import Predictor, predict_films
from vertinst.engine.train import train
from vertinst.postprocess.pipeline import SpineOptions
from vertinst.structures import Dataset, Instances


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


class Listener(torch.nn.Module):
    """Finds nothing, and keeps the films that it is given."""

    def __init__(self, film_tone: str | None) -> None:
        super().__init__()
        self.options = SimpleNamespace() if film_tone is None else SimpleNamespace(film_tone=film_tone)
        self.heard: list[torch.Tensor] = []

    def forward(self, images: list[torch.Tensor]) -> list[Instances]:
        self.heard += images
        return [Instances.empty((image.shape[1], image.shape[2])) for image in images]


@pytest.mark.parametrize("film_tone", [None, "window", "stored"])
def test_networks_see_their_tone_and_people_the_window(tmp_path: Path, film_tone: str | None) -> None:
    dark = np.tile(np.arange(60, dtype=np.uint8), (40, 1))
    cv2.imwrite(str(tmp_path / "film.png"), dark)
    model = Listener(film_tone)
    predictor = Predictor(model, ("lumbar",), name="listener", weights="", versions={})
    predictor.predict([tmp_path / "film.png"])
    predict_films(predictor, [tmp_path / "film.png"], tmp_path / "out", options=SpineOptions())
    expected = read_film(tmp_path / "film.png", tone="stored" if film_tone == "stored" else "window").pixels
    assert len(model.heard) == 2
    for film in model.heard:
        np.testing.assert_array_equal(film[0].numpy(), expected)
    assert cv2.imread(str(tmp_path / "out" / "overlays" / "film.png")).max() > 200
