"""The RegNet design space: a few parameters determine the widths and depths of a network.

Source: Radosavovic et al., Designing Network Design Spaces (2020), section 3.3, equations 2 to 4. Widths are rounded
to multiples of 8 and made compatible with group widths as in the authors' code (pycls).
Pure integer and float arithmetic, without torch.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from regnet.errors import UsageError

QUANTUM = 8  # widths are multiples of this
# Far larger than any trained network; a mistyped number is rejected before it exhausts memory.
MAX_DEPTH = 1000
MAX_WIDTH = 65536


class Variant(StrEnum):
    """Two ways to build a network from the same design parameters."""

    baseline = "baseline"  # the 3x3 has the block's input width; stem and first stage keep the resolution
    paper = "paper"  # the 3x3 has the block's output width; the stem and every stage halve the resolution


# How a width is rounded to a multiple of the group width. nearest (pycls, timm): ties go to the even multiple.
# torchvision: ties go up, and so does a width whose nearest multiple is less than 0.9 times the width.
Rounding = Literal["nearest", "torchvision"]
_MIN_WIDTH_RATIO = 0.9


@dataclass(frozen=True)
class Stage:
    """A sequence of blocks with the same output width.

    Attributes:
        depth: number of blocks.
        width: output channels of every block.
        stride: stride of the first block; the others have stride 1.
        group_width: channels per group of the 3x3 convolution.
    """

    depth: int
    width: int
    stride: int
    group_width: int


@dataclass(frozen=True)
class Design:
    """The dimensions from which `regnet.models.regnet.Model` is built."""

    variant: Variant
    stem_width: int
    stem_stride: int
    bottleneck_ratio: float
    se_ratio: float
    stages: tuple[Stage, ...]

    def inner_width(self, in_width: int, out_width: int) -> int:
        """Channels of the 3x3 convolution of a block with these input and output widths."""
        outer = in_width if self.variant is Variant.baseline else out_width
        return round(outer * self.bottleneck_ratio)

    def se_width(self, in_width: int) -> int:
        """Inner channels of squeeze-and-excitation in a block with this input width; 0 if disabled."""
        return round(in_width * self.se_ratio)

    @property
    def reduction(self) -> int:
        """Total stride: the factor by which the network reduces the side of an image."""
        return self.stem_stride * math.prod(stage.stride for stage in self.stages)


def generate_widths(depth: int, w_0: int, w_a: float, w_m: float) -> list[tuple[int, int]]:
    """Equations 2 to 4: (width, depth) of each stage, in order of increasing width.

    Raises:
        UsageError: a parameter is out of range; the message names the option.
    """
    _check_range("depth", depth, 1, MAX_DEPTH)
    _check_range("w_0", w_0, QUANTUM, MAX_WIDTH)
    _check_range("w_a", w_a, 0, MAX_WIDTH)
    _check_range("w_m", w_m, 1 + 1e-6, MAX_WIDTH)
    if w_0 % QUANTUM:
        raise UsageError(f"model.w_0 must be a multiple of {QUANTUM}, got {w_0}")
    stages: list[tuple[int, int]] = []
    for block in range(depth):
        continuous = w_0 + w_a * block
        step = round(math.log(continuous / w_0) / math.log(w_m))
        # round() rounds ties to even, as pycls does: 60 / 8 = 7.5 becomes 8.
        width = round(w_0 * w_m**step / QUANTUM) * QUANTUM
        if width > MAX_WIDTH:
            raise UsageError(
                f"block {block + 1} would have {width} channels (maximum {MAX_WIDTH}) with model.w_a {w_a} and "
                f"model.w_m {w_m}: use smaller ones"
            )
        if stages and stages[-1][0] == width:
            stages[-1] = (width, stages[-1][1] + 1)
        else:
            stages.append((width, 1))
    return stages


def _check_range(option: str, value: float, lowest: float, highest: float) -> None:
    if not lowest <= value <= highest:
        raise UsageError(f"model.{option} must be between {lowest:.6g} and {highest:.6g}, got {value!s:.20}")


def adjust_widths(
    width: int, bottleneck_ratio: float, group_width: int, rounding: Rounding = "nearest"
) -> tuple[int, int]:
    """(width, group width) of a stage, adjusted so that the inner width is a multiple of the group width.

    Raises:
        UsageError: no width near this one is compatible.
    """
    inner = max(1, round(width * bottleneck_ratio))
    group = min(group_width, inner)
    multiple = math.lcm(group, round(bottleneck_ratio)) if bottleneck_ratio > 1 else group
    inner = max(multiple, _round_to_multiple(inner, multiple, rounding))
    adjusted = round(inner / bottleneck_ratio)
    if round(adjusted * bottleneck_ratio) % group:
        raise UsageError(
            f"model.group_width {group_width} is incompatible with model.bottleneck_ratio {bottleneck_ratio}: "
            f"a stage of {width} channels cannot be split into such groups"
        )
    return adjusted, group


def _round_to_multiple(width: int, divisor: int, rounding: Rounding) -> int:
    if rounding == "nearest":
        return round(width / divisor) * divisor
    nearest = (2 * width + divisor) // (2 * divisor) * divisor
    return nearest if nearest >= _MIN_WIDTH_RATIO * width else nearest + divisor


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
    """The dimensions of the network with these design parameters.

    Raises:
        UsageError: the parameters are out of range or incompatible; the message names the option.
    """
    _check_range("bottleneck_ratio", bottleneck_ratio, 0.001, 1000)
    _check_range("group_width", group_width, 1, MAX_WIDTH)
    _check_range("stem_width", stem_width, 1, MAX_WIDTH)
    _check_range("se_ratio", se_ratio, 0, 1)
    variant = Variant(variant)  # a plain string from a file is equal to the member, but not identical
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
                f"model.group_width {stage.group_width} does not divide the {inner} channels of the 3x3 convolution "
                f"in the block {in_width} -> {stage.width}; choose a group width that divides them"
            )
        if design.se_ratio and not design.se_width(in_width):
            raise UsageError(
                f"model.se_ratio {design.se_ratio} is too small: {in_width} input channels would be reduced to 0; "
                "use a larger one, or 0"
            )
        in_width = stage.width


def check_resolution(design: Design, resolution: int, option: str = "data.resolution") -> None:
    """Raises UsageError if images of `resolution` pixels are smaller than the network's total stride."""
    if resolution < design.reduction:
        raise UsageError(
            f"{option} must be at least {design.reduction}, the total stride of this network, got {resolution}"
        )
