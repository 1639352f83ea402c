"""The trackers of a run. A new tracker is a module in this package and an entry in `open_trackers`."""

from collections.abc import Mapping
from typing import Any

from regnet.config.schema import Config
from regnet.metrics.evaluation_file import EvaluationFile
from regnet.runs.directory import RunDirectory
from regnet.runs.status import Status
from regnet.tracking.base import EpochReport, StepReport, Tracker
from regnet.tracking.console import ConsoleTracker
from regnet.tracking.metrics_log import MetricsLog
from regnet.tracking.wandb_start import open_wandb


class Trackers(Tracker):
    """Passes every report on to all trackers."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self.trackers = trackers

    def log_message(self, message: str) -> None:
        for tracker in self.trackers:
            tracker.log_message(message)

    def begin_epoch(self, epoch: int, steps: int, done: int) -> None:
        for tracker in self.trackers:
            tracker.begin_epoch(epoch, steps, done)

    def log_steps(self, reports: list[StepReport]) -> None:
        for tracker in self.trackers:
            tracker.log_steps(reports)

    def log_epoch(self, report: EpochReport) -> None:
        for tracker in self.trackers:
            tracker.log_epoch(report)

    def log_result(self, result: Mapping[str, Any], evaluation: EvaluationFile) -> None:
        for tracker in self.trackers:
            tracker.log_result(result, evaluation)

    def sync(self) -> None:
        for tracker in self.trackers:
            tracker.sync()

    def close(self, status: Status) -> None:
        for tracker in self.trackers:
            tracker.close(status)


def open_trackers(config: Config, directory: RunDirectory, epochs: int, steps: int) -> Trackers:
    """Every tracker that the configuration asks for; rank zero only.

    Args:
        epochs, steps: completed by the run so far.
    """
    console = ConsoleTracker(config)
    opened: list[Tracker | None] = [
        console,
        MetricsLog(directory.writer, directory.metrics, epochs, steps),
        open_wandb(config, directory, steps, console.log_message),
    ]
    return Trackers([tracker for tracker in opened if tracker is not None])
