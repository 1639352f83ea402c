"""EMA of weights and BatchNorm statistics."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from regnet.training.ema import ModelEma


@given(st.floats(0.01, 0.999), st.integers(1, 6), st.sampled_from([0, 5, 10**6]))
def test_ema_is_the_exponentially_weighted_mean_of_all_weights_since_the_first(decay, updates, earlier_updates):
    """Its decay warms up over the first updates."""
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    ema = ModelEma(model, decay)
    expected = {name: value.clone().double() for name, value in model.state_dict().items()}
    for number in range(updates):
        with torch.no_grad():
            model[0].weight.add_(number - 1.5)
            model[1].running_mean.add_(0.5)
            model[1].num_batches_tracked.add_(3)
        step = earlier_updates + number
        ema.update(model, step)
        warm = min(decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            expected[name] = warm * expected[name] + (1 - warm) * value.double()
    batches = ema.module[1].num_batches_tracked
    assert (batches.dtype, batches.item()) == (torch.int64, 3 * updates)
    for name, value in ema.module.state_dict().items():
        if value.is_floating_point():
            assert value.double().numpy() == pytest.approx(expected[name].numpy(), abs=1e-4), name


def test_ema_is_not_trained_and_shares_no_memory_with_the_model():
    model = nn.Linear(2, 2)
    ema = ModelEma(model, 0.5)
    assert not [parameter for parameter in ema.parameters() if parameter.requires_grad]
    assert ema.module.weight.data_ptr() != model.weight.data_ptr()


def test_a_short_run_with_a_long_decay_does_not_keep_the_initial_weights():
    """Without the warm-up, 98 % of the average of these 100 updates would be the initial weight, 0."""
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.weight)
    ema = ModelEma(model, 0.9998)
    nn.init.ones_(model.weight)
    for step in range(100):
        ema.update(model, step)
    assert ema.module.weight.item() > 0.999
