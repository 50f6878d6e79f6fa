from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from vertinst.errors import DataError
from vertinst.models._inputs import (
    FilmTransform,
    check_images,
    check_targets,
    fit_longest,
    fit_shortest,
    fit_square,
)

LONGEST_64 = partial(fit_longest, longest=64)


def test_longest_side_is_kept_and_boxes_and_masks_follow(draw: Callable) -> None:
    image, target = draw(300, 100)
    batch, (resized,) = FilmTransform(partial(fit_longest, longest=96))([image], [target])
    assert batch.image_sizes == [(96, 32)]
    assert batch.tensors.shape == (1, 3, 96, 32)
    assert resized["masks"].shape == (4, 96, 32)
    assert torch.allclose(resized["boxes"], target["boxes"] * 0.32, atol=1e-4)
    # Fractions of pixels keep the area that nearest neighbours would lose.
    assert torch.allclose(
        resized["masks"].sum(dim=(1, 2)), target["masks"].sum(dim=(1, 2)) * 0.32**2, rtol=0.02, atol=0.5
    )
    assert target["masks"].shape == (4, 300, 100)


def test_masks_that_have_the_size_already_take_no_more_memory(draw: Callable) -> None:
    image, target = draw(64, 40)
    _, resized = FilmTransform(LONGEST_64).resize(image, target)
    assert resized is not None
    assert resized["masks"] is target["masks"]


@pytest.mark.parametrize("size", [(5, 3), (1, 700), (33, 31)])
def test_any_size_of_film_fits(size: tuple[int, int]) -> None:
    batch, _ = FilmTransform(LONGEST_64)([torch.rand(3, *size)])
    assert all(side % 32 == 0 for side in batch.tensors.shape[-2:])
    assert max(batch.image_sizes[0]) == 64


@pytest.mark.parametrize("fit", [LONGEST_64, partial(fit_square, side=64)])
@pytest.mark.parametrize("size", [(90, 70), (30, 64), (64, 64)])
def test_a_grey_film_gives_what_its_three_channels_would(size: tuple[int, int], fit: Callable) -> None:
    transform = FilmTransform(fit)
    grey = torch.rand(1, *size).expand(3, -1, -1)
    repeated, _ = transform([grey.clone(memory_format=torch.contiguous_format)])
    expanded, _ = transform([grey])
    assert torch.equal(expanded.tensors, repeated.tensors)


def test_normalising_is_that_of_the_film() -> None:
    transform = FilmTransform(LONGEST_64, mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    batch, _ = transform([torch.full((3, 128, 128), 0.6)])
    assert batch.tensors[0, :, 9, 9].tolist() == pytest.approx([1.0, 0.4, 0.15])


@pytest.mark.parametrize("size", [(100, 80), (64, 51), (30, 40)])
def test_whole_greys_are_those_of_pillow(size: tuple[int, int]) -> None:
    transform = FilmTransform(LONGEST_64, mean=(0, 0, 0), std=(1 / 255,) * 3, whole_greys=True)
    film = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
    batch, _ = transform([film.permute(2, 0, 1) / 255])
    height, width = batch.image_sizes[0]
    wanted = np.asarray(Image.fromarray(film.numpy()).resize((width, height), Image.Resampling.BILINEAR))
    greys = batch.tensors[0, :, :height, :width].permute(1, 2, 0)
    np.testing.assert_allclose(greys, wanted, atol=1e-4)


@pytest.mark.parametrize(
    ("size", "cut", "wanted"),
    [
        ((600, 500), False, (960, 800)),
        ((2000, 700), False, (1333, 467)),
        ((2000, 700), True, (1333, 466)),
        # Where Detectron2's two steps round otherwise than one would.
        ((2604, 210), False, (1333, 108)),
        ((264, 688), False, (511, 1333)),
    ],
)
def test_the_shortest_side_is_fitted(size: tuple[int, int], cut: bool, wanted: tuple[int, int]) -> None:
    assert fit_shortest(size, 800, 1333, cut=cut) == wanted


@pytest.mark.parametrize("size", [(2000, 700), (611, 487), (90, 900)])
def test_cutting_gives_the_sizes_of_torchvision(size: tuple[int, int]) -> None:
    theirs, _ = GeneralizedRCNNTransform(80, 133, [0.0] * 3, [1.0] * 3).resize(torch.rand(3, *size))
    assert fit_shortest(size, 80, 133, cut=True) == tuple(theirs.shape[1:])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_are_refused(value: float) -> None:
    image = torch.rand(3, 20, 20)
    image[1, 3, 4] = value
    with pytest.raises(DataError, match="film 1 of the batch: pixels must be finite"):
        check_images([torch.rand(3, 9, 9), image])


@pytest.mark.parametrize(
    "image", [torch.rand(1, 8, 8), torch.rand(8, 8), torch.zeros(3, 0, 8), torch.ones(3, 8, 8).byte()]
)
def test_other_shapes_and_types_are_refused(image: torch.Tensor) -> None:
    with pytest.raises(DataError, match=r"must be float of shape \(3, H, W\)"):
        check_images([image])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("boxes", torch.tensor([[5.0, 5.0, 5.0, 9.0]]), r"region 0: boxes must have x1 < x2"),
        ("boxes", torch.tensor([[5.0, 9.0, 7.0, 8.0]]), "boxes must have x1 < x2 and y1 < y2"),
        ("boxes", torch.tensor([[float("nan"), 5.0, 6.0, 9.0]]), "boxes must have"),
        ("boxes", torch.zeros(2, 4), r"1 labels need boxes \(1, 4\)"),
        ("masks", torch.ones(1, 9, 20, dtype=torch.bool), r"masks \(1, 20, 20\)"),
        ("labels", torch.tensor([0]), r"labels must lie in 1\.\.2, got \[0\]"),
        ("labels", torch.tensor([3]), r"labels must lie in 1\.\.2, got \[3\]"),
    ],
)
def test_unusable_targets_are_refused(key: str, value: torch.Tensor, message: str) -> None:
    target = {
        "boxes": torch.tensor([[2.0, 2.0, 6.0, 6.0]]),
        "labels": torch.tensor([1]),
        "masks": torch.ones(1, 20, 20, dtype=torch.bool),
    }
    with pytest.raises(DataError, match=message):
        check_targets([torch.rand(3, 20, 20)], [{**target, key: value}], 2)


def test_missing_targets_are_refused() -> None:
    with pytest.raises(DataError, match="one target for each of the 1 films, got none"):
        check_targets([torch.rand(3, 20, 20)], None, 2)
