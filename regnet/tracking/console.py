"""Reports on the console: lines on standard output, and a progress bar on standard error if that is a terminal."""

import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from regnet.config.schema import Config
from regnet.metrics.evaluation_file import EvaluationFile
from regnet.runs.status import Status
from regnet.tracking.base import EpochReport, StepReport, Tracker


class ConsoleTracker(Tracker):
    """One line per epoch, and while it trains a progress bar, or progress lines where none can be drawn.

    Args:
        config: of the run; see the options tracking.console_format, console_classes and progress_every.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        drawable = sys.stderr.isatty() and console.is_interactive  # FORCE_COLOR makes rich treat a file as a terminal
        self.progress = Progress(*columns, console=console, disable=not drawable, transient=True)
        self.task = self.progress.add_task("")
        self._printed_at = time.monotonic()

    def log_message(self, message: str) -> None:
        print(message, flush=True)

    def begin_epoch(self, epoch: int, steps: int, done: int) -> None:
        self.progress.start()
        self.progress.reset(self.task, total=steps, completed=done, description=f"epoch {epoch}")

    def log_steps(self, reports: list[StepReport]) -> None:
        last, every = reports[-1], self.config.tracking.progress_every
        self.progress.update(self.task, advance=len(reports), description=f"epoch {last.epoch}, loss {last.loss:.3f}")
        if self.progress.disable and every and time.monotonic() - self._printed_at > every:
            self._printed_at = time.monotonic()
            print(f"  {self._progress_line()}", flush=True)

    def _progress_line(self) -> str:
        task = self.progress.tasks[self.task]
        speed = f", {task.speed * self.config.train.batch_size:,.0f} img/s" if task.speed else ""
        remaining = f", {task.time_remaining:.0f} s remaining" if task.time_remaining else ""
        return f"{task.description}, step {task.completed:.0f}/{task.total:.0f}{speed}{remaining}"

    def log_epoch(self, report: EpochReport) -> None:
        self.progress.stop()
        baseline = self.config.tracking.console_format == "baseline"
        print(baseline_line(report, self.config) if baseline else epoch_line(report, self.config), flush=True)

    def log_result(self, result: Mapping[str, Any], evaluation: EvaluationFile) -> None:
        print_result(result, self.config.tracking.console_classes)

    def close(self, status: Status) -> None:
        self.progress.stop()


def epoch_line(report: EpochReport, config: Config) -> str:
    train, val, epochs = report.train, report.val, config.train.epochs
    return (
        f"epoch {report.epoch:{len(str(epochs))}}/{epochs}  loss {train.loss:.4f}  val_loss {val.loss:.4f}  "
        f"top1 {val.top1:6.2%}  top5 {val.top5:6.2%}  lr {report.lr:.6f}  "
        f"{report.images_per_second:,.0f} img/s  {report.seconds:.1f} s"
    )


def baseline_line(report: EpochReport, config: Config) -> str:
    """The line of the original one-GPU program, whose avg_loss is the mean loss divided by the batch size."""
    return (
        f"Epoch {report.epoch} lr = {report.lr:.6f} avg_loss = {report.train.loss / config.train.batch_size:.6f} "
        f"accuracy = {report.val.top1:.2%} time = {report.seconds:.2f}s"
    )


def print_result(result: Mapping[str, Any], classes: bool) -> None:
    """Prints the validation accuracy.

    Args:
        result: the content of result.json.
        classes: whether to print the accuracy of every class as well.
    """
    top1, top5, samples = result["top1"], result["top5"], result["samples"]
    print(f"validation accuracy: top-1 {top1:.2%}, top-5 {top5:.2%} ({samples:,} images)", flush=True)
    if classes:
        console = Console(highlight=False, markup=False, emoji=False)  # a class may be called [red] or :smile:
        cells = [f"{name} {percent(accuracy, 0)}" for name, accuracy in result["class_accuracy"].items()]
        console.print(in_columns(cells, console.width))


def percent(fraction: float | None, digits: int) -> str:
    """A fraction as text; "-" if there is none, as for a class without validation images."""
    return "-" if fraction is None else f"{fraction:.{digits}%}"


def in_columns(cells: Sequence[str], width: int) -> Table:
    """A table to be read downwards, with as many columns as fit into `width` characters."""
    columns = max(1, width // (max(map(len, cells)) + 2))
    rows = math.ceil(len(cells) / columns)
    table = Table.grid(padding=(0, 2))
    for row in range(rows):
        table.add_row(*cells[row::rows])
    return table
