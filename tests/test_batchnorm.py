"""BatchNorm layers that the network counts together: statistics and counters are those of torch's layers."""

import copy

import pytest
import torch
from torch import nn

from benchmarks.step.kernels import KernelCounter
from regnet.models.batchnorm import BatchNorm2d
from regnet.models.design_space import Variant, generate_design
from regnet.models.regnet import Model
from regnet.models.sync_batchnorm import SyncBatchNorm2d, convert_sync_batchnorm
from regnet.training.ema import ModelEma

NORMS = 8  # in the network of these tests


def small_model():
    torch.manual_seed(0)
    return Model(generate_design(Variant.baseline, 2, 8, 8, 2, 1, 8, 8), classes=3)


def with_torchs_layers(model):
    """The same network with torch's own BatchNorm layers, and a forward pass that counts nothing."""
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, BatchNorm2d):
                layer = nn.BatchNorm2d(child.num_features, child.eps, child.momentum)
                layer.load_state_dict(child.state_dict())
                setattr(parent, name, layer)
    return nn.Sequential(*model.children()), model


def counters(model):
    return [buffer.item() for name, buffer in model.named_buffers() if name.endswith("num_batches_tracked")]


def test_state_and_logits_are_those_of_torchs_layers():
    model = small_model()
    forward, theirs = with_torchs_layers(model)
    for step in range(3):
        images = torch.randn((4, 3, 16, 16), generator=torch.Generator().manual_seed(step))
        assert torch.equal(model(images), forward(images))
    assert counters(model) == [3] * NORMS
    assert model.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(one, theirs.state_dict()[name]) for name, one in model.state_dict().items())
    model.eval()
    forward.eval()
    assert torch.equal(model(images), forward(images))
    assert counters(model) == [3] * NORMS


def test_all_layers_are_counted_by_one_operation():
    operations = []
    for mode in (True, False):
        model, counter = small_model().train(mode), KernelCounter()
        with counter, counter.part("forward"):
            model(torch.randn(2, 3, 16, 16))
        operations.append(counter.kernels["forward"])
    assert operations[0] == operations[1] + 1


def test_layers_in_evaluation_mode_are_not_counted():
    model = small_model()
    model.stem.eval()
    model(torch.randn(2, 3, 16, 16))
    assert model.stem.bn.num_batches_tracked == 0
    assert sum(counters(model)) == NORMS - 1


def test_without_a_layer_in_training_mode_nothing_is_counted():
    model = small_model()
    model.stem.eval()
    model.body.eval()
    model(torch.randn(2, 3, 16, 16))
    assert counters(model) == [0] * NORMS


def test_a_copy_counts_its_own_layers_and_one_that_shares_buffers_counts_the_originals():
    model = small_model()
    own = copy.deepcopy(model)
    sharing = copy.deepcopy(model, {id(buffer): buffer for buffer in model.buffers()})
    own(torch.randn(2, 3, 16, 16))
    assert (counters(model), counters(own)) == ([0] * NORMS, [1] * NORMS)
    sharing(torch.randn(2, 3, 16, 16))
    assert counters(model) == [1] * NORMS


def test_synchronised_layers_are_counted_once(monkeypatch):
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: None)
    model = convert_sync_batchnorm(small_model())
    assert sum(isinstance(module, SyncBatchNorm2d) for module in model.modules()) == NORMS
    model(torch.randn(2, 3, 16, 16))
    assert counters(model) == [1] * NORMS


@pytest.mark.parametrize("updates", [1, 3])
def test_the_ema_copies_all_counters_by_one_operation(updates):
    model = small_model()
    ema = ModelEma(model, 0.9)
    for step in range(updates):
        model(torch.randn(2, 3, 16, 16))
        counter = KernelCounter()
        with counter, counter.part("update"):
            ema.update(model, step)
        assert counter.kernels["update"] == 2  # the average of the others is the other operation
    assert counters(ema.module) == [updates] * NORMS
