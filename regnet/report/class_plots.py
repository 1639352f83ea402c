"""The pictures of a report that know classes: their accuracy, what they are predicted as, the worst mistakes."""

import io
from collections.abc import Sequence
from functools import partial

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from data.sources.cifar100_superclasses import SUPERCLASSES, superclass_of
from regnet.metrics.evaluation_file import EvaluationFile
from regnet.report.figure import Palette, Picture
from regnet.report.seeds import Group, class_accuracy

NAMED = 30  # classes of a confusion matrix that have room for their names


def class_bars(groups: Sequence[Group], rows: int = 50) -> list[Picture]:
    """Accuracy of each class in the first group, best first, so many to a picture; dots for the other groups.

    Groups none of whose runs is done are left out.
    """
    accuracies = [(index, group, class_accuracy(group.runs)) for index, group in enumerate(groups)]
    done = [(index, group, found) for index, group, found in accuracies if found]
    first = done[0][2] if done else {}
    best_first = sorted(first, key=lambda name: -np.nan_to_num(first[name].mean[0], nan=-1.0))
    pages = [best_first[start : start + rows] for start in range(0, len(best_first), rows)]

    def draw(axes: Axes, palette: Palette, names: list[str]) -> None:
        places = np.arange(len(names))
        for index, group, accuracy in done:
            colour = palette.groups[index]
            own = [(place, accuracy[name]) for place, name in zip(places, names, strict=True) if name in accuracy]
            at, values = [place for place, _ in own], [100 * series.mean[0] for _, series in own]
            if group is done[0][1]:
                spread = [100 * series.deviation[0] for _, series in own]
                axes.barh(at, values, color=colour, height=0.7, label=group.label)
                if any(spread):
                    axes.errorbar(values, at, xerr=spread, fmt="none", ecolor=palette.ink, linewidth=0.7)
            else:
                axes.plot(values, at, "o", color=colour, markersize=3, label=group.label)
        axes.set(xlim=(0, 100), ylim=(len(names) - 0.4, -0.6))
        axes.set(yticks=places, yticklabels=[_short(name) for name in names])
        axes.tick_params(axis="y", length=0, labelsize=8)
        axes.grid(visible=False, axis="y")
        if len(done) > 1:
            axes.legend()

    numbered = [f"classes-{number}" if len(pages) > 1 else "classes" for number, _ in enumerate(pages, 1)]
    title = "Accuracy of each class, %, best first"
    return [
        Picture(name, title, 0.6 + 0.15 * len(page), partial(draw, names=page))
        for name, page in zip(numbered, pages, strict=True)
    ]


def _short(name: str, most: int = 30) -> str:
    """Of a class, so that bars have room beside it."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def confusion(outcome: EvaluationFile) -> Picture:
    """What the samples of each class were predicted as; by superclass where there are such."""
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
        axes.set_xlabel("predicted as")
        axes.xaxis.set_label_position("top")
        axes.xaxis.tick_top()
        if len(names) <= NAMED:
            places = np.arange(len(names))
            axes.set(xticks=places, xticklabels=[str(number) for number in places + 1])
            axes.set(yticks=places, yticklabels=[f"{_short(name)}  {number}" for number, name in enumerate(names, 1)])
        else:
            axes.set(xticks=[], yticks=[])
        axes.tick_params(labelsize=7, length=0)

    return Picture("confusion", f"What each {of} was predicted as; the darker, the more often", 3.6, draw)


def contact_sheet(outcome: EvaluationFile, columns: int = 6) -> bytes:
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
            label, predicted = outcome.classes[outcome.labels[index]], outcome.classes[outcome.predicted[index]]
            told = f"{_short(label, 22)}\ntaken for {_short(predicted, 22)}\n{outcome.confidence[index]:.1%}"
            axes.set_title(told, fontsize=7, parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
