"""The moving average of weights against its formula."""

import copy

import pytest
import torch
from torch import nn

from vertinst.engine.averaging import WeightAverage, decay_at


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).to(memory_format=torch.channels_last)


def test_the_decay_warms_up_to_its_limit() -> None:
    assert decay_at(1, 0.999) == pytest.approx(2 / 11)
    assert decay_at(80, 0.999) == pytest.approx(0.9)
    assert decay_at(10**6, 0.999) == 0.999
    assert decay_at(1, 0.0) == 0.0


def test_weights_and_batch_norm_follow_the_formula_and_counters_are_copied() -> None:
    model = net()
    average = WeightAverage(model, 0.3)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for number in (1, 2, 3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.randn(4, 2, 6, 6))
        average.update(model, number)
        decay = decay_at(number, 0.3)
        for name, tensor in model.state_dict().items():
            kept = expected[name] * decay + tensor * (1 - decay) if tensor.is_floating_point() else tensor
            expected[name] = kept.clone()
    found = average.model.state_dict()
    assert found["1.num_batches_tracked"] == 3
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name])
    assert not torch.equal(found["0.weight"], model.state_dict()["0.weight"])


def test_the_copy_neither_trains_nor_touches_the_model() -> None:
    model = net()
    before = copy.deepcopy(model.state_dict())
    average = WeightAverage(model, 0.9)
    assert not average.model.training
    assert not any(p.requires_grad for p in average.model.parameters())
    assert model.training
    average.update(model, 1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in average.model.state_dict().items())


def test_restart_forgets_the_average() -> None:
    average, other = WeightAverage(net(), 0.9), net()
    average.restart(other)
    assert all(torch.equal(t, other.state_dict()[n]) for n, t in average.model.state_dict().items())
