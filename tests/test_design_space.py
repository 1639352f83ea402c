"""Designs: which are impossible, and that the others give networks that run."""

import math
import re

import pytest
import torch
from designs import BASELINE
from hypothesis import event, given
from hypothesis import strategies as st
from thoroughness import examples

from regnet.errors import UsageError
from regnet.models.design_space import Variant, check_resolution, generate_design
from regnet.models.regnet import Model

pytestmark = pytest.mark.usefixtures("one_thread")


def test_baseline_design_has_the_published_stages():
    stages = generate_design(**BASELINE).stages
    assert [stage.width for stage in stages] == [24, 64, 152, 376]
    assert [stage.depth for stage in stages] == [1, 1, 4, 7]
    assert [stage.stride for stage in stages] == [1, 2, 2, 2]


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


@pytest.mark.parametrize(("w_a", "w_m", "width"), [(65536, 2.5, 91552), (8192, 50000, 1200000)])
def test_a_block_that_is_too_wide_is_rejected_with_the_options_that_widen_it(w_a, w_m, width):
    message = (
        rf"block 2 would have {width} channels \(maximum 65536\) with model.w_a {w_a} and model.w_m {w_m}: use smaller"
    )
    with pytest.raises(UsageError, match=message):
        generate_design(**BASELINE | {"w_a": w_a, "w_m": w_m})


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
