"""Diagrams of a network: its architecture (stem, stages, head), and its autograd graph."""

import io
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

from commandline.errors import one_line
from regnet.checkpoint.load_model import TrainedModel
from regnet.errors import UsageError
from regnet.models.complexity import profile_operators
from regnet.models.design_space import Variant
from regnet.models.regnet import count_parameters
from regnet.runs.atomic_write import replace_file

FORMATS = ("svg", "png", "pdf")
DARK, GREY = "#1b1f24", "#5b636d"
COLOURS = ("#8fb8de", "#f2b880", "#93cfa9", "#d9a3c7", "#b8b0ea", "#d8c777")
MAX_BLOCKS = 8  # drawn per stage; an ellipsis stands for the others
# Inches.
MIN_COLUMN_WIDTH, BLOCK_GAP, MAX_HEIGHT, MARGIN, BLOCK_DIAGRAM_WIDTH = 1.75, 0.07, 1.5, 0.35, 4.6


@dataclass(frozen=True)
class DiagramPart:
    """One column of the architecture diagram: the stem, a stage, or the head.

    Attributes:
        blocks: number of blocks.
        output: shape for one image, (C, H, W) or (classes,).
        detail: its convolutions, or how the head works.
    """

    name: str
    blocks: int
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    detail: str

    @property
    def width(self) -> float:
        """Width of the column in inches."""
        return max(MIN_COLUMN_WIDTH, min(self.blocks, MAX_BLOCKS) * (self.thickness + BLOCK_GAP) + 0.3)

    @property
    def thickness(self) -> float:
        """Thickness of one block in inches; it grows with the number of channels."""
        return 0.1 + self.output[0] / 2000


def diagram_parts(trained: TrainedModel) -> list[DiagramPart]:
    """The columns of the architecture diagram, from left to right."""
    design = trained.config.model.design()
    all_operators = profile_operators(trained.model, trained.config.data.resolution)

    def part(prefix: str, name: str, blocks: int, detail: str) -> DiagramPart:
        own = [operator for operator in all_operators if f"{operator.name}.".startswith(f"{prefix}.")]
        parameters, multiply_adds = (sum(getattr(op, cost) for op in own) for cost in ("parameters", "multiply_adds"))
        return DiagramPart(name, blocks, own[-1].output, parameters, multiply_adds, detail)

    stages = [
        part(f"body.{index}", f"stage {index + 1}", stage.depth, f"3×3, group width {stage.group_width}")
        for index, stage in enumerate(design.stages)
    ]
    stem = part("stem", "stem", 1, f"3×3, stride {design.stem_stride}")
    return [stem, *stages, part("head", "head", 1, "average pooling, linear")]


def draw_architecture(trained: TrainedModel, path: Path) -> None:
    """Draws the network from left to right (height: resolution, thickness: channels), and its blocks below."""
    columns, resolution = diagram_parts(trained), trained.config.data.resolution
    width = max(sum(part.width for part in columns) + MARGIN, 2 * BLOCK_DIAGRAM_WIDTH)
    figure = Figure(figsize=(width, 5.5))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(-3.3, 2.2))
    axes.axis("off")
    total = sum(part.multiply_adds for part in columns)
    name = textwrap.shorten(trained.config.name, 40, placeholder="…")
    title = f"{name}: {count_parameters(trained.model):,} parameters, {_millions(total)} multiply-adds"
    title += f" at {resolution}×{resolution} pixels"
    axes.text(MARGIN, 1.95, title, fontsize=11, color=DARK, weight="bold", va="center")
    left = MARGIN
    for index, part in enumerate(columns):
        _draw_part(axes, part, left, resolution, COLOURS[index % len(COLOURS)])
        left += part.width
    design = trained.config.model.design()
    outer = "input" if design.variant is Variant.baseline else "output"
    ratio = "" if design.bottleneck_ratio == 1 else f"{design.bottleneck_ratio:g} times "
    axes.text(MARGIN, 1.7, "height: resolution, thickness: channels", fontsize=8, color=GREY)
    caption = f"3×3 convolutions have {ratio}as many channels as the block's {outer}"
    if design.se_ratio:
        caption += f"; squeeze-and-excitation (SE) reduces to {design.se_ratio:g} times the block's input channels"
    axes.text(MARGIN, -3.2, caption, fontsize=8, color=GREY)
    _draw_block(axes, MARGIN, "block with a projection shortcut", shortcut="1×1", has_se=design.se_ratio > 0)
    _draw_block(
        axes,
        MARGIN + BLOCK_DIAGRAM_WIDTH,
        "block with an identity shortcut",
        shortcut="identity",
        has_se=design.se_ratio > 0,
    )
    with mpl.rc_context({"svg.fonttype": "none"}):  # text stays searchable
        drawn = io.BytesIO()
        figure.savefig(drawn, format=path.suffix.lstrip(".").lower(), dpi=160)
    replace_file(path, drawn.getvalue())


def _millions(count: int) -> str:
    return f"{count / 1e6:,.2f} M"


def _draw_part(axes: Axes, part: DiagramPart, left: float, resolution: int, colour: str) -> None:
    pixels = part.output[-1] if len(part.output) == 3 else 1
    height = max(0.1, MAX_HEIGHT * pixels / resolution)
    for index in range(min(part.blocks, MAX_BLOCKS)):
        corner = (left + index * (part.thickness + BLOCK_GAP), (MAX_HEIGHT - height) / 2)
        style = "round,pad=0,rounding_size=0.03"
        block = FancyBboxPatch(corner, part.thickness, height, style, facecolor=colour, edgecolor=DARK, linewidth=0.7)
        axes.add_patch(block)
    if part.blocks > MAX_BLOCKS:
        axes.text(left + part.width - 0.3, MAX_HEIGHT / 2, "…", fontsize=12, color=DARK, va="center")
    shape = f"{part.output[0]} channels, {pixels}×{pixels}" if len(part.output) == 3 else f"{part.output[0]} classes"
    lines = [
        f"{part.blocks} block{'s' if part.blocks > 1 else ''}" if part.name.startswith("stage") else "",
        shape,
        part.detail,
        f"{part.parameters:,} parameters",
        f"{_millions(part.multiply_adds)} multiply-adds",
    ]
    axes.text(left, -0.2, part.name, fontsize=9, color=DARK, weight="bold", va="top")
    axes.text(left, -0.42, "\n".join(filter(None, lines)), fontsize=8, color=GREY, va="top", linespacing=1.35)


def _draw_block(axes: Axes, left: float, title: str, shortcut: str, has_se: bool) -> None:
    """Draws 1x1, grouped 3x3 and 1x1 convolutions with the shortcut; BatchNorm, which follows each, is not drawn.

    Args:
        shortcut: its label.
        has_se: draw squeeze-and-excitation, which no BatchNorm follows, before the last convolution.
    """
    middle = -2.45
    axes.text(left, -1.98, title, fontsize=9, color=DARK, weight="bold")
    nodes = ("x", "1×1\nReLU", "3×3\nReLU", *(("SE",) if has_se else ()), "1×1", "+\nReLU")
    centres = [left + 0.12 + 3.6 * index / (len(nodes) - 1) for index in range(len(nodes))]
    for centre, label in zip(centres, nodes, strict=True):
        frame = {"boxstyle": "round,pad=0.35", "facecolor": "white", "edgecolor": GREY, "linewidth": 0.8}
        axes.text(centre, middle, label, fontsize=8, color=DARK, ha="center", va="center", bbox=frame)
    for start, end in pairwise(centres):
        axes.add_patch(_arrow((start + 0.22, middle), (end - 0.26, middle)))
    ends = (centres[0], middle - 0.17), (centres[-1], middle - 0.26)
    axes.add_patch(_arrow(*ends, bend=0.12))
    axes.text((centres[0] + centres[-1]) / 2, middle - 0.56, shortcut, fontsize=8, color=DARK, ha="center", va="center")


def _arrow(start: tuple[float, float], end: tuple[float, float], bend: float = 0.0) -> FancyArrowPatch:
    curved = f"arc3,rad={bend}"
    return FancyArrowPatch(
        start, end, connectionstyle=curved, arrowstyle="-|>", mutation_scale=8, color=GREY, linewidth=0.9
    )


def draw_graph(trained: TrainedModel, path: Path) -> None:
    """Draws the autograd graph of one image: every operation from the weights to the logits.

    Raises:
        UsageError: the graphviz program dot is not installed, or fails.
    """
    resolution = trained.config.data.resolution
    logits = trained.model(torch.zeros(1, 3, resolution, resolution))
    graph = torchviz.make_dot(logits, params=dict(trained.model.named_parameters()))
    try:
        replace_file(path, graph.pipe(format=path.suffix.lstrip(".").lower(), quiet=True))
    except graphviz.ExecutableNotFound as error:
        raise UsageError("--graph requires the graphviz program dot: apt-get install graphviz") from error
    except graphviz.CalledProcessError as error:
        reason = one_line(error.stderr.decode(errors="replace")) or f"exit status {error.returncode}"
        raise UsageError(f"{path}: graphviz's program dot could not draw the graph ({reason})") from error


def check_format(path: Path) -> None:
    """Raises UsageError for an unknown image format."""
    if path.suffix.lstrip(".").lower() not in FORMATS:
        raise UsageError(f"{path}: unknown image format, use .{', .'.join(FORMATS[:-1])} or .{FORMATS[-1]}")
