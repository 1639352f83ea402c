"""Reports to Weights & Biases. Its failures never stop a run and delay it only by seconds."""

import logging
import os
import queue
import resource
import signal
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
from regnet.tracking.wandb_parts import first_missing_step, is_completed, mark_uploaded
from regnet.tracking.wandb_rows import NOT_IN_METRICS, BestValues, Kind, Row, logged_rows, metrics_row, wandb_step
from regnet.tracking.wandb_settings import describe_error, init_settings
from regnet.tracking.wandb_tables import tables

_AXES = {"train/*": "step", "val/*": "epoch", "time/*": "epoch", "system/peak_memory_gb": "epoch"}  # x axes of charts
_WRITING_TIMEOUT = 10.0  # seconds for wandb to write what an offline run has logged, after finish() has returned


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
        chosen = init_settings(tracking, config.name, directory.wandb_id, directory.path)
        settings = wandb.Settings(**chosen, stop_fn=lambda: self._stop())  # wandb copies it, as only functions can be
        self.online, self.say, self.timeout = mode == "online", say, tracking.wandb_timeout
        self._complete, self._stopped = True, False
        logging.raiseExceptions = False  # a full disk: no traceback for each line that wandb's log lacks
        self.run = wandb.init(mode=mode, config=to_plain_types(asdict(config)), settings=settings)
        self.folder = Path(self.run.settings.wandb_dir)
        if self.run.settings.root_dir != chosen["root_dir"]:  # wandb falls back to the temporary directory
            say(f"Weights & Biases: {chosen['root_dir']} cannot be written; wandb's files are in {self.folder}")
        self.best_checkpoint = directory.checkpoints / "best.pt" if tracking.wandb_artifact else None
        self._last_step, self._next, self._best = steps, 0, BestValues()
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()
        self._calls.put(self._define)
        size, is_new = directory.metrics.stat().st_size, directory.wandb_id_is_new
        self._calls.put(lambda: self._catch_up(directory.metrics, size, is_new))

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:  # noqa: BLE001  # of the library or a server; the run continues without them
                if self._complete:
                    self.say(f"Weights & Biases failed: {type(error).__name__}: {describe_error(error)}")
                self._complete = False

    def _stop(self) -> None:
        """Called by wandb if a user or a sweep stops the run there."""
        self.say("Weights & Biases: the run was stopped there")
        self._stopped = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _define(self) -> None:
        for name, axis in _AXES.items():
            self.run.define_metric(name, step_metric=axis)

    def _catch_up(self, metrics: Path, size: int, is_new: bool) -> None:
        """Sends the rows of earlier attempts that have not arrived, from the first `size` bytes of metrics.jsonl.

        Args:
            is_new: no earlier attempt had this id at Weights & Biases, so rows that are there are not of this run.
        """
        if self.online:
            self._next = self.run.starting_step
        else:
            settings = self.run.settings
            self._next = first_missing_step(self.folder, self.run.id, settings.project or "", settings.entity or "")
        if is_new and self._next:
            self.say(
                f"Weights & Biases: {self.run.id} already has rows that are not of this run, up to its step "
                f"{self._next - 1}; only later ones are sent. A new run needs another WANDB_RUN_ID"
            )
        sent = [self._send(row) for row in logged_rows(metrics, size)].count(True)
        if sent:
            rows, lacking = f"{sent} row{'s' if sent > 1 else ''}", " and ".join(NOT_IN_METRICS)
            self.say(f"Weights & Biases: sent {rows} of earlier attempts from metrics.jsonl (without {lacking})")

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
        # With an exit code other than 0, W&B shows the run as preempted, and a sweep starts it again.
        if status is Status.preempted and not self._stopped:
            self._calls.put(self.run.mark_preempting)
        self._calls.put(lambda: self._finish(exit_code=int(status is not Status.finished)))
        self._calls.put(None)
        self._thread.join(2 * self.timeout)
        if self._thread.is_alive():
            self.say("Weights & Biases does not respond: the run ends without it")

    def _finish(self, exit_code: int) -> None:
        log = Path(self.run.settings.sync_file)
        try:
            self.run.finish(exit_code=exit_code)
        except TimeoutError:
            limit = f"{self.timeout:g} s (tracking.wandb_timeout)"
            self.say(f"Weights & Biases did not finish within {limit}: the last rows may be missing there")
            return
        if self.online and self._complete:  # the server has the rows of all earlier parts, too
            mark_uploaded(self.folder, self.run.id)
        if not self.online and not is_completed(log, _WRITING_TIMEOUT):
            self.say(f"Weights & Biases: {log} lacks the last rows; its disk may be full")


def peak_memory() -> int:
    """The largest number of bytes that this process has allocated: on the GPU if it uses one, otherwise in memory."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
