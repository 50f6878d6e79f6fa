"""Validation while training: films in batches, each matched with its own truth."""

from pathlib import Path

import numpy as np
import pytest

from vertinst.data.radiograph import read_film
from vertinst.engine.validate import score, validate
from vertinst.postprocess.pipeline import SpineOptions
from vertinst.structures import Dataset, Instances, rle


class Oracle:
    """Predicts each film's truth, which it knows by the film's pixels."""

    classes = ("lumbar", "sacral")
    tone = "window"
    threads = 1

    def __init__(self, films: Dataset, images: Path, batch_size: int) -> None:
        self.batch_size = batch_size
        self.asked: list[int] = []
        self.truth = {read_film(images / record.file_name).pixels.tobytes(): record for record in films.images}

    def predict(self, films: list[np.ndarray]) -> list[Instances]:
        self.asked.append(len(films))
        return [self.found(self.truth[film.tobytes()]) for film in films]

    def found(self, record) -> Instances:
        masks = tuple(a.mask for a in record.annotations)
        ids = np.array([self.classes.index(a.category) + 1 for a in record.annotations])
        size = (record.height, record.width)
        boxes = rle.boxes_xywh(masks).astype(np.float32)
        boxes[:, 2:] += boxes[:, :2]
        return Instances(size, boxes, masks, ids, np.full(len(masks), 0.9, dtype=np.float32))


@pytest.mark.parametrize(("batch_size", "asked"), [(1, [1, 1, 1, 1]), (3, [3, 1]), (8, [4])])
def test_films_go_through_the_predictor_in_its_batches(
    films: Dataset, images: Path, batch_size: int, asked: list[int]
) -> None:
    told: list[tuple[int, int, str]] = []
    oracle = Oracle(films, images, batch_size)
    metrics = validate(oracle, films, images, SpineOptions(), progress=lambda *args: told.append(args))  # type: ignore[arg-type]
    assert oracle.asked == asked
    assert metrics["summary"]["mean_iou"] == 1
    assert told[-1] == (4, 4, "validating")
    assert len(told) == 5


def test_the_score_is_the_mean_of_what_has_a_meaning() -> None:
    assert score({"a": 0.5, "b": None, "c": 1.0}) == 0.75
    assert score({"a": None}) == 0
