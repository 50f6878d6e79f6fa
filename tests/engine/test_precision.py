"""Precision and device: chosen by what the hardware has."""

import pytest
import torch

from vertinst.engine.precision import choose_device, choose_precision, explain_precision, lay_out
from vertinst.errors import ConfigError

CPU = torch.device("cpu")


def pretend_cpu(monkeypatch: pytest.MonkeyPatch, amx: bool, avx512_bf16: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16, raising=False)


@pytest.mark.parametrize(
    ("amx", "avx", "precision", "reason"),
    [
        (True, True, "bf16", "AMX"),
        (False, True, "bf16", "AVX512-BF16"),
        (False, False, "32", "neither AMX-BF16 nor AVX512-BF16"),
    ],
)
def test_auto_on_a_processor(
    monkeypatch: pytest.MonkeyPatch, amx: bool, avx: bool, precision: str, reason: str
) -> None:
    pretend_cpu(monkeypatch, amx, avx)
    assert choose_precision("auto", CPU) == precision
    assert reason in explain_precision(CPU)


def test_auto_without_torchs_private_questions_is_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert choose_precision("auto", CPU) == "32"


@pytest.mark.parametrize(("capability", "precision"), [((7, 5), "32"), ((8, 0), "bf16"), ((9, 0), "bf16")])
def test_auto_on_a_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], precision: str) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    device = torch.device("cuda")
    assert choose_precision("auto", device) == precision
    assert f"{capability[0]}.{capability[1]}" in explain_precision(device)


def test_what_is_wanted_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_cpu(monkeypatch, amx=False, avx512_bf16=False)
    assert choose_precision("bf16", CPU) == "bf16"
    assert choose_precision("32", CPU) == "32"


def test_unknown_precision_and_device_are_refused() -> None:
    with pytest.raises(ConfigError, match="auto, 32 or bf16, got 'fp16'"):
        choose_precision("fp16", CPU)
    with pytest.raises(ConfigError, match="auto, cpu or cuda, got 'gpu'"):
        choose_device("gpu")
    with pytest.raises(ConfigError, match="device cuda:99 is not there"):
        choose_device("cuda:99")


def test_auto_device_without_a_gpu_is_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device() == CPU


@pytest.mark.parametrize(
    ("device", "precision", "converted"), [("cpu", "32", True), ("cpu", "bf16", True), ("cuda", "32", False)]
)
def test_layout_is_channels_last_where_that_is_faster(device: str, precision: str, converted: bool) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 8, 3)
    film = torch.rand(1, 3, 16, 16)
    before = layer(film)
    after = lay_out(layer, precision, torch.device(device))(film)
    assert layer.weight.is_contiguous(memory_format=torch.channels_last) is converted
    torch.testing.assert_close(before, after)


@pytest.mark.parametrize(
    ("capability", "precision", "converted"),
    [("AVX2", "32", False), ("DEFAULT", "32", False), ("AVX512", "32", True), ("AVX2", "bf16", True)],
)
def test_training_is_channels_last_where_gradients_gain_too(
    monkeypatch: pytest.MonkeyPatch, capability: str, precision: str, converted: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    layer = lay_out(torch.nn.Conv2d(3, 8, 3), precision, CPU, training=True)
    assert layer.weight.is_contiguous(memory_format=torch.channels_last) is converted
