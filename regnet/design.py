"""The RegNet rule: a handful of numbers become the widths and depths of a network.

Source: Radosavovic et al., Designing Network Design Spaces (2020), section 3.3, equations 2 to 4; the
rounding to multiples of 8 and the width/group adjustment are those of its published code (pycls).
Pure integers and floats: no torch here.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from regnet.errors import UsageError

QUANTUM = 8  # widths are multiples of this


class Form(StrEnum):
    """The two published ways to read the same design parameters."""

    reference = "reference"  # 3x3 as wide as the block's input; stem and first stage keep the resolution
    paper = "paper"  # 3x3 as wide as the block's output; stem and every stage halve the resolution


@dataclass(frozen=True)
class Stage:
    """One run of equal blocks.

    Attributes:
        depth: number of blocks.
        width: output channels of every block.
        stride: of the first block; the others have stride 1.
        group_width: channels of one group of the 3x3 convolution.
    """

    depth: int
    width: int
    stride: int
    group_width: int


@dataclass(frozen=True)
class Design:
    """A network's skeleton: what `regnet.model.Model` is built from."""

    form: Form
    stem_width: int
    stem_stride: int
    bottleneck_ratio: float
    stages: tuple[Stage, ...]

    def inner_width(self, in_width: int, out_width: int) -> int:
        """Channels of a block's 3x3 convolution, for a block of these outer widths."""
        outer = in_width if self.form is Form.reference else out_width
        return round(outer * self.bottleneck_ratio)

    @property
    def reduction(self) -> int:
        """Factor by which the network shrinks the image's side."""
        return self.stem_stride * math.prod(stage.stride for stage in self.stages)


def generate_widths(depth: int, initial_width: int, slope: float, quantization: float) -> list[tuple[int, int]]:
    """Equations 2 to 4: (width, depth) of each stage, widths rising.

    Raises:
        UsageError: a parameter outside the rule's domain, named as the option it comes from.
    """
    if depth < 1:
        raise UsageError(f"model.depth is {depth}: a network has at least 1 block")
    if initial_width < QUANTUM or initial_width % QUANTUM:
        raise UsageError(f"model.initial_width is {initial_width}: it must be a positive multiple of {QUANTUM}")
    if not 0 <= slope < math.inf:
        raise UsageError(f"model.slope is {slope}: it must be 0 or more")
    if not 1 < quantization < math.inf:
        raise UsageError(f"model.quantization is {quantization}: it must be above 1")
    stages: list[tuple[int, int]] = []
    for block in range(depth):
        continuous = initial_width + slope * block
        step = round(math.log(continuous / initial_width) / math.log(quantization))
        # round() takes ties to the even side, as the published code does: 60 / 8 = 7.5 becomes 8.
        width = round(initial_width * quantization**step / QUANTUM) * QUANTUM
        if stages and stages[-1][0] == width:
            stages[-1] = (width, stages[-1][1] + 1)
        else:
            stages.append((width, 1))
    return stages


def adjust_widths(width: int, bottleneck_ratio: float, group_width: int) -> tuple[int, int]:
    """(width, group width) made compatible: the inner width becomes a multiple of the group width.

    Raises:
        UsageError: no such width exists near this one.
    """
    inner = max(1, round(width * bottleneck_ratio))
    group = min(group_width, inner)
    multiple = math.lcm(group, round(bottleneck_ratio)) if bottleneck_ratio > 1 else group
    inner = max(multiple, round(inner / multiple) * multiple)
    adjusted = round(inner / bottleneck_ratio)
    if round(adjusted * bottleneck_ratio) % group:
        raise UsageError(
            f"model.group_width is {group_width}: a stage {width} wide with model.bottleneck_ratio "
            f"{bottleneck_ratio} cannot be divided into groups of it"
        )
    return adjusted, group


def generate_design(
    form: Form,
    depth: int,
    initial_width: int,
    slope: float,
    quantization: float,
    bottleneck_ratio: float,
    group_width: int,
    stem_width: int,
) -> Design:
    """The skeleton for these design parameters, in one of the two published forms.

    Raises:
        UsageError: impossible parameters; the message names the option.
    """
    if not 0 < bottleneck_ratio < math.inf:
        raise UsageError(f"model.bottleneck_ratio is {bottleneck_ratio}: it must be above 0")
    if group_width < 1:
        raise UsageError(f"model.group_width is {group_width}: it must be 1 or more")
    if stem_width < 1:
        raise UsageError(f"model.stem_width is {stem_width}: it must be 1 or more")
    first_stride = 1 if form is Form.reference else 2
    stages = []
    for index, (width, blocks) in enumerate(generate_widths(depth, initial_width, slope, quantization)):
        adjusted, group = adjust_widths(width, bottleneck_ratio, group_width)
        stages.append(Stage(blocks, adjusted, first_stride if index == 0 else 2, group))
    design = Design(form, stem_width, first_stride, bottleneck_ratio, tuple(stages))
    _check_groups(design)
    return design


def _check_groups(design: Design) -> None:
    in_width = design.stem_width
    for stage in design.stages:
        inner = design.inner_width(in_width, stage.width)
        if inner < 1 or inner % stage.group_width:
            raise UsageError(
                f"model.group_width is {stage.group_width}: the 3x3 of the block {in_width} -> {stage.width} "
                f"is {inner} wide, which it does not divide"
            )
        in_width = stage.width


def check_resolution(design: Design, resolution: int) -> None:
    """Raises UsageError if an image of this side (pixels) shrinks to nothing on its way through."""
    if resolution < design.reduction:
        raise UsageError(
            f"data.resolution is {resolution}: this network shrinks the image {design.reduction} times, "
            f"so it needs at least {design.reduction} pixels"
        )
