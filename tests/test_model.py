"""The network: the layers of the baseline, blocks, initialisation, fingerprints, and the costs of its operators."""

import math

import pytest
import torch
from designs import BASELINE, SMALL
from reference import needs_baseline_data, read_baseline_table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from regnet.models.design_space import generate_design
from regnet.models.regnet import Model, XBlock, count_parameters, fingerprint, initialize_weights, set_drop_path_rates

pytestmark = pytest.mark.usefixtures("one_thread")


def baseline_model():
    return Model(generate_design(**BASELINE), classes=100)


def small_model(seed=0):
    torch.manual_seed(seed)
    return Model(generate_design(**SMALL), classes=3)


def forward_operators(model, images):
    """(class, output shape, own parameters) of each module, in the order in which their calls finish."""
    rows = []

    def on_forward(module, _, output):
        parameters = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        rows.append((type(module).__name__, "x".join(["N", *map(str, output.shape[1:])]), parameters))

    for module in model.modules():
        if not isinstance(module, nn.Sequential):
            module.register_forward_hook(on_forward)
    with torch.inference_mode():
        model.eval()(images)
    return rows


def test_baseline_model_has_the_known_number_of_parameters():
    assert count_parameters(baseline_model()) == 2_275_604


def test_baseline_model_has_the_known_number_of_multiply_adds():
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        baseline_model().eval()(torch.zeros(1, 3, 56, 56))
    assert counter.get_total_flops() / 2 == pytest.approx(166.86e6, abs=0.005e6)


@needs_baseline_data
def test_operators_match_the_baseline_in_order():
    expected = [
        (row["operator"], row["output_shape"], int(row["parameters"])) for row in read_baseline_table("operators.csv")
    ]
    assert len(expected) == 113
    assert forward_operators(baseline_model(), torch.zeros(2, 3, 56, 56)) == expected


def test_module_names_match_the_baseline():
    block = ["conv1_1x1", "bn1", "conv2_3x3", "bn2", "conv3_1x1", "bn3"]
    expected = ["stem.conv_3x3", "stem.bn"]
    for stage, depth in enumerate((1, 1, 4, 7)):
        for index in range(depth):
            shortcut = ["downsample.conv_1x1", "downsample.bn"] if index == 0 else []
            expected += [f"body.{stage}.layers.{index}.{name}" for name in block + shortcut]
    expected += ["head.avg_pool", "head.f_out"]
    assert [name for name, module in baseline_model().named_modules() if not list(module.children())] == expected


def test_only_the_classifier_has_a_bias():
    convolutions = [module for module in baseline_model().modules() if isinstance(module, nn.Conv2d)]
    assert all(convolution.bias is None for convolution in convolutions)
    assert baseline_model().head.f_out.bias is not None


def test_equal_models_have_equal_fingerprints_in_any_memory_format():
    assert fingerprint(small_model()) == fingerprint(small_model())
    assert fingerprint(small_model()) == fingerprint(small_model().to(memory_format=torch.channels_last))
    assert fingerprint(small_model(seed=0)) != fingerprint(small_model(seed=1))


@pytest.mark.parametrize("name", ["stem.conv_3x3.weight", "body.0.layers.0.bn2.running_var", "head.f_out.bias"])
def test_the_fingerprint_changes_with_the_last_bit_of_one_number(name):
    model = small_model()
    before = fingerprint(model)
    with torch.no_grad():
        numbers = model.state_dict()[name].view(-1)
        numbers[-1] = torch.nextafter(numbers[-1], torch.tensor(math.inf))
    assert fingerprint(model) != before


def blocks_of(model):
    return [module for module in model.modules() if isinstance(module, XBlock)]


@pytest.mark.parametrize("std", [0.01, 0.3])
def test_initial_weights_have_the_configured_standard_deviation_and_zero_biases(std):
    torch.manual_seed(0)
    model = Model(generate_design(**BASELINE | {"se_ratio": 0.25}), classes=100)
    initialize_weights(model, std, zero_init_residual=False)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            weights = module.weight.detach().flatten()
            error = std / math.sqrt(
                2 * len(weights)
            )  # standard error of the deviation; the mean's is sqrt(2) times that
            assert abs(float(weights.std()) - std) < 5 * error, name
            assert abs(float(weights.mean())) < 8 * error, name
            assert module.bias is None or not module.bias.any(), name
        elif isinstance(module, nn.BatchNorm2d):
            assert bool((module.weight == 1).all()), name


def test_without_options_the_initialisation_is_pytorchs():
    model = baseline_model()
    before = fingerprint(model)
    initialize_weights(model, 0.0, zero_init_residual=False)
    assert fingerprint(model) == before


def test_blocks_with_zero_init_residual_return_their_shortcut():
    model = baseline_model()
    initialize_weights(model, 0.0, zero_init_residual=True)
    for block in blocks_of(model):
        images = torch.randn(4, block.conv1_1x1.in_channels, 8, 8)
        shortcut = images if block.downsample is None else block.downsample(images)
        assert torch.equal(block(images), shortcut.relu())
        assert block.bn2.weight.all(), "only the last BatchNorm is zero, so the block gets gradients"


def test_squeeze_and_excitation_scales_each_channel_by_the_means_of_all():
    torch.manual_seed(0)
    block, images = XBlock(8, 16, 16, 2, 8, se_width=2).eval(), torch.randn(3, 8, 6, 6)
    activations = {}
    block.se.register_forward_hook(lambda _, inputs, output: activations.update(before=inputs[0], after=output))
    block(images)
    weight, bias = block.se.conv1_1x1.weight.flatten(1), block.se.conv1_1x1.bias
    inner = (activations["before"].mean((2, 3)) @ weight.T + bias).relu()
    gates = (inner @ block.se.conv2_1x1.weight.flatten(1).T + block.se.conv2_1x1.bias).sigmoid()
    torch.testing.assert_close(activations["after"], activations["before"] * gates[:, :, None, None])
    assert activations["before"].min() == 0, "after the 3x3's ReLU"


def test_drop_path_rates_increase_linearly_with_depth():
    model = baseline_model()
    set_drop_path_rates(model, 0.26)
    assert [block.drop_path_rate for block in blocks_of(model)] == pytest.approx(
        [0.02 * index for index in range(1, 14)]
    )


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_dropped_samples_get_the_shortcut_and_the_others_are_rescaled(precision):
    torch.manual_seed(1)
    block = XBlock(8, 8, 8, 1, 8)
    images = 9 + torch.randn(2000, 8, 2, 2)  # all sums are positive, so that ReLU changes nothing
    with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16), torch.no_grad():
        residual = block(images) - images
        block.drop_path_rate = 0.25
        dropped = block(images) - images
        tolerance = {"atol": 0.1, "rtol": 0.1} if precision is torch.bfloat16 else {"atol": 1e-4, "rtol": 1e-4}
        skipped = (dropped == 0).flatten(1).all(1)
        torch.testing.assert_close(dropped[~skipped], residual[~skipped] / 0.75, **tolerance)
        assert abs(skipped.float().mean() - 0.25) < 0.03
        block.eval()
        evaluated = block(images)
        block.drop_path_rate = 0.0
        assert torch.equal(evaluated, block(images)), "no sample is dropped in evaluation"
