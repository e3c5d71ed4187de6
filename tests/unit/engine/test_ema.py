"""Compare the moving average with its recurrence, and its saved state with itself."""

import pytest
import torch
from torch import nn

from deit_transfer.engine.ema import Ema, decay_for


def drift(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def test_follows_the_recurrence(model: nn.Module) -> None:
    ema = Ema(model, decay=0.7)
    expected = model[0].weight.detach().double()
    for _ in range(5):
        drift(model)
        model(torch.randn(6, 3))
        ema.update(model)
        expected = 0.7 * expected + 0.3 * model[0].weight.detach().double()
    torch.testing.assert_close(ema.model[0].weight.double(), expected, rtol=1e-6, atol=1e-6)
    assert int(ema.model[1].num_batches_tracked) == 5
    assert not ema.model.training
    assert not any(parameter.requires_grad for parameter in ema.model.parameters())


def test_goes_on_bit_for_bit_from_its_state(model: nn.Module) -> None:
    ema = Ema(model, decay=0.9)
    drift(model)
    ema.update(model)
    resumed = Ema(model, decay=0.9)
    resumed.load_state_dict({name: value.clone() for name, value in ema.state_dict().items()})
    for _ in range(3):
        drift(model)
        ema.update(model)
        resumed.update(model)
    for name, value in ema.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_frozen_weights_stay_as_they_are(model: nn.Module) -> None:
    ema = Ema(model, decay=0.9)
    for _ in range(10):
        ema.update(model)
    for average, weight in zip(ema.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(average, weight)


def test_decay_fits_the_run() -> None:
    assert decay_for(375_300) == pytest.approx(0.99996, abs=1e-7)
    assert decay_for(10**9) == 0.99996
    assert decay_for(2000) ** 2000 < 1e-6
    assert decay_for(10) == 0.0
