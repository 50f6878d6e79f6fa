import pytest
import torch
from torchvision.ops import FrozenBatchNorm2d

from vertinst.errors import CheckpointError
from vertinst.models._backbones import resnet, stage_channels


@pytest.mark.parametrize(
    ("name", "channels"), [("resnet18", (64, 128, 256, 512)), ("resnet50", (256, 512, 1024, 2048))]
)
def test_channels_of_the_stages(name: str, channels: tuple[int, ...]) -> None:
    with torch.device("meta"):
        assert stage_channels(resnet(name)) == channels


def test_frozen_stages_and_norms() -> None:
    body = resnet("resnet18", frozen_batch_norm=True, trainable_layers=1)
    assert {n.split(".")[0] for n, p in body.named_parameters() if p.requires_grad} == {"layer4"}
    assert any(isinstance(module, FrozenBatchNorm2d) for module in body.modules())
    assert {n.split(".")[0] for n, p in resnet("resnet18").named_parameters() if p.requires_grad} >= {"bn1", "conv1"}


def test_weights_that_cannot_be_downloaded_say_where_to_put_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    monkeypatch.setattr("torch.hub.urlopen", _no_network)
    with pytest.raises(CheckpointError, match=r"resnet18[\s\S]*backbone_weights to none"):
        resnet("resnet18", "imagenet")


def _no_network(*args: object, **kwargs: object) -> None:
    raise OSError("no network")
