"""The rows of a run at Weights & Biases, and their order.

The W&B step of a row (`_step`) is a function of the optimiser step and of what the row reports. A resumed run therefore
knows which rows W&B has, whichever attempt sent them: all rows up to the last one that arrived.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

# The columns of W&B, and those of metrics.jsonl that they show.
_COLUMNS = {
    "step": {"step": "step", "train/loss": "loss", "train/lr": "lr"},
    "epoch": {
        "epoch": "epoch",
        "step": "step",
        "train/epoch_loss": "train_loss",
        "train/top1": "train_top1",
        "val/loss": "val_loss",
        "val/top1": "val_top1",
        "val/top5": "val_top5",
        "time/epoch_seconds": "seconds",
        "time/images_per_second": "images_per_second",
    },
}
NOT_IN_METRICS = ("val/calibration_error", "system/peak_memory_gb")  # columns of an epoch that metrics.jsonl lacks


# The best values of a run, and which of the values of its epochs they are. wandb's own (define_metric's summary) forget
# earlier attempts.
_BEST: dict[str, tuple[str, Callable[[float, float], float]]] = {
    "best/top1": ("val/top1", max),
    "best/top5": ("val/top5", max),
    "best/loss": ("val/loss", min),
}


class BestValues:
    """The best values of the epochs of all attempts."""

    def __init__(self) -> None:
        self._values: dict[str, float] = {}

    def updated(self, epoch: Mapping[str, float]) -> dict[str, float]:
        """The best values with those of a further epoch; NaN is worse than any other value."""
        for name, (column, better) in _BEST.items():
            value = epoch[column]
            if not math.isnan(value):
                self._values[name] = better(self._values.get(name, value), value)
        return self._values


class Kind(IntEnum):
    """What a row reports, in the order of the rows of one step."""

    step = 0
    epoch = 1
    result = 2


@dataclass(frozen=True)
class Row:
    """A row of the history.

    Attributes:
        wandb_step: its W&B step; increases from row to row.
        values: its columns.
    """

    wandb_step: int
    values: Mapping[str, Any]


def wandb_step(step: int, kind: Kind) -> int:
    """The W&B step of a row that reports on optimiser step `step`."""
    return len(Kind) * step + kind


def metrics_row(kind: Kind, line: Mapping[str, Any]) -> Row:
    """The row for a line of metrics.jsonl, where null stands for NaN."""
    columns = _COLUMNS[kind.name].items()
    values = {name: math.nan if line[column] is None else line[column] for name, column in columns}
    return Row(wandb_step(line["step"], kind), values)


def logged_rows(metrics: Path, size: int) -> list[Row]:
    """The rows for the steps and epochs in the first `size` bytes of metrics.jsonl."""
    with open(metrics, "rb") as file:
        lines = [json.loads(line) for line in file.read(size).splitlines()]
    return [metrics_row(Kind[line["kind"]], line) for line in lines if line["kind"] in _COLUMNS]
