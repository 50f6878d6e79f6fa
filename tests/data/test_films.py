"""Annotated films as a torch data set: sizes, targets, order, and what is refused before training."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vertinst.config import AugmentConfig
from vertinst.data import films as films_module
from vertinst.data.films import EpochSampler, FilmDataset, check_films, collate
from vertinst.data.transforms import build_augment
from vertinst.errors import DataError
from vertinst.structures import Annotation, Dataset, ImageRecord, rle

CLASSES = ("lumbar", "sacral", "screw")


def annotation(category: str, box: tuple[int, int, int, int], ignore: bool = False) -> Annotation:
    mask = np.zeros((120, 100), dtype=bool)
    left, top, right, bottom = box
    mask[top:bottom, left:right] = True
    return Annotation(category, rle.encode(mask), ignore=ignore)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Two films of 100 x 120 in a sub-folder: one with four annotations, one without any."""
    (tmp_path / "p").mkdir()
    annotations = (
        annotation("lumbar", (20, 10, 60, 40)),
        annotation("screw", (50, 20, 51, 21)),
        annotation("sacral", (20, 60, 60, 90)),
        annotation("lumbar", (70, 60, 90, 90), ignore=True),
    )
    records = []
    for index, found in enumerate((annotations, ()), start=1):
        pixels = np.random.default_rng(index).integers(0, 255, (120, 100), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"p/{index}.png"), pixels)
        records.append(ImageRecord(index, f"p/{index}.png", 100, 120, annotations=found))
    return Dataset(("sacral", "lumbar", "screw"), tuple(records))


def test_targets_follow_the_detection_contract(dataset: Dataset, tmp_path: Path) -> None:
    film, target, name = FilmDataset(dataset, tmp_path, CLASSES, longest_side_px=500)[0, 0, 0]
    assert name == "p/1.png"
    assert film.shape == (3, 120, 100)
    assert film.dtype == torch.float32
    assert target["labels"].tolist() == [1, 3, 2]
    assert target["boxes"].tolist() == [[20, 10, 60, 40], [50, 20, 51, 21], [20, 60, 60, 90]]
    assert target["masks"].shape == (3, 120, 100)
    assert target["masks"].dtype == torch.uint8
    assert target["masks"].sum() == 1200 + 1 + 1200


def test_a_film_without_instances_has_empty_targets(dataset: Dataset, tmp_path: Path) -> None:
    _, target, _ = FilmDataset(dataset, tmp_path, CLASSES, longest_side_px=500)[0, 1, 0]
    assert target["boxes"].shape == (0, 4)
    assert target["labels"].shape == (0,)
    assert target["masks"].shape == (0, 120, 100)


def test_films_are_reduced_and_what_vanishes_is_dropped(dataset: Dataset, tmp_path: Path) -> None:
    film, target, _ = FilmDataset(dataset, tmp_path, CLASSES, longest_side_px=60)[0, 0, 0]
    assert film.shape == (3, 60, 50)
    assert target["labels"].tolist() == [1, 2]
    assert target["boxes"].tolist() == [[10, 5, 30, 20], [10, 30, 30, 45]]


def test_the_cache_changes_nothing_and_saves_decoding(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transform = build_augment(AugmentConfig(metal=0.5), CLASSES)
    kept = FilmDataset(dataset, tmp_path, CLASSES, longest_side_px=60, transform=transform)
    fresh = FilmDataset(dataset, tmp_path, CLASSES, longest_side_px=60, transform=transform, cache=False)
    for key in ((0, 0, 0), (4, 1, 0)):
        assert torch.equal(kept[key][0], fresh[key][0])
        assert torch.equal(kept[key][1]["masks"], fresh[key][1]["masks"])
    monkeypatch.setattr(films_module, "read_film", lambda *_, **__: pytest.fail("decoded again"))
    kept[1, 0, 0]


@pytest.mark.parametrize("cache", [True, False])
def test_grey_values_have_the_tone_that_the_model_expects(dataset: Dataset, tmp_path: Path, cache: bool) -> None:
    dark = np.full((120, 100), 51, dtype=np.uint8)
    dark[:60] = 102
    cv2.imwrite(str(tmp_path / "p/1.png"), dark)
    stored = FilmDataset(dataset, tmp_path, CLASSES, longest_side_px=500, tone="stored", cache=cache)[0, 0, 0][0]
    np.testing.assert_allclose(stored[0].numpy(), dark / 255, atol=1e-5)
    shown = FilmDataset(dataset, tmp_path, CLASSES, longest_side_px=500, cache=cache)[0, 0, 0][0]
    assert (shown.min(), shown.max()) == (0, 1)


def test_changes_depend_on_seed_epoch_and_film(dataset: Dataset, tmp_path: Path) -> None:
    transform = build_augment(AugmentConfig(metal=0.5), CLASSES)

    def film(seed: int, epoch: int, index: int = 0) -> torch.Tensor:
        made = FilmDataset(dataset, tmp_path, CLASSES, longest_side_px=60, transform=transform, seed=seed)
        return made[epoch, index, 0][0]

    assert torch.equal(film(1, 2), film(1, 2))
    assert not torch.equal(film(1, 2), film(1, 3))
    assert not torch.equal(film(1, 2), film(2, 2))


def test_workers_change_nothing(dataset: Dataset, tmp_path: Path) -> None:
    films = FilmDataset(
        dataset, tmp_path, CLASSES, longest_side_px=60, transform=build_augment(AugmentConfig(metal=0.5), CLASSES)
    )
    sampler = EpochSampler(np.ones(2), seed=0)
    sampler.epoch = 3
    batches = [
        next(iter(torch.utils.data.DataLoader(films, 2, sampler=sampler, num_workers=n, collate_fn=collate)))
        for n in (0, 1)
    ]
    assert batches[0][2] == batches[1][2]
    assert all(torch.equal(a, b) for a, b in zip(batches[0][0], batches[1][0], strict=True))


def test_sampler_visits_every_film_once_in_an_order_of_the_epoch() -> None:
    sampler = EpochSampler(np.ones(20), seed=1)
    first = list(sampler)
    assert sorted(first) == [(0, i, 0) for i in range(20)]
    assert list(sampler) == first
    sampler.epoch = 1
    assert [i for _, i, _ in sampler] != [i for _, i, _ in first]
    assert len(sampler) == 20


def test_sampler_shows_films_as_often_as_their_factors_say_and_numbers_the_repeats() -> None:
    factors = np.array([1.0, 3.0, 1.0, 1.5, 1.5])
    sampler = EpochSampler(factors, seed=1)
    for sampler.epoch in range(6):
        keys = list(sampler)
        assert keys == list(sampler)
        assert len(keys) == len(set(keys)) == len(sampler) == 8
        seen = [[repeat for _, i, repeat in keys if i == film] for film in range(5)]
        assert [seen[0], seen[1], seen[2]] == [[0], [0, 1, 2], [0]]
        # One of the two films with a half, never both.
        assert sorted([seen[3], seen[4]]) == [[0], [0, 1]]
        assert {epoch for epoch, _, _ in keys} == {sampler.epoch}


def test_films_that_are_not_repeated_come_in_the_order_that_they_have_without_repeats() -> None:
    plain, repeating = EpochSampler(np.ones(9), seed=4), EpochSampler(np.array([2.0] + [1.0] * 8), seed=4)
    assert [key for key in repeating if key[1] != 0] == [key for key in plain if key[1] != 0]


def test_repeats_of_a_film_in_an_epoch_are_changed_differently(dataset: Dataset, tmp_path: Path) -> None:
    films = FilmDataset(
        dataset, tmp_path, CLASSES, longest_side_px=60, transform=build_augment(AugmentConfig(), CLASSES)
    )
    shown = [films[0, 0, repeat][0] for repeat in range(3)]
    assert not any(torch.equal(shown[a], shown[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert torch.equal(films[0, 0, 1][0], shown[1])


def test_progress_is_told(dataset: Dataset, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    FilmDataset(dataset, tmp_path, CLASSES, longest_side_px=60, progress=lambda *args: told.append(args))
    assert told == [(0, 2, "reading films"), (1, 2, "reading films"), (2, 2, "reading films")]


def test_a_missing_film_is_found_before_training(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "p/2.png").unlink()
    with pytest.raises(DataError, match=r"2\.png: no such film"):
        check_films(dataset, tmp_path, CLASSES)


def test_a_film_of_another_size_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "p/2.png"), np.zeros((60, 50), dtype=np.uint8))
    with pytest.raises(DataError, match=r"p/2\.png: film must be 100 x 120 px .*got 50 x 60"):
        check_films(dataset, tmp_path, CLASSES)


def test_a_class_that_is_not_learnt_is_refused_by_name(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"must be one of lumbar, sacral, got screw(.|\n)*--class-map"):
        check_films(dataset, tmp_path, ("lumbar", "sacral"))


def test_a_name_that_leads_outside_is_refused(tmp_path: Path) -> None:
    outside = Dataset(("lumbar",), (ImageRecord(1, "../1.png", 10, 10),))
    with pytest.raises(DataError, match="leads outside"):
        check_films(outside, tmp_path, CLASSES)
