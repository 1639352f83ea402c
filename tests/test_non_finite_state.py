"""A state with a number that is not finite is found, wherever it is, and named."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from thoroughness import examples
from torch import nn

from regnet.training.state import TrainingState

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def state_of(tensors):
    model = nn.Module()
    for name, tensor in tensors.items():
        model.register_buffer(name, tensor)
    return SimpleNamespace(model=model, optimizer=SimpleNamespace(state={}))


numbers = st.sampled_from([0.0, -0.0, 1.0, -3e4, math.inf, -math.inf, math.nan])


@examples(200)
@given(values=st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(numbers, max_size=5)), min_size=1, max_size=6))
def test_the_first_tensor_with_a_number_that_is_not_finite_is_named(values):
    tensors = {f"t{index}": torch.tensor(row, dtype=dtype) for index, (dtype, row) in enumerate(values)}
    expected = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
    assert TrainingState.first_non_finite(state_of({"count": torch.tensor(7), **tensors})) == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_finite_numbers_of_any_size_pass(dtype):
    """Their sum, and the sum of their squares, would overflow."""
    largest = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
    assert TrainingState.first_non_finite(state_of({"a": largest, "b": -largest})) is None


def test_the_state_of_the_optimiser_is_checked_with_the_name_of_its_parameter():
    model = nn.Linear(2, 2)
    state = SimpleNamespace(model=model, optimizer=torch.optim.SGD(model.parameters(), 0.1, momentum=0.9))
    model.weight.grad, model.bias.grad = torch.ones(2, 2), torch.ones(2)
    state.optimizer.step()
    assert TrainingState.first_non_finite(state) is None
    state.optimizer.state[model.bias]["momentum_buffer"][1] = math.nan
    assert TrainingState.first_non_finite(state) == "momentum_buffer of bias"
