"""train.compile: stem and blocks are compiled one by one, each form once for each shape of images."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn import functional as F

from regnet.models.design_space import Variant, generate_design
from regnet.models.regnet import Model
from regnet.training.compiler import compile_network

FORMS, PARTS = 3, 5  # stem, the first block, and the three that follow it


@pytest.fixture(autouse=True)
def without_code_generation(monkeypatch):
    """Compiles graphs of PyTorch's own kernels: takes a second instead of a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch._dynamo.reset()
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 4)
    monkeypatch.setattr(torch._dynamo.config, "accumulated_recompile_limit", 256)


def tiny_model():
    torch.manual_seed(0)
    model = Model(generate_design(Variant.paper, 4, 8, 0.001, 2, 1, 8, 8), classes=3).double()
    assert len([model.stem, *model.blocks]) == PARTS
    return model


def gradients(model, images):
    model.zero_grad()
    F.cross_entropy(model(images), torch.arange(len(images)) % 3).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def test_compiled_blocks_compute_the_gradients_and_statistics_of_uncompiled_ones():
    model, lines = tiny_model(), []
    uncompiled = deepcopy(model)
    compile_network(model, lines.append)
    assert list(model.state_dict()) == list(uncompiled.state_dict())
    before = counters["stats"]["unique_graphs"]
    for _ in range(2):
        images = torch.randn(4, 3, 16, 16, dtype=torch.float64)
        torch.testing.assert_close(gradients(model, images), gradients(uncompiled, images))
    torch.testing.assert_close(dict(model.named_buffers()), dict(uncompiled.named_buffers()))
    assert counters["stats"]["unique_graphs"] - before == FORMS
    (line,) = lines
    assert line.startswith(f"Compiled {FORMS} forms of stem and blocks in ")
    assert float(line.split()[-2]) > 0


@pytest.mark.thorough
def test_no_shape_of_images_runs_uncompiled():
    """Beyond its limit of compilations PyTorch runs uncompiled code."""
    model = tiny_model()
    compile_network(model, None)
    before = counters["stats"]["unique_graphs"]
    shapes = [(4, 16), (3, 16), (4, 8)]
    for count, side in shapes * 2:
        model(torch.randn(count, 3, side, side, dtype=torch.float64))
    assert counters["stats"]["unique_graphs"] - before == FORMS * len(shapes)


def test_a_copy_of_a_compiled_network_is_not_compiled():
    model = tiny_model()
    compile_network(model, None)
    before = counters["stats"]["unique_graphs"]
    deepcopy(model)(torch.randn(2, 3, 16, 16, dtype=torch.float64))
    assert counters["stats"]["unique_graphs"] == before
