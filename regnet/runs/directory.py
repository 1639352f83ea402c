"""A run's directory: its configuration, its state for people and launchers, its lock."""

import fcntl
import json
import os
import time
import uuid
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO

from regnet.config.schema import Config, plain
from regnet.errors import UsageError
from regnet.runs.event_log import Event, log_event
from regnet.runs.atomic_write import DirectoryTakenOver, AtomicWriter, make_directory
from regnet.config.parser import parse_config
from regnet.runs.status import STATE, RunState, Status, as_json, read_state

# What may change between the attempts of one run: nothing that its numbers depend on.
_FREE = ("runs_dir", "resume", "overwrite", "checkpoint", "tracking", "distributed")
_FREE_OPTIONS = {
    "data": ("shards", "local_cache_dir", "verify", "workers", "prefetch_batches", "loader_timeout", "cache", "keep_page_cache"),
    "train": ("epochs", "device", "detect_anomaly", "cudnn_benchmark", "cuda_graphs", "max_minutes"),
}


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
        self.path = run_path(config)
        self.launch = _launch()
        try:
            make_directory(self.path)
            self._lock = self._take_lock(config.distributed.heartbeat_timeout + _GRACE)
        except OSError as error:
            raise UsageError(f"{self.path}: cannot be used as the run's directory ({error.strerror})") from error
        self.config, self.data = config, data
        check_compatible(self.path, config)
        before = read_state(self.path)
        if before is not None and (self.path / "config.yaml").exists():  # else no attempt has come as far as to begin
            self._check_same_task(before.data, before.epochs)
        self.finished = self._is_finished(before)
        self.completed = (0, 0) if before is None else (before.epoch, before.step)
        self.began = self.completed[1]
        self.attempt = 1 if before is None else before.attempt + 1
        # Whoever sends a job again has mended what kept the last one from getting any further.
        self.fruitless = 0 if before is None or not self._is_of_this_job(before) else before.setbacks
        self.wandb_id = uuid.uuid4().hex[:8] if before is None else before.wandb_id
        self.writer = AtomicWriter(self.path)
        if before is not None and self.finished:  # which a launcher wants to hear of this attempt as well
            self._write(STATE, as_json(asdict(replace(before, launch=self.launch))))

    def _take_lock(self, patience: float) -> TextIO:
        """Waits for an attempt that is about to end: ranks whose launcher or machine died need a while to notice.

        A job's next attempt knows that the one before it is over, and does not wait for ever: on a machine that was
        cut off, one may live on and hold the lock. It keeps that file, and this one a new one; the writer is what
        keeps it out then.
        """
        path = self.path / ".lock"
        deadline = time.monotonic() + patience
        while True:
            file = open(path, "a")  # noqa: SIM115  # held until the process ends
            if _lock(file) and path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
            file.close()
            if time.monotonic() > deadline:
                holder = read_state(self.path)
                if holder is None or not self.launch or not self._is_of_this_job(holder):
                    raise UsageError(f"{self.path}: another process is training this run; choose another --name")
                print(f"{self.path}: taken over from an attempt that still holds its lock", flush=True)
                path.unlink(missing_ok=True)
            time.sleep(0.2)

    def _is_of_this_job(self, state: RunState) -> bool:
        return state.launch.partition(".")[0] == self.launch.partition(".")[0]

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def begin(self, epoch: int, step: int, where: str) -> None:
        """Keeps the resolved configuration of this attempt, which continues from this step, on such processes."""
        self.began = step
        self._write("config.yaml", self.config.to_yaml())
        self.write_state(Status.running, epoch, step)
        log_event(self.writer, Event("began", self.attempt, epoch, step, where))

    def write_state(self, state: Status, epoch: int, step: int, reason: str = "") -> None:
        epochs = self.config.train.epochs
        counts = (self.began, self.attempt, self.fruitless, epochs)
        record = RunState(state, epoch, step, *counts, self.data, reason, self.wandb_id, self.launch)
        try:
            self._write(STATE, as_json(asdict(record)))
            if state is not Status.running:
                log_event(self.writer, Event(str(state), self.attempt, epoch, step, reason))
        except DirectoryTakenOver:
            raise
        except OSError:
            if state is not Status.failed:
                raise
            # A full disk has room where the old one lies, and launchers must not be told that the run goes on.
            with open(self.path / STATE, "r+", encoding="utf-8") as file:
                file.write(as_json(asdict(record)))
                file.truncate()

    def write_result(self, result: dict[str, Any], outcome: bytes) -> None:
        self.writer.write(self.path / EVALUATION, outcome)
        self._write(RESULT, as_json(result))

    def read_result(self) -> dict[str, Any]:
        return json.loads((self.path / RESULT).read_text(encoding="utf-8"))

    def close(self) -> None:
        self.writer.close()
        self._lock.close()

    def _write(self, name: str, text: str) -> None:
        self.writer.write(self.path / name, text.encode())

    def _is_finished(self, before: RunState | None) -> bool:
        if before is None or before.state is not Status.finished or before.epochs < self.config.train.epochs:
            return False
        try:
            return "class_accuracy" in self.read_result()
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
        if schedule != "baseline" and epochs != self.config.train.epochs:
            raise UsageError(
                f"{self.path}: holds a run of {epochs} epochs; schedule.name {schedule} depends on "
                "train.epochs, so another number of them is another run: choose another --name"
            )


RESULT, EVALUATION = "result.json", "evaluation.npz"
_TRACES = (STATE, RESULT, "config.yaml", "metrics.jsonl", "checkpoints")
_GRACE = 10.0  # seconds in which a rank ends after it has noticed that another is gone


def check_compatible(directory: Path, config: Config) -> None:
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
    before, now = fixed_options(kept), fixed_options(plain(asdict(config)))
    changed = [
        f"{key} ({before.get(key)} there, {now.get(key)} now)"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise UsageError(f"{directory}: holds another configuration: {'; '.join(changed)}; choose another --name")


def run_path(config: Config) -> Path:
    """The run's directory."""
    return Path(config.runs_dir) / config.name


def mark_failed(directory: Path, why: str) -> None:
    """Says in state.json that the run has failed, for this attempt's rank zero, which is gone and cannot.

    Does nothing where rank zero lives or a newer attempt is at work: both hold the lock.
    """
    try:
        with open(directory / ".lock", "r+", encoding="utf-8") as lock:
            state = read_state(directory) if _lock(lock) else None
            if state is not None and state.state is Status.running and state.launch == _launch():
                writer = AtomicWriter(directory)
                dead = replace(state, state=Status.failed, reason=why)
                writer.write(directory / STATE, as_json(asdict(dead)).encode())
                log_event(writer, Event(str(dead.state), dead.attempt, dead.epoch, dead.step, why))
                writer.close()
    except OSError as error:
        print(f"{directory / STATE} still says running ({error.strerror})", flush=True)


def _launch() -> str:
    return os.environ.get("REGNET_LAUNCH", "")


def _lock(file: TextIO) -> bool:
    """Takes the lock, if nobody has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def fixed_options(config: dict[str, Any]) -> dict[str, Any]:
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
