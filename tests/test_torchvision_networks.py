"""The paper's variant has the layers of torchvision's RegNets and computes their logits."""

import re
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from data.sources.torchvision_datasets import torchvision
from regnet.models.design_space import Variant, adjust_widths, generate_design
from regnet.models.regnet import Model, count_parameters

pytestmark = pytest.mark.usefixtures("one_thread")

BlockParams, RegNet = torchvision.models.regnet.BlockParams, torchvision.models.regnet.RegNet


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
