"""Runs that differ in nothing but their seed belong together: their mean, and how far they lie from it."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from regnet.report.history import History
from regnet.run import numbers_depend_on


@dataclass(frozen=True)
class Group:
    """Runs of one configuration with different seeds, or a single run."""

    label: str
    runs: tuple[History, ...]


@dataclass(frozen=True)
class Series:
    """float64 arrays of one length: the mean over runs at each x, and their standard deviation, 0 for a single run."""

    x: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray


def group(runs: Sequence[History]) -> list[Group]:
    """In the order in which their first runs come."""
    groups: dict[str, list[History]] = {}
    for run in runs:
        groups.setdefault(_task(run), []).append(run)
    return [Group(_label([run.name for run in alike]), tuple(alike)) for alike in groups.values()]


def _task(run: History) -> str:
    numbers = {key: value for key, value in numbers_depend_on(run.config).items() if key not in ("seed", "name")}
    return repr(sorted(numbers.items())) + str(run.state.epochs)


def _label(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    shared = os.path.commonprefix(names).rstrip("-_.") or ", ".join(names)  # noqa: RUF071  # names, not paths
    return f"{shared} ({len(names)} seeds)"


def by_epoch(runs: Sequence[History], key: str) -> Series:
    """A column of the epochs' lines; numbers that are none are left out."""
    return over_runs([{row["epoch"]: row[key] for row in run.epochs if row[key] is not None} for run in runs])


def by_step(runs: Sequence[History], key: str, points: int = 400) -> Series:
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


def class_accuracy(runs: Sequence[History]) -> dict[str, Series]:
    """Of each class, over the runs that are done; x is without meaning."""
    done = [run.result["class_accuracy"] for run in runs if run.result]
    return {name: over_runs([{0: of_run[name]} for of_run in done if name in of_run]) for name in (done or [{}])[0]}


def differences(runs: Sequence[History]) -> dict[str, list[Any]]:
    """The options that are not the same in all runs, and what each run has."""
    options = [run.options for run in runs]
    names = dict.fromkeys(name for own in options for name in own)
    values = {name: [own.get(name) for own in options] for name in names}
    return {name: own for name, own in values.items() if any(value != own[0] for value in own)}
