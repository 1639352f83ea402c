"""Figures about classes: accuracy per class, confusion matrix, most confident errors."""

import io
from collections.abc import Sequence
from functools import partial

import matplotlib as mpl
import numpy as np
from matplotlib import figure as mpl_figure
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from data.sources.cifar100_superclasses import SUPERCLASSES, superclass_of
from regnet.metrics.evaluation_file import EvaluationFile
from regnet.report.figure import Figure, Palette
from regnet.report.seed_groups import SeedGroup, class_accuracy

MAX_NAMED = 30  # classes of a confusion matrix that leave room for their names


def class_bars(groups: Sequence[SeedGroup], rows: int = 50) -> list[Figure]:
    """Final accuracy of each class, best first: bars for the first group with a result, dots for the others.

    Args:
        rows: classes per figure.
    """
    accuracies = [(index, group, class_accuracy(group.runs)) for index, group in enumerate(groups)]
    finished = [(index, group, accuracy) for index, group, accuracy in accuracies if accuracy]
    first = finished[0][2] if finished else {}
    best_first = sorted(first, key=lambda name: -np.nan_to_num(first[name].mean[0], nan=-1.0))
    chunks = [best_first[start : start + rows] for start in range(0, len(best_first), rows)]

    def draw(axes: Axes, palette: Palette, names: list[str]) -> None:
        positions = np.arange(len(names))
        for index, group, accuracy in finished:
            colour = palette.groups[index]
            points = [(y, accuracy[name]) for y, name in zip(positions, names, strict=True) if name in accuracy]
            ys, values = [y for y, _ in points], [100 * series.mean[0] for _, series in points]
            if group is finished[0][1]:
                stds = [100 * series.std[0] for _, series in points]
                axes.barh(ys, values, color=colour, height=0.7, label=group.label)
                if any(stds):
                    axes.errorbar(values, ys, xerr=stds, fmt="none", ecolor=palette.ink, linewidth=0.7)
            else:
                axes.plot(values, ys, "o", color=colour, markersize=3, label=group.label)
        axes.set(xlim=(0, 100), ylim=(len(names) - 0.4, -0.6))
        axes.set(yticks=positions, yticklabels=[_shorten(name) for name in names])
        axes.tick_params(axis="y", length=0, labelsize=8)
        axes.grid(visible=False, axis="y")
        if len(finished) > 1:
            axes.legend()

    figures = []
    for number, chunk in enumerate(chunks, 1):
        name = f"classes-{number}" if len(chunks) > 1 else "classes"
        title = "Accuracy per class, %" + (", best first" if number == 1 else " (continued)")
        figures.append(Figure(name, title, 0.6 + 0.15 * len(chunk), partial(draw, names=chunk)))
    return figures


def _shorten(name: str, limit: int = 30) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def confusion_matrix(evaluation: EvaluationFile) -> Figure:
    """The row-normalised confusion matrix, of superclasses if the classes are those of CIFAR-100."""
    classes = tuple(evaluation.classes.tolist())
    superclasses, counts, names, title = superclass_of(classes), evaluation.confusion, list(classes), "Confusion matrix"
    if superclasses is not None:
        membership = np.eye(len(SUPERCLASSES), dtype=np.int64)[superclasses]
        counts, names, title = membership.T @ counts @ membership, list(SUPERCLASSES), "Superclass confusion matrix"
    fractions = counts / np.maximum(counts.sum(1, keepdims=True), 1)

    def draw(axes: Axes, palette: Palette) -> None:
        cells = np.zeros((*fractions.shape, 4))
        cells[..., :3] = mpl.colors.to_rgb("#2f7fc1")  # readable on light and dark backgrounds
        cells[..., 3] = np.sqrt(fractions)  # makes the many small fractions visible
        axes.imshow(cells, interpolation="nearest", aspect="auto")
        axes.grid(visible=False)
        axes.set_xlabel("rows: true, columns: predicted")
        axes.xaxis.set_label_position("top")
        axes.xaxis.tick_top()
        if len(names) <= MAX_NAMED:
            positions = np.arange(len(names))
            axes.set(xticks=positions, xticklabels=[str(number) for number in positions + 1])
            labels = [f"{_shorten(name)}  {number}" for number, name in enumerate(names, 1)]
            axes.set(yticks=positions, yticklabels=labels)
        else:
            axes.set(xticks=[], yticks=[])
        axes.tick_params(labelsize=7, length=0)

    return Figure("confusion", f"{title} (row-normalised)", 3.6, draw)


def contact_sheet(evaluation: EvaluationFile, columns: int = 6) -> bytes:
    """The images of the most confident errors, as one PNG file."""
    count = len(evaluation.images)
    rows = max(1, -(-count // columns))
    figure = mpl_figure.Figure(figsize=(1.5 * columns, 1.9 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle("Most confident errors")
    for index in range(rows * columns):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.axis("off")
        if index < count:
            axes.imshow(evaluation.images[index])
            label = _shorten(evaluation.classes[evaluation.labels[index]], 22)
            predicted = _shorten(evaluation.classes[evaluation.predicted[index]], 22)
            title = f"{label}\npredicted as {predicted}\n{evaluation.confidence[index]:.1%}"
            axes.set_title(title, fontsize=7, parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
