"""The report: one self-contained HTML file, and its figures as PNG files on request."""

import base64
import io
import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import yaml
from markupsafe import Markup
from PIL import Image

from regnet.errors import UsageError
from regnet.metrics.evaluation_file import EvaluationFile
from regnet.report import INDEX
from regnet.report.calibration import reliability_diagram
from regnet.report.class_accuracy import class_rows, finished_groups
from regnet.report.class_plots import class_bars, contact_sheet
from regnet.report.confusion import confusion_matrices
from regnet.report.curves import CURVES
from regnet.report.figure import PNG_PALETTE, Figure
from regnet.report.names import breakable, printable
from regnet.report.provenance import provenance
from regnet.report.run_data import RunData
from regnet.report.seed_groups import SeedGroup, group_by_seed
from regnet.report.tables import (
    HEADINGS,
    MEAN,
    calibration_rows,
    config_differences,
    confused_pairs,
    event_row,
    run_rows,
)
from regnet.runs.status import STATE, Status

CONFIDENT_ERRORS = "confident_errors.png"
MAX_TITLE = 4  # configurations that the title names
_PNG_FILES = re.compile(
    "|".join(
        [
            *(curve.name for curve in CURVES),
            r"classes(-\d+)?",
            "confusion",
            "superclasses",
            "calibration",
            "confident_errors",
        ]
    )
)


def write_report(runs: Sequence[RunData], out: Path, png: bool = False) -> Path:
    """Writes the report of these runs into the directory `out`; returns the path of the HTML file.

    Args:
        png: also write the figures as PNG files. Otherwise those of an older report are deleted.

    Raises:
        UsageError: `out` is a run.
        OSError: a file cannot be written. An older report is then unchanged.
    """
    if (out / STATE).exists():
        raise UsageError(f"{out} is a run: choose another --out")
    files = render_files(_with_unique_names(runs), out, png)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=out) as temporary:
        for name, content in files.items():
            (Path(temporary) / name).write_bytes(content)
        # Two reports at once need no lock: the HTML file is self-contained, and each file is replaced in one step.
        for name in files:
            (Path(temporary) / name).replace(out / name)
    for old in out.glob("*.png"):
        if _PNG_FILES.fullmatch(old.stem) and old.name not in files:
            old.unlink()
    return out / INDEX


def _with_unique_names(runs: Sequence[RunData]) -> list[RunData]:
    """Runs of the same name are called by their directories instead."""
    names = Counter(run.name for run in runs)
    return [replace(run, name=str(run.directory)) if names[run.name] > 1 else run for run in runs]


@dataclass(frozen=True)
class _Figures:
    """The figures of the HTML file.

    Attributes:
        evaluated: the run with the best result, whose confusions and errors are shown.
    """

    curves: list[Figure]
    calibration: Figure | None
    confusions: list[Figure]
    evaluated: RunData | None

    @classmethod
    def of(cls, runs: Sequence[RunData], groups: Sequence[SeedGroup]) -> "_Figures":
        evaluated = [run for run in runs if run.evaluation is not None]
        best = max(evaluated, key=lambda run: run.result["top1"] or 0, default=None)
        return cls(
            [figure for curve in CURVES if (figure := curve.figure(groups)) is not None],
            reliability_diagram(groups),
            confusion_matrices(best.evaluation) if best and best.evaluation else [],
            best,
        )

    @property
    def evaluation(self) -> EvaluationFile | None:
        return self.evaluated.evaluation if self.evaluated else None


def render_files(runs: Sequence[RunData], out: Path, png: bool) -> dict[str, bytes]:
    """The content of the report's files, by name; the HTML file last."""
    groups = group_by_seed(runs, len(PNG_PALETTE.groups))
    figures = _Figures.of(runs, groups)
    html = _template().render(**_context(groups, figures, out))
    return {**(_png_files(groups, figures) if png else {}), INDEX: html.encode()}


def _png_files(groups: Sequence[SeedGroup], figures: _Figures) -> dict[str, bytes]:
    calibration = [] if figures.calibration is None else [figures.calibration]
    drawn = [*figures.curves, *class_bars(groups), *calibration, *figures.confusions]
    files = {f"{figure.name}.png": figure.png() for figure in drawn}
    return files if figures.evaluation is None else {**files, CONFIDENT_ERRORS: contact_sheet(figures.evaluation)}


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters["breakable"] = breakable
    environment.globals["asset"] = lambda name: Markup(_asset(name))
    return environment.from_string(_asset("template.html"))


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _context(groups: Sequence[SeedGroup], figures: _Figures, out: Path) -> dict[str, Any]:
    """The variables of the template. Groups, and runs by group, are sorted by accuracy."""
    runs = [run for group in groups for run in group.runs]
    finished, evaluation = finished_groups(groups), figures.evaluation
    return {
        "title": _title(runs, groups),
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "training": any(run.status == Status.running for run in runs),
        "ended_early": [run for run in runs if run.status != Status.finished and run.state.reason],
        "several": len(runs) > 1,
        "groups": [group for group in groups if group.colour is not None] if len(groups) > 1 else [],
        "grey": sum(group.colour is None for group in groups),
        "has_seeds": any(len(group.runs) > 1 for group in groups),
        "headings": HEADINGS,
        "mean": MEAN,
        "rows": run_rows(groups),
        "figures": figures,
        "classes": class_rows(finished),
        "bars_of": finished[0][0] if finished else None,
        "has_marks": len(finished) > 1,
        "has_whiskers": any(found.std for _, accuracy in finished[:1] for found in accuracy.values()),
        "bins": [] if evaluation is None else calibration_rows(evaluation),
        "confused": [] if evaluation is None else confused_pairs(evaluation),
        "errors": [] if evaluation is None else _confident_errors(evaluation),
        "events": sorted((event_row(run, event) for run in runs for event in run.events), key=lambda row: row["time"]),
        "differences": config_differences(runs),
        "origins": [
            (run.name, provenance(run, out), yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True))
            for run in runs
        ],
    }


def _title(runs: Sequence[RunData], groups: Sequence[SeedGroup]) -> str:
    if len(groups) <= MAX_TITLE:
        return ", ".join(group.label for group in groups)
    return f"{len(runs)} runs" + (f" of {len(groups)} configurations" if len(groups) < len(runs) else "")


def _confident_errors(evaluation: EvaluationFile) -> list[dict[str, str]]:
    names = evaluation.classes.tolist()
    return [
        {
            "png": _as_png(image),
            "label": names[label],
            "predicted": names[predicted],
            "confidence": f"{100 * confidence:.1f} %",
        }
        for image, label, predicted, confidence in zip(
            evaluation.images, evaluation.labels, evaluation.predicted, evaluation.confidence, strict=True
        )
    ]


def _as_png(image: np.ndarray) -> str:
    """Base64 of the PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="png")
    return base64.b64encode(buffer.getvalue()).decode()
