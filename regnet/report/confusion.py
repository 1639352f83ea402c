"""Confusion matrices of the classes, and of the superclasses if the classes are those of CIFAR-100."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.ticker import MaxNLocator

from data.sources.cifar100_superclasses import SUPERCLASSES, superclass_of
from regnet.metrics.evaluation_file import EvaluationFile
from regnet.report.figure import Figure, Palette
from regnet.report.names import printable, shorten

MAX_NAMED = 120  # classes whose names have room along the axes
MAX_WRITTEN = 12  # classes whose percentages have room in the cells
_BLUE = (0.18, 0.5, 0.76)
# Transparent where nothing is, so that it suits light and dark backgrounds; text stays readable on the fullest cells.
_COLOURS = LinearSegmentedColormap.from_list("cells", [(*_BLUE, 0.0), (*_BLUE, 0.8)])
_SCALE = PowerNorm(0.5, 0, 1)  # makes the many small fractions visible
_TICKS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0)


def confusion_matrices(evaluation: EvaluationFile) -> list[Figure]:
    """The row-normalised matrix of the classes, after that of the superclasses if there are any."""
    names = evaluation.classes.tolist()
    superclasses = superclass_of(tuple(names))
    if superclasses is None:
        return [_Matrix(names, evaluation.confusion).figure("confusion", "Confusion matrix, row-normalised")]
    membership = np.eye(len(SUPERCLASSES), dtype=np.int64)[superclasses]
    order = np.argsort(superclasses, kind="stable")
    boundaries = np.flatnonzero(np.diff(np.asarray(superclasses)[order])) + 1
    by_superclass = _Matrix(list(SUPERCLASSES), membership.T @ evaluation.confusion @ membership)
    by_class = _Matrix([names[label] for label in order], evaluation.confusion[np.ix_(order, order)], boundaries)
    return [
        by_superclass.figure("superclasses", "Superclass confusion matrix, row-normalised"),
        by_class.figure("confusion", "Confusion matrix, row-normalised, classes ordered by superclass"),
    ]


@dataclass(frozen=True)
class _Matrix:
    """A confusion matrix.

    Attributes:
        names: of the classes.
        counts: int64 (classes, classes); rows: true, columns: predicted.
        boundaries: rows before which a line is drawn.
    """

    names: list[str]
    counts: np.ndarray
    boundaries: Sequence[int] | np.ndarray = ()

    def figure(self, name: str, title: str) -> Figure:
        side = min(9.0, max(4.5, 2.2 + 0.15 * len(self.names)))
        return Figure(
            name, title, 0.92 * side, self._draw, side, smallest_text=self._font_size(), values=self._values()
        )

    def _font_size(self) -> float:
        """Of the names, in points; without them, that of the scale."""
        return min(8.0, 470 / len(self.names)) if len(self.names) <= MAX_NAMED else 7.0

    def _values(self) -> dict[str, Any]:
        rows, columns = np.nonzero(self.counts)
        return {
            "names": [printable(name) for name in self.names],
            "samples": self.counts.sum(1).tolist(),
            "cells": np.stack([rows, columns, self.counts[rows, columns]], 1).tolist(),
        }

    def _draw(self, axes: Axes, palette: Palette) -> None:
        count = len(self.names)
        fractions = self.counts / np.maximum(self.counts.sum(1, keepdims=True), 1)
        axes.imshow(fractions, cmap=_COLOURS, norm=_SCALE, interpolation="none", aspect="equal")
        axes.grid(visible=False)
        axes.xaxis.set_label_position("top")
        axes.xaxis.tick_top()
        axes.set(xlabel="predicted class", ylabel="true class")
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)
        if count <= MAX_NAMED:
            labels, positions = [shorten(name, 30) for name in self.names], range(count)
            axes.set_xticks(positions, labels, rotation=90)
            axes.set_yticks(positions, labels)
            axes.tick_params(labelsize=self._font_size(), length=0, pad=2)
        else:
            axes.set(xlabel="predicted class, by number", ylabel="true class, by number")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        for position in self.boundaries:
            axes.axhline(position - 0.5, color=palette.grid, linewidth=0.5)
            axes.axvline(position - 0.5, color=palette.grid, linewidth=0.5)
        if count <= MAX_WRITTEN:
            for row, column in zip(*np.nonzero(self.counts), strict=True):
                text = f"{100 * fractions[row, column]:.0f}"
                axes.text(column, row, text, ha="center", va="center", fontsize=8)
        _draw_scale(axes)


def _draw_scale(axes: Axes) -> None:
    """The colours of the cells and what they mean."""
    bar = axes.inset_axes((1.03, 0, 0.025, 1))
    bar.imshow(np.linspace(1, 0, 256)[:, None], cmap=_COLOURS, interpolation="none", aspect="auto", extent=(0, 1, 0, 1))
    bar.grid(visible=False)
    bar.yaxis.tick_right()
    bar.set(xticks=[], yticks=_SCALE(_TICKS), yticklabels=[f"{100 * tick:.0f}" for tick in _TICKS])
    bar.yaxis.set_label_position("right")
    bar.set_ylabel("% of the samples of the true class", fontsize=8)
    bar.tick_params(labelsize=7, length=2, pad=1)
