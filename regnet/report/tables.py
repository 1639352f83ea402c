"""The tables of a report: runs with their metrics, classes, confusions, events, and differing options."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from statistics import mean, stdev
from typing import Any, NamedTuple

import numpy as np

from regnet.metrics.evaluation_file import EvaluationFile, most_confused
from regnet.report.run_data import RunData
from regnet.report.seed_groups import SeedGroup

CONFUSED_PAIRS = 12  # shown
NO_VALUE = "–"
MEAN = "mean ± std"  # status of a row


class Measure(NamedTuple):
    """A column of the table of runs.

    Attributes:
        value_of: None if the run has no such value yet.
        write: the value as text.
        best_of: which of several values is the best one; None if none is.
        over_seeds: whether it has a mean and a standard deviation over seeds.
    """

    heading: str
    value_of: Callable[[RunData], float | None]
    write: Callable[[float], str]
    best_of: Callable[[Iterable[float]], float] | None = None
    over_seeds: bool = False


def _percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def _loss(value: float) -> str:
    return f"{value:.3f}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _last(column: str, of_result: str | None = None) -> Callable[[RunData], float | None]:
    """The value of the last epoch: of result.json if there is one, which describes the same weights."""

    def value_of(run: RunData) -> float | None:
        if of_result and run.result:
            return run.result[of_result]
        return run.epochs[-1][column] if run.epochs else None

    return value_of


def _best_top1(run: RunData) -> float | None:
    return run.best["val_top1"] if run.best else None


def _speed(run: RunData) -> float | None:
    return float(np.median([row["images_per_second"] for row in run.epochs])) if run.epochs else None


def _seconds(run: RunData) -> float | None:
    return sum(row["seconds"] for row in run.epochs) if run.epochs else None


MEASURES = (
    Measure("best validation top-1", _best_top1, _percent, max, over_seeds=True),
    Measure("final validation top-1", _last("val_top1", "top1"), _percent, max, over_seeds=True),
    Measure("final validation top-5", _last("val_top5", "top5"), _percent, max, over_seeds=True),
    Measure("final validation loss", _last("val_loss", "loss"), _loss, min, over_seeds=True),
    Measure("final training loss", _last("train_loss"), _loss, over_seeds=True),
    Measure("calibration error (ECE)", lambda run: run.result.get("calibration_error"), _percent, over_seeds=True),
    Measure("training images/s", _speed, _count),
    Measure("parameters", lambda run: run.result.get("parameters"), _count),
    Measure("training time (h:mm:ss)", _seconds, duration),
)
HEADINGS = ("epochs", *(measure.heading for measure in MEASURES))


class Cell(NamedTuple):
    """A cell of the table of runs; `value` is what it is sorted by, `best` whether no other run has a better one."""

    text: str
    value: float | None = None
    note: str = ""
    best: bool = False


def run_rows(groups: Sequence[SeedGroup]) -> list[dict[str, Any]]:
    """The table of runs: a row for each run, after those of several seeds one for their mean and standard deviation."""
    runs = [run for group in groups for run in group.runs]
    best = [_best_value(measure, runs) if len(runs) > 1 else None for measure in MEASURES]
    rows = []
    for group in groups:
        rows += [_row(run.name, run.status, group, _run_cells(run, best)) for run in group.runs]
        if len(group.runs) > 1:
            cells = [_mean_cell(measure, group) if measure.over_seeds else Cell("") for measure in MEASURES]
            rows.append(_row(group.label, MEAN, group, [Cell(""), *cells]))
    return rows


def _row(name: str, status: str, group: SeedGroup, cells: list[Cell]) -> dict[str, Any]:
    return {"name": name, "status": status, "colour": group.colour, "cells": cells}


def _best_value(measure: Measure, runs: Sequence[RunData]) -> float | None:
    """None also if all are equal."""
    values = [value for run in runs if (value := _value(measure, run)) is not None]
    return measure.best_of(values) if measure.best_of and len(set(values)) > 1 else None


def _run_cells(run: RunData, best: Sequence[float | None]) -> list[Cell]:
    cells = [Cell(f"{run.state.epoch}/{run.state.epochs}", run.state.epoch)]
    for measure, best_value in zip(MEASURES, best, strict=True):
        value = _value(measure, run)
        note = f"epoch {run.best['epoch']}" if run.best and measure.value_of is _best_top1 else ""
        if value is None:
            cells.append(Cell(NO_VALUE))
        else:
            cells.append(Cell(measure.write(value), value, note, value == best_value))
    return cells


def _value(measure: Measure, run: RunData) -> float | None:
    """None also if it is not finite."""
    value = measure.value_of(run)
    return value if value is not None and math.isfinite(value) else None


def _mean_cell(measure: Measure, group: SeedGroup) -> Cell:
    values = [value for run in group.runs if (value := _value(measure, run)) is not None]
    if len(values) < 2:
        return Cell(NO_VALUE)
    average = measure.write(mean(values)).removesuffix(" %" if measure.write is _percent else "")
    return Cell(f"{average} ± {measure.write(stdev(values))}", mean(values))


def confused_pairs(evaluation: EvaluationFile) -> list[dict[str, Any]]:
    names, samples = evaluation.classes.tolist(), evaluation.confusion.sum(1)
    return [
        {
            "count": count,
            "of": f"{100 * count / samples[label]:.0f} %",
            "label": names[label],
            "predicted": names[predicted],
        }
        for label, predicted, count in most_confused(evaluation.confusion, CONFUSED_PAIRS)
    ]


def calibration_rows(evaluation: EvaluationFile) -> list[dict[str, Any]]:
    """The confidence bins that have samples."""
    if evaluation.calibration is None:
        return []
    bins = evaluation.calibration.shape[1]
    rows = []
    for index, (samples, correct, confidence) in enumerate(evaluation.calibration.T.tolist()):
        if samples:
            difference = (correct - confidence) / samples
            cells = (_count(samples), _percent(confidence / samples), _percent(correct / samples))
            text = f"{100 * index / bins:.1f} to {100 * (index + 1) / bins:.1f} %"
            rows.append({"range": text, "cells": (*cells, f"{100 * difference:+.2f} %".replace("-", "−"))})
    return rows


def event_row(run: RunData, event: dict[str, Any]) -> dict[str, Any]:
    """A row of the run history."""
    started = f"on {event['detail']}" + (f", from step {event['step']}" if event["step"] else "")
    time = datetime.fromisoformat(event["time"]).strftime("%Y-%m-%d %H:%M:%S")
    detail = started if event["kind"] == "started" else event["detail"]
    return {**event, "run": run.name, "time": time, "detail": detail}


def config_differences(runs: Sequence[RunData]) -> list[list[str]]:
    """The options in which the runs differ besides their name, and the value of each run, as a table with headings.

    Its rows are the options or, if there are more runs, the runs. Empty if the runs have the same configuration.
    """
    options_by_run = [run.options for run in runs]
    names = dict.fromkeys(name for options in options_by_run for name in options if name != "name")
    values_of = {name: [_option_text(options, name) for options in options_by_run] for name in names}
    rows = [[name, *values] for name, values in values_of.items() if len(set(values)) > 1]
    runs_heading = [run.name for run in runs]
    if rows and len(rows) < len(runs):
        return [list(row) for row in zip(["run", *runs_heading], *rows, strict=True)]
    return [["option", *runs_heading], *rows] if rows else []


def _option_text(options: dict[str, Any], name: str) -> str:
    """As in YAML."""
    value = options.get(name, NO_VALUE)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
