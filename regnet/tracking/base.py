"""The interface of trackers, which report metrics while a run trains, and what is reported. Rank zero only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from regnet.metrics.evaluation import Evaluation
from regnet.metrics.evaluation_file import EvaluationFile
from regnet.metrics.training import TrainingResult
from regnet.runs.status import Status


@dataclass(frozen=True)
class StepReport:
    """One optimiser step.

    Attributes:
        epoch: counted from 1.
        step: global step, counted from 1.
        loss: mean over the global batch.
    """

    epoch: int
    step: int
    lr: float
    loss: float


@dataclass(frozen=True)
class EpochReport:
    """One epoch, over all ranks.

    Attributes:
        epoch: counted from 1.
        step: completed optimiser steps of the run.
        lr: learning rate of the epoch's first step.
        seconds: duration of training and evaluation.
        images_per_second: training throughput, without evaluation.
    """

    epoch: int
    step: int
    lr: float
    train: TrainingResult
    val: Evaluation
    seconds: float
    images_per_second: float

    def row(self) -> dict[str, float | int]:
        """The columns of the epoch in metrics.jsonl."""
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
    """Receives the reports of a run; subclasses override what they need. Exists on rank zero only."""

    def log_message(self, message: str) -> None:
        """A line for people."""

    def begin_epoch(self, epoch: int, steps: int, done: int) -> None:
        """An epoch starts, or is resumed after `done` of its `steps`."""

    def log_steps(self, reports: list[StepReport]) -> None:
        """Consecutive steps have been completed."""

    def log_epoch(self, report: EpochReport) -> None:
        """An epoch has been completed and evaluated."""

    def log_result(self, result: Mapping[str, Any], evaluation: EvaluationFile) -> None:
        """The run is finished: the contents of result.json and evaluation.npz."""

    def sync(self) -> None:
        """Returns when everything reported so far is durable."""

    def close(self, status: Status) -> None:
        """The attempt ends with this status of the run; no report follows."""
