"""The pictures of a report that know classes: their accuracy, what they are taken for, the worst mistakes."""

import io
from collections.abc import Sequence
from functools import partial

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data.superclasses import SUPERCLASSES, superclass_of
from regnet.outcome import Outcome
from regnet.report.groups import Group, class_accuracy
from regnet.report.picture import Palette, Picture

NAMED = 30  # classes of a confusion matrix that have room for their names


def class_bars(groups: Sequence[Group], rows: int = 50) -> list[Picture]:
    """Accuracy of each class in the first group, best first, so many to a picture; dots for the other groups."""
    found = [class_accuracy(group.runs) for group in groups]
    best_first = sorted(found[0], key=lambda name: -found[0][name].mean[0]) if found else []
    pages = [best_first[start : start + rows] for start in range(0, len(best_first), rows)]

    def draw(axes: Axes, palette: Palette, names: list[str]) -> None:
        places = np.arange(len(names))
        for index, (group, accuracy) in enumerate(zip(groups, found, strict=True)):
            colour = palette.groups[index % len(palette.groups)]
            own = [(place, accuracy[name]) for place, name in zip(places, names, strict=True) if name in accuracy]
            at, values = [place for place, _ in own], [100 * series.mean[0] for _, series in own]
            if index == 0:
                spread = [100 * series.deviation[0] for _, series in own]
                axes.barh(at, values, color=colour, height=0.7, label=group.label)
                if any(spread):
                    axes.errorbar(values, at, xerr=spread, fmt="none", ecolor=palette.ink, linewidth=0.7)
            else:
                axes.plot(values, at, "o", color=colour, markersize=3, label=group.label)
        axes.set(xlim=(0, 100), ylim=(len(names) - 0.4, -0.6), yticks=places, yticklabels=names)
        axes.tick_params(axis="y", length=0, labelsize=8)
        axes.grid(visible=False, axis="y")
        if len(groups) > 1:
            axes.legend()

    numbered = [f"classes-{number}" if len(pages) > 1 else "classes" for number, _ in enumerate(pages, 1)]
    title = "Accuracy of each class, %, best first"
    return [
        Picture(name, title, 0.6 + 0.15 * len(page), partial(draw, names=page))
        for name, page in zip(numbered, pages, strict=True)
    ]


def confusion(outcome: Outcome) -> Picture:
    """What the samples of each class were taken for, in shares of its row; by superclass where there are such."""
    classes = tuple(outcome.classes.tolist())
    groups, matrix, names, of = superclass_of(classes), outcome.confusion, list(classes), "class"
    if groups is not None:
        member = np.eye(len(SUPERCLASSES), dtype=np.int64)[groups]
        matrix, names, of = member.T @ matrix @ member, list(SUPERCLASSES), "superclass"
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)

    def draw(axes: Axes, palette: Palette) -> None:
        cells = np.zeros((*shares.shape, 4))
        cells[..., :3] = mpl.colors.to_rgb("#2f7fc1")  # on a light page as well as on a dark one
        cells[..., 3] = np.sqrt(shares)  # most shares are small
        axes.imshow(cells, interpolation="nearest", aspect="auto")
        axes.grid(visible=False)
        axes.set_xlabel("taken for")
        axes.xaxis.set_label_position("top")
        axes.xaxis.tick_top()
        if len(names) <= NAMED:
            places = np.arange(len(names))
            axes.set(xticks=places, xticklabels=[str(number) for number in places + 1])
            axes.set(yticks=places, yticklabels=[f"{name}  {number}" for number, name in enumerate(names, 1)])
        axes.tick_params(labelsize=7, length=0)

    return Picture("confusion", f"What each {of} was taken for, share of its row", 3.6, draw)


def contact_sheet(outcome: Outcome, columns: int = 6) -> bytes:
    """The most confident mistakes, as one PNG."""
    count = len(outcome.images)
    rows = max(1, -(-count // columns))
    figure = Figure(figsize=(1.5 * columns, 1.9 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("Most confident mistakes")
    for index in range(rows * columns):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.axis("off")
        if index < count:
            axes.imshow(outcome.images[index])
            label, taken = outcome.classes[outcome.labels[index]], outcome.classes[outcome.taken[index]]
            told = f"{label}\ntaken for {taken}\n{outcome.confidence[index]:.1%}"
            axes.set_title(told, fontsize=7, parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
