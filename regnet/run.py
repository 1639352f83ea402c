"""A run's directory: its configuration, its state for people and launchers, its lock."""

import fcntl
import json
import os
import time
import uuid
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TextIO

from regnet.config import Config, plain
from regnet.errors import UsageError
from regnet.files import TakenOver, Workshop, make_directory
from regnet.options import parse_config

# What may change between the attempts of one run: nothing that its numbers depend on.
_FREE = ("runs_dir", "resume", "checkpoint", "tracking", "distributed")
_FREE_OPTIONS = {
    "data": ("shards", "stage", "verify", "workers", "batches_ahead", "loader_timeout"),
    "train": ("epochs", "device", "detect_anomaly", "max_minutes"),
}


class Status(StrEnum):
    running = "running"
    finished = "finished"
    preempted = "preempted"
    failed = "failed"


@dataclass(frozen=True)
class RunState:
    """What state.json says.

    Attributes:
        epoch: epochs done.
        step: optimiser steps done.
        began: step that the latest attempt continued from.
        attempt: how often the run was started.
        fruitless: attempts in a row, before the latest, that failed or died without getting any further.
        epochs: that it was to train in all.
        data: identity of the samples that it trains on.
        reason: why it stopped, or empty.
        wandb_id: of the run at Weights & Biases.
    """

    state: Status
    epoch: int
    step: int
    began: int
    attempt: int
    fruitless: int
    epochs: int
    data: str
    reason: str
    wandb_id: str

    @property
    def setbacks(self) -> int:
        """Attempts in a row, the latest among them, that failed or died without getting any further."""
        if self.step > self.began or self.state in (Status.finished, Status.preempted):
            return 0
        return self.fruitless + 1


class RunDirectory:
    """runs_dir/name, opened for one attempt by rank zero, which alone writes there.

    Args:
        data: identity of the samples that are trained on.

    Raises:
        UsageError: another process is at work in it, it holds a run of another configuration, or it holds
            results and `resume: never` was asked for.

    Attributes:
        at: epochs and steps that the attempts before this one have done.
    """

    def __init__(self, config: Config, data: str) -> None:
        self.path = place(config)
        try:
            make_directory(self.path)
            self._lock = open(self.path / ".lock", "a")  # noqa: SIM115  # held until the process ends
            self._take_lock(config.distributed.heartbeat_timeout + _GRACE)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be used as the run's directory ({error.strerror})") from error
        self.config, self.data = config, data
        check_config(self.path, config)
        before = read_state(self.path)
        if before is not None:
            self._check_same_task(before.data, before.epochs)
        self.finished = self._is_finished(before)
        self.at = (0, 0) if before is None else (before.epoch, before.step)
        self.began = self.at[1]
        self.attempt = 1 if before is None else before.attempt + 1
        self.fruitless = 0 if before is None else before.setbacks
        self.wandb_id = uuid.uuid4().hex[:8] if before is None else before.wandb_id
        self.workshop = Workshop(self.path)

    def _take_lock(self, patience: float) -> None:
        """Waits for an attempt that is about to end: ranks whose launcher or machine died need a while to notice.

        A successor that the scheduler started knows that the one before it is over, and does not wait for ever:
        on a machine that was cut off, one may live on and hold the lock. The workshop is what keeps it out then.
        """
        deadline = time.monotonic() + patience
        while not _lock(self._lock):
            if time.monotonic() > deadline:
                if int(os.environ.get("SLURM_RESTART_COUNT", "0")) > 0:
                    print(f"{self.path}: taken over from an attempt that still holds its lock", flush=True)
                    return
                raise UsageError(f"{self.path}: another process is training this run; choose another --name")
            time.sleep(0.2)

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def begin(self, step: int) -> None:
        """Keeps the resolved configuration of this attempt, which continues from this step."""
        self.began = step
        self._write("config.yaml", self.config.to_yaml())

    def write_state(self, state: Status, epoch: int, step: int, reason: str = "") -> None:
        epochs = self.config.train.epochs
        record = RunState(
            state, epoch, step, self.began, self.attempt, self.fruitless, epochs, self.data, reason, self.wandb_id
        )
        try:
            self._write(STATE, _as_json(asdict(record)))
        except TakenOver:
            raise
        except OSError:
            if state is not Status.failed:
                raise
            # A full disk has room where the old one lies, and launchers must not be told that the run goes on.
            (self.path / STATE).write_text(_as_json(asdict(record)), encoding="utf-8")

    def write_result(self, result: dict[str, Any]) -> None:
        self._write(RESULT, _as_json(result))

    def read_result(self) -> dict[str, Any]:
        return json.loads((self.path / RESULT).read_text(encoding="utf-8"))

    def close(self) -> None:
        self.workshop.close()
        self._lock.close()

    def _write(self, name: str, text: str) -> None:
        self.workshop.write(self.path / name, text.encode())

    def _is_finished(self, before: RunState | None) -> bool:
        if before is None or before.state is not Status.finished or before.epochs < self.config.train.epochs:
            return False
        try:
            return "result" in self.read_result()
        except (OSError, ValueError):
            return False  # it is evaluated again

    def check_checkpoint(self, saved: dict[str, Any]) -> None:
        """Raises UsageError for a checkpoint of another task, though nothing else in the directory tells."""
        _check_same_numbers(self.path, saved["config"], self.config)
        self._check_same_task(saved["data"], saved["config"]["train"]["epochs"])

    def _check_same_task(self, data: str, epochs: int) -> None:
        if data != self.data:
            raise UsageError(f"{self.path}: holds a run on other images; choose another --name")
        schedule = self.config.schedule.name
        if schedule != "reference" and epochs != self.config.train.epochs:
            raise UsageError(
                f"{self.path}: holds a run of {epochs} epochs; schedule.name {schedule} depends on "
                "train.epochs, so another number of them is another run: choose another --name"
            )


STATE, RESULT = "state.json", "result.json"
_TRACES = (STATE, RESULT, "config.yaml", "metrics.jsonl", "checkpoints")
_GRACE = 10.0  # seconds in which a rank ends after it has noticed that another is gone


def check_config(directory: Path, config: Config) -> None:
    """Raises UsageError if a run's directory holds a run of another configuration, or one and `resume: never`."""
    if config.resume == "never" and any((directory / name).exists() for name in _TRACES):
        raise UsageError(f"{directory}: holds a run already; choose another --name, or --resume auto")
    path = directory / "config.yaml"
    if path.exists():
        try:
            kept = parse_config(["--config", str(path)])
        except UsageError as error:
            raise UsageError(f"{path}: {error}; choose another --name") from error
        _check_same_numbers(directory, plain(asdict(kept)), config)


def _check_same_numbers(directory: Path, kept: dict[str, Any], config: Config) -> None:
    before, now = _numbers_depend_on(kept), _numbers_depend_on(plain(asdict(config)))
    changed = [
        f"{key} ({before.get(key)} there, {now.get(key)} now)"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise UsageError(f"{directory}: holds another configuration: {'; '.join(changed)}; choose another --name")


def place(config: Config) -> Path:
    """The run's directory."""
    return Path(config.runs_dir) / config.name


def read_state(directory: Path) -> RunState | None:
    """What state.json says; None if it is not there, or damaged, which is told."""
    path = directory / STATE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return RunState(**{**record, "state": Status(record["state"])})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        print(f"{path}: damaged ({error}): attempts are counted anew", flush=True)
        return None


def write_down_death(directory: Path, why: str) -> None:
    """Says in state.json that the run has failed, for a rank zero that is gone and cannot.

    Does nothing where rank zero lives or a newer attempt is at work: both hold the lock.
    """
    try:
        with open(directory / ".lock", "r+", encoding="utf-8") as lock:
            state = read_state(directory) if _lock(lock) else None
            if state is not None and state.state is Status.running:
                workshop = Workshop(directory)
                dead = replace(state, state=Status.failed, reason=why)
                workshop.write(directory / STATE, _as_json(asdict(dead)).encode())
                workshop.close()
    except OSError as error:
        print(f"{directory / STATE} still says running ({error.strerror})", flush=True)


def _lock(file: TextIO) -> bool:
    """Takes the lock, if nobody has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _as_json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1) + "\n"


def _numbers_depend_on(config: dict[str, Any]) -> dict[str, Any]:
    """Dotted options and values of a plain configuration, without those that may change."""
    flat = {}
    for section, value in config.items():
        if section in _FREE:
            continue
        if isinstance(value, dict):
            free = _FREE_OPTIONS.get(section, ())
            flat.update({f"{section}.{name}": entry for name, entry in value.items() if name not in free})
        else:
            flat[section] = value
    return flat
