"""Everything a report shows of a run, read from its directory. The run may still be training."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from regnet.errors import UsageError
from regnet.metrics.evaluation_file import EvaluationFile, read_evaluation_file
from regnet.runs.event_log import EVENTS, read_events
from regnet.runs.files import CONFIG, EVALUATION, RESULT
from regnet.runs.listing import read_status
from regnet.runs.status import STATE, RunState

Row = dict[str, Any]


@dataclass(frozen=True)
class RunData:
    """One run.

    Attributes:
        status: running, finished, preempted, failed or died.
        state: content of state.json.
        config: content of config.yaml.
        epochs, steps: lines of metrics.jsonl.
        events: lines of events.jsonl.
        result: content of result.json; empty if there is none for the latest epoch.
        evaluation: content of evaluation.npz; None without a result.
    """

    name: str
    directory: Path
    status: str
    state: RunState
    config: dict[str, Any]
    epochs: list[Row]
    steps: list[Row]
    events: list[Row]
    result: Row
    evaluation: EvaluationFile | None

    @property
    def options(self) -> Row:
        """Dotted option names and their values."""
        return _flatten(self.config)

    @property
    def best(self) -> Row | None:
        """The epoch with the highest validation accuracy, the earliest if several have it."""
        return max(self.epochs, key=lambda row: row["val_top1"], default=None)


Check = Callable[[Any], bool]


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or isinstance(value, float)


def _is_number_or_none(value: Any) -> bool:
    """Non-finite values are written as null."""
    return value is None or _is_number(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_time(value: Any) -> bool:
    return _is_text(value) and bool(datetime.fromisoformat(value))


def _is_accuracy_by_class(value: Any) -> bool:
    """None: the class has no validation samples."""
    return isinstance(value, dict) and all(map(_is_number_or_none, value.values()))


def _is_count_by_class(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_int, value.values()))


def _is_environment(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


_EPOCH: dict[str, Check] = {
    "epoch": _is_int,
    **dict.fromkeys(("train_loss", "train_top1", "val_loss"), _is_number_or_none),
    **dict.fromkeys(("val_top1", "val_top5", "seconds", "images_per_second"), _is_number),
}
_STEP: dict[str, Check] = {"step": _is_int, "lr": _is_number, "loss": _is_number_or_none}
_COLUMNS = {"epoch": _EPOCH, "step": _STEP}
_EVENT: dict[str, Check] = {
    "time": _is_time,
    **dict.fromkeys(("kind", "detail"), _is_text),
    **dict.fromkeys(("attempt", "epoch", "step"), _is_int),
    "environment": _is_environment,  # optional
}
_RESULT: dict[str, Check] = {
    "class_accuracy": _is_accuracy_by_class,
    "class_samples": _is_count_by_class,
    **dict.fromkeys(("epochs", "parameters"), _is_int),
    **dict.fromkeys(("top1", "top5", "loss", "calibration_error"), _is_number_or_none),
}


def read_runs(paths: Sequence[Path]) -> tuple[list[RunData], list[str]]:
    """The runs among these paths, each once; and a line about each one that cannot be read, and about all others.

    Raises:
        UsageError: a path does not exist, or no run can be read.
    """
    missing = [path for path in paths if not os.path.lexists(path)]
    if missing:
        raise UsageError(f"{missing[0]} is not a run: it does not exist")
    candidates = {path.resolve(): path for path in paths if (path / STATE).exists()}
    if not candidates:
        raise UsageError(f"{paths[0]} is not a run: it has no {STATE}")
    runs, errors = [], []
    for path in candidates.values():
        try:
            runs.append(read_run_data(path))
        except UsageError as error:
            errors.append(error)
    if not runs:
        raise errors[0]
    skipped = [f"skipped: {error}" for error in errors]
    others = [str(path) for path in paths if path.resolve() not in candidates]
    if others:
        entries = "1 entry that is not a run" if len(others) == 1 else f"{len(others)} entries that are not runs"
        skipped.append(f"skipped {entries}: {', '.join(others)}")
    return runs, skipped


def read_run_data(directory: Path) -> RunData:
    """Reads a run. Raises UsageError if the directory holds no run, or if one of its files is damaged."""
    try:
        state, status = read_status(directory)
        rows, result = _read_metrics(directory / "metrics.jsonl"), _read_result(directory / RESULT, state.epoch)
        return RunData(
            name=Path(os.path.abspath(directory)).name,
            directory=directory,
            status=status,
            state=state,
            config=_read_config(directory / CONFIG),
            epochs=rows["epoch"],
            steps=rows["step"],
            events=_read_events(directory),
            result=result,
            evaluation=(
                read_evaluation_file(directory / EVALUATION) if result and (directory / EVALUATION).exists() else None
            ),
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{directory} is not a run: it has no {Path(str(error.filename)).name}") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{directory} cannot be read: {' '.join(str(error).split())}") from error


@contextlib.contextmanager
def _naming(file: str) -> Iterator[None]:
    """Prefixes the errors of the block with the file name. Raises ValueError."""
    try:
        yield
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    with _naming(path.name):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("not a configuration")
    return config


def _read_events(directory: Path) -> list[Row]:
    with _naming(EVENTS):
        events = read_events(directory)
        for event in events:
            _validate({"environment": {}, **event}, _EVENT)
    return events


def _read_result(path: Path, epoch: int) -> Row:
    """The result, if it is of this epoch: a run that is continued for more epochs keeps its earlier result."""
    if not path.exists():
        return {}
    with _naming(path.name):
        result = json.loads(path.read_text(encoding="utf-8"))
        _validate(result, _RESULT)
        if result["class_accuracy"].keys() != result["class_samples"].keys():
            raise ValueError("class_accuracy and class_samples are of different classes")
    return result if result["epochs"] == epoch else {}


def _read_metrics(path: Path) -> dict[str, list[Row]]:
    """The lines by kind. The last line may be incomplete and is then skipped. Raises ValueError for other damage."""
    rows: dict[str, list[Row]] = {"epoch": [], "step": []}
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, 1):
        if line.endswith(b"\n"):
            with _naming(f"{path.name}, line {number}"):
                row = json.loads(line)
                _validate(row, {"kind": _is_text})
                if row["kind"] in rows:
                    additional = row.keys() - {"kind"}  # columns of later versions
                    _validate(row, {**dict.fromkeys(additional, _is_number_or_none), **_COLUMNS[row["kind"]]})
                    rows[row["kind"]].append(row)
    return rows


def _validate(row: Any, columns: Mapping[str, Check]) -> None:
    """Raises ValueError if a column is missing or fails its check."""
    for column, is_valid in columns.items():
        if not isinstance(row, dict) or column not in row or not is_valid(row[column]):
            raise ValueError(f"{column} is missing or invalid; the file is damaged or was written by another version")


def _flatten(config: dict[str, Any], section: str = "") -> dict[str, Any]:
    """{"train": {"epochs": 3}} -> {"train.epochs": 3}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat.update(_flatten(value, f"{section}{name}.") if isinstance(value, dict) else {f"{section}{name}": value})
    return flat
