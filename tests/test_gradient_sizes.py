"""Updates are finite for finite gradients of any size, and keep their direction."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from thoroughness import examples
from torch import nn

from regnet.optim.clipping import clip_gradients
from regnet.optim.muon import Muon, orthogonalize
from regnet.training.state import TrainingState

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
sizes = st.one_of(st.just(0.0), st.floats(-38, 30).map(lambda exponent: 10.0**exponent))


def random(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(size=sizes, dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99), tall=st.booleans())
@example(size=1e-25, dtype=torch.float32, seed=0, tall=False)
@example(size=1e20, dtype=torch.bfloat16, seed=0, tall=True)
@examples(60)
def test_orthogonalised_updates_do_not_depend_on_the_size_of_the_gradient(size, dtype, seed, tall):
    matrices = random(seed, 2, 12, 5) if tall else random(seed, 2, 5, 12)
    actual = orthogonalize(size * matrices, dtype).float()
    expected = orthogonalize(matrices, dtype).float() if size else torch.zeros_like(matrices)
    assert (actual - expected).norm() <= 0.02 * expected.norm()


@given(exponent=st.integers(-40, 40), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 99))
@examples(40)
def test_orthogonalisation_is_bit_identical_for_gradients_scaled_by_a_power_of_two(exponent, dtype, seed):
    matrices = random(seed, 2, 5, 12)
    assert torch.equal(orthogonalize(2.0**exponent * matrices, dtype), orthogonalize(matrices, dtype))


@given(gradient_sizes=st.lists(sizes, min_size=1, max_size=4), dtype=st.sampled_from(DTYPES))
@examples(40)
def test_muon_makes_a_finite_step_for_every_finite_gradient(gradient_sizes, dtype):
    convolution, bias = nn.Parameter(random(1, 8, 4, 3, 3)), nn.Parameter(random(2, 8))
    groups = [
        {"params": [convolution], "weight_decay": 0.05, "num_matrices": 2},
        {"params": [bias], "weight_decay": 0.0, "num_matrices": 0},
    ]
    optimizer = Muon(groups, lr=0.1, momentum=0.9, dtype=dtype)
    for size in gradient_sizes:
        convolution.grad, bias.grad = size * random(3, 8, 4, 3, 3), size * random(4, 8)
        optimizer.step()
        assert convolution.isfinite().all()
        assert bias.isfinite().all()


def test_the_momentum_of_a_weight_whose_gradient_stays_zero_decays_to_zero_without_a_nan():
    weight = nn.Parameter(random(1, 4, 4, 1, 1))
    optimizer = Muon([{"params": [weight], "weight_decay": 0.0, "num_matrices": 1}], 0.01, 0.9, torch.float32)
    for step in range(1100):
        weight.grad = random(2, 4, 4, 1, 1) * (step == 0)
        optimizer.step()
    assert weight.isfinite().all()


@given(size=st.floats(-30, 30).map(lambda exponent: 10.0**exponent), max_norm=st.sampled_from([1e-3, 1.0, 5.0]))
@examples(60)
def test_clipping_keeps_the_direction_of_gradients_of_any_size(size, max_norm):
    parameters = [nn.Parameter(torch.zeros(shape)) for shape in [(3, 4), (7,), (1,)]]
    for seed, parameter in enumerate(parameters):
        parameter.grad = size * random(seed, *parameter.shape)
    before = torch.cat([parameter.grad.flatten().double() for parameter in parameters])
    clip_gradients(parameters, max_norm)
    after = torch.cat([parameter.grad.flatten().double() for parameter in parameters])
    factor = min(1.0, max_norm / before.norm().item())
    torch.testing.assert_close(after, before * factor, rtol=1e-5, atol=1e-38)


def test_clipping_agrees_with_torch_and_ignores_parameters_without_gradients():
    mine, theirs = ([nn.Parameter(torch.zeros(3)) for _ in range(3)] for _ in range(2))
    for parameters in (mine, theirs):
        parameters[0].grad, parameters[1].grad = random(0, 3), random(1, 3)
    clip_gradients(mine, 0.1)
    torch.nn.utils.clip_grad_norm_(theirs, 0.1)
    for one, other in zip(mine[:2], theirs[:2], strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=2e-5, atol=0)
    assert mine[2].grad is None


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_clipping_does_not_hide_a_gradient_that_is_not_finite(value):
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([1.0, value])
    clip_gradients([parameter], 1.0)
    assert not parameter.grad.isfinite().all()


def test_a_second_moment_that_overflows_counts_as_divergence():
    """Adam would never change this weight again, although it stays finite."""
    model = nn.Linear(2, 2)
    state = SimpleNamespace(model=model, optimizer=torch.optim.Adam(model.parameters()))
    for size, found in ((1.0, None), (1e25, "exp_avg_sq of weight")):
        model.weight.grad, model.bias.grad = torch.full((2, 2), size), torch.zeros(2)
        state.optimizer.step()
        assert TrainingState.first_non_finite(state) == found
