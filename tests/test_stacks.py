"""Muon's stacks: matrices of several shapes, zero-padded to few shapes and orthogonalised together."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import ROOT
from thoroughness import examples
from torch import nn

from regnet.config.parser import parse_config
from regnet.models.regnet import Model
from regnet.optim.muon import Muon, orthogonalize
from regnet.optim.optimizers import build_optimizer
from regnet.optim.stacks import Matrices, Stacking, plan_stacks

SIDES = st.sampled_from([1, 2, 3, 8, 9, 24, 64, 72, 100, 376])
MATRICES = st.lists(st.builds(Matrices, st.integers(1, 50), SIDES, SIDES), min_size=1, max_size=30)


def multiply_adds(count, rows, columns):
    """Multiply-adds of X X^T, of its square, and of a product with X, for each of `count` wide matrices."""
    return count * (rows * columns * rows + rows * rows * rows + rows * rows * columns)


@given(MATRICES)
def test_every_weight_is_in_exactly_one_stack_that_is_large_enough(weights):
    stacks = plan_stacks(weights)
    assert sorted(index for stack in stacks for index in stack.members) == list(range(len(weights)))
    for stack in stacks:
        assert stack.rows <= stack.columns
        sides = [sorted(weights[index][1:]) for index in stack.members]
        assert max(rows for rows, _ in sides) == stack.rows
        assert max(columns for _, columns in sides) == stack.columns


@given(MATRICES)
def test_padding_adds_at_most_15_percent_of_work(weights):
    padded = [
        multiply_adds(weights[index].number, stack.rows, stack.columns)
        for stack in plan_stacks(weights)
        for index in stack.members
    ]
    assert sum(padded) <= 1.15 * sum(multiply_adds(count, *sorted(shape)) for count, *shape in weights)


@given(MATRICES, st.randoms())
def test_stacks_depend_on_the_shapes_but_not_on_the_order_of_the_weights(weights, random):
    order = random.sample(range(len(weights)), len(weights))
    stacks = plan_stacks([weights[index] for index in order])
    named = [(rows, columns, tuple(sorted(order[index] for index in members))) for rows, columns, members in stacks]
    assert named == [tuple(stack) for stack in plan_stacks(weights)]


def test_matrices_of_one_shape_and_its_transpose_share_a_stack():
    assert plan_stacks([Matrices(2, 8, 72), Matrices(1, 72, 8)]) == [(8, 72, (0, 1))]


def test_three_stacks_are_enough_for_the_recipes():
    config = parse_config(["--config", str(ROOT / "configs" / "fast.yaml")])
    optimizer = build_optimizer(Model(config.model.design(), 100), config.optim, torch.float32)
    groups = [group for group in optimizer.param_groups if group["num_matrices"]]
    shapes = [
        Matrices(group["num_matrices"], len(weight) // group["num_matrices"], weight[0].numel())
        for group in groups
        for weight in group["params"]
    ]
    assert len({tuple(sorted(each[1:])) for each in shapes}) == 10
    assert len(plan_stacks(shapes)) == 3


@st.composite
def weights_and_counts(draw):
    """Convolution weights (count * rows, in, k, k) in either memory format, and the numbers of their matrices."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    weights, counts = [], []
    for _ in range(draw(st.integers(1, 6))):
        count, rows, width, side = (draw(st.sampled_from(each)) for each in ([1, 2, 3], [1, 4, 9], [1, 2, 8], [1, 3]))
        weight = torch.randn((count * rows, width, side, side), generator=generator)
        weights.append(weight.contiguous(memory_format=draw(st.sampled_from(FORMATS))))
        counts.append(count)
    return weights, counts


FORMATS = [torch.contiguous_format, torch.channels_last]


def matrices_of(weight, count):
    return weight.reshape(count, len(weight) // count, -1)


@examples(60)
@given(weights_and_counts(), st.sampled_from(FORMATS))
def test_weights_survive_stacking_with_their_strides_and_padding_is_zero(case, memory_format):
    weights, counts = case
    stacking = Stacking(weights, counts)
    stacks = stacking.stack([weight.contiguous(memory_format=memory_format) for weight in weights])
    for weight, returned in zip(weights, stacking.unstack(stacks), strict=True):
        assert torch.equal(returned, weight)
        assert returned.stride() == weight.stride()
    total = sum(stack.square().sum() for stack in stacks)
    torch.testing.assert_close(total, sum(weight.square().sum() for weight in weights))


@examples(40)
@given(weights_and_counts())
def test_every_matrix_is_orthogonalised_as_if_it_were_alone(case):
    weights, counts = case
    parameters = [nn.Parameter(torch.zeros_like(weight)) for weight in weights]
    groups = [
        {"params": [parameter], "weight_decay": 0.0, "num_matrices": count}
        for parameter, count in zip(parameters, counts, strict=True)
    ]
    for parameter, weight in zip(parameters, weights, strict=True):
        parameter.grad = weight.clone()
    Muon(groups, 1.0, 0.0, torch.float32).step()
    for parameter, weight, count in zip(parameters, weights, counts, strict=True):
        for updated, gradient in zip(matrices_of(parameter, count), matrices_of(weight, count), strict=True):
            rows, columns = gradient.shape
            expected = -orthogonalize(gradient[None], torch.float32)[0] * max(1, rows / columns) ** 0.5
            torch.testing.assert_close(updated.detach(), expected, rtol=1e-4, atol=1e-5)


def test_parameters_of_sgd_groups_are_updated_as_by_torchs_sgd_from_the_first_step_on():
    mine, theirs = (nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4)) for _ in range(2))
    muon = Muon([{"params": [mine], "weight_decay": 0.1, "num_matrices": 0}], 0.3, 0.9, torch.float32)
    sgd = torch.optim.SGD([theirs], lr=0.3, momentum=0.9, nesterov=True, weight_decay=0.1, fused=True)
    for step in range(3):
        mine.grad, theirs.grad = (torch.full((3, 4), step - 0.7) for _ in range(2))
        muon.step()
        sgd.step()
        assert torch.equal(mine, theirs)
    assert torch.equal(muon.state[mine]["momentum_buffer"], sgd.state[theirs]["momentum_buffer"])


def test_a_parameter_without_a_gradient_is_not_updated():
    weight = nn.Parameter(torch.ones(2, 2))
    Muon([{"params": [weight], "weight_decay": 0.1, "num_matrices": 0}], 0.3, 0.9, torch.float32).step()
    assert torch.equal(weight, torch.ones(2, 2))


@pytest.mark.parametrize("memory_format", FORMATS, ids=["contiguous", "channels_last"])
def test_a_state_saved_in_another_memory_format_resumes_with_the_same_updates(memory_format):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn((16, 8, 3, 3), generator=generator)
    first, second = torch.randn((2, 16, 8, 3, 3), generator=generator)

    def optimizer_of(parameter):
        return Muon([{"params": [parameter], "weight_decay": 0.0, "num_matrices": 2}], 0.1, 0.9, torch.float32)

    parameter = nn.Parameter(weight.clone(memory_format=torch.contiguous_format))
    optimizer = optimizer_of(parameter)
    parameter.grad = first
    optimizer.step()
    resumed = nn.Parameter(parameter.detach().clone(memory_format=memory_format))
    resumed_optimizer = optimizer_of(resumed)
    resumed_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, owner in ((parameter, optimizer), (resumed, resumed_optimizer)):
        each.grad = second.clone()
        owner.step()
    assert torch.equal(resumed, parameter)
