"""Reports to Weights & Biases. Its failures never stop a run and delay it only by seconds."""

import queue
import resource
import shlex
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from regnet.config.schema import Config, to_plain_types
from regnet.metrics.evaluation_file import EvaluationFile
from regnet.runs.directory import RunDirectory
from regnet.runs.status import Status
from regnet.tracking.base import EpochReport, StepReport, Tracker
from regnet.tracking.wandb_parts import first_missing_step, mark_uploaded, offline_parts
from regnet.tracking.wandb_rows import NOT_IN_METRICS, BestValues, Kind, Row, logged_rows, metrics_row, wandb_step
from regnet.tracking.wandb_settings import choose_mode, has_credentials, init_settings, overruled, prepare_environment
from regnet.tracking.wandb_tables import tables

_AXES = {"train/*": "step", "val/*": "epoch", "time/*": "epoch", "system/peak_memory_gb": "epoch"}  # x axes of charts


class WandbTracker(Tracker):
    """One run at Weights & Biases, which has every row once, however often the run was interrupted.

    Calls of its library can block on the network and raise errors of any kind. All calls but wandb.init are made in a
    separate thread.

    Args:
        mode: online or offline.
        steps: completed by the run.
        say: called with messages for people.
    """

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        mode: Literal["online", "offline"],
        steps: int,
        say: Callable[[str], None],
    ) -> None:
        import wandb

        tracking, self.name = config.tracking, config.name
        settings = init_settings(tracking, config.name, directory.wandb_id, directory.path)
        self.run = wandb.init(mode=mode, config=to_plain_types(asdict(config)), settings=wandb.Settings(**settings))
        self.folder = Path(self.run.settings.wandb_dir)
        self.online, self.say, self.timeout = mode == "online", say, tracking.wandb_timeout
        self.best_checkpoint = directory.checkpoints / "best.pt" if tracking.wandb_artifact else None
        self._last_step, self._next, self._best = steps, 0, BestValues()
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self._calls.put(self._define)
        size = directory.metrics.stat().st_size
        self._calls.put(lambda: self._catch_up(directory.metrics, size))

    def _work(self) -> None:
        failures = 0
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:  # noqa: BLE001  # of the library or a server; the run continues without them
                failures += 1
                if failures == 1:
                    self.say(f"Weights & Biases failed: {type(error).__name__}: {' '.join(str(error).split())}")

    def _define(self) -> None:
        for name, axis in _AXES.items():
            self.run.define_metric(name, step_metric=axis)

    def _catch_up(self, metrics: Path, size: int) -> None:
        """Sends the rows of earlier attempts that have not arrived, from the first `size` bytes of metrics.jsonl."""
        self._next = self.run.starting_step if self.online else first_missing_step(self.folder, self.run.id)
        sent = [self._send(row) for row in logged_rows(metrics, size)].count(True)
        if sent:
            lacking = " and ".join(NOT_IN_METRICS)
            self.say(f"Weights & Biases: sent {sent} rows of earlier attempts from metrics.jsonl (without {lacking})")

    def _send(self, row: Row) -> bool:
        """Sends a row unless Weights & Biases has it: a resumed run repeats the steps after its checkpoint."""
        missing = row.wandb_step >= self._next
        if missing:
            self.run.log(dict(row.values), step=row.wandb_step, commit=True)
            self._next = row.wandb_step + 1
        if "epoch" in row.values:
            self.run.summary.update(self._best.updated(row.values))
        return missing

    def log_steps(self, reports: list[StepReport]) -> None:
        self._last_step = reports[-1].step
        rows = [metrics_row(Kind.step, asdict(report)) for report in reports]
        self._calls.put(lambda: [self._send(row) for row in rows])

    def log_epoch(self, report: EpochReport) -> None:
        self._last_step = report.step
        row = metrics_row(Kind.epoch, report.row())
        further = dict(zip(NOT_IN_METRICS, (report.val.calibration_error, peak_memory() / 1e9), strict=True))
        self._calls.put(lambda: self._send(Row(row.wandb_step, {**row.values, **further})))

    def log_result(self, result: Mapping[str, Any], evaluation: EvaluationFile) -> None:
        columns = ("top1", "top5", "loss", "calibration_error")
        summary = {f"final/{name}": result[name] for name in columns}
        self._calls.put(lambda: self.run.summary.update(summary))
        step = wandb_step(self._last_step, Kind.result)
        self._calls.put(lambda: self._send(Row(step, tables(result, evaluation))))
        if self.best_checkpoint is not None:
            self._calls.put(self._upload_best)

    def _upload_best(self) -> None:
        import wandb

        artifact = wandb.Artifact(self.name, type="model", description="checkpoint of the best epoch")
        artifact.add_file(str(self.best_checkpoint), skip_cache=True)
        self.run.log_artifact(artifact, aliases=["best"])

    def close(self, status: Status) -> None:
        if status is Status.preempted:  # with an exit code other than 0, W&B shows the run as preempted
            self._calls.put(self.run.mark_preempting)
        self._calls.put(lambda: self._finish(exit_code=int(status is not Status.finished)))
        self._calls.put(None)
        self._thread.join(2 * self.timeout)
        if self._thread.is_alive():
            self.say("Weights & Biases does not respond: the run ends without it")

    def _finish(self, exit_code: int) -> None:
        self.run.finish(exit_code=exit_code)
        if self.online:  # the server has the rows of earlier offline parts, too
            mark_uploaded(self.folder, self.run.id)


def peak_memory() -> int:
    """The largest number of bytes that this process has allocated: on the GPU if it uses one, otherwise in memory."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def open_wandb(config: Config, directory: RunDirectory, steps: int, say: Callable[[str], None]) -> WandbTracker | None:
    """The tracker as configured; offline, with a message, if there is no API key or no server.

    Args:
        steps: completed by the run.
    """
    for line in overruled(config.tracking):
        say(f"Weights & Biases: {line}")
    if config.tracking.wandb == "disabled":
        return None
    prepare_environment(directory.path)
    try:
        mode, reason = choose_mode(config.tracking)
    except Exception as error:  # noqa: BLE001  # of the library; nothing may be uploaded against an unknown setting
        say(f"Weights & Biases cannot be used ({_one_line(error)})")
        return None
    if mode == "disabled":
        say(f"Weights & Biases: disabled ({reason})")
        return None
    if mode == "online":
        tracker = _open_online(config, directory, steps, say)
        if tracker is not None:
            return tracker
    return _open_offline(config, directory, steps, say)


def _open_online(
    config: Config, directory: RunDirectory, steps: int, say: Callable[[str], None]
) -> WandbTracker | None:
    import wandb

    if not has_credentials():  # wandb.init would ask for a key at a terminal, and wait
        say("Weights & Biases cannot be used online (no API key: run wandb login, or set WANDB_API_KEY)")
        return None
    try:
        tracker = WandbTracker(config, directory, "online", steps, say)
    except Exception as error:  # noqa: BLE001  # of the library or a server; the run continues offline
        say(f"Weights & Biases cannot be used online ({_one_line(error)})")
        wandb.teardown()  # its service still holds the run id and would reject the offline run
        return None
    directory.wandb_url = tracker.run.url or ""
    say(f"Weights & Biases: {tracker.run.url}")
    return tracker


def _open_offline(
    config: Config, directory: RunDirectory, steps: int, say: Callable[[str], None]
) -> WandbTracker | None:
    try:
        tracker = WandbTracker(config, directory, "offline", steps, say)
    except Exception as error:  # noqa: BLE001  # as above; the run continues without Weights & Biases
        say(
            f"Weights & Biases cannot be used offline either ({_one_line(error)}); "
            "--tracking.wandb disabled turns it off"
        )
        return None
    parts = [*offline_parts(tracker.folder, tracker.run.id), Path(tracker.run.settings.sync_dir)]
    say(f"Weights & Biases: logging offline. Upload with: wandb sync {shlex.join(map(str, parts))}")
    return tracker


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
