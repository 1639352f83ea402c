"""state.json: the status of a run, for people, launchers and other commands. Imports no torch."""

import json
import sys
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from pathlib import Path

from regnet.errors import UsageError
from regnet.runs.json_format import format_json

STATE = "state.json"
START_OVER = "Use another --name, or --overwrite to start over"
FORMAT = 2  # of a run directory: increase it when options, columns or files change their names or meanings


class Status(StrEnum):
    running = "running"
    finished = "finished"
    preempted = "preempted"
    failed = "failed"


@dataclass(frozen=True)
class Ending:
    """How an attempt ended, or that it is running.

    Attributes:
        reason: why; empty while it is running.
        diverged: it failed because losses, gradients or weights were no longer finite.
        stale_epochs: if it stopped early, consecutive epochs without improvement; otherwise 0.
    """

    status: Status
    reason: str = ""
    diverged: bool = False
    stale_epochs: int = 0


RUNNING = Ending(Status.running)


class RunFormatError(UsageError):
    """A run directory written by another version of this program."""

    def __init__(self, directory: Path, version: int) -> None:
        age = "an older" if version < FORMAT else "a newer"
        super().__init__(
            f"{directory} was written by {age} version of this program (format {version}; this version reads {FORMAT})"
        )


@dataclass(frozen=True)
class RunState:
    """The content of state.json. New fields need a default, which older files then have.

    Attributes:
        epoch: completed epochs.
        step: completed optimiser steps.
        resumed_from_step: step from which the latest attempt resumed; 0 for a new run.
        attempt: number of the latest attempt, from 1.
        earlier_attempts_without_progress: consecutive attempts of the same job, right before the latest one, that ended
            without a new step.
        epochs: train.epochs.
        data: identity of the training and validation images.
        reason: why the run ended; empty while it is running.
        wandb_id: id of the run at Weights & Biases.
        launch: REGNET_LAUNCH of the latest attempt, `JOB.ANYTHING`; empty if it was not set.
        jobs: identities of the job that the latest attempt belongs to; see regnet.runs.job_identity.
        diverged, stale_epochs: see `Ending`.
        command: that started the latest attempt; empty if it was started from Python.
        directory: in which it was started.
        wandb_url: of the run at Weights & Biases; empty if no attempt was online.
    """

    state: Status
    epoch: int
    step: int
    resumed_from_step: int
    attempt: int
    earlier_attempts_without_progress: int
    epochs: int
    data: str
    reason: str
    wandb_id: str
    launch: str = ""
    jobs: tuple[str, ...] = ()
    diverged: bool = False
    stale_epochs: int = 0
    command: tuple[str, ...] = ()
    directory: str = ""
    wandb_url: str = ""

    @property
    def attempts_without_progress(self) -> int:
        """Consecutive attempts, including the latest one, that ended without a new step."""
        if self.step > self.resumed_from_step or self.state is Status.finished:
            return 0
        return self.earlier_attempts_without_progress + 1

    def to_json(self) -> str:
        return format_json({"format": FORMAT, **asdict(self)}) + "\n"


def read_state(directory: Path) -> RunState | None:
    """The state of a run; None if there is no state.json or it is damaged, which is printed.

    Raises:
        RunFormatError: another version of this program wrote it.
    """
    path = directory / STATE
    try:
        return parse_state(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        print(
            f"{error}: the number of attempts and the run's id at Weights & Biases are lost",
            file=sys.stderr,
            flush=True,
        )
        return None


def parse_state(path: Path) -> RunState:
    """Reads a state.json.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged.
        RunFormatError: another version of this program wrote it.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        version = record.pop("format", 1)
        if version != FORMAT:
            raise RunFormatError(path.parent, version)
        known = {field.name: record[field.name] for field in fields(RunState) if field.name in record}
        known |= {name: tuple(known[name]) for name in ("jobs", "command") if name in known}
        return RunState(**known | {"state": Status(record["state"])})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error
