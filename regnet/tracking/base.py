"""What a run tells while it trains, and metrics.jsonl, which keeps it. Rank zero alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regnet.metrics.evaluation import Evaluation
from regnet.metrics.evaluation_file import EvaluationFile
from regnet.metrics.training import TrainingResult


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
    train: TrainingResult
    val: Evaluation
    seconds: float
    images_per_second: float

    def row(self) -> dict[str, float | int]:
        return {
            "epoch": self.epoch,
            "step": self.step,
            "lr": self.lr,
            "train_loss": self.train.loss,
            "train_top1": self.train.top1,
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

    def final(self, result: Mapping[str, Any], outcome: EvaluationFile) -> None:
        """The run is done: `result` is what result.json says."""

    def sync(self) -> None:
        """Returns when everything reported so far is durable."""

    def close(self, failed: bool) -> None: ...
