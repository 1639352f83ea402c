"""The RegNet rule: a handful of numbers become the widths and depths of a network.

Source: Radosavovic et al., Designing Network Design Spaces (2020), section 3.3, equations 2 to 4; the
rounding to multiples of 8 and the width/group adjustment are those of its published code (pycls).
Pure integers and floats: no torch here.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from regnet.errors import UsageError

QUANTUM = 8  # widths are multiples of this
# Far beyond any network that was ever trained; they keep a slip of the finger from filling the memory.
MAX_DEPTH = 1000
MAX_WIDTH = 65536


class Variant(StrEnum):
    """The two published ways to read the same design parameters."""

    baseline = "baseline"  # 3x3 as wide as the block's input; stem and first stage keep the resolution
    paper = "paper"  # 3x3 as wide as the block's output; stem and every stage halve the resolution


# How a width becomes a multiple of the group width. The published code and timm take the nearest, of two as near the
# even one; torchvision takes the larger of these, and the next one where the nearest is below nine tenths of the width.
Rounding = Literal["nearest", "torchvision"]
_LEAST_KEPT = 0.9


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

    variant: Variant
    stem_width: int
    stem_stride: int
    bottleneck_ratio: float
    se_ratio: float
    stages: tuple[Stage, ...]

    def inner_width(self, in_width: int, out_width: int) -> int:
        """Channels of a block's 3x3 convolution, for a block of these outer widths."""
        outer = in_width if self.variant is Variant.baseline else out_width
        return round(outer * self.bottleneck_ratio)

    def se_width(self, in_width: int) -> int:
        """Inner channels of the squeeze-and-excitation of a block of this input; 0 for none."""
        return round(in_width * self.se_ratio)

    @property
    def reduction(self) -> int:
        """Factor by which the network shrinks the image's side."""
        return self.stem_stride * math.prod(stage.stride for stage in self.stages)


def generate_widths(depth: int, w_0: int, w_a: float, w_m: float) -> list[tuple[int, int]]:
    """Equations 2 to 4: (width, depth) of each stage, widths rising.

    Raises:
        UsageError: a parameter outside the rule's domain, named as the option it comes from.
    """
    _check("depth", depth, 1, MAX_DEPTH)
    _check("w_0", w_0, QUANTUM, MAX_WIDTH)
    _check("w_a", w_a, 0, MAX_WIDTH)
    _check("w_m", w_m, 1 + 1e-6, MAX_WIDTH)
    if w_0 % QUANTUM:
        raise UsageError(f"model.w_0 is {w_0}: it must be a multiple of {QUANTUM}")
    stages: list[tuple[int, int]] = []
    for block in range(depth):
        continuous = w_0 + w_a * block
        step = round(math.log(continuous / w_0) / math.log(w_m))
        # round() takes ties to the even side, as the published code does: 60 / 8 = 7.5 becomes 8.
        width = round(w_0 * w_m**step / QUANTUM) * QUANTUM
        if width > MAX_WIDTH:
            raise UsageError(f"model.w_a is {w_a}: block {block + 1} would be {width} wide, above {MAX_WIDTH}")
        if stages and stages[-1][0] == width:
            stages[-1] = (width, stages[-1][1] + 1)
        else:
            stages.append((width, 1))
    return stages


def _check(option: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        raise UsageError(f"model.{option} is {value!s:.20}: it must be {lowest:.6g} to {highest:.6g}")


def adjust_widths(
    width: int, bottleneck_ratio: float, group_width: int, rounding: Rounding = "nearest"
) -> tuple[int, int]:
    """(width, group width) made compatible: the inner width becomes a multiple of the group width.

    Raises:
        UsageError: no such width exists near this one.
    """
    inner = max(1, round(width * bottleneck_ratio))
    group = min(group_width, inner)
    multiple = math.lcm(group, round(bottleneck_ratio)) if bottleneck_ratio > 1 else group
    inner = max(multiple, _rounded(inner, multiple, rounding))
    adjusted = round(inner / bottleneck_ratio)
    if round(adjusted * bottleneck_ratio) % group:
        raise UsageError(
            f"model.group_width is {group_width}: a stage {width} wide with model.bottleneck_ratio "
            f"{bottleneck_ratio} cannot be divided into groups of it"
        )
    return adjusted, group


def _rounded(width: int, divisor: int, rounding: Rounding) -> int:
    if rounding == "nearest":
        return round(width / divisor) * divisor
    nearest = (2 * width + divisor) // (2 * divisor) * divisor
    return nearest if nearest >= _LEAST_KEPT * width else nearest + divisor


def generate_design(
    variant: Variant,
    depth: int,
    w_0: int,
    w_a: float,
    w_m: float,
    bottleneck_ratio: float,
    group_width: int,
    stem_width: int,
    se_ratio: float = 0.0,
    rounding: Rounding = "nearest",
) -> Design:
    """The skeleton for these design parameters, in one of the two published forms.

    Raises:
        UsageError: impossible parameters; the message names the option.
    """
    _check("bottleneck_ratio", bottleneck_ratio, 0.001, 1000)
    _check("group_width", group_width, 1, MAX_WIDTH)
    _check("stem_width", stem_width, 1, MAX_WIDTH)
    _check("se_ratio", se_ratio, 0, 1)
    variant = Variant(variant)  # its bare value, from a file, is equal to it but not the same
    first_stride = 1 if variant is Variant.baseline else 2
    stages = []
    for index, (width, blocks) in enumerate(generate_widths(depth, w_0, w_a, w_m)):
        adjusted, group = adjust_widths(width, bottleneck_ratio, group_width, rounding)
        stages.append(Stage(blocks, adjusted, first_stride if index == 0 else 2, group))
    design = Design(variant, stem_width, first_stride, bottleneck_ratio, se_ratio, tuple(stages))
    _check_blocks(design)
    return design


def _check_blocks(design: Design) -> None:
    in_width = design.stem_width
    for stage in design.stages:
        inner = design.inner_width(in_width, stage.width)
        if inner < 1 or inner % stage.group_width:
            raise UsageError(
                f"model.group_width is {stage.group_width}: the 3x3 of the block {in_width} -> {stage.width} "
                f"is {inner} wide, which it does not divide"
            )
        if design.se_ratio and not design.se_width(in_width):
            raise UsageError(
                f"model.se_ratio is {design.se_ratio}: it leaves nothing of the {in_width} channels of a block's input"
            )
        in_width = stage.width


def check_resolution(design: Design, resolution: int, option: str = "data.resolution") -> None:
    """Raises UsageError if an image of this side (pixels) shrinks to nothing on its way through."""
    if resolution < design.reduction:
        raise UsageError(
            f"{option} is {resolution}: this network shrinks the image {design.reduction} times, "
            f"so it needs at least {design.reduction} pixels"
        )
