"""What a run tells on the console: lines on standard output, and a progress bar where that is a terminal."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from regnet.config.schema import Config
from regnet.metrics.evaluation_file import EvaluationFile
from regnet.tracking.base import EpochReport, StepReport, Tracker


class ConsoleTracker(Tracker):
    """Lines of at most 80 columns on standard output; a progress bar on standard error while that is a terminal.

    Args:
        config: of the run.
    """

    def __init__(self, config: Config) -> None:
        self.batch_size, self.every = config.train.batch_size, config.tracking.progress_every
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.task = self.progress.add_task("")
        self._told = time.monotonic()

    def say(self, message: str) -> None:
        print(message, flush=True)

    def begin_epoch(self, epoch: int, steps: int, done: int) -> None:
        self.progress.start()
        self.progress.reset(self.task, total=steps, completed=done, description=f"epoch {epoch}")

    def steps(self, reports: list[StepReport]) -> None:
        last = reports[-1]
        self.progress.update(self.task, advance=len(reports), description=f"epoch {last.epoch}, loss {last.loss:.3f}")
        if self.progress.disable and self.every and time.monotonic() - self._told > self.every:
            self._told = time.monotonic()
            print(f"  {self._under_way()}", flush=True)

    def _under_way(self) -> str:
        task = self.progress.tasks[self.task]
        speed = f", {task.speed * self.batch_size:,.0f} images/s" if task.speed else ""
        left = f", {task.time_remaining:.0f} s to go" if task.time_remaining else ""
        return f"{task.description}, {task.completed:.0f} of {task.total:.0f} steps{speed}{left}"

    def epoch(self, report: EpochReport) -> None:
        self.progress.stop()
        print(
            f"Epoch {report.epoch} lr = {report.lr:.6f} avg_loss = {report.train.loss / self.batch_size:.6f} "
            f"accuracy = {report.val.top1:.2%} time = {report.seconds:.2f}s",
            flush=True,
        )

    def final(self, result: Mapping[str, Any], outcome: EvaluationFile) -> None:
        print_result(result)

    def close(self, failed: bool) -> None:
        self.progress.stop()


def print_result(result: Mapping[str, Any]) -> None:
    """Test accuracy, and that of each class under its own name; `result` is what result.json says."""
    console = Console(highlight=False, markup=False, emoji=False)  # a class may be called [red] or :smile:
    top1, top5, samples = result["top1"], result["top5"], result["samples"]
    console.print(f"test accuracy: top-1 {top1:.2%}, top-5 {top5:.2%} of {samples:,} images")
    cells = [f"{name} {accuracy:.0%}" for name, accuracy in result["class_accuracy"].items()]
    console.print(in_columns(cells, console.width))


def in_columns(cells: Sequence[str], width: int) -> Table:
    """Read downwards, in as many columns as fit."""
    columns = max(1, width // (max(map(len, cells)) + 2))
    rows = math.ceil(len(cells) / columns)
    table = Table.grid(padding=(0, 2))
    for row in range(rows):
        table.add_row(*cells[row::rows])
    return table
