"""The page of a report: one HTML file that needs nothing else, and the same pictures as PNG files."""

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
from regnet.report.class_plots import class_bars, confusion, contact_sheet
from regnet.report.curves import CURVES
from regnet.report.figure import PRINT
from regnet.report.run_data import RunData, read_run_data
from regnet.report.seeds import Group, class_accuracy, differences, group
from regnet.runs.status import STATE, Status

PAGE = "index.html"
CONFUSED = 12  # pairs that are told
_COMES_AND_GOES = re.compile(r"(classes(-\d+)?|confusion|mistakes)\.png")  # with the number of classes, and at the end
HEADINGS = ("epochs", "best test", "last test", "top-5", "calibration error", "images/s", "parameters", "time")


def write(runs: Sequence[Path], out: Path) -> Path:
    """The page, in `out` with its pictures; the same run twice counts once.

    Raises:
        UsageError: a directory that holds no run, or too many to be told apart.
        OSError: the disk.
    """
    files = make(_told_apart([read_run_data(run) for run in {run.resolve(): run for run in runs}.values()]))
    if (out / STATE).exists():
        raise UsageError(f"{out}: holds a run; choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.png"):
        if _COMES_AND_GOES.fullmatch(old.name) and old.name not in files:
            old.unlink()
    for name in sorted(files, key=PAGE.__eq__):  # the page last, when its pictures are there
        temporary = out / f".{name}.tmp"
        temporary.write_bytes(files[name])
        temporary.rename(out / name)
    return out / PAGE


def _told_apart(runs: Sequence[RunData]) -> list[RunData]:
    """By their directories where names would not do."""
    names = Counter(run.name for run in runs)
    return [replace(run, name=str(run.directory)) if names[run.name] > 1 else run for run in runs]


def make(runs: Sequence[RunData]) -> dict[str, bytes]:
    """The files of a report, by name."""
    groups = group(runs)
    if len(groups) > len(PRINT.groups):
        most = len(PRINT.groups)
        raise UsageError(f"{len(groups)} configurations: at most {most} can be told apart by their colours")
    counted = [of_one.label for of_one in groups if class_accuracy(of_one.runs)]
    done = [run for run in runs if run.outcome is not None]
    shown = max(done, key=lambda run: run.result["top1"], default=None)
    outcome = None if shown is None else shown.outcome
    curves = [picture for curve in CURVES if (picture := curve.picture(groups)) is not None]
    bars = class_bars(groups)
    matrix = None if outcome is None else confusion(outcome)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    page = template.render(
        title=", ".join(of_one.label for of_one in groups),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        training=any(run.standing == Status.running for run in runs),
        several=len(runs) > 1,
        seeds=any(len(of_one.runs) > 1 for of_one in groups),
        first=next(iter(counted), ""),
        dots=len(counted) > 1,
        shown="" if shown is None else shown.name,
        headings=HEADINGS,
        rows=[_row(run) for run in runs] + [_mean_row(of_one) for of_one in groups if len(of_one.runs) > 1],
        curves=curves,
        bars=bars,
        confusion=matrix,
        confused=[] if outcome is None else _confused(outcome),
        mistakes=[] if outcome is None else _mistakes(outcome),
        events=sorted((_event(run, event) for run in runs for event in run.events), key=lambda event: event["at"]),
        names=[run.name for run in runs],
        differences=differences(runs),
        configurations=[(run.name, yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True)) for run in runs],
    )
    pictures = [*curves, *bars, *([] if matrix is None else [matrix])]
    files = {PAGE: page.encode(), **{f"{picture.name}.png": picture.png() for picture in pictures}}
    return files if outcome is None else {**files, "mistakes.png": contact_sheet(outcome)}


def _row(run: RunData) -> dict[str, Any]:
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
    return {"name": run.name, "state": run.standing, "cells": cells}


def _mean_row(of_one: Group) -> dict[str, Any]:
    bests = [100 * run.best["val_top1"] for run in of_one.runs if run.best]
    lasts = [100 * run.epochs[-1]["val_top1"] for run in of_one.runs if run.epochs]
    told = [f"{mean(values):.2f} ± {stdev(values):.2f} %" if len(values) > 1 else "" for values in (bests, lasts)]
    return {"name": of_one.label, "state": "mean", "cells": ("", *told, *[""] * (len(HEADINGS) - 3))}


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _confused(outcome: EvaluationFile) -> list[dict[str, Any]]:
    names = outcome.classes.tolist()
    return [
        {"times": times, "label": names[label], "predicted": names[predicted]}
        for label, predicted, times in most_confused(outcome.confusion, CONFUSED)
    ]


def _mistakes(outcome: EvaluationFile) -> list[dict[str, str]]:
    names = outcome.classes.tolist()
    return [
        {"png": _as_png(image), "label": names[label], "predicted": names[predicted], "confidence": f"{confidence:.1%}"}
        for image, label, predicted, confidence in zip(
            outcome.images, outcome.labels, outcome.predicted, outcome.confidence, strict=True
        )
    ]


def _as_png(image: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()


def _event(run: RunData, event: dict[str, Any]) -> dict[str, Any]:
    began = f"on {event['detail']}" + (f", from step {event['step']}" if event["step"] else "")
    at = datetime.fromisoformat(event["at"]).strftime("%Y-%m-%d %H:%M:%S")
    return {**event, "run": run.name, "at": at, "detail": began if event["what"] == "began" else event["detail"]}
