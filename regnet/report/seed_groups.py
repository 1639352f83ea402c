"""Groups of runs that differ only in their seed, and the mean and standard deviation of their metrics."""

import math
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from regnet.report.run_data import RunData
from regnet.runs.compatibility import fixed_options


@dataclass(frozen=True)
class SeedGroup:
    """Runs of one configuration with different seeds, or a single run.

    Attributes:
        colour: number of its colour and marker; None if there are more groups than colours and others are better.
    """

    label: str
    runs: tuple[RunData, ...]
    colour: int | None = None

    @property
    def best_top1(self) -> float:
        """Mean over the runs of their best validation accuracy; -1 before the first epoch."""
        return float(np.mean([run.best["val_top1"] for run in self.runs if run.best] or [-1]))


@dataclass(frozen=True)
class Series:
    """Values over epochs or steps.

    Attributes:
        x: float64 (n,), epochs or steps.
        mean, std: float64 (n,), over the runs that have a value at x; std is 0 for a single run.
    """

    x: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def group_by_seed(runs: Sequence[RunData], colours: int) -> list[SeedGroup]:
    """The groups, those with the highest accuracy first. A repeated seed of the same task starts another group.

    Args:
        colours: number of groups that get a colour: the first ones, numbered in the order of `runs`, so that a group
            keeps its colour while the runs train.
    """
    groups: dict[tuple[str, int], list[RunData]] = {}
    seen: Counter[tuple[str, int]] = Counter()
    for run in runs:
        task, seed = _task(run), run.config.get("seed", 0)
        groups.setdefault((task, seen[task, seed]), []).append(run)
        seen[task, seed] += 1
    short = [_common_name([run.name for run in members]) for members in groups.values()]
    full = [", ".join(run.name for run in members) for members in groups.values()]
    ambiguous = {label for label, count in Counter(short).items() if count > 1}
    uncoloured = [
        SeedGroup(full_label if label in ambiguous else label, tuple(members))
        for label, full_label, members in zip(short, full, groups.values(), strict=True)
    ]
    best_first = sorted(range(len(uncoloured)), key=lambda index: -uncoloured[index].best_top1)
    coloured = sorted(best_first[:colours])
    return [
        replace(uncoloured[index], colour=coloured.index(index) if index in coloured else None) for index in best_first
    ]


def _task(run: RunData) -> str:
    """Equal for runs that differ only in name and seed: same images, same number of epochs, same other options."""
    options = {key: value for key, value in fixed_options(run.config).items() if key not in ("seed", "name")}
    return repr((run.state.data, run.state.epochs, sorted(options.items())))


def _common_name(names: Sequence[str]) -> str:
    """The name of a run, or the common beginning of several names, up to a separator."""
    if len(names) == 1:
        return names[0]
    start = os.path.commonprefix([*names])  # noqa: RUF071  # names, not paths
    common = re.sub(r"[-_.]*[^-_.]*$", "", start)  # "s" for s-10 and s-11
    return f"{common or ', '.join(names)} ({len(names)} seeds)"


def series_by_epoch(runs: Sequence[RunData], column: str) -> Series:
    """An epoch column of metrics.jsonl. Missing and non-finite values are skipped."""
    return mean_over_runs(
        [{row["epoch"]: row[column] for row in run.epochs if row.get(column) is not None} for run in runs]
    )


def series_by_step(runs: Sequence[RunData], column: str, max_points: int = 400) -> Series:
    """A step column of metrics.jsonl, averaged over windows of equal width so that at most `max_points` remain."""
    last_step = max((row["step"] for run in runs for row in run.steps), default=0)
    width = max(1, math.ceil(last_step / max_points))
    averaged = []
    for run in runs:
        windows: dict[int, list[float]] = {}
        for row in run.steps:
            if row[column] is not None:
                windows.setdefault(math.ceil(row["step"] / width) * width, []).append(row[column])
        averaged.append({step: float(np.mean(values)) for step, values in windows.items()})
    return mean_over_runs(averaged)


def mean_over_runs(columns: Sequence[dict[int, float]]) -> Series:
    """Mean and standard deviation at every x, over the runs that have a value there; one mapping x -> value per run."""
    xs = sorted(set().union(*columns))
    values_at = [[column[x] for column in columns if x in column] for x in xs]
    return Series(
        np.array(xs, dtype=float),
        np.array([np.mean(values) for values in values_at]),
        np.array([np.std(values, ddof=1) if len(values) > 1 else 0.0 for values in values_at]),
    )
