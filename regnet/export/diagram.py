"""Pictures of a network: a drawing that a person can read, and the graph that autograd sees."""

import textwrap
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import graphviz
import matplotlib as mpl
import torch
import torchviz
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from regnet.checkpoint.load_model import TrainedModel
from regnet.errors import UsageError
from regnet.models.complexity import operators
from regnet.models.design_space import Variant
from regnet.models.regnet import count_parameters

FORMATS = ("svg", "png", "pdf")
INK, SOFT = "#1b1f24", "#5b636d"
COLOURS = ("#8fb8de", "#f2b880", "#93cfa9", "#d9a3c7", "#b8b0ea", "#d8c777")
MOST_BLOCKS = 8  # of a stage that are drawn one by one
COLUMN, GAP, TALLEST, MARGIN, BLOCK = 1.75, 0.07, 1.5, 0.35, 4.6  # inches


@dataclass(frozen=True)
class Part:
    """A column of the drawing: the stem, a stage, or the head.

    Attributes:
        blocks: how many alike.
        output: (C, H, W), or (classes,).
        detail: what is special about it.
    """

    name: str
    blocks: int
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    detail: str

    @property
    def width(self) -> float:
        """Of its column, inches."""
        return max(COLUMN, min(self.blocks, MOST_BLOCKS) * (self.thickness + GAP) + 0.3)

    @property
    def thickness(self) -> float:
        """Of a block, inches: grows with the channels."""
        return 0.1 + self.output[0] / 2000


def parts(trained: TrainedModel) -> list[Part]:
    """The columns from left to right."""
    design = trained.config.model.design()
    found = operators(trained.model, trained.config.data.resolution)

    def part(prefix: str, name: str, blocks: int, detail: str) -> Part:
        own = [operator for operator in found if f"{operator.name}.".startswith(f"{prefix}.")]
        numbers = sum(operator.parameters for operator in own), sum(operator.multiply_adds for operator in own)
        return Part(name, blocks, own[-1].output, *numbers, detail)

    stages = [
        part(f"body.{index}", f"stage {index + 1}", stage.depth, f"3×3 in groups of {stage.group_width}")
        for index, stage in enumerate(design.stages)
    ]
    stem = part("stem", "stem", 1, f"3×3, stride {design.stem_stride}")
    return [stem, *stages, part("head", "head", 1, "mean, then linear")]


def draw_architecture(trained: TrainedModel, path: Path) -> None:
    """The network from left to right: heights are resolutions, thicknesses widths; below it, what a block is."""
    columns, side = parts(trained), trained.config.data.resolution
    width = max(sum(part.width for part in columns) + MARGIN, 2 * BLOCK)
    figure = Figure(figsize=(width, 5.5))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(-3.3, 2.2))
    axes.axis("off")
    total = sum(part.multiply_adds for part in columns)
    title = f"{count_parameters(trained.model):,} parameters, {_millions(total)} multiply-adds at {side}×{side} pixels"
    name = textwrap.shorten(trained.config.name, 40, placeholder="…")
    axes.text(MARGIN, 1.95, f"{name}: {title}", fontsize=11, color=INK, weight="bold", va="center")
    left = MARGIN
    for index, part in enumerate(columns):
        _draw_part(axes, part, left, side, COLOURS[index % len(COLOURS)])
        left += part.width
    design = trained.config.model.design()
    outer = "input" if design.variant is Variant.baseline else "output"
    ratio = "" if design.bottleneck_ratio == 1 else f"{design.bottleneck_ratio:g} times "
    axes.text(MARGIN, 1.7, "drawn as high as its images, as thick as it has channels", fontsize=8, color=SOFT)
    told = f"a block's 3×3 has {ratio}as many channels as its {outer}"
    if design.se_ratio:
        told += f"; inside SE (squeeze-and-excitation) there are {design.se_ratio:g} times as many as in its input"
    axes.text(MARGIN, -3.2, told, fontsize=8, color=SOFT)
    _draw_block(axes, MARGIN, "blocks that change the shape", shortcut="1×1", has_se=design.se_ratio > 0)
    _draw_block(axes, MARGIN + BLOCK, "all others", shortcut="as it is", has_se=design.se_ratio > 0)
    with mpl.rc_context({"svg.fonttype": "none"}):  # its words can be read and found
        figure.savefig(path, dpi=160)


def _millions(count: int) -> str:
    return f"{count / 1e6:,.2f} M"


def _draw_part(axes: Axes, part: Part, left: float, side: int, colour: str) -> None:
    pixels = part.output[-1] if len(part.output) == 3 else 1
    height = max(0.1, TALLEST * pixels / side)
    for index in range(min(part.blocks, MOST_BLOCKS)):
        place = (left + index * (part.thickness + GAP), (TALLEST - height) / 2)
        corners = "round,pad=0,rounding_size=0.03"
        slab = FancyBboxPatch(place, part.thickness, height, corners, facecolor=colour, edgecolor=INK, linewidth=0.7)
        axes.add_patch(slab)
    if part.blocks > MOST_BLOCKS:
        axes.text(left + part.width - 0.3, TALLEST / 2, "…", fontsize=12, color=INK, va="center")
    shape = f"{part.output[0]} channels, {pixels}×{pixels}" if len(part.output) == 3 else f"{part.output[0]} classes"
    lines = [
        f"{part.blocks} block{'s' if part.blocks > 1 else ''}" if part.name.startswith("stage") else "",
        shape,
        part.detail,
        f"{part.parameters:,} parameters",
        f"{_millions(part.multiply_adds)} multiply-adds",
    ]
    axes.text(left, -0.2, part.name, fontsize=9, color=INK, weight="bold", va="top")
    axes.text(left, -0.42, "\n".join(filter(None, lines)), fontsize=8, color=SOFT, va="top", linespacing=1.35)


def _draw_block(axes: Axes, left: float, title: str, shortcut: str, has_se: bool) -> None:
    """1x1, 3x3 in groups, 1x1, and past them the shortcut; each followed by BatchNorm, and ReLU where one stands.

    Args:
        has_se: squeeze-and-excitation, which no BatchNorm follows, is before the last 1x1.
    """
    middle = -2.45
    axes.text(left, -1.98, title, fontsize=9, color=INK, weight="bold")
    stations = ("x", "1×1\nReLU", "3×3\nReLU", *(("SE",) if has_se else ()), "1×1", "+\nReLU")
    centres = [left + 0.12 + 3.6 * index / (len(stations) - 1) for index in range(len(stations))]
    for centre, label in zip(centres, stations, strict=True):
        frame = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": SOFT, "linewidth": 0.8}
        axes.text(centre, middle, label, fontsize=8, color=INK, ha="center", va="center", bbox=frame)
    for start, end in pairwise(centres):
        axes.add_patch(_arrow((start + 0.22, middle), (end - 0.26, middle)))
    ends = (centres[0], middle - 0.17), (centres[-1], middle - 0.26)
    axes.add_patch(_arrow(*ends, bend=0.12))
    axes.text((centres[0] + centres[-1]) / 2, middle - 0.56, shortcut, fontsize=8, color=INK, ha="center", va="center")


def _arrow(start: tuple[float, float], end: tuple[float, float], bend: float = 0.0) -> FancyArrowPatch:
    curved = f"arc3,rad={bend}"
    return FancyArrowPatch(
        start, end, connectionstyle=curved, arrowstyle="-|>", mutation_scale=8, color=SOFT, linewidth=0.9
    )


def draw_graph(trained: TrainedModel, path: Path) -> None:
    """What autograd recorded for one image of zeros: every operation from the weights to the logits.

    Raises:
        UsageError: graphviz's program `dot` is not installed, or fails.
    """
    side = trained.config.data.resolution
    logits = trained.model(torch.zeros(1, 3, side, side))
    drawn = torchviz.make_dot(logits, params=dict(trained.model.named_parameters()))
    try:
        path.write_bytes(drawn.pipe(format=path.suffix.lstrip(".").lower()))
    except graphviz.ExecutableNotFound as error:
        raise UsageError("graphviz's program dot is needed for --graph: apt-get install graphviz") from error
    except graphviz.CalledProcessError as error:
        raise UsageError(f"{path}: graphviz's dot failed ({error})") from error


def check_format(path: Path) -> None:
    """Raises UsageError if there are no pictures of this kind."""
    if path.suffix.lstrip(".").lower() not in FORMATS:
        raise UsageError(f"{path}: must end in .{', .'.join(FORMATS)}")
