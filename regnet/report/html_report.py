"""The report: one self-contained HTML file, and its figures as PNG files."""

import base64
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import jinja2
import numpy as np
import yaml
from PIL import Image

from regnet.errors import UsageError
from regnet.metrics.evaluation_file import EvaluationFile, most_confused
from regnet.report.class_plots import class_bars, confusion_matrix, contact_sheet
from regnet.report.curves import CURVES
from regnet.report.figure import PNG_PALETTE
from regnet.report.run_data import RunData, read_run_data
from regnet.report.seed_groups import SeedGroup, class_accuracy, group_by_seed
from regnet.runs.status import STATE, Status

INDEX = "index.html"
TEMPLATE = "template.html"
CONFUSED_PAIRS = 12  # shown
CONFIDENT_ERRORS = "confident_errors.png"
_OPTIONAL = re.compile(rf"(classes(-\d+)?|confusion)\.png|{CONFIDENT_ERRORS}")  # not in every report
HEADINGS = (
    "epochs",
    "best validation top-1 (epoch)",
    "final validation top-1",
    "final validation top-5",
    "calibration error (ECE)",
    "training images/s",
    "parameters",
    "time",
)


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Writes the report of these runs into the directory `out`; returns the path of the HTML file.

    A run that is named twice appears once.

    Raises:
        UsageError: a directory is not a run, `out` is one, or there are more configurations than colours.
        OSError: a file cannot be written.
    """
    files = render_files(
        _with_unique_names([read_run_data(run) for run in {run.resolve(): run for run in runs}.values()])
    )
    if (out / STATE).exists():
        raise UsageError(f"{out} is a run: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.png"):
        if _OPTIONAL.fullmatch(old.name) and old.name not in files:
            old.unlink()
    for name in sorted(files, key=INDEX.__eq__):  # the HTML file last, when its figures exist
        temporary = out / f".{name}.tmp"
        temporary.write_bytes(files[name])
        temporary.rename(out / name)
    return out / INDEX


def _with_unique_names(runs: Sequence[RunData]) -> list[RunData]:
    """Runs of the same name are called by their directories instead."""
    names = Counter(run.name for run in runs)
    return [replace(run, name=str(run.directory)) if names[run.name] > 1 else run for run in runs]


def render_files(runs: Sequence[RunData]) -> dict[str, bytes]:
    """The content of the report's files, by name."""
    groups = group_by_seed(runs)
    if len(groups) > len(PNG_PALETTE.groups):
        raise UsageError(
            f"{len(groups)} configurations, but a report has colours for {len(PNG_PALETTE.groups)}: name fewer runs"
        )
    with_result = [group.label for group in groups if class_accuracy(group.runs)]
    evaluated = [run for run in runs if run.evaluation is not None]
    best = max(evaluated, key=lambda run: run.result["top1"], default=None)
    evaluation = None if best is None else best.evaluation
    curves = [figure for curve in CURVES if (figure := curve.figure(groups)) is not None]
    bars = class_bars(groups)
    matrix = None if evaluation is None else confusion_matrix(evaluation)
    html = _template().render(
        title=", ".join(group.label for group in groups),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        training=any(run.status == Status.running for run in runs),
        several=len(runs) > 1,
        has_seeds=any(len(group.runs) > 1 for group in groups),
        bars_of=next(iter(with_result), ""),
        has_dots=len(with_result) > 1,
        evaluated="" if best is None else best.name,
        headings=HEADINGS,
        rows=[_row(run) for run in runs] + [_mean_row(group) for group in groups if len(group.runs) > 1],
        curves=curves,
        bars=bars,
        confusion=matrix,
        confused=[] if evaluation is None else _confused_pairs(evaluation),
        errors=[] if evaluation is None else _confident_errors(evaluation),
        events=sorted((_event(run, event) for run in runs for event in run.events), key=lambda event: event["time"]),
        names=[run.name for run in runs],
        differences=_config_differences(runs),
        configurations=[(run.name, yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)) for run in runs],
    )
    figures = [*curves, *bars, *([] if matrix is None else [matrix])]
    files = {INDEX: html.encode(), **{f"{figure.name}.png": figure.png() for figure in figures}}
    return files if evaluation is None else {**files, CONFIDENT_ERRORS: contact_sheet(evaluation)}


def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8"))


def _row(run: RunData) -> dict[str, Any]:
    """A row of the table of runs."""
    best, last, result = run.best, run.epochs[-1] if run.epochs else None, run.result
    speeds = [row["images_per_second"] for row in run.epochs]
    cells = (
        f"{run.state.epoch}/{run.state.epochs}",
        f"{best['val_top1']:.2%} ({best['epoch']})" if best else "",
        f"{result['top1']:.2%}" if result else f"{last['val_top1']:.2%}" if last else "",
        f"{result['top5']:.2%}" if result else f"{last['val_top5']:.2%}" if last else "",
        f"{result['calibration_error']:.2%}" if result else "",
        f"{float(np.median(speeds)):,.0f}" if speeds else "",
        f"{result['parameters']:,}" if result else "",
        _duration(sum(row["seconds"] for row in run.epochs)),
    )
    return {"name": run.name, "status": run.status, "cells": cells}


def _mean_row(group: SeedGroup) -> dict[str, Any]:
    """The row with mean and standard deviation of best and final accuracy."""
    best = [100 * run.best["val_top1"] for run in group.runs if run.best]
    final = [100 * run.epochs[-1]["val_top1"] for run in group.runs if run.epochs]
    cells = [f"{mean(values):.2f} ± {stdev(values):.2f} %" if len(values) > 1 else "" for values in (best, final)]
    return {"name": group.label, "status": "mean ± std", "cells": ("", *cells, *[""] * (len(HEADINGS) - 3))}


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _confused_pairs(evaluation: EvaluationFile) -> list[dict[str, Any]]:
    names = evaluation.classes.tolist()
    return [
        {"count": count, "label": names[label], "predicted": names[predicted]}
        for label, predicted, count in most_confused(evaluation.confusion, CONFUSED_PAIRS)
    ]


def _confident_errors(evaluation: EvaluationFile) -> list[dict[str, str]]:
    names = evaluation.classes.tolist()
    return [
        {"png": _as_png(image), "label": names[label], "predicted": names[predicted], "confidence": f"{confidence:.1%}"}
        for image, label, predicted, confidence in zip(
            evaluation.images, evaluation.labels, evaluation.predicted, evaluation.confidence, strict=True
        )
    ]


def _as_png(image: np.ndarray) -> str:
    """Base64 of the PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def _event(run: RunData, event: dict[str, Any]) -> dict[str, Any]:
    """A row of the run history."""
    started = f"on {event['detail']}" + (f", from step {event['step']}" if event["step"] else "")
    time = datetime.fromisoformat(event["time"]).strftime("%Y-%m-%d %H:%M:%S")
    return {
        **event,
        "run": run.name,
        "time": time,
        "detail": started if event["kind"] == "started" else event["detail"],
    }


def _config_differences(runs: Sequence[RunData]) -> dict[str, list[Any]]:
    """The options in which the runs differ, with the value of each run."""
    options_by_run = [run.options for run in runs]
    names = dict.fromkeys(name for options in options_by_run for name in options)
    values_of = {name: [options.get(name) for options in options_by_run] for name in names}
    return {name: values for name, values in values_of.items() if any(value != values[0] for value in values)}
