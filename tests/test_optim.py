"""Optimisers: parameter groups, Muon and resuming."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from thoroughness import examples
from torch import nn
from torch.nn import functional as F

from regnet.config.schema import OptimConfig
from regnet.models.design_space import Variant, generate_design
from regnet.models.regnet import Model
from regnet.optim.muon import Muon, orthogonalize
from regnet.optim.optimizers import build_optimizer, parameter_groups, set_learning_rate

FP32 = torch.float32


def small_model():
    torch.manual_seed(0)
    return Model(generate_design(Variant.baseline, 2, 8, 8, 2, 1, 8, 8), classes=3)


def names_by_decay(groups, model):
    names = {parameter: name for name, parameter in model.named_parameters()}
    pairs = [(names[parameter], group["weight_decay"]) for group in groups for parameter in group["params"]]
    assert sorted(name for name, _ in pairs) == sorted(names.values())  # each parameter once
    return dict(pairs)


def is_weight(name):
    return name.endswith(("conv_3x3.weight", "conv2_3x3.weight", "_1x1.weight", "f_out.weight"))


@pytest.mark.parametrize(("name", "body_decay"), [("sgd", 0.1), ("muon", 0.2)])
def test_norms_and_biases_do_not_decay_and_muon_has_its_own_weight_decay(name, body_decay):
    model = small_model()
    groups = parameter_groups(model, OptimConfig(name=name, weight_decay=0.1, muon_weight_decay=0.2))
    for parameter, decay in names_by_decay(groups, model).items():
        expected = body_decay if parameter.startswith("body.") else 0.1
        assert decay == (expected if is_weight(parameter) else 0)


def test_muon_applies_decoupled_weight_decay():
    plain, decayed = small_model(), small_model()
    before = [parameter.detach().clone() for parameter in plain.parameters()]
    options = {"name": "muon", "lr": 0.1, "muon_lr": 0.1, "weight_decay": 0.0}
    train(plain, build_optimizer(plain, OptimConfig(**options, muon_weight_decay=0.0), FP32), steps=1)
    train(decayed, build_optimizer(decayed, OptimConfig(**options, muon_weight_decay=0.3), FP32), steps=1)
    for (name, one), other, initial in zip(plain.named_parameters(), decayed.parameters(), before, strict=True):
        uses_muon = name.startswith("body.") and one.ndim == 4
        torch.testing.assert_close(other, one - (0.1 * 0.3 * initial if uses_muon else 0))


def test_norms_and_biases_decay_with_decay_norm_and_bias():
    model = small_model()
    decays = names_by_decay(parameter_groups(model, OptimConfig(weight_decay=0.1, decay_norm_and_bias=True)), model)
    assert set(decays.values()) == {0.1}


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "muon"])
@pytest.mark.parametrize("decay_norm_and_bias", [False, True])
def test_every_optimiser_has_each_parameter_in_exactly_one_group(name, decay_norm_and_bias):
    model = small_model()
    config = OptimConfig(name=name, lr=0.5, weight_decay=0.1, decay_norm_and_bias=decay_norm_and_bias)
    optimizer = build_optimizer(model, config, FP32)
    decays = names_by_decay(optimizer.param_groups, model)
    assert decays["head.f_out.weight"] == 0.1
    assert decays["head.f_out.bias"] == (0.1 if decay_norm_and_bias else 0)
    set_learning_rate(optimizer, 0.25)
    lrs = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    for parameter_name, parameter in model.named_parameters():
        uses_muon = name == "muon" and parameter_name.startswith("body.") and parameter.ndim == 4
        assert lrs[id(parameter)] == pytest.approx(0.01 if uses_muon else 0.25), parameter_name


def train(network, optimizer, steps=4):
    generator = torch.Generator().manual_seed(1)
    set_learning_rate(optimizer, 0.1)
    for _ in range(steps):
        images, labels = torch.rand((6, 3, 16, 16), generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])
        optimizer.zero_grad()
        F.cross_entropy(network(images), labels).backward()
        optimizer.step()


@pytest.mark.parametrize("shape", [(8, 24), (24, 8), (16, 16)], ids=str)
def test_updates_of_a_matrix_match_torchs_muon(shape):
    """Both compute in bf16, whose last bit is 1/256 of an update of 0.02."""
    generator = torch.Generator().manual_seed(2)
    mine = nn.Parameter(torch.randn((*shape, 1, 1), generator=generator))
    theirs = nn.Parameter(mine.detach().clone().view(shape))
    group = {"params": [mine], "weight_decay": 0.5, "num_matrices": 1}
    muon = Muon([group], lr=0.02, momentum=0.9, dtype=torch.bfloat16)
    oracle = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.5, momentum=0.9, adjust_lr_fn="original")
    initial = theirs.detach().clone()
    for _ in range(5):
        grad = torch.randn(shape, generator=generator)
        mine.grad, theirs.grad = grad.view(mine.shape).clone(), grad.clone()
        muon.step()
        oracle.step()
    assert (theirs - initial).abs().max() > 0.03
    torch.testing.assert_close(mine.detach().view(shape), theirs.detach(), rtol=0, atol=2e-3)


@examples(50)
@given(count=st.integers(1, 3), rows=st.integers(1, 12), columns=st.integers(1, 12), scale=st.floats(1e-4, 1e4))
def test_orthogonalize_keeps_singular_vectors_and_brings_singular_values_near_one(count, rows, columns, scale):
    generator = torch.Generator().manual_seed(count * 144 + rows * 12 + columns)
    rank = min(rows, columns)
    u, v = (torch.linalg.qr(torch.randn((count, side, rank), generator=generator))[0] for side in (rows, columns))
    values = 0.2 + torch.rand((count, rank), generator=generator)
    orthogonalized = orthogonalize(scale * (u * values.unsqueeze(1)) @ v.mT, FP32)
    diagonalized = u.mT @ orthogonalized @ v
    diagonal = diagonalized.diagonal(dim1=1, dim2=2)
    assert diagonal.min() > 0.6
    assert torch.linalg.svdvals(orthogonalized).max() < 1.25
    torch.testing.assert_close(diagonalized, torch.diag_embed(diagonal), rtol=0, atol=1e-3)


def test_a_grouped_convolution_is_split_into_its_groups():
    model = Model(generate_design(Variant.baseline, 2, 8, 8, 2, 1, 4, 8), classes=3)
    groups = parameter_groups(model, OptimConfig(name="muon"))
    num_matrices = {id(parameter): group["num_matrices"] for group in groups for parameter in group["params"]}
    grouped = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.groups == 2]
    assert grouped
    assert all(num_matrices[id(module.weight)] == 2 for module in grouped)


def test_muon_does_not_update_biases_of_squeeze_and_excitation():
    model = Model(generate_design(Variant.paper, 2, 8, 8, 2, 1, 8, 8, se_ratio=0.5), classes=3)
    groups = parameter_groups(model, OptimConfig(name="muon", weight_decay=0.1, muon_weight_decay=0.1))
    decays = names_by_decay(groups, model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    muon_names = {names[parameter] for group in groups if group["num_matrices"] for parameter in group["params"]}
    se_names = {name for name in decays if ".se." in name}
    assert muon_names & se_names == {name for name in se_names if name.endswith("weight")} != set()
    assert all(decays[name] == 0 for name in se_names - muon_names)


@examples(30)
@given(exponent=st.integers(-9, 5), dtype=st.sampled_from([torch.float16, torch.bfloat16]))
def test_updates_do_not_depend_on_the_scale_of_the_gradients(exponent, dtype):
    """fp16 cannot represent numbers below 6e-8 or above 65,504."""
    matrices = torch.randn((2, 16, 24), generator=torch.Generator().manual_seed(5))
    expected, actual = orthogonalize(matrices, FP32), orthogonalize(10.0**exponent * matrices, dtype).float()
    assert (actual - expected).norm() < 0.05 * expected.norm()


def test_matrix_products_use_the_configured_dtype():
    weights = []
    for dtype in (FP32, torch.bfloat16):
        model = small_model()
        train(model, build_optimizer(model, OptimConfig(name="muon", lr=0.1), dtype), steps=1)
        weights.append(model.state_dict()["body.1.layers.0.conv1_1x1.weight"])
    assert 0 < (weights[0] - weights[1]).abs().max() < 0.01


def test_each_group_of_a_convolution_is_updated_independently():
    generator = torch.Generator().manual_seed(3)
    weight, grad = torch.randn((2, 8, 4, 3, 3), generator=generator)
    grouped = nn.Parameter(weight.clone())
    parts = [nn.Parameter(part.clone()) for part in weight.chunk(2)]
    grouped.grad = grad.clone()
    for part, part_grad in zip(parts, grad.chunk(2), strict=True):
        part.grad = part_grad.clone()
    for parameters, num_matrices in (([grouped], 2), (parts, 1)):
        Muon([{"params": parameters, "weight_decay": 0.0, "num_matrices": num_matrices}], 0.1, 0.9, FP32).step()
    assert not torch.equal(grouped, weight)
    torch.testing.assert_close(grouped.detach(), torch.cat([part.detach() for part in parts]))


def test_muon_updates_all_other_parameters_like_sgd():
    """With a negligible muon_lr, it is equal to SGD with frozen convolutions."""
    muon_model, sgd_model = small_model(), small_model()
    for name, parameter in sgd_model.named_parameters():
        parameter.requires_grad = not (name.startswith("body.") and parameter.ndim == 4)
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    train(muon_model, build_optimizer(muon_model, OptimConfig(name="muon", muon_lr=1e-30, **options), FP32))
    train(sgd_model, build_optimizer(sgd_model, OptimConfig(name="sgd", **options), FP32))
    for one, other in zip(muon_model.parameters(), sgd_model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_the_gradient_scaler_does_not_change_updates():
    plain, scaled = small_model(), small_model()
    config = OptimConfig(name="muon", lr=0.1)
    for model, enabled in ((plain, False), (scaled, True)):
        optimizer, scaler = build_optimizer(model, config, FP32), torch.amp.GradScaler("cpu", 1024.0, enabled=enabled)
        for _ in range(3):
            scaler.scale(model(torch.ones((2, 3, 16, 16))).sum()).backward()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    for one, other in zip(plain.parameters(), scaled.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_saved_state_resumes_bit_exactly():
    config = OptimConfig(name="muon", lr=0.1)
    uninterrupted = small_model()
    optimizer = build_optimizer(uninterrupted, config, FP32)
    train(uninterrupted, optimizer)
    resumed = copy.deepcopy(uninterrupted)
    resumed_optimizer = build_optimizer(resumed, config, FP32)
    resumed_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(uninterrupted, optimizer)
    train(resumed, resumed_optimizer)
    for (name, one), (_, other) in zip(uninterrupted.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(one, other), name
