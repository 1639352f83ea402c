"""What a run tells: lines and a progress bar on the console, metrics.jsonl, Weights & Biases. Rank zero alone."""

import json
import math
import os
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from regnet.config import Config, plain
from regnet.files import Workshop
from regnet.metrics import Result
from regnet.run import RunDirectory


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
    val: Result
    seconds: float
    images_per_second: float

    def row(self) -> dict[str, float | int]:
        return {
            "epoch": self.epoch,
            "step": self.step,
            "lr": self.lr,
            "train_loss": self.train.loss,
            "train_accuracy": self.train.top1,
            "val_loss": self.val.loss,
            "val_accuracy": self.val.top1,
            "val_top5": self.val.top5,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
        }


class Tracker:
    """One place where reports go; it takes note of what concerns it. Ranks other than zero have none."""

    def say(self, message: str) -> None: ...

    def begin_epoch(self, epoch: int, steps: int, done: int) -> None: ...

    def steps(self, reports: list[StepReport]) -> None: ...

    def epoch(self, report: EpochReport) -> None: ...

    def final(self, result: Result, classes: tuple[str, ...]) -> None: ...

    def close(self, failed: bool) -> None: ...


class ConsoleTracker(Tracker):
    """Lines on standard output; a progress bar on standard error while that is a terminal.

    Args:
        batch_size: by which the reference divides the mean loss it prints.
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        self.progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self.task = self.progress.add_task("")

    def say(self, message: str) -> None:
        print(message, flush=True)

    def begin_epoch(self, epoch: int, steps: int, done: int) -> None:
        self.progress.start()
        self.progress.reset(self.task, total=steps, completed=done, description=f"epoch {epoch}")

    def steps(self, reports: list[StepReport]) -> None:
        self.progress.update(self.task, advance=len(reports), description=f"loss {reports[-1].loss:.3f}")

    def epoch(self, report: EpochReport) -> None:
        self.progress.stop()
        print(
            f"Epoch {report.epoch} lr = {report.lr:.6f} avg_loss = {report.train.loss / self.batch_size:.6f} "
            f"accuracy = {report.val.top1:.2%} time = {report.seconds:.2f}s  {report.images_per_second:,.0f} images/s",
            flush=True,
        )

    def final(self, result: Result, classes: tuple[str, ...]) -> None:
        print_result(result, classes)

    def close(self, failed: bool) -> None:
        self.progress.stop()


def print_result(result: Result, classes: tuple[str, ...]) -> None:
    """Test accuracy, and that of each class under its own name, in as many columns as fit."""
    console = Console(highlight=False)
    console.print(f"test accuracy: top-1 {result.top1:.2%}, top-5 {result.top5:.2%} of {result.samples:,} images")
    cells = [f"{name} {accuracy:.0%}" for name, accuracy in zip(classes, result.class_accuracy, strict=True)]
    console.print(in_columns(cells, console.width))


def in_columns(cells: Sequence[str], width: int) -> Table:
    """Read downwards, in as many columns as fit."""
    columns = max(1, width // (max(map(len, cells)) + 2))
    rows = math.ceil(len(cells) / columns)
    table = Table.grid(padding=(0, 2))
    for row in range(rows):
        table.add_row(*cells[row::rows])
    return table


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


class WandbTracker(Tracker):
    """Weights & Biases; never the record, and never a reason for a run to wait or end.

    Its calls can block on the network and can raise whatever a server made them; all but the first are made in
    a thread of their own.

    Args:
        mode: online or offline.
        say: is told of the first call that fails.
    """

    def __init__(
        self, config: Config, directory: RunDirectory, mode: Literal["online", "offline"], say: Callable[[str], None]
    ) -> None:
        import wandb

        tracking = config.tracking
        settings = wandb.Settings(
            init_timeout=tracking.wandb_timeout,
            finish_timeout=tracking.wandb_timeout,
            console="off",
            silent=True,
        )
        self.run = wandb.init(
            project=tracking.project,
            group=tracking.group or None,
            name=config.name,
            id=directory.wandb_id,
            resume="allow",
            dir=directory.path,
            mode=mode,
            config=plain(asdict(config)),
            settings=settings,
        )
        self.say_failure, self.timeout = say, tracking.wandb_timeout
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self._calls.put(lambda: self.run.define_metric("*", step_metric="step"))

    def _work(self) -> None:
        failures = 0
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:  # noqa: BLE001  # theirs, of any kind; the run goes on without them
                failures += 1
                if failures == 1:
                    self.say_failure(f"Weights & Biases failed: {type(error).__name__}: {' '.join(str(error).split())}")

    def steps(self, reports: list[StepReport]) -> None:
        self._calls.put(lambda: self._log_steps(reports))

    def _log_steps(self, reports: list[StepReport]) -> None:
        for report in reports:
            self.run.log({"step": report.step, "loss": report.loss, "lr": report.lr})

    def epoch(self, report: EpochReport) -> None:
        self._calls.put(lambda: self.run.log(report.row()))

    def final(self, result: Result, classes: tuple[str, ...]) -> None:
        import wandb

        rows = list(zip(classes, result.class_accuracy, result.class_samples, strict=True))
        summary = {"test_accuracy": result.top1, "test_top5": result.top5}
        self._calls.put(lambda: self.run.summary.update(summary))
        self._calls.put(
            lambda: self.run.log({"classes": wandb.Table(columns=["class", "accuracy", "samples"], data=rows)})
        )

    def close(self, failed: bool) -> None:
        self._calls.put(lambda: self.run.finish(exit_code=int(failed)))
        self._calls.put(None)
        self._thread.join(2 * self.timeout)
        if self._thread.is_alive():
            self.say_failure("Weights & Biases does not answer: the run ends without it")


def open_wandb(config: Config, directory: RunDirectory, say: Callable[[str], None]) -> WandbTracker | None:
    """Weights & Biases as configured; offline, and said so, where there is no key or no server."""
    mode = config.tracking.wandb
    if mode == "disabled":
        return None
    # W&B's reports about itself wait for the server too, at the process's end, for as long as 30 s.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    if mode == "auto":
        mode = "online" if has_wandb_key() else "offline"
    if mode == "online":
        try:
            return WandbTracker(config, directory, mode, say)
        except Exception as error:  # noqa: BLE001  # a server or a setting of theirs; the run goes on without
            say(f"Weights & Biases cannot be used online ({' '.join(str(error).split())})")
            wandb.teardown()  # its service still holds the run's id, and would refuse it to the offline run
    try:
        tracker = WandbTracker(config, directory, "offline", say)
    except Exception as error:  # noqa: BLE001  # likewise
        say(f"Weights & Biases cannot be used at all ({' '.join(str(error).split())})")
        return None
    say(f"Weights & Biases: recorded offline; send it with: wandb sync {Path(tracker.run.dir).parent}")
    return tracker


def has_wandb_key() -> bool:
    """Whether Weights & Biases can be used online: WANDB_API_KEY, or what `wandb login` left."""
    import wandb
    from wandb.sdk.lib.wbauth import read_netrc_auth

    try:
        return bool(os.environ.get("WANDB_API_KEY") or read_netrc_auth(host=wandb.Settings().base_url))
    except ValueError:  # a setting in the environment that W&B does not take; it is told when a run is begun
        return False
