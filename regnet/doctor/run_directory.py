"""Checks of the run directory on rank zero. They leave no files behind and do not disturb a run that is training."""

import errno
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from commandline.errors import InputError
from commandline.file_lock import try_lock
from data.errors import DataError
from data.manifest import read_manifest
from regnet.checkpoint.file import CheckpointError, load, pack
from regnet.config.schema import Config
from regnet.distributed.world import World
from regnet.doctor.findings import Finding, fail, format_bytes, format_seconds, guarded, ok, warn
from regnet.doctor.requirements import build_untrained_model, count_classes
from regnet.errors import UsageError
from regnet.metrics.training import TrainingAccumulator
from regnet.optim.optimizers import build_optimizer
from regnet.runs.atomic_write import AtomicWriter
from regnet.runs.compatibility import check_compatible, check_same_task, holds_progress
from regnet.runs.files import has_started, run_path
from regnet.runs.status import Status, read_state
from regnet.training.amp import Precision
from regnet.training.early_stopping import EarlyStopping
from regnet.training.ema import ModelEma
from regnet.training.state import Progress, TrainingState

_SLOW_SYNC = 0.1  # seconds
_LOST_AFTER = {
    "tmpfs": "a reboot",
    "ramfs": "a reboot",
    "overlay": "the container exits",
}
_LOCAL_LOCKS = {"localflock", "local_lock=all", "local_lock=flock"}  # mount options of Lustre and NFS
_REPETITIONS = 5


def check_run_directory(config: Config) -> list[Finding]:
    """All checks of the run directory."""
    directory = run_path(config)
    other = "use another --runs_dir, or free disk space"
    return [
        *guarded("run", lambda: check_run(config, directory), "use another --name", UsageError, OSError),
        *guarded("run directory", lambda: check_directory(config, directory), other, OSError),
    ]


def check_run(config: Config, directory: Path) -> list[Finding]:
    """Whether a run can start, resume or be overwritten in this directory."""
    if not has_started(directory):
        return [ok("run", f"{directory}: new run")]
    process = _lock_holder(directory / ".lock")
    if process is not None:
        fix = "wait until it has finished, or use another --name"
        return [fail("run", f"{directory}: process {process} is training this run", fix)]
    if config.overwrite:
        return [warn("run", f"{directory}: --overwrite would delete this run", "to resume it, omit --overwrite")]
    check_compatible(directory, config)
    if not holds_progress(directory):
        return [ok("run", f"{directory}: has no checkpoint, would start again")]
    state, data = read_state(directory), data_identity(config)
    if state is not None and data is not None:
        check_same_task(directory, config, (state.data, data), state.epochs)
    if state is not None and state.state is Status.finished:
        more = "more train.epochs or early_stopping.patience would resume it"
        return [ok("run", f"{directory}: {state.reason}; {more}")]
    return [ok("run", f"{directory}: would be resumed")]


def data_identity(config: Config) -> str | None:
    """The identity of the dataset, or None if its manifest cannot be read, which check_shards reports."""
    try:
        return read_manifest(Path(config.data.shards)).identity
    except DataError:
        return None


def _lock_holder(lock: Path) -> str | None:
    """The process on this node that holds a lock. Trying to lock it could fail a run that is just starting."""
    if not lock.exists():
        return None
    stat = lock.stat()
    file = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return next((fields[4] for fields in locks if fields[1] == "FLOCK" and fields[5] == file), None)


def check_directory(config: Config, directory: Path) -> list[Finding]:
    """Tries what a run does in its directory, in a temporary directory on the same file system."""
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    checkpoint = pack(checkpoint_content(config))
    free = shutil.disk_usage(existing).free
    findings = check_disk_space(config, len(checkpoint), free)
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=existing) as scratch:
            writer = AtomicWriter(Path(scratch))
            findings += check_file_system(Path(scratch), writer)
            if len(checkpoint) < free:  # other runs may need the rest of a full disk
                findings += check_checkpoint(Path(scratch) / "checkpoint.pt", checkpoint, writer)
    except OSError as error:
        findings.append(fail("run directory", f"{existing}: not writable ({error.strerror})", "use another --runs_dir"))
    return findings


def check_disk_space(config: Config, size: int, free: int) -> list[Finding]:
    """Compares the size of the checkpoints that a run keeps with the free space.

    Args:
        size: size of a checkpoint in bytes.
        free: free bytes on the disk.
    """
    count = config.checkpoint.keep_last + 2  # best.pt, and the one that is being written
    need = size * count
    message = f"{format_bytes(free)} free, {format_bytes(need)} needed for {count} checkpoints"
    if need > free:
        fix = "free disk space, or use another --runs_dir or a smaller --checkpoint.keep_last"
        return [fail("disk", message, fix, need=need, free=free)]
    return [ok("disk", message, need=need, free=free)]


def check_file_system(scratch: Path, writer: AtomicWriter) -> list[Finding]:
    """Whether files can be locked and replaced, and how long that takes."""
    kind, options = mount_of(scratch)
    prefix = f"{scratch.parent}: {kind}"
    if not _locks_work(scratch / "lock"):
        fix = "use another --runs_dir, or mount it with locks (NFS version 3: start rpc.statd; Lustre: option flock)"
        return [fail("run directory", f"{prefix}; files cannot be locked", fix)]
    seconds = _replace_time(scratch / "state.json", writer)
    message = f"{prefix}; writable, locks work, fsync and rename take {format_seconds(seconds)}"
    fix = file_system_fix(kind, options, seconds)
    if fix:
        return [warn("run directory", message, fix, seconds=seconds)]
    return [ok("run directory", message, seconds=seconds)]


def file_system_fix(kind: str, options: Sequence[str], seconds: float) -> str:
    """What to do about a file system on which a run can start; empty for one without problems.

    Args:
        kind, options: see `mount_of`.
        seconds: to replace a small file.
    """
    if kind in _LOST_AFTER:
        return f"files are lost after {_LOST_AFTER[kind]}: use a --runs_dir on a persistent disk"
    if _LOCAL_LOCKS & set(options):
        return "locks are not visible to other nodes: never start a run twice"
    if seconds > _SLOW_SYNC:
        return "slow: use large values of --checkpoint.every_steps and --tracking.log_every"
    return ""


def mount_of(path: Path) -> tuple[str, list[str]]:
    """Type and mount options of the file system of a path."""
    innermost, found = Path(), ("unknown", list[str]())
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount_point, kind, options = line.split()[:4]
        mounted = Path(mount_point.encode().decode("unicode_escape"))  # spaces are written as \040
        # Later mounts at the same mount point hide earlier ones.
        if path.resolve().is_relative_to(mounted) and len(mounted.parts) >= len(innermost.parts):
            innermost, found = mounted, (kind, options.split(","))
    return found


def _locks_work(path: Path) -> bool:
    """Whether a file that is locked cannot be locked again."""
    with open(path, "w") as first, open(path, "w") as second:
        try:
            return try_lock(first) and not try_lock(second)
        except InputError:  # a file system without locks
            return False


def _replace_time(path: Path, writer: AtomicWriter) -> float:
    """Median seconds to replace a small file atomically, as a run does with state.json after each checkpoint."""
    seconds = []
    for repetition in range(_REPETITIONS):
        started = time.perf_counter()
        writer.write(path, f"{repetition}\n".encode())
        seconds.append(time.perf_counter() - started)
    if path.read_text() != f"{_REPETITIONS - 1}\n":
        raise OSError(errno.EIO, "a replaced file has its old content")
    return statistics.median(seconds)


def check_checkpoint(path: Path, content: bytes, writer: AtomicWriter) -> list[Finding]:
    """Writes a checkpoint of the run's size as a run does, and reads it."""
    started = time.perf_counter()
    writer.write(path, content)
    write_seconds = time.perf_counter() - started
    started = time.perf_counter()
    try:
        load(path)
    except CheckpointError as error:
        fix = "the file system does not keep what is written: use another --runs_dir"
        return [fail("checkpoint", f"written, but cannot be read: {error}", fix)]
    read_seconds = time.perf_counter() - started
    size = len(content)
    message = (
        f"{format_bytes(size)}: write and fsync take {format_seconds(write_seconds)} "
        f"({format_bytes(size / write_seconds)}/s), read and verify {format_seconds(read_seconds)} "
        f"({format_bytes(size / read_seconds)}/s)"
    )
    return [ok("checkpoint", message, bytes=size, write_seconds=write_seconds, read_seconds=read_seconds)]


def checkpoint_content(config: Config) -> dict[str, Any]:
    """The content of a checkpoint of this run after its first step."""
    cpu = torch.device("cpu")
    classes = count_classes(config)
    model = build_untrained_model(config, classes)
    precision = Precision(config.train.precision, cpu)
    optimizer = build_optimizer(model, config.optim, precision.dtype)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # creates its state
    state = TrainingState(
        model=model,
        optimizer=optimizer,
        scaler=precision.scaler,
        ema=ModelEma(model, config.optim.ema_decay) if config.optim.ema_decay else None,
        metrics=TrainingAccumulator(classes, cpu),
        stopping=EarlyStopping(config.early_stopping.patience, "min"),
        progress=Progress(),
        metadata={},
    )
    return state.state_dict(World(0, 1, 0, cpu, None, None))
