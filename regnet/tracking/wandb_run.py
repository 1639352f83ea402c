"""A run at Weights & Biases, which has every row once, however often the run was interrupted."""

import logging
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from regnet.config.schema import Config, to_plain_types
from regnet.runs.directory import RunDirectory
from regnet.tracking.wandb_parts import first_missing_step, is_completed, mark_uploaded
from regnet.tracking.wandb_rows import NOT_IN_METRICS, BestValues, Row, logged_rows
from regnet.tracking.wandb_settings import init_settings

_AXES = {"train/*": "step", "val/*": "epoch", "time/*": "epoch", "system/peak_memory_gb": "epoch"}  # x axes of charts
_WRITING_TIMEOUT = 10.0  # seconds for wandb to write what an offline run has logged, after finish() has returned


class WandbRun:
    """The connection of one attempt. All calls can block on the network and raise errors of any kind.

    Args:
        mode: online or offline.
        logged: bytes of metrics.jsonl that earlier attempts have written.
        say: called with messages for people.

    Attributes:
        complete: no call has failed so far.
    """

    def __init__(
        self,
        config: Config,
        directory: RunDirectory,
        mode: Literal["online", "offline"],
        logged: int,
        say: Callable[[str], None],
    ) -> None:
        import wandb

        tracking, self.name = config.tracking, config.name
        chosen = init_settings(tracking, config.name, directory.wandb_id, directory.path)
        settings = wandb.Settings(**chosen, stop_fn=lambda: self._stop())  # wandb copies it, as only functions can be
        self.online, self.say, self.timeout = mode == "online", say, tracking.wandb_timeout
        self.complete, self._stopped = True, False
        logging.raiseExceptions = False  # a full disk: no traceback for each line that wandb's log lacks
        self._run = wandb.init(mode=mode, config=to_plain_types(asdict(config)), settings=settings)
        self.id, self.url, self.part = self._run.id, self._run.url or "", Path(self._run.settings.sync_dir)
        self.folder = Path(self._run.settings.wandb_dir)
        if self._run.settings.root_dir != chosen["root_dir"]:  # wandb falls back to the temporary directory
            say(f"Weights & Biases: {chosen['root_dir']} cannot be written; wandb's files are in {self.folder}")
        self.best_checkpoint = directory.checkpoints / "best.pt" if tracking.wandb_artifact else None
        self._metrics, self._logged, self._id_is_new = directory.metrics, logged, directory.wandb_id_is_new
        self._next, self._best = 0, BestValues()

    def _stop(self) -> None:
        """Called by wandb if a user or a sweep stops the run there."""
        self.say("Weights & Biases: the run was stopped there")
        self._stopped = True
        os.kill(os.getpid(), signal.SIGTERM)

    def define_charts(self) -> None:
        for name, axis in _AXES.items():
            self._run.define_metric(name, step_metric=axis)

    def catch_up(self) -> None:
        """Sends the rows of earlier attempts that have not arrived, from metrics.jsonl."""
        if self.online:
            self._next = self._run.starting_step
        else:
            settings = self._run.settings
            self._next = first_missing_step(self.folder, self.id, settings.project or "", settings.entity or "")
        if self._id_is_new and self._next:  # no earlier attempt had this id, so the rows that are there are not ours
            self.say(
                f"Weights & Biases: {self.id} already has rows that are not of this run, up to its step "
                f"{self._next - 1}; only later ones are sent. A new run needs another WANDB_RUN_ID"
            )
        sent = [self.send(row) for row in logged_rows(self._metrics, self._logged)].count(True)
        if sent:
            rows, lacking = f"{sent} row{'s' if sent > 1 else ''}", " and ".join(NOT_IN_METRICS)
            self.say(f"Weights & Biases: sent {rows} of earlier attempts from metrics.jsonl (without {lacking})")

    def send(self, row: Row) -> bool:
        """Sends a row unless Weights & Biases has it: a resumed run repeats the steps after its checkpoint."""
        missing = row.wandb_step >= self._next
        if missing:
            self._run.log(dict(row.values), step=row.wandb_step, commit=True)
            self._next = row.wandb_step + 1
        if "epoch" in row.values:
            self._run.summary.update(self._best.updated(row.values))
        return missing

    def summarise(self, values: Mapping[str, Any]) -> None:
        self._run.summary.update(dict(values))

    def upload_best(self) -> None:
        """Uploads the checkpoint of the best epoch, if the run is configured to."""
        import wandb

        if self.best_checkpoint is not None:
            artifact = wandb.Artifact(self.name, type="model", description="checkpoint of the best epoch")
            artifact.add_file(str(self.best_checkpoint), skip_cache=True)
            self._run.log_artifact(artifact, aliases=["best"])

    def mark_preempting(self) -> None:
        """A sweep starts the run again, unless it was stopped at Weights & Biases."""
        if not self._stopped:
            self._run.mark_preempting()

    def finish(self, exit_code: int) -> None:
        log = Path(self._run.settings.sync_file)
        try:
            self._run.finish(exit_code=exit_code)
        except TimeoutError:
            limit = f"{self.timeout:g} s (tracking.wandb_timeout)"
            self.say(f"Weights & Biases did not finish within {limit}: the last rows may be missing there")
            return
        if self.online and self.complete:  # the server has the rows of all earlier parts, too
            mark_uploaded(self.folder, self.id)
        if not self.online and not is_completed(log, _WRITING_TIMEOUT):
            self.say(f"Weights & Biases: {log} lacks the last rows; its disk may be full")
