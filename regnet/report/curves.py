"""Training curves: columns of metrics.jsonl over epochs or steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from regnet.report.figure import MARKERS, Figure, Palette
from regnet.report.names import printable, shorten
from regnet.report.seed_groups import SeedGroup, Series, series_by_epoch, series_by_step

MARKS = 8  # of a line that has to be told apart from others


class Column(NamedTuple):
    """A column of metrics.jsonl, its name in the legend, its line style, and the factor for its values."""

    name: str
    label: str = ""
    style: Literal["-", "--"] = "-"
    scale: float = 1


@dataclass(frozen=True)
class Curve:
    """A figure with one or more columns of metrics.jsonl.

    Attributes:
        name, title, log_scale, smoothing: see Figure.
        axis: what the columns are plotted against.
        from_zero: the y axis starts at 0.
    """

    name: str
    title: str
    axis: Literal["epoch", "step"]
    columns: tuple[Column, ...]
    from_zero: bool = False
    log_scale: bool = False
    smoothing: bool = True

    def figure(self, groups: Sequence[SeedGroup]) -> Figure | None:
        """None if no run has values in these columns."""
        series_of = series_by_epoch if self.axis == "epoch" else series_by_step
        lines = [
            (group, [(column, series_of(group.runs, column.name)) for column in self.columns])
            for group in sorted(groups, key=lambda group: group.colour is None)
        ]
        if not any(len(series.x) for _, columns in lines for _, series in columns):
            return None
        return Figure(
            self.name,
            self.title,
            2.9,
            partial(self._draw, lines=lines),
            values=self._values(lines),
            log_scale=self.log_scale,
            smoothing=self.smoothing,
        )

    def _draw(self, axes: Axes, palette: Palette, lines: "Lines") -> None:
        starred = False
        for group, columns in lines:
            if group.colour is None:  # after the coloured ones, which determine the limits of the axes
                axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())
            colour = palette.group(group.colour)
            for column, series in columns:
                _draw_line(axes, colour, group, column, series, marks=len(lines) > 1)
                if column.name.startswith("val_") and group.colour is not None:
                    starred |= _draw_stars(axes, colour, group, column)
        axes.set_xlabel(self.axis)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if self.from_zero:
            axes.set_ylim(bottom=0)
        handles = _legend_of_groups([group for group, _ in lines], palette) if palette.stand_alone else []
        handles += [
            Line2D([], [], color=palette.ink, linestyle=column.style, label=column.label, linewidth=1.4)
            for column in self.columns
            if column.label
        ]
        if starred:
            handles.append(
                Line2D([], [], color=palette.ink, marker="*", markersize=8, linestyle="", label="best epoch")
            )
        if handles:
            columns_of_legend = len(handles) if len(handles) < 4 else 2
            axes.figure.legend(handles=handles, loc="outside upper left", ncols=columns_of_legend)

    def _values(self, lines: "Lines") -> dict[str, Any]:
        """What report.js shows: for each x the values of all lines, null where a line has none."""
        coloured = [(group, columns) for group, columns in lines if group.colour is not None]
        xs = sorted({x for _, columns in coloured for _, series in columns for x in series.x.tolist()})
        entries = []
        for group, columns in coloured:
            for column, series in columns:
                at = {
                    x: (_rounded(column.scale * mean), _rounded(column.scale * std))
                    for x, mean, std in zip(*map(np.ndarray.tolist, (series.x, series.mean, series.std)), strict=True)
                }
                names = [printable(group.label)] if len(lines) > 1 else []
                entries.append(
                    {
                        "name": ", ".join([*names, *([column.label] if column.label else [])]) or self.title,
                        "colour": group.colour,
                        "values": [at.get(x, (None, 0))[0] for x in xs],
                        "std": [at.get(x, (None, 0))[1] for x in xs] if series.std.any() else None,
                    }
                )
        return {"axis": self.axis, "x": xs, "series": entries}


Lines = Sequence[tuple[SeedGroup, Sequence[tuple[Column, Series]]]]


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def _draw_line(axes: Axes, colour: str, group: SeedGroup, column: Column, series: Series, marks: bool) -> None:
    x, mean, std = series.x, column.scale * series.mean, column.scale * series.std
    if not len(x):
        return
    if group.colour is None:
        axes.plot(
            x, mean, column.style, color=colour, linewidth=0.7, alpha=0.6, gid="other", marker=_dot(x), zorder=1.5
        )
        return
    (line,) = axes.plot(x, mean, column.style, color=colour, linewidth=1.4, gid="series")
    line.set(marker=_dot(x), markersize=3, clip_on=False, zorder=3)  # visible on the frame if all are 0
    line.set_fillstyle("full" if column.style == "-" else "none")
    if marks and column.style == "-":
        every = max(1, len(x) // MARKS)
        line.set(marker=MARKERS[group.colour], markersize=4, markevery=(group.colour * every // len(MARKERS), every))
    if std.any():
        axes.fill_between(x, mean - std, mean + std, color=colour, alpha=0.2, linewidth=0)


def _dot(x: np.ndarray) -> str:
    return "o" if len(x) == 1 else ""


def _draw_stars(axes: Axes, colour: str, group: SeedGroup, column: Column) -> bool:
    """Marks the epoch of best.pt on each run's value; returns whether there is one."""
    best = [run.best for run in group.runs if run.best and run.best.get(column.name) is not None]
    axes.plot(
        [row["epoch"] for row in best],
        [column.scale * row[column.name] for row in best],
        "*",
        color=colour,
        markersize=9,
        zorder=4,
        clip_on=False,
        gid="best",
    )
    return bool(best)


def _legend_of_groups(groups: Sequence[SeedGroup], palette: Palette) -> list[Line2D]:
    if len(groups) == 1:
        return []
    handles = [
        Line2D([], [], color=palette.groups[group.colour], marker=MARKERS[group.colour], markersize=4,
               linewidth=1.4, label=shorten(group.label))
        for group in groups
        if group.colour is not None
    ]  # fmt: skip
    others = len(groups) - len(handles)
    if others:
        handles.append(Line2D([], [], color=palette.muted, linewidth=0.7, label=f"{others} other configurations"))
    return handles


CURVES = (
    Curve(
        "loss",
        "Loss",
        "epoch",
        (Column("val_loss", "validation"), Column("train_loss", "training", "--")),
        log_scale=True,
    ),
    Curve(
        "accuracy",
        "Top-1 accuracy, %",
        "epoch",
        (Column("val_top1", "validation", scale=100), Column("train_top1", "training", "--", scale=100)),
        from_zero=True,
    ),
    Curve("steps", "Training loss per step", "step", (Column("loss"),), log_scale=True),
    Curve("learning_rate", "Learning rate", "step", (Column("lr"),), from_zero=True, log_scale=True, smoothing=False),
    Curve("speed", "Training throughput, images/s", "epoch", (Column("images_per_second"),), from_zero=True),
    Curve("time", "Time per epoch, with evaluation, s", "epoch", (Column("seconds"),), from_zero=True),
)
