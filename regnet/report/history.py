"""A run as its directory tells it; whatever is not there yet, or is being written, is left out."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from regnet.errors import UsageError
from regnet.events import read_events
from regnet.outcome import Outcome, read_outcome
from regnet.run import EVALUATION, RESULT, RunState, read_state

Row = dict[str, Any]


@dataclass(frozen=True)
class History:
    """One run.

    Attributes:
        config: as config.yaml has it.
        epochs, steps: the lines of metrics.jsonl.
        events: those of events.jsonl.
        result: what result.json says; empty while the run is not done.
        outcome: of the last evaluation; None while the run is not done.
    """

    name: str
    directory: Path
    state: RunState
    config: dict[str, Any]
    epochs: list[Row]
    steps: list[Row]
    events: list[Row]
    result: Row
    outcome: Outcome | None

    @property
    def options(self) -> Row:
        """Dotted options and their values."""
        return _flatten(self.config)

    @property
    def best(self) -> Row | None:
        """The epoch of the highest test accuracy, the first of equals."""
        return max(self.epochs, key=lambda row: row["val_accuracy"], default=None)


_OF_STEP = frozenset({"step", "lr", "loss"})
_OF_EPOCH = frozenset(
    {
        "epoch",
        "train_loss",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
        "val_top5",
        "seconds",
        "images_per_second",
    }
)


def read_history(directory: Path) -> History:
    """Raises UsageError if the directory holds no run, or one of its files cannot be used."""
    state = read_state(directory) if directory.is_dir() else None
    if state is None:
        raise UsageError(f"{directory}: holds no run")
    metrics = directory / "metrics.jsonl"
    try:
        config = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
        outcome, result = directory / EVALUATION, directory / RESULT
        return History(
            directory.resolve().name,
            directory,
            state,
            config,
            _rows(metrics, "epoch", _OF_EPOCH),
            _rows(metrics, "step", _OF_STEP),
            read_events(directory),
            json.loads(result.read_text(encoding="utf-8")) if result.exists() else {},
            read_outcome(outcome) if outcome.exists() else None,
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        raise UsageError(f"{directory}: cannot be read ({' '.join(str(error).split())})") from error


def _rows(path: Path, kind: str, columns: frozenset[str]) -> list[Row]:
    """The lines of one kind; the last one may be torn, or being written. Raises ValueError for another."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    found = [row for row in rows if row["kind"] == kind]
    for row in found:
        if missing := columns - row.keys():
            raise ValueError(f"{path.name}: a line without {', '.join(sorted(missing))}")
    return found


def _flatten(config: dict[str, Any], section: str = "") -> dict[str, Any]:
    """{"train": {"epochs": 3}} -> {"train.epochs": 3}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat.update(_flatten(value, f"{section}{name}.") if isinstance(value, dict) else {f"{section}{name}": value})
    return flat
