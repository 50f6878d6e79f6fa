"""torch.compile around a model's network: which part, how, and the same answer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from vertinst.engine.compiled import compile_network
from vertinst.engine.predict import load_model
from vertinst.errors import ConfigError

CPU = torch.device("cpu")


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Trace as torch.compile does, but run what was traced as it is: a C++ compiler would take half a minute."""
    real = torch.compile
    wanted: list[dict[str, Any]] = []

    def trace(function: Callable[..., Any], **how: Any) -> Callable[..., Any]:
        wanted.append(how)
        return real(function, backend="eager", fullgraph=True)

    monkeypatch.setattr(torch, "compile", trace)
    return wanted


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def network(self, batch: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(batch))

    def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
        return self.network(torch.stack(images))


def test_the_network_is_one_program_with_the_same_answer(traced: list[dict[str, Any]]) -> None:
    model = Network().eval()
    film = [torch.rand(3, 9, 8)]
    with torch.inference_mode():
        expected = model(film)
        compile_network(model, "network", CPU)
        torch.testing.assert_close(model(film), expected)
    assert traced == [{"options": {"freezing": True}}]


def test_on_a_gpu_cuda_graphs_are_asked_for(traced: list[dict[str, Any]]) -> None:
    compile_network(Network(), "network", torch.device("cuda"))
    assert traced == [{"mode": "reduce-overhead"}]


def test_other_models_have_their_backbone_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = nn.Conv2d(3, 4, 3)

    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda module, **how: asked.append((module, how)))
    model = Detector()
    compile_network(model, "detector", CPU)
    assert asked == [(model.backbone, {"options": {"freezing": True}})]


def test_a_model_without_such_a_part_is_refused() -> None:
    with pytest.raises(ConfigError, match="model tiny has neither a network nor a backbone to compile"):
        compile_network(nn.Conv2d(3, 4, 3), "tiny", CPU)


def test_a_model_is_loaded_compiled(traced: list[dict[str, Any]]) -> None:
    load_model("demo", precision="32", device="cpu", compile=True)
    assert len(traced) == 1
    with pytest.raises(ConfigError, match="only the engine torch compiles"):
        load_model("demo", engine="onnx", compile=True)
