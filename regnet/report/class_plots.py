"""Figures about classes that are written as PNG files: accuracy per class, most confident errors."""

from collections.abc import Sequence
from functools import partial

from matplotlib import figure as mpl_figure
from matplotlib.axes import Axes

from regnet.metrics.evaluation_file import EvaluationFile
from regnet.report.class_accuracy import AccuracyOfGroup, best_first, finished_groups
from regnet.report.figure import MARKERS, Figure, Palette, png_file
from regnet.report.names import shorten
from regnet.report.seed_groups import SeedGroup


def class_bars(groups: Sequence[SeedGroup], rows: int = 50) -> list[Figure]:
    """Final accuracy of each class, best first: bars for the first group with a result, markers for the others.

    Args:
        rows: classes per figure.
    """
    finished = finished_groups(groups)
    names = best_first(finished[0][1]) if finished else []
    chunks = [names[start : start + rows] for start in range(0, len(names), rows)]
    figures = []
    for number, chunk in enumerate(chunks, 1):
        name = f"classes-{number}" if len(chunks) > 1 else "classes"
        title = "Accuracy per class, %" + (", best first" if number == 1 else " (continued)")
        height = 1.0 + 0.15 * len(chunk) + (0.22 * (len(finished) + 1) if len(finished) > 1 else 0)
        figures.append(Figure(name, title, height, partial(_draw_bars, finished=finished, names=chunk)))
    return figures


def _draw_bars(axes: Axes, palette: Palette, finished: Sequence[AccuracyOfGroup], names: Sequence[str]) -> None:
    first = finished[0][1]
    for group, accuracy in finished:
        colour = palette.group(group.colour)
        points = [
            (y, 100 * found.mean, 100 * found.std)
            for y, name in enumerate(names)
            if (found := accuracy.get(name)) is not None and found.mean is not None
        ]
        ys, values, stds = zip(*points, strict=True) if points else ((), (), ())
        if accuracy is first:
            axes.barh(ys, values, color=colour, height=0.7, label=shorten(group.label))
            if any(stds):
                label = "± one standard deviation over seeds"
                axes.errorbar(values, ys, xerr=stds, fmt="none", ecolor=palette.ink, linewidth=0.7, label=label)
        else:
            marker = MARKERS[group.colour or 0]
            axes.plot(values, ys, marker, color=colour, markersize=4, label=shorten(group.label), clip_on=False)
    axes.set(xlim=(0, 100), ylim=(len(names) - 0.4, -0.6))
    labels = [f"{shorten(name)} ({first[name].samples})" for name in names]
    axes.set(yticks=range(len(names)), yticklabels=labels, xlabel="in brackets: validation samples")
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.grid(visible=False, axis="y")
    if len(finished) > 1 or len(axes.containers) > 1:
        axes.figure.legend(loc="outside upper left", ncols=1)


def contact_sheet(evaluation: EvaluationFile, columns: int = 6) -> bytes:
    """The images of the most confident errors, as one PNG file."""
    count = len(evaluation.images)
    rows = max(1, -(-count // columns))
    figure = mpl_figure.Figure(figsize=(1.5 * columns, 1.9 * rows + 0.4), layout="constrained")
    figure.suptitle("Most confident errors")
    for index in range(rows * columns):
        axes = figure.add_subplot(rows, columns, index + 1)
        axes.axis("off")
        if index < count:
            axes.imshow(evaluation.images[index])
            label = shorten(evaluation.classes[evaluation.labels[index]], 22)
            predicted = shorten(evaluation.classes[evaluation.predicted[index]], 22)
            title = f"{label}\npredicted as {predicted}\n{evaluation.confidence[index]:.1%}"
            axes.set_title(title, fontsize=7, parse_math=False)
    return png_file(figure, dpi=130)
