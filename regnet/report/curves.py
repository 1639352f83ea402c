"""The curves of a report: what metrics.jsonl holds, over epochs or steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from regnet.report.figure import Palette, Picture
from regnet.report.seeds import Group, Series, by_epoch, by_step


@dataclass(frozen=True)
class Curve:
    """Columns of metrics.jsonl over epochs or steps; `columns` are names, line styles and factors."""

    name: str
    title: str
    axis: Literal["epoch", "step"]
    columns: tuple[tuple[str, str, float], ...]
    from_zero: bool = False

    def picture(self, groups: Sequence[Group]) -> Picture | None:
        """None where no run has such a column: those of an older program, or at their beginning, may not."""
        series_of = by_epoch if self.axis == "epoch" else by_step
        drawn = [(group.label, [series_of(group.runs, key) for key, *_ in self.columns]) for group in groups]
        if not any(len(series.x) for _, of_columns in drawn for series in of_columns):
            return None
        return Picture(self.name, self.title, 2.9, partial(self._draw, drawn=drawn))

    def _draw(self, axes: Axes, palette: Palette, drawn: Sequence[tuple[str, Sequence[Series]]]) -> None:
        for colour, (name, of_columns) in zip(palette.groups, drawn, strict=False):
            for (_, style, scale), series in zip(self.columns, of_columns, strict=True):
                x, mean, deviation = series.x, scale * series.mean, scale * series.deviation
                label = name if style == "-" else None
                marker = "o" if len(x) == 1 else ""
                (line,) = axes.plot(x, mean, style, color=colour, linewidth=1.4, label=label)
                line.set(marker=marker, markersize=3, clip_on=False, zorder=3)  # at nought it lies on the frame
                if deviation.any():
                    axes.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.2, linewidth=0)
        axes.set_xlabel(self.axis)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if self.from_zero:
            axes.set_ylim(bottom=0)
        if len(drawn) > 1:
            axes.legend()


CURVES = (
    Curve("loss", "Loss; dashed: of training", "epoch", (("val_loss", "-", 1), ("train_loss", "--", 1))),
    Curve("accuracy", "Accuracy, %; dashed: of training", "epoch",
          (("val_top1", "-", 100), ("train_top1", "--", 100)), from_zero=True),
    Curve("steps", "Training loss of a step", "step", (("loss", "-", 1),)),
    Curve("learning_rate", "Learning rate", "step", (("lr", "-", 1),), from_zero=True),
    Curve("speed", "Training images a second", "epoch", (("images_per_second", "-", 1),), from_zero=True),
    Curve("time", "Seconds an epoch, with its evaluation", "epoch", (("seconds", "-", 1),), from_zero=True),
)  # fmt: skip
