from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.models import get_model
from torchvision.ops import FrozenBatchNorm2d

from vertinst.errors import CheckpointError
from vertinst.models._backbones import resnet, stage_channels

STAGES = ("layer1", "layer2", "layer3", "layer4")


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


def settled(network: nn.Module) -> nn.Module:
    """Statistics as training leaves them, and steady activations: none is 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        last = name.split(".")[-1]
        if last.startswith("running_") or (tensor.ndim == 1 and last in ("weight", "bias")):
            low, high = {"running_mean": (-0.2, 0.2), "bias": (-0.2, 0.2)}.get(last, (0.6, 1.4))
            tensor.uniform_(low, high, generator=generator)
    return network


def pair(name: str, eps: float, trainable_layers: int = 5) -> tuple[nn.Module, nn.Module]:
    """torchvision's network with its frozen batch norm, and ours, with the same tensors."""
    theirs = settled(get_model(name, norm_layer=lambda channels: FrozenBatchNorm2d(channels, eps)))
    ours = resnet(name, frozen_batch_norm=True, batch_norm_eps=eps, trainable_layers=trainable_layers)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_frozen_batch_norm_gives_torchvisions_outputs_and_gradients(name: str, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    theirs, ours = (network.to(memory_format=layout).double().train() for network in pair(name, 1e-3))
    films = torch.rand(2, 3, 64, 64, dtype=torch.float64)
    expected, found = theirs(films), ours(films)
    torch.testing.assert_close(found, expected)
    for output in (expected, found):
        output.square().mean().backward()
    for (name, theirs_one), own in zip(theirs.named_parameters(), ours.parameters(), strict=True):
        if not name.startswith("fc"):
            torch.testing.assert_close(own.grad, theirs_one.grad, msg=name)


def test_eps_of_zero_and_of_ordinary_batch_norm() -> None:
    theirs, ours = pair("resnet18", 0.0)
    films = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(films), theirs.eval()(films), rtol=1e-4, atol=1e-5)
    norms = [m for m in resnet("resnet18", batch_norm_eps=0.25).modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {0.25}


def test_frozen_stages_of_ordinary_batch_norm_are_constant_in_training() -> None:
    body = settled(resnet("resnet18", trainable_layers=0))
    films = torch.rand(2, 3, 64, 64)
    before = deepcopy(body.state_dict())
    trained = body.train()(films)
    torch.testing.assert_close(trained, body.eval()(films))
    for name, tensor in body.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def kept(body: nn.Module, films: Tensor) -> int:
    """Elements that the forward pass keeps for backward, weights left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in body.state_dict().values()}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = body(films)
        total = sum(seen.values())
    assert output.numel()
    return total


@pytest.mark.parametrize("frozen", [False, True])
def test_frozen_stages_keep_nothing_for_backward(frozen: bool) -> None:
    films = torch.rand(1, 3, 128, 128)
    stem_and_first = nn.Sequential(
        *list(resnet("resnet18", frozen_batch_norm=frozen, trainable_layers=3).train().children())[:5]
    )
    assert kept(stem_and_first, films) == 0
    assert not stem_and_first(films).requires_grad


def test_frozen_batch_norm_keeps_no_more_than_torchvisions() -> None:
    theirs, ours = pair("resnet18", 1e-5)
    films = torch.rand(1, 3, 128, 128)
    weights = sum(parameter.numel() for parameter in ours.parameters())
    assert kept(ours.train(), films) <= kept(theirs.train(), films) + weights


def test_stride_in_the_1x1_convolution() -> None:
    body = resnet("resnet50", stride_in_1x1=True)
    for stage in STAGES:
        first, second, *_ = body.get_submodule(stage)
        stride = (1, 1) if stage == "layer1" else (2, 2)
        assert (first.conv1.stride, first.conv2.stride, first.downsample[0].stride) == (stride, (1, 1), stride)
        assert second.conv1.stride == second.conv2.stride == (1, 1)
    basic = resnet("resnet18", stride_in_1x1=True).get_submodule("layer2")[0]
    assert (basic.conv1.stride, basic.conv2.stride) == ((2, 2), (1, 1))


def test_copies_follow_their_own_tensors_and_files_hold_all(tmp_path: Path) -> None:
    body = settled(resnet("resnet18", frozen_batch_norm=True)).eval()
    films = torch.rand(1, 3, 64, 64)
    copy = deepcopy(body)
    with torch.inference_mode():
        before = body(films)
        copy.get_submodule("layer3.0.bn1").weight.mul_(2)
        assert torch.equal(body(films), before)
        assert not torch.allclose(copy(films), before)
    save_file(body.state_dict(), tmp_path / "body.safetensors")
    copy.load_state_dict(load_file(tmp_path / "body.safetensors"))
    with torch.inference_mode():
        assert torch.equal(copy(films), before)


@pytest.mark.parametrize("trained", [False, True])
def test_bf16_stays_bf16_through_frozen_batch_norm(trained: bool) -> None:
    body = settled(resnet("resnet18", frozen_batch_norm=True, trainable_layers=5 if trained else 0))
    films = torch.rand(1, 3, 64, 64)
    types = []
    for module in body.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(lambda module, inputs, output: types.append(output.dtype))
    exact = body(films)
    types.clear()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = body(films)
    assert set(types) == {torch.bfloat16}
    assert (rounded - exact).abs().max() < 0.05 * exact.abs().max()


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
