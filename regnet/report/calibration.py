"""Reliability diagram: accuracy over confidence, behind the expected calibration error."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from regnet.report.figure import MARKERS, Figure, Palette
from regnet.report.names import printable, shorten
from regnet.report.seed_groups import SeedGroup


def reliability_diagram(groups: Sequence[SeedGroup]) -> Figure | None:
    """The samples of all runs of a group are counted together. None if no coloured group has the data."""
    bins = [(group, counts) for group in groups if group.colour is not None and (counts := _counts(group)) is not None]
    if not bins:
        return None
    values = {
        "axis": "confidence",
        "x": [round(100 * x, 1) for x in _centres(bins[0][1])],
        "series": [
            {
                "name": f"{printable(group.label)}: {name}" if len(bins) > 1 else name,
                "colour": group.colour,
                "values": [None if np.isnan(value) else round(100 * float(value), 2) for value in column],
                "std": None,
            }
            for group, counts in bins
            for name, column in (("accuracy, %", _accuracy(counts)), ("fraction of samples, %", _fractions(counts)))
        ],
    }
    return Figure("calibration", "Reliability diagram", 3.4, partial(_draw, bins=bins), values=values)


def _counts(group: SeedGroup) -> np.ndarray | None:
    """EvaluationFile.calibration, summed over the runs."""
    arrays = [
        run.evaluation.calibration for run in group.runs if run.evaluation and run.evaluation.calibration is not None
    ]
    return np.sum(arrays, axis=0) if arrays else None


def _centres(counts: np.ndarray) -> np.ndarray:
    return (np.arange(counts.shape[1]) + 0.5) / counts.shape[1]


def _accuracy(counts: np.ndarray) -> np.ndarray:
    """Accuracy in each bin; NaN without samples."""
    samples, correct, _ = counts
    return np.divide(correct, samples, out=np.full(len(samples), np.nan), where=samples > 0)


def _fractions(counts: np.ndarray) -> np.ndarray:
    return counts[0] / max(counts[0].sum(), 1)


def _draw(axes: Axes, palette: Palette, bins: Sequence[tuple[SeedGroup, np.ndarray]]) -> None:
    axes.plot([0, 100], [0, 100], ":", color=palette.ink, linewidth=1)
    handles: list[Artist] = [Line2D([], [], color=palette.ink, linestyle=":", linewidth=1, label="ideal")]
    for group, counts in bins:
        style: dict[str, Any] = {
            "color": palette.group(group.colour),
            "marker": MARKERS[group.colour or 0],
            "markersize": 4,
        }
        samples, _, confidence = counts
        used = samples > 0
        x, y = 100 * confidence[used] / samples[used], 100 * _accuracy(counts)[used]
        axes.plot(x, y, "-", linewidth=1.4, clip_on=False, zorder=3, **style)
        if len(bins) == 1 or palette.stand_alone:
            handles.append(Line2D([], [], label="accuracy" if len(bins) == 1 else shorten(group.label), **style))
    label = "accuracy, %"
    if len(bins) == 1:  # bars of several groups would hide each other
        ((group, counts),) = bins
        bars: dict[str, Any] = {"color": palette.group(group.colour), "alpha": 0.3, "linewidth": 0}
        axes.bar(100 * _centres(counts), 100 * _fractions(counts), width=0.92 * 100 / counts.shape[1], **bars)
        handles.append(Patch(label="fraction of samples", **bars))
        label = "accuracy, fraction of samples, %"
    axes.set(xlim=(0, 100), ylim=(0, 100), xlabel="confidence, %", ylabel=label)
    axes.figure.legend(handles=handles, loc="outside upper left", ncols=len(handles) if len(handles) < 4 else 2)
