"""Training curves: columns of metrics.jsonl over epochs or steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from regnet.report.figure import Figure, Palette
from regnet.report.seed_groups import SeedGroup, Series, series_by_epoch, series_by_step


class Column(NamedTuple):
    """A column of metrics.jsonl, its line style, and the factor that its values are multiplied by."""

    name: str
    style: str = "-"
    scale: float = 1


@dataclass(frozen=True)
class Curve:
    """A figure with one or more columns of metrics.jsonl.

    Attributes:
        name, title: see Figure.
        axis: what the columns are plotted against.
        from_zero: the y axis starts at 0.
    """

    name: str
    title: str
    axis: Literal["epoch", "step"]
    columns: tuple[Column, ...]
    from_zero: bool = False

    def figure(self, groups: Sequence[SeedGroup]) -> Figure | None:
        """None if no run has values in these columns."""
        series_of = series_by_epoch if self.axis == "epoch" else series_by_step
        lines = [(group.label, [series_of(group.runs, column.name) for column in self.columns]) for group in groups]
        if not any(len(series.x) for _, columns in lines for series in columns):
            return None
        return Figure(self.name, self.title, 2.9, partial(self._draw, lines=lines))

    def _draw(self, axes: Axes, palette: Palette, lines: Sequence[tuple[str, Sequence[Series]]]) -> None:
        for colour, (group_label, columns) in zip(palette.groups, lines, strict=False):
            for (_, style, scale), series in zip(self.columns, columns, strict=True):
                x, mean, std = series.x, scale * series.mean, scale * series.std
                label = group_label if style == "-" else None
                marker = "o" if len(x) == 1 else ""
                (line,) = axes.plot(x, mean, style, color=colour, linewidth=1.4, label=label)
                line.set(marker=marker, markersize=3, clip_on=False, zorder=3)  # visible on the frame if all are 0
                if std.any():
                    axes.fill_between(x, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)
        axes.set_xlabel(self.axis)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if self.from_zero:
            axes.set_ylim(bottom=0)
        if len(lines) > 1:
            axes.legend()


CURVES = (
    Curve(
        "loss",
        "Loss (solid: validation, dashed: training)",
        "epoch",
        (Column("val_loss"), Column("train_loss", "--")),
    ),
    Curve(
        "accuracy",
        "Top-1, % (solid: validation, dashed: training)",
        "epoch",
        (Column("val_top1", scale=100), Column("train_top1", "--", scale=100)),
        from_zero=True,
    ),
    Curve("steps", "Training loss per step", "step", (Column("loss"),)),
    Curve("learning_rate", "Learning rate", "step", (Column("lr"),), from_zero=True),
    Curve("speed", "Training throughput (images/s)", "epoch", (Column("images_per_second"),), from_zero=True),
    Curve("time", "Time per epoch, with evaluation (s)", "epoch", (Column("seconds"),), from_zero=True),
)
