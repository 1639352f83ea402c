"""Reports to Weights & Biases. Its failures never stop a run; they delay its end only, by seconds."""

import queue
import resource
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch

from regnet.metrics.evaluation_file import EvaluationFile
from regnet.runs.status import Status
from regnet.tracking.base import EpochReport, StepReport, Tracker
from regnet.tracking.wandb_rows import NOT_IN_METRICS, Kind, Row, metrics_row, wandb_step
from regnet.tracking.wandb_run import WandbRun
from regnet.tracking.wandb_settings import describe_error
from regnet.tracking.wandb_tables import tables


class WandbTracker(Tracker):
    """Passes the reports to a run at Weights & Biases, in a separate thread that also imports wandb and connects.

    The thread starts with the first report: Python runs one thread at a time, so earlier it would delay the first step
    by as long as the import takes. Reports wait until it has connected, and are dropped if it could not.

    Args:
        connect: starts the run at Weights & Biases; None without one, after a message that says why.
        steps: completed by the run.
        timeout: tracking.wandb_timeout, in seconds.
        say: called with messages for people, from any thread.
    """

    def __init__(
        self, connect: Callable[[], WandbRun | None], steps: int, timeout: float, say: Callable[[str], None]
    ) -> None:
        self._connect, self._last_step, self.timeout, self.say = connect, steps, timeout, say
        self._calls: queue.SimpleQueue[Callable[[WandbRun], object] | None] = queue.SimpleQueue()
        self._calls.put(WandbRun.define_charts)
        self._calls.put(WandbRun.catch_up)
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _call(self, *calls: Callable[[WandbRun], object] | None) -> None:
        """Adds calls that the thread makes once it is connected, in this order; None ends it."""
        for call in calls:
            self._calls.put(call)
        if self._thread.ident is None:
            self._thread.start()

    def _work(self) -> None:
        run = None
        try:
            run = self._connect()
        except Exception as error:  # noqa: BLE001  # of the library; the run continues without Weights & Biases
            self._report(error)
        while (call := self._calls.get()) is not None:
            if run is None:
                continue
            try:
                call(run)
            except Exception as error:  # noqa: BLE001  # of the library or a server; the run continues without them
                if run.complete:
                    self._report(error)
                run.complete = False

    def _report(self, error: Exception) -> None:
        self.say(f"Weights & Biases failed: {type(error).__name__}: {describe_error(error)}")

    def log_steps(self, reports: list[StepReport]) -> None:
        self._last_step = reports[-1].step
        rows = [metrics_row(Kind.step, asdict(report)) for report in reports]
        self._call(lambda run: [run.send(row) for row in rows])

    def log_epoch(self, report: EpochReport) -> None:
        self._last_step = report.step
        row = metrics_row(Kind.epoch, report.row())
        further = dict(zip(NOT_IN_METRICS, (report.val.calibration_error, peak_memory() / 1e9), strict=True))
        self._call(lambda run: run.send(Row(row.wandb_step, {**row.values, **further})))

    def log_result(self, result: Mapping[str, Any], evaluation: EvaluationFile) -> None:
        summary = {f"final/{name}": result[name] for name in ("top1", "top5", "loss", "calibration_error")}
        step = wandb_step(self._last_step, Kind.result)
        self._call(
            lambda run: run.summarise(summary),
            lambda run: run.send(Row(step, tables(result, evaluation))),
            WandbRun.upload_best,
        )

    def close(self, status: Status) -> None:
        # With an exit code other than 0, W&B shows the run as preempted, and a sweep starts it again.
        if status is Status.preempted:
            self._call(WandbRun.mark_preempting)
        self._call(lambda run: run.finish(exit_code=int(status is not Status.finished)), None)
        self._thread.join(3 * self.timeout)  # to connect, to send, to finish
        if self._thread.is_alive():
            self.say("Weights & Biases does not respond: the run ends without it")


def peak_memory() -> int:
    """The largest number of bytes that this process has allocated: on the GPU if it uses one, otherwise in memory."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
