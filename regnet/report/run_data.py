"""A run as its directory tells it; whatever is not there yet, or is being written, is left out."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from regnet.errors import UsageError
from regnet.metrics.evaluation_file import EvaluationFile, read_evaluation_file
from regnet.runs.directory import EVALUATION, RESULT
from regnet.runs.event_log import EVENTS, read_events
from regnet.runs.listing import run_status
from regnet.runs.status import STATE, RunState, parse_state

Row = dict[str, Any]


@dataclass(frozen=True)
class RunData:
    """One run.

    Attributes:
        standing: how it stands: running, finished, preempted, failed, or died.
        config: as config.yaml has it.
        epochs, steps: the lines of metrics.jsonl.
        events: those of events.jsonl.
        result: what result.json says; empty unless it is of the run's last epoch so far.
        outcome: of the same evaluation; None where there is no result.
    """

    name: str
    directory: Path
    standing: str
    state: RunState
    config: dict[str, Any]
    epochs: list[Row]
    steps: list[Row]
    events: list[Row]
    result: Row
    outcome: EvaluationFile | None

    @property
    def options(self) -> Row:
        """Dotted options and their values."""
        return _flatten(self.config)

    @property
    def best(self) -> Row | None:
        """The epoch of the highest test accuracy, the first of equals."""
        return max(self.epochs, key=lambda row: row["val_top1"], default=None)


Fits = Callable[[Any], bool]


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return _whole(value) or isinstance(value, float)


def _loss(value: Any) -> bool:
    """A loss that was no number is written as none."""
    return value is None or _number(value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _time(value: Any) -> bool:
    return _text(value) and bool(datetime.fromisoformat(value))


_EPOCH: dict[str, Fits] = {
    "epoch": _whole,
    **dict.fromkeys(("train_loss", "train_top1", "val_loss"), _loss),
    **dict.fromkeys(("val_top1", "val_top5", "seconds", "images_per_second"), _number),
}
_STEP: dict[str, Fits] = {"step": _whole, "lr": _number, "loss": _loss}
_COLUMNS = {"epoch": _EPOCH, "step": _STEP}
_EVENT: dict[str, Fits] = {
    "at": _time,
    **dict.fromkeys(("what", "detail"), _text),
    **dict.fromkeys(("attempt", "epoch", "step"), _whole),
}
_RESULT: dict[str, Fits] = {
    "class_accuracy": lambda value: isinstance(value, dict) and all(map(_number, value.values())),
    **dict.fromkeys(("epochs", "parameters"), _whole),
    **dict.fromkeys(("top1", "top5", "calibration_error"), _number),
}


def read_run_data(directory: Path) -> RunData:
    """Raises UsageError if the directory holds no run, or one of its files cannot be used."""
    try:
        state = parse_state(directory / STATE)
        rows, result = _read_metrics(directory / "metrics.jsonl"), _read_result(directory / RESULT, state.epoch)
        return RunData(
            Path(os.path.abspath(directory)).name,
            directory,
            run_status(directory, state),
            state,
            _read_config(directory / "config.yaml"),
            rows["epoch"],
            rows["step"],
            _read_events(directory),
            result,
            read_evaluation_file(directory / EVALUATION) if result and (directory / EVALUATION).exists() else None,
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UsageError(f"{directory}: holds no run ({Path(str(error.filename)).name} is not there)") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{directory}: cannot be read ({' '.join(str(error).split())})") from error


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Whatever is wrong inside is told with the file's name. Raises ValueError."""
    try:
        yield
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{name}: {error}") from error


def _read_config(path: Path) -> dict[str, Any]:
    with _named(path.name):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("no configuration")
    return config


def _read_events(directory: Path) -> list[Row]:
    with _named(EVENTS):
        events = read_events(directory)
        for event in events:
            _check(event, _EVENT)
    return events


def _read_result(path: Path, epoch: int) -> Row:
    """Of this epoch; a run that was given more epochs leaves the one of its earlier end behind."""
    if not path.exists():
        return {}
    with _named(path.name):
        result = json.loads(path.read_text(encoding="utf-8"))
        _check(result, _RESULT)
    return result if result["epochs"] == epoch else {}


def _read_metrics(path: Path) -> dict[str, list[Row]]:
    """The lines of each kind; the last one may be torn, or being written. Raises ValueError for another."""
    found: dict[str, list[Row]] = {"epoch": [], "step": []}
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    with _named(path.name):
        for line in lines:
            if line.endswith("\n"):
                row = json.loads(line)
                _check(row, {"kind": _text})
                if row["kind"] in found:
                    others = row.keys() - {"kind"}  # which some version of the program has added
                    _check(row, {**dict.fromkeys(others, _loss), **_COLUMNS[row["kind"]]})
                    found[row["kind"]].append(row)
    return found


def _check(row: Any, columns: Mapping[str, Fits]) -> None:
    """Raises ValueError if something is not there, or of another kind."""
    for column, fits in columns.items():
        if not isinstance(row, dict) or column not in row or not fits(row[column]):
            raise ValueError(f"{column} is missing or no such thing; damaged, or of another version")


def _flatten(config: dict[str, Any], section: str = "") -> dict[str, Any]:
    """{"train": {"epochs": 3}} -> {"train.epochs": 3}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat.update(_flatten(value, f"{section}{name}.") if isinstance(value, dict) else {f"{section}{name}": value})
    return flat
