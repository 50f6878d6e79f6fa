"""Batch norm folded into convolutions: the same outputs, of every model that we have."""

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from vertinst.engine.fold import fold_batch_norm
from vertinst.models import mask_rcnn, yolact

CLASSES = ("a", "b")


def settle(model: nn.Module) -> nn.Module:
    """Statistics as training leaves them: none is 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.2, 0.2),
            ):
                tensor.data.uniform_(low, high, generator=generator)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize(
    ("build", "backbone", "count"),
    [
        (lambda **o: yolact.build(yolact.Options(image_size=64, channels=16, **o), CLASSES).backbone, "resnet18", 20),
        (lambda **o: yolact.build(yolact.Options(image_size=64, channels=16, **o), CLASSES).backbone, "resnet50", 53),
        (lambda **o: yolact.build(yolact.Options(image_size=64, channels=16, **o), CLASSES).backbone, "darknet53", 52),
        (lambda **o: mask_rcnn.build(mask_rcnn.Options(image_size=64, **o), CLASSES).backbone, "resnet18", 20),
    ],
    ids=["yolact-resnet18", "yolact-resnet50", "yolact-darknet53", "mask-rcnn-resnet18"],
)
def test_backbones_give_the_same_without_a_batch_norm_left(
    build: Callable[..., nn.Module], backbone: str, count: int, frozen: bool
) -> None:
    torch.manual_seed(0)
    model = settle(build(backbone=backbone, frozen_batch_norm=frozen))
    film = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = leaves(model(film))
    assert norms(model) == count
    assert fold_batch_norm(model) == count
    assert norms(model) == 0
    with torch.inference_mode():
        found = leaves(model(film))
    for a, b in zip(expected, found, strict=True):
        assert (a - b).abs().max() <= 1e-5 * a.abs().max()


def leaves(output: object) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output
    return [leaf for part in parts for leaf in leaves(part)]


def test_a_bias_of_the_convolution_is_kept() -> None:
    model = settle(nn.Sequential(nn.Conv2d(2, 3, 3, bias=True), nn.BatchNorm2d(3)))
    film = torch.rand(1, 2, 9, 9)
    expected = model(film)
    assert fold_batch_norm(model) == 1
    torch.testing.assert_close(model(film), expected)


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(2, 3, 3), nn.ReLU(), nn.BatchNorm2d(3)],
        [nn.Linear(3, 3), nn.BatchNorm2d(3)],
        [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)],
        [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, affine=False)],
    ],
)
def test_other_batch_norms_stay(layers: list[nn.Module]) -> None:
    model = nn.Sequential(*layers).eval()
    assert fold_batch_norm(model) == 0
    assert norms(model) == 1
