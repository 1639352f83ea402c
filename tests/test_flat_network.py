"""A flat network computes what the network itself computes, and its parameters stay ordinary parameters."""

import io
from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from thoroughness import examples
from torch import nn
from torch.nn import functional as F

from regnet.models.design_space import Variant, generate_design
from regnet.models.regnet import Model, freeze_backbone
from regnet.training.compute_copy import compute_copy
from regnet.training.cuda_graphs import CapturedFunction, GraphCapture
from regnet.training.flat_network import FlatNetwork


class RerunCapture(GraphCapture):
    """Replays a function by running it again."""

    def __init__(self):
        super().__init__("functions", required=True, report=print)
        self.captured = 0

    def capture(self, function):
        self.captured += 1
        return function


def build(frozen=False):
    torch.manual_seed(0)
    model = Model(generate_design(Variant.baseline, 2, 8, 8, 2, 1, 8, 8), classes=3)
    if frozen:
        freeze_backbone(model)
    return model.to(memory_format=torch.channels_last)


def flatten(model, dtype=torch.float32):
    network = FlatNetwork(model, compute_copy(model, dtype))
    network.train()
    return network


def backward(network, images, labels, dtype):
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32, cache_enabled=False):
        logits = network(images)
    F.cross_entropy(logits.float(), labels, reduction="sum").backward()
    return logits


@given(
    steps=st.lists(st.lists(st.sampled_from([2, 5]), min_size=1, max_size=3), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    captured=st.booleans(),
    frozen=st.booleans(),
)
@examples(15)
def test_logits_accumulated_gradients_and_statistics_are_those_of_the_network_itself(steps, dtype, captured, frozen):
    plain, model = build(frozen), build(frozen)
    network = flatten(model, dtype)
    network.capture = RerunCapture() if captured else None
    plain.train()
    generator = torch.Generator().manual_seed(1)
    for counts in steps:
        for count in counts:
            images = torch.randn(count, 3, 16, 16, generator=generator).contiguous(memory_format=torch.channels_last)
            labels = torch.randint(3, (count,), generator=generator)
            expected = backward(plain, images, labels, dtype)
            assert torch.equal(backward(network, images, labels, dtype), expected)
        for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            assert (mine.grad is None and theirs.grad is None) or torch.equal(mine.grad, theirs.grad)
        network.zero_grad()
        plain.zero_grad()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(model.buffers(), plain.buffers(), strict=True))


def test_a_shape_is_captured_at_its_third_use_in_an_epoch():
    network = flatten(build())
    network.capture = RerunCapture()
    for epoch in range(3):
        network.train()
        for step, count in enumerate([4, 4, 4, 4, 2]):
            network.zero_grad()
            backward(network, torch.randn(count, 3, 16, 16), torch.zeros(count, dtype=torch.int64), torch.float32)
            assert network.capture.captured == (2 if epoch or step > 1 else 0)


def test_gradients_and_parameters_stay_where_they_are_after_a_step_a_reset_and_a_resume():
    model = build()
    network = flatten(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, fused=True)
    saved = deepcopy(model.state_dict())

    def addresses():
        return [(parameter.data_ptr(), parameter.grad.data_ptr()) for parameter in model.parameters()]

    before = addresses()
    first = min(own for own, _ in before)
    assert all((own - first) % 128 == 0 for own, _ in before), "cuDNN reads aligned weights in place"
    for _ in range(3):
        backward(network, torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 0]), torch.float32)
        optimizer.step()
        network.zero_grad()
    model.load_state_dict(saved)
    assert addresses() == before
    assert not network.flat.equal(torch.zeros_like(network.flat))


def test_a_copy_of_the_network_owns_its_memory():
    model, plain = build(), build()
    flatten(model)
    assert list(model.state_dict()) == list(plain.state_dict())
    copied = deepcopy(model).state_dict()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(copied[name], tensor)
        assert copied[name].stride() == tensor.stride()
    saved, expected = io.BytesIO(), io.BytesIO()
    torch.save(copied, saved)
    torch.save(plain.state_dict(), expected)
    assert saved.tell() == expected.tell()


def test_a_compute_copy_shares_all_tensors_except_weights_in_another_dtype():
    model = build()
    copy = compute_copy(model, torch.bfloat16)
    for (name, own), other in zip(model.named_parameters(), copy.network.parameters(), strict=True):
        is_norm = own.ndim == 1 and "f_out" not in name
        assert (own is other) == is_norm, name
        assert other.dtype == (torch.float32 if is_norm else torch.bfloat16)
    assert all(own is other for own, other in zip(model.buffers(), copy.network.buffers(), strict=True))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    copy.cast_weights()
    for own, other in zip(model.parameters(), copy.network.parameters(), strict=True):
        assert torch.equal(own.to(other.dtype), other)


def test_a_frozen_backbone_stays_in_evaluation_mode():
    model = build(frozen=True)
    network = flatten(model)
    assert not model.stem.training
    assert not any(block.training for block in network.compute.network.blocks)
    assert model.head.training
    assert sum(parameter.numel() for parameter in model.head.parameters()) <= network.flat.numel() < 500


@pytest.mark.parametrize("inputs", [(torch.ones(3), 2), (torch.ones(3, dtype=torch.float64), 2), (torch.ones(2, 2), 0)])
def test_a_captured_function_is_captured_once_for_each_shape_dtype_and_mode(inputs):
    capture = RerunCapture()
    captured = CapturedFunction(capture, lambda x, n: (x * n, x - n))
    for call in range(3):
        tensor = inputs[0] + call
        product, difference = captured(tensor, inputs[1] + call)
        assert torch.equal(product, tensor * (inputs[1] + call))
        assert torch.equal(difference, tensor - (inputs[1] + call))
    assert capture.captured == 1
    with torch.autocast("cpu", torch.bfloat16):
        captured(*inputs)
    with torch.inference_mode():
        captured(*inputs)
    captured(*(torch.ones(7), 1))
    assert capture.captured == 4
    linear = nn.Linear(2, 2)
    assert not CapturedFunction(RerunCapture(), linear)(torch.ones(1, 2)).requires_grad
