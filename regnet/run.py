"""A run's directory: its configuration, its state for people and launchers, its lock."""

import fcntl
import json
import os
import uuid
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from regnet.config import Config, plain
from regnet.errors import UsageError
from regnet.options import parse_config

# What may change between the attempts of one run: nothing that its numbers depend on.
_FREE = ("runs_dir", "resume", "checkpoint", "tracking", "distributed")
_FREE_OPTIONS = {
    "data": ("shards", "verify", "workers", "batches_ahead", "loader_timeout"),
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
        attempt: how often the run was started.
        epochs: that it was to train in all.
        data: identity of the samples that it trains on.
        reason: why it stopped, or empty.
        wandb_id: of the run at Weights & Biases.
    """

    state: Status
    epoch: int
    step: int
    attempt: int
    epochs: int
    data: str
    reason: str
    wandb_id: str


class RunDirectory:
    """runs_dir/name, opened for one attempt by rank zero, which alone writes there.

    Args:
        data: identity of the samples that are trained on.

    Raises:
        UsageError: another process is at work in it, it holds a run of another configuration, or it holds
            results and `resume: never` was asked for.
    """

    def __init__(self, config: Config, data: str) -> None:
        self.path = Path(config.runs_dir) / config.name
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.path / ".lock", "a")  # noqa: SIM115  # held until the process ends
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be used as the run's directory ({error.strerror})") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{self.path}: another process is training this run; choose another --name") from None
        except OSError as error:
            raise UsageError(f"{self.path}: its file system cannot lock files ({error.strerror})") from error
        for torn in [*self.path.glob(".*.tmp"), *self.checkpoints.glob(".*.tmp")]:
            torn.unlink()  # of an attempt that was killed while it wrote
        check_config(self.path, config)
        self.epochs, self.data = config.train.epochs, data
        before = self._read_state()
        if before is not None:
            self._check_same_task(config, before)
        self.finished = before is not None and before.state is Status.finished and before.epochs >= config.train.epochs
        self.attempt = 1 if before is None else before.attempt + 1
        self.wandb_id = uuid.uuid4().hex[:8] if before is None else before.wandb_id

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def begin(self, config: Config) -> None:
        """Keeps the resolved configuration of this attempt."""
        write_text(self.path / "config.yaml", config.to_yaml())

    def write_state(self, state: Status, epoch: int, step: int, reason: str = "") -> None:
        record = RunState(state, epoch, step, self.attempt, self.epochs, self.data, reason, self.wandb_id)
        write_text(self.path / "state.json", json.dumps(asdict(record), indent=1) + "\n")

    def write_result(self, result: dict[str, Any]) -> None:
        write_text(self.path / "result.json", json.dumps(result, indent=1) + "\n")

    def read_result(self) -> dict[str, Any]:
        path = self.path / "result.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: not readable ({error}), though the run is finished") from error

    def _read_state(self) -> RunState | None:
        path = self.path / "state.json"
        if not path.exists():
            return None
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            return RunState(**{**record, "state": Status(record["state"])})
        except (ValueError, TypeError, KeyError) as error:
            print(f"{path}: damaged ({error}): attempts are counted anew", flush=True)
            return None

    def _check_same_task(self, config: Config, before: RunState) -> None:
        if before.data != self.data:
            raise UsageError(f"{self.path}: holds a run on other images; choose another --name")
        if config.schedule.name != "reference" and before.epochs != self.epochs:
            raise UsageError(
                f"{self.path}: holds a run of {before.epochs} epochs; schedule.name {config.schedule.name} depends on "
                "train.epochs, so another number of them is another run: choose another --name"
            )


def check_config(directory: Path, config: Config) -> None:
    """Raises UsageError if a run's directory holds a run of another configuration, or one and `resume: never`."""
    path = directory / "config.yaml"
    if not path.exists():
        return
    if config.resume == "never":
        raise UsageError(f"{directory}: holds a run already; choose another --name, or --resume auto")
    try:
        before = _numbers_depend_on(parse_config(["--config", str(path)]))
    except UsageError as error:
        raise UsageError(f"{path}: {error}; choose another --name") from error
    now = _numbers_depend_on(config)
    changed = [f"{key} ({before[key]} there, {now[key]} now)" for key in now if before[key] != now[key]]
    if changed:
        raise UsageError(f"{directory}: holds another configuration: {'; '.join(changed)}; choose another --name")


def _numbers_depend_on(config: Config) -> dict[str, Any]:
    """Dotted options and values, without those that may change."""
    flat = {}
    for section, value in plain(asdict(config)).items():
        if section in _FREE:
            continue
        if isinstance(value, dict):
            free = _FREE_OPTIONS.get(section, ())
            flat.update({f"{section}.{name}": entry for name, entry in value.items() if name not in free})
        else:
            flat[section] = value
    return flat


def write_text(path: Path, text: str) -> None:
    """Replaces a small file whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
