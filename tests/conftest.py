"""Settings for every test."""

import os

# Before anything imports matplotlib or torch: no display, and one thread, with which small training steps are several
# times faster than with all cores and results do not depend on their number.
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_surprise_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError("tests are offline")

    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """ResNets that are built have an eighth of their channels for the length of the test."""
    from narrow_resnet import NarrowResNet

    monkeypatch.setattr("vertinst.models._backbones.torchvision_resnet.ResNet", NarrowResNet)
