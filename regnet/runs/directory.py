"""The run directory of one attempt: its configuration and its state."""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from commandline.errors import InputError
from commandline.file_lock import try_lock
from regnet.config.schema import Config
from regnet.errors import UsageError
from regnet.runs.atomic_write import AtomicWriter, DirectoryTakenOver, make_directory
from regnet.runs.compatibility import check_same_options, check_same_task
from regnet.runs.earlier_attempt import choose_wandb_id, earlier_attempt
from regnet.runs.event_log import Event, log_event
from regnet.runs.files import CONFIG, EVALUATION, RESULT, delete, run_contents, run_path, summary
from regnet.runs.job_identity import job_ids, job_of, launch_name, restarts
from regnet.runs.json_format import format_json
from regnet.runs.launch_command import launch_command
from regnet.runs.lock import LOCK, take_lock
from regnet.runs.program_version import describe_program
from regnet.runs.status import (
    RUNNING,
    STATE,
    Ending,
    RunFormatError,
    RunState,
    Status,
    parse_state,
    read_state,
)

_GRACE = 10.0  # seconds that a rank needs to exit after it has noticed that another one is gone


class RunDirectory:
    """runs_dir/name, opened for one attempt by rank zero, the only rank that writes there.

    Args:
        data: identity of the training and validation images.

    Raises:
        UsageError: another process is training this run; or it was created with a different configuration, on different
            images or by another version of this program; or it exists and `resume` is never; or WANDB_RUN_ID is
            invalid.
        InputError: the file system has no locks.

    Attributes:
        completed: epochs and steps that earlier attempts have completed.
        finished: a sentence about the run, if an earlier attempt has completed it; otherwise empty.
        starts_over: `begin` will delete the run that is there.
        wandb_id_is_new: no earlier attempt had this id at Weights & Biases.
        wandb_url: of the run at Weights & Biases, which `write_state` and `close` record.
    """

    def __init__(self, config: Config, data: str) -> None:
        self.path = run_path(config)
        self.config, self.data = config, data
        self.launch, self.jobs = launch_name(), job_ids()
        self._command, self._started_in = launch_command(), os.getcwd()
        try:
            make_directory(self.path)
            patience = config.distributed.heartbeat_timeout + _GRACE
            self._lock = take_lock(self.path, patience, may_take_over=self._restarts_holder)
        except OSError as error:
            file_in_the_way = isinstance(error, FileExistsError)
            reason = f"{error.filename} is not a directory" if file_in_the_way else error.strerror
            raise UsageError(
                f"{self.path} cannot be used as the run directory: {reason}. Use another --runs_dir"
            ) from error
        self.starts_over = config.overwrite and self._is_overwritten()
        before = None if self.starts_over else earlier_attempt(self.path, config, data)
        self.finished = self._finished(before)
        self.completed = (0, 0) if before is None else (before.epoch, before.step)
        self.resumed_from_step = self.completed[1]
        self.attempt = 1 if before is None else before.attempt + 1
        # A new job starts a new count: its user has dealt with what stopped the last one.
        same_job = before is not None and job_of(before.launch) == job_of(self.launch)
        self.earlier_attempts_without_progress = before.attempts_without_progress if before and same_job else 0
        self.wandb_id = choose_wandb_id(before)
        self.wandb_id_is_new = before is None or self.wandb_id != before.wandb_id
        self.wandb_url = "" if before is None or self.wandb_id_is_new else before.wandb_url
        self.writer = AtomicWriter(self.path)
        self._written: RunState | None = None  # by this attempt
        if before is not None and self.finished:  # the launcher asks for the outcome of this attempt
            self._write(STATE, replace(before, launch=self.launch).to_json())

    def _restarts_holder(self) -> bool:
        """Whether this attempt is of the same job as the one that holds the lock."""
        holder = None if not self.launch else read_state(self.path)
        return holder is not None and job_of(holder.launch) == job_of(self.launch)

    def _is_overwritten(self) -> bool:
        """Whether there is a run to delete; a restart of the job that wrote it keeps and resumes it.

        Raises:
            UsageError: the damaged state of the run does not say whether this job wrote it.
        """
        if not run_contents(self.path):
            return False
        try:
            before = parse_state(self.path / STATE)
        except (FileNotFoundError, RunFormatError):
            return True
        except ValueError as error:
            if not self.jobs:
                return True
            raise UsageError(
                f"{error}, so it is unknown whether an earlier attempt of this job wrote the run: "
                "resume it without --overwrite, or use another --name"
            ) from error
        if not restarts(before.jobs):
            return True
        jobs = ", ".join(sorted(set(before.jobs) & set(self.jobs)))
        print(
            f"--overwrite: {self.path} was written by an earlier attempt of this job and is kept "
            f"({jobs}; a new job needs another --name or id)",
            flush=True,
        )
        return False

    def _delete_contents(self) -> None:
        contents = run_contents(self.path)
        print(f"--overwrite: deleting {summary(self.path, contents)} in {self.path}", flush=True)
        delete(contents)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def begin(self, epoch: int, step: int, processes: str, environment: Mapping[str, str] | None = None) -> None:
        """Records this attempt's configuration, and that it starts after `epoch` epochs and `step` steps.

        Args:
            processes: number and type.
            environment: versions and devices; the host and the git commit are added.
        """
        self.resumed_from_step = step
        if self.starts_over:  # only now: options, data and weights are valid, and weights of the old run are loaded
            self._delete_contents()
            self.starts_over = False
        # Training again with this file must resume the run, not delete it.
        self._write(CONFIG, replace(self.config, overwrite=False).to_yaml())
        self.write_state(epoch, step)
        recorded = {**describe_program(), **(environment or {})}
        log_event(self.writer, Event("started", self.attempt, epoch, step, processes, recorded))

    def write_state(self, epoch: int, step: int, ending: Ending = RUNNING) -> None:
        """Records the status of the run; before `begin` has deleted an overwritten run, that run's status stays."""
        if self.starts_over:
            return
        status = ending.status
        state = RunState(
            status,
            epoch,
            step,
            self.resumed_from_step,
            self.attempt,
            self.earlier_attempts_without_progress,
            self.config.train.epochs,
            self.data,
            ending.reason,
            self.wandb_id,
            self.launch,
            self.jobs,
            ending.diverged,
            ending.stale_epochs,
            self._command,
            self._started_in,
            self.wandb_url,
        )
        try:
            self._write(STATE, state.to_json())
            self._written = state
            if status is not Status.running:
                log_event(self.writer, Event(str(status), self.attempt, epoch, step, ending.reason))
        except DirectoryTakenOver:
            raise
        except OSError:
            if status is not Status.failed:
                raise
            # A full disk can still overwrite a file in place, and launchers must not see a run that still trains.
            with open(self.path / STATE, "r+", encoding="utf-8") as file:
                file.write(state.to_json())
                file.truncate()

    def write_result(self, result: dict[str, Any], evaluation: bytes) -> None:
        self.writer.write(self.path / EVALUATION, evaluation)
        self._write(RESULT, format_json(result) + "\n")

    def read_result(self) -> dict[str, Any]:
        return json.loads((self.path / RESULT).read_text(encoding="utf-8"))

    def close(self) -> None:
        """Releases the directory. A short run may have been connected to Weights & Biases only after its last state."""
        if self._written is not None and self._written.wandb_url != self.wandb_url:
            with contextlib.suppress(OSError):  # how the run ended is recorded, and the URL was printed
                self._write(STATE, replace(self._written, wandb_url=self.wandb_url).to_json())
        self.writer.close()
        self._lock.close()

    def _write(self, name: str, text: str) -> None:
        self.writer.write(self.path / name, text.encode())

    def _finished(self, before: RunState | None) -> str:
        """See `finished`. Empty also if only the result is lost: the run is evaluated again."""
        if before is None or before.state is not Status.finished:
            return ""
        complete = before.epoch >= self.config.train.epochs
        stopped = 0 < self.config.early_stopping.patience <= before.stale_epochs
        if not (complete or stopped) or not self._has_result():
            return ""
        if complete:
            return "Already finished"
        more = "It trains on with a larger early_stopping.patience (0 for no early stopping)"
        return f"Already finished. {before.reason}. {more}"

    def _has_result(self) -> bool:
        try:
            return "class_accuracy" in self.read_result()
        except (OSError, ValueError):
            return False

    def check_checkpoint(self, saved: dict[str, Any]) -> None:
        """Raises UsageError for a checkpoint of a different run, for a directory that holds nothing but checkpoints."""
        check_same_options(self.path, saved["config"], self.config)
        check_same_task(self.path, self.config, (saved["data"], self.data), saved["config"]["train"]["epochs"])


def mark_failed(directory: Path, why: str) -> None:
    """Records in state.json that the run has failed, on behalf of this attempt's rank zero, which is gone.

    Does nothing if rank zero is alive or a newer attempt is training: both hold the lock; or if the run directory is on
    a disk of rank zero's node alone.
    """
    try:
        with open(directory / LOCK, "r+", encoding="utf-8") as lock:
            state = read_state(directory) if try_lock(lock) else None
            if state is not None and state.state is Status.running and state.launch == launch_name():
                writer = AtomicWriter(directory)
                failed = replace(state, state=Status.failed, reason=why)
                writer.write(directory / STATE, failed.to_json().encode())
                log_event(writer, Event(str(failed.state), failed.attempt, failed.epoch, failed.step, why))
                writer.close()
    except FileNotFoundError:
        return
    except (OSError, InputError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        print(f"{directory / STATE} still says running: {reason}", flush=True)
