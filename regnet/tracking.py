"""What a run tells while it trains, and metrics.jsonl, which keeps it. Rank zero alone."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from regnet.files import Workshop
from regnet.metrics import Result
from regnet.outcome import Outcome
from regnet.tally import Evaluation


@dataclass(frozen=True)
class StepReport:
    """One optimiser step: `step` and `epoch` from 1, the mean loss of its global batch."""

    epoch: int
    step: int
    lr: float
    loss: float


@dataclass(frozen=True)
class EpochReport:
    """One epoch, over all ranks.

    Attributes:
        epoch: from 1.
        step: optimiser steps of the run so far.
        lr: learning rate of the epoch's first step.
        seconds: of training and evaluation together.
        images_per_second: training images, over the time of training alone.
    """

    epoch: int
    step: int
    lr: float
    train: Result
    val: Evaluation
    seconds: float
    images_per_second: float

    def row(self) -> dict[str, float | int]:
        return {
            "epoch": self.epoch,
            "step": self.step,
            "lr": self.lr,
            "train_loss": self.train.loss,
            "train_accuracy": self.train.top1,
            **self.val.columns(),
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
        }


class Tracker:
    """One place where reports go; it takes note of what concerns it. Ranks other than zero have none."""

    def say(self, message: str) -> None: ...

    def begin_epoch(self, epoch: int, steps: int, done: int) -> None: ...

    def steps(self, reports: list[StepReport]) -> None: ...

    def epoch(self, report: EpochReport) -> None: ...

    def final(self, result: Mapping[str, Any], outcome: Outcome) -> None:
        """The run is done: `result` is what result.json says."""

    def close(self, failed: bool) -> None: ...


class MetricsLog(Tracker):
    """metrics.jsonl: a line for every step and epoch, flushed, in the order of steps.

    Args:
        epochs, steps: done by the run so far; lines of later ones are dropped, for they are about to come again.
    """

    def __init__(self, workshop: Workshop, path: Path, epochs: int, steps: int) -> None:
        if path.exists():
            lines = path.read_bytes().splitlines(keepends=True)
            workshop.write(path, b"".join(line for line in lines if _is_of(line, epochs, steps)))
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115  # closed by close()

    def steps(self, reports: list[StepReport]) -> None:
        self._write([{"kind": "step", **asdict(report)} for report in reports])

    def epoch(self, report: EpochReport) -> None:
        self._write([{"kind": "epoch", **report.row()}])

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self.file.write("".join(json.dumps(_plain_json(row), allow_nan=False) + "\n" for row in rows))
        self.file.flush()

    def sync(self) -> None:
        """Returns when all lines so far would survive a power cut."""
        os.fsync(self.file.fileno())

    def close(self, failed: bool) -> None:
        self.file.close()


def _plain_json(row: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN or infinity: null."""
    return {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}


def _is_of(line: bytes, epochs: int, steps: int) -> bool:
    """Whether a line is whole and of what is done. All steps of an epoch may be, and its evaluation not."""
    try:
        row = json.loads(line)
        done = row["epoch"] <= epochs if row["kind"] == "epoch" else row["step"] <= steps
    except (ValueError, TypeError, KeyError):  # the torn last line of a killed run, or one that the disk has damaged
        return False
    return done and line.endswith(b"\n")
