"""The network: widths, blocks, initialisation, and the costs of its operators."""

import math
import re
from collections import Counter

import pytest
import torch
from hypothesis import event, given
from hypothesis import strategies as st
from reference import needs_baseline_data, read_baseline_table
from thoroughness import examples
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from data.sources.torchvision_datasets import torchvision
from regnet.errors import UsageError
from regnet.models.design_space import Variant, adjust_widths, check_resolution, generate_design
from regnet.models.regnet import Model, XBlock, count_parameters, fingerprint, initialize_weights, set_drop_path_rates

BlockParams, RegNet = torchvision.models.regnet.BlockParams, torchvision.models.regnet.RegNet

BASELINE = {
    "variant": Variant.baseline,
    "depth": 13,
    "w_0": 24,
    "w_a": 36,
    "w_m": 2.5,
    "bottleneck_ratio": 1,
    "group_width": 8,
    "stem_width": 32,
}
SMALL = BASELINE | {"depth": 2, "w_0": 8, "stem_width": 8}


# RegNetX-800MF, 1.6GF, 3.2GF, 8GF, 16GF and 32GF: depth, w_0, w_a, w_m, group width.
PUBLISHED = [
    (16, 56, 35.73, 2.28, 16),
    (18, 80, 34.01, 2.25, 24),
    (25, 88, 26.31, 2.25, 48),
    (23, 80, 49.56, 2.88, 120),
    (22, 216, 55.59, 2.1, 128),
    (23, 320, 69.86, 2.0, 168),
]
# RegNetX-400MF: 392 / 16 = 24.5 is a tie; the last stage has 384 channels in pycls and 400 in torchvision.
TIE = (22, 24, 24.48, 2.54, 16)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """On busy cores, several threads mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def test_baseline_design_has_the_published_stages():
    stages = generate_design(**BASELINE).stages
    assert [stage.width for stage in stages] == [24, 64, 152, 376]
    assert [stage.depth for stage in stages] == [1, 1, 4, 7]
    assert [stage.stride for stage in stages] == [1, 2, 2, 2]


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


def paper_design(parameters):
    *rest, group_width = parameters
    return generate_design(Variant.paper, *rest, bottleneck_ratio=1, group_width=group_width, stem_width=32)


def conv_shapes(model):
    return Counter(tuple(module.weight.shape) for module in model.modules() if isinstance(module, nn.Conv2d))


def torchvision_name(name):
    """torchvision's name of a parameter."""
    name = re.sub(r"^stem\.conv_3x3", "stem.0", name)
    name = re.sub(r"^stem\.bn", "stem.1", name)
    name = re.sub(r"^head\.f_out", "fc", name)
    name = re.sub(
        r"^body\.(\d+)\.layers\.(\d+)",
        lambda match: "trunk_output.block{0}.block{0}-{1}".format(int(match[1]) + 1, match[2]),
        name,
    )
    for index, letter in enumerate("abc", start=1):
        name = re.sub(rf"\.conv{index}_\dx\d", f".f.{letter}.0", name)
        name = re.sub(rf"\.bn{index}\b", f".f.{letter}.1", name)
    return name.replace(".downsample.conv_1x1", ".proj.0").replace(".downsample.bn", ".proj.1")


@pytest.mark.parametrize("parameters", PUBLISHED)
def test_paper_variant_has_the_layers_of_torchvision(parameters):
    stages = BlockParams.from_init_params(*parameters)
    with torch.device("meta"):
        ours = Model(paper_design(parameters), classes=1000)
        theirs = RegNet(stages, num_classes=1000)
    assert count_parameters(ours) == count_parameters(theirs)
    assert conv_shapes(ours) == conv_shapes(theirs)


@given(width=st.integers(1, 300), group_width=st.integers(1, 300), ratio=st.sampled_from([0.25, 0.5, 1]))
def test_torchvision_rounding_gives_the_widths_of_torchvision(width, group_width, ratio):
    width *= 8
    theirs = BlockParams._adjust_widths_groups_compatibilty([width], [ratio], [group_width])
    assert adjust_widths(width, ratio, group_width, "torchvision") == tuple(values[0] for values in theirs)


def test_a_tie_between_two_widths_is_rounded_as_in_pycls():
    design = paper_design(TIE)
    assert [(stage.width, stage.depth) for stage in design.stages] == [(32, 1), (64, 2), (160, 7), (384, 12)]
    with torch.device("meta"):
        assert count_parameters(Model(design, classes=1000)) == 5_157_512


@pytest.mark.parametrize("parameters", [TIE, *PUBLISHED[:2]])
def test_paper_variant_computes_the_logits_of_torchvision(parameters):
    design = paper_design(parameters)
    columns = [(stage.depth, stage.width, stage.group_width, 1.0, stage.stride) for stage in design.stages]
    torch.manual_seed(0)
    theirs = RegNet(BlockParams(*map(list, zip(*columns, strict=True))), num_classes=1000)
    theirs(torch.randn(4, 3, 32, 32))  # a pass in training mode, so that running statistics are not the defaults
    weights = theirs.state_dict()
    ours = Model(design, classes=1000)
    ours.load_state_dict({key: weights.pop(torchvision_name(key)) for key in ours.state_dict()})
    assert not weights
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=1e-4, atol=1e-5)


def one_line_about(option):
    return rf"\A[^\n]*{re.escape(option)}[^\n]*\Z"


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"depth": 0}, "model.depth"),
        ({"depth": -1}, "model.depth"),
        ({"w_0": 12}, "model.w_0"),
        ({"w_0": 0}, "model.w_0"),
        ({"w_a": -1}, "model.w_a"),
        ({"w_a": math.nan}, "model.w_a"),
        ({"w_a": math.inf}, "model.w_a"),
        ({"w_a": 1e308}, "model.w_a"),
        ({"w_m": 1}, "model.w_m"),
        ({"w_m": math.nan}, "model.w_m"),
        ({"bottleneck_ratio": 0}, "model.bottleneck_ratio"),
        ({"bottleneck_ratio": math.inf}, "model.bottleneck_ratio"),
        ({"bottleneck_ratio": 1e-320}, "model.bottleneck_ratio"),
        ({"bottleneck_ratio": 0.01}, "model.group_width"),
        ({"bottleneck_ratio": 1.3, "group_width": 7}, "model.group_width"),
        ({"group_width": 0}, "model.group_width"),
        ({"group_width": 24}, "model.group_width"),
        ({"stem_width": 0}, "model.stem_width"),
        ({"stem_width": 12}, "model.group_width"),
        ({"se_ratio": -0.1}, "model.se_ratio"),
        ({"se_ratio": 1.1}, "model.se_ratio"),
        ({"se_ratio": math.nan}, "model.se_ratio"),
        ({"se_ratio": 0.01}, "model.se_ratio"),
    ],
)
def test_an_impossible_design_is_rejected_with_the_name_of_the_option(change, option):
    with pytest.raises(UsageError, match=one_line_about(option)):
        generate_design(**BASELINE | change)


@pytest.mark.parametrize(("variant", "smallest"), [(Variant.baseline, 8), (Variant.paper, 32)])
def test_a_resolution_below_the_total_stride_is_rejected(variant, smallest):
    design = generate_design(**BASELINE | {"variant": variant})
    check_resolution(design, smallest)
    with pytest.raises(UsageError, match=one_line_about("data.resolution")):
        check_resolution(design, smallest - 1)


# Mostly valid values, so that many of the designs are valid.
design_parameters = st.fixed_dictionaries(
    {
        "variant": st.sampled_from(Variant),
        "depth": st.sampled_from([1, 2, 3, 4, 5, 0]),
        "w_0": st.sampled_from([8, 16, 24, 32, 48, 64, 12]),
        "w_a": st.floats(-1, 64),
        "w_m": st.floats(1.1, 4),
        "bottleneck_ratio": st.sampled_from([1, 1, 1, 0.25, 0.5, 2, 4, 1.7]),
        "group_width": st.sampled_from([1, 2, 4, 8, 8, 16, 7]),
        "stem_width": st.sampled_from([16, 16, 32, 48, 64, 12]),
        "se_ratio": st.sampled_from([0, 0, 0.25, 1, 0.001]),
    }
)


@given(design_parameters, st.integers(1, 5))
@examples(80)
def test_any_parameters_are_rejected_in_one_line_or_give_a_network_that_runs(parameters, classes):
    try:
        design = generate_design(**parameters)
    except UsageError as error:
        design, message = None, str(error)
    event("rejected" if design is None else "built")
    if design is None:
        assert re.match(one_line_about("model."), message)
        return
    assert sum(stage.depth for stage in design.stages) == parameters["depth"]
    widths = [stage.width for stage in design.stages]
    model = Model(design, classes).eval()
    with torch.inference_mode():
        assert model(torch.zeros(2, 3, design.reduction, design.reduction)).shape == (2, classes)
    for layer, stage in zip(model.body, design.stages, strict=True):
        for block in layer.layers:
            assert block.conv2_3x3.out_channels // block.conv2_3x3.groups == stage.group_width
            if parameters["se_ratio"]:
                se_width = round(parameters["se_ratio"] * block.conv1_1x1.in_channels)
                assert block.se.conv1_1x1.weight.shape == (se_width, block.conv2_3x3.out_channels, 1, 1)
    assert [layer.layers[-1].conv3_1x1.out_channels for layer in model.body] == widths


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


def blocks(model):
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
    for block in blocks(model):
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
    assert [block.drop_path_rate for block in blocks(model)] == pytest.approx([0.02 * index for index in range(1, 14)])


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
