"""Runs that differ in nothing but their seed belong together: their mean, and how far they lie from it."""

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regnet.report.run_data import RunData
from regnet.runs.directory import fixed_options


@dataclass(frozen=True)
class Group:
    """Runs of one configuration with different seeds, or a single run."""

    label: str
    runs: tuple[RunData, ...]


@dataclass(frozen=True)
class Series:
    """float64 arrays of one length: the mean over runs at each x, and their standard deviation, 0 for a single run."""

    x: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def group(runs: Sequence[RunData]) -> list[Group]:
    """In the order in which their first runs come. A seed that comes again, on the same task, is a group of its own."""
    groups: dict[tuple[str, int], list[RunData]] = {}
    seen: Counter[tuple[str, int]] = Counter()
    for run in runs:
        task, seed = _task(run), run.config.get("seed", 0)
        groups.setdefault((task, seen[task, seed]), []).append(run)
        seen[task, seed] += 1
    labels = [_label([run.name for run in alike]) for alike in groups.values()]
    whole = [", ".join(run.name for run in alike) for alike in groups.values()]
    twice = {label for label, count in Counter(labels).items() if count > 1}
    return [
        Group(other if label in twice else label, tuple(alike))
        for label, other, alike in zip(labels, whole, groups.values(), strict=True)
    ]


def _task(run: RunData) -> str:
    """Equal for runs that differ in nothing but their seed: the images, the length and all options count."""
    numbers = {key: value for key, value in fixed_options(run.config).items() if key not in ("seed", "name")}
    return repr((run.state.data, run.state.epochs, sorted(numbers.items())))


def _label(names: Sequence[str]) -> str:
    """The name of a run, or what the names of several share, up to a mark that ends a word."""
    if len(names) == 1:
        return names[0]
    start = os.path.commonprefix([*names])  # noqa: RUF071  # names, not paths
    shared = re.sub(r"[-_.]*[^-_.]*$", "", start)  # "s" of s-10 and s-11
    return f"{shared or ', '.join(names)} ({len(names)} seeds)"


def by_epoch(runs: Sequence[RunData], key: str) -> Series:
    """A column of the epochs' lines; numbers that are none are left out, and lines from before there was the column."""
    return over_runs([{row["epoch"]: row[key] for row in run.epochs if row.get(key) is not None} for run in runs])


def by_step(runs: Sequence[RunData], key: str, points: int = 400) -> Series:
    """A column of the steps' lines, as means of so many neighbours that no more than `points` are left."""
    most = max((row["step"] for run in runs for row in run.steps), default=0)
    width = max(1, math.ceil(most / points))
    columns = []
    for run in runs:
        parts: dict[int, list[float]] = {}
        for row in run.steps:
            if row[key] is not None:
                parts.setdefault(math.ceil(row["step"] / width) * width, []).append(row[key])
        columns.append({step: float(np.mean(part)) for step, part in parts.items()})
    return over_runs(columns)


def over_runs(columns: Sequence[dict[int, float]]) -> Series:
    xs = sorted(set().union(*columns))
    at = [[column[x] for column in columns if x in column] for x in xs]
    return Series(
        np.array(xs, dtype=float),
        np.array([np.mean(values) for values in at]),
        np.array([np.std(values, ddof=1) if len(values) > 1 else 0.0 for values in at]),
    )


def class_accuracy(runs: Sequence[RunData]) -> dict[str, Series]:
    """Of each class, over the runs that are done; x is without meaning."""
    done = [run.result["class_accuracy"] for run in runs if run.result]
    return {name: over_runs([{0: of_run[name]} for of_run in done if name in of_run]) for name in (done or [{}])[0]}


def differences(runs: Sequence[RunData]) -> dict[str, list[Any]]:
    """The options that are not the same in all runs, and what each run has."""
    options = [run.options for run in runs]
    names = dict.fromkeys(name for own in options for name in own)
    values = {name: [own.get(name) for own in options] for name in names}
    return {name: own for name, own in values.items() if any(value != own[0] for value in own)}
