"""Accuracy per class: means over seeds, and the rows of the report's list."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from regnet.report.run_data import RunData
from regnet.report.seed_groups import SeedGroup, mean_over_runs


@dataclass(frozen=True)
class ClassAccuracy:
    """Accuracy of a class.

    Attributes:
        mean, std: 0 to 1, over the runs; None without validation samples; std is 0 for a single run.
        samples: number of validation samples in the first run.
    """

    mean: float | None
    std: float
    samples: int


def class_accuracy(runs: Sequence[RunData]) -> dict[str, ClassAccuracy]:
    """Final accuracy of each class over the runs that have finished."""
    finished = [run.result for run in runs if run.result]
    found = {}
    for name in finished[0]["class_accuracy"] if finished else ():
        values = [result["class_accuracy"].get(name) for result in finished]
        series = mean_over_runs([{0: value} for value in values if value is not None and not math.isnan(value)])
        mean, std = (series.mean[0], series.std[0]) if len(series.x) else (None, 0.0)
        found[name] = ClassAccuracy(mean, std, finished[0]["class_samples"][name])
    return found


AccuracyOfGroup = tuple[SeedGroup, dict[str, ClassAccuracy]]


def finished_groups(groups: Sequence[SeedGroup]) -> list[AccuracyOfGroup]:
    """The coloured groups with a result, and their accuracies by class."""
    return [
        (group, accuracy) for group in groups if group.colour is not None and (accuracy := class_accuracy(group.runs))
    ]


def best_first(accuracy: dict[str, ClassAccuracy]) -> list[str]:
    """Names of the classes; those without validation samples are last."""
    return sorted(accuracy, key=lambda name: 1.0 if (mean := accuracy[name].mean) is None else -mean)


def class_rows(finished: Sequence[AccuracyOfGroup]) -> list[dict[str, Any]]:
    """A row for each class, best first by the first group: positions in percent for the bar, whisker and markers."""
    if not finished:
        return []
    (first_group, first), *others = finished
    return [
        {
            "name": name,
            "samples": first[name].samples,
            "first": _mark(first_group, first[name]),
            "others": [
                mark for group, accuracy in others if name in accuracy and (mark := _mark(group, accuracy[name]))
            ],
        }
        for name in best_first(first)
    ]


def _mark(group: SeedGroup, accuracy: ClassAccuracy) -> dict[str, Any] | None:
    """None without validation samples."""
    if accuracy.mean is None:
        return None
    value, std = 100 * accuracy.mean, 100 * accuracy.std
    low, high = max(0.0, value - std), min(100.0, value + std)
    text = f"{value:.1f} ± {std:.1f} %" if std else f"{value:.1f} %"
    return {
        "colour": group.colour,
        "at": f"{value:.2f}",
        "whisker": (f"{low:.2f}", f"{high - low:.2f}") if std else None,
        "text": text,
        "title": f"{group.label}: {text}",
    }
