"""Where a run would be kept: rank zero's business. Leaves nothing behind, and disturbs no run that is at work."""

import errno
import fcntl
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from regnet.checkpoint.file import CheckpointError, load, pack
from regnet.checkpoint.pretrained import read_weights
from regnet.config.schema import Config
from regnet.distributed.world import World
from regnet.doctor.findings import Finding, guarded, in_bytes, in_seconds, note, ok, stops
from regnet.doctor.requirements import class_names, count_classes, network
from regnet.errors import UsageError
from regnet.metrics.training import TrainingAccumulator
from regnet.models.regnet import Model
from regnet.optim.optimizers import build_optimizer
from regnet.runs.atomic_write import AtomicWriter
from regnet.runs.directory import check_compatible, run_path
from regnet.tracking.wandb_tracker import has_wandb_key
from regnet.training.amp import Precision
from regnet.training.early_stopping import EarlyStopping
from regnet.training.ema import ModelEma
from regnet.training.state import Progress, TrainingState

_SLOW_SYNC = 0.1  # seconds
_GONE_AFTER = {
    "tmpfs": "a restart",
    "ramfs": "a restart",
    "overlay": "the container",
}
_LOCAL_LOCKS = {"localflock", "local_lock=all", "local_lock=flock"}  # of Lustre, of NFS
_TRIES = 5


def check_run(config: Config) -> list[Finding]:
    """Everything about the run's directory and its record."""
    directory = run_path(config)
    elsewhere = "choose another --runs_dir, or free or mend this one"
    return [
        *guarded("run", lambda: check_no_other_run(config, directory), "choose another --name", UsageError, OSError),
        *guarded("weights", lambda: check_weights(config, directory), "name other --model.weights", UsageError),
        *guarded("W&B", lambda: check_wandb(config), "see wandb login, or --tracking.wandb offline", OSError),
        *guarded("run directory", lambda: check_directory(config, directory), elsewhere, OSError),
    ]


def check_no_other_run(config: Config, directory: Path) -> list[Finding]:
    if not (directory / "config.yaml").exists():
        return [ok("run", f"{directory}: a new run")]
    holder = _holder(directory / ".lock")
    if holder is not None:
        return [stops("run", f"{directory}: process {holder} is training this run", "wait, or choose another --name")]
    check_compatible(directory, config)
    return [ok("run", f"{directory}: holds this run, which would be continued")]


def check_weights(config: Config, directory: Path) -> list[Finding]:
    """Whether a new run could begin with its weights; one that continues reads them no more."""
    if not config.model.weights or any((directory / "checkpoints").glob("*.pt")):
        return []
    with torch.device("meta"):
        own = Model(config.model.design(), count_classes(config)).state_dict()
    return [ok("weights", read_weights(config.model, own, class_names(config)).description)]


def _holder(lock: Path) -> str | None:
    """The process on this machine that holds a lock; trying to take it could stop a run that is just starting."""
    if not lock.exists():
        return None
    stat = lock.stat()
    file = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}:{stat.st_ino}"
    held = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    return next((words[4] for words in held if words[1] == "FLOCK" and words[5] == file), None)


def check_wandb(config: Config) -> list[Finding]:
    mode = config.tracking.wandb
    if mode in ("offline", "disabled"):
        return [ok("W&B", f"tracking.wandb: {mode}")]
    if has_wandb_key():
        return [ok("W&B", f"there is a key; tracking.wandb: {mode}, so online")]
    saw = f"no key; tracking.wandb: {mode}, so recorded offline"
    if mode == "online":
        return [note("W&B", saw, "wandb login, or set WANDB_API_KEY")]
    return [ok("W&B", saw)]


def check_directory(config: Config, directory: Path) -> list[Finding]:
    """Tries what a run does there, in a directory of its own that is gone afterwards."""
    there = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    packed = pack(state_of(config))
    free = shutil.disk_usage(there).free
    found = check_room(config, len(packed), free)
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=there) as scratch:
            writer = AtomicWriter(Path(scratch))
            found += check_file_system(Path(scratch), writer)
            if len(packed) < free:  # a disk that other runs write to is not filled to the brim
                found += check_checkpoint(Path(scratch) / "checkpoint.pt", packed, writer)
    except OSError as error:
        found.append(stops("run directory", f"{there}: not writable ({error.strerror})", "choose another --runs_dir"))
    return found


def check_room(config: Config, size: int, free: int) -> list[Finding]:
    need = size * (config.checkpoint.keep_last + 2)  # the best, and the one that is being written
    saw = f"{in_bytes(free)} free, {in_bytes(need)} needed for {config.checkpoint.keep_last + 2} checkpoints"
    if need > free:
        step = "free some, choose another --runs_dir, or a smaller --checkpoint.keep_last"
        return [stops("disk", saw, step, need=need, free=free)]
    return [ok("disk", saw, need=need, free=free)]


def check_file_system(scratch: Path, writer: AtomicWriter) -> list[Finding]:
    """Whether files can be locked and replaced here, and how long that takes."""
    kind, options = mount_of(scratch)
    what = f"{scratch.parent}: {kind}"
    if not _locks(scratch / "lock"):
        step = "choose another --runs_dir, or have it mounted with locks (NFS: without nolock; Lustre: flock)"
        return [stops("run directory", f"{what}; files cannot be locked", step)]
    seconds = _replace_time(scratch / "state.json", writer)
    saw = f"{what}; writable, flock holds, fsync and rename in {in_seconds(seconds)}"
    if kind in _GONE_AFTER:
        step = f"what is kept here is gone after {_GONE_AFTER[kind]}: --runs_dir on a disk"
        return [note("run directory", saw, step, seconds=seconds)]
    if _LOCAL_LOCKS & set(options):
        return [note("run directory", saw, "other machines do not see these locks: start a run once", seconds=seconds)]
    if seconds > _SLOW_SYNC:
        step = "slow: keep checkpoint.every_steps and tracking.log_every large"
        return [note("run directory", saw, step, seconds=seconds)]
    return [ok("run directory", saw, seconds=seconds)]


def mount_of(path: Path) -> tuple[str, list[str]]:
    """Type and options of the file system that holds a path."""
    best, found = Path(), ("unknown", list[str]())
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, options = line.split()[:4]
        mounted = Path(place.encode().decode("unicode_escape"))  # a space in it is written as \040
        if path.resolve().is_relative_to(mounted) and len(mounted.parts) >= len(best.parts):  # later ones hide others
            best, found = mounted, (kind, options.split(","))
    return found


def _locks(path: Path) -> bool:
    """Whether a second lock on a file is refused while there is a first."""
    with open(path, "w") as first, open(path, "w") as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # a file system without locks
            return False
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def _replace_time(path: Path, writer: AtomicWriter) -> float:
    """Seconds in which a small file is replaced whole, as state.json is after each checkpoint."""
    seconds = []
    for attempt in range(_TRIES):
        began = time.perf_counter()
        writer.write(path, f"{attempt}\n".encode())
        seconds.append(time.perf_counter() - began)
    if path.read_text() != f"{_TRIES - 1}\n":
        raise OSError(errno.EIO, "a file that was replaced still has its old content")
    return statistics.median(seconds)


def check_checkpoint(path: Path, packed: bytes, writer: AtomicWriter) -> list[Finding]:
    """Writes a checkpoint of the run's size, as a run does, and reads it back."""
    began = time.perf_counter()
    writer.write(path, packed)
    written = time.perf_counter() - began
    began = time.perf_counter()
    try:
        load(path)
    except CheckpointError as error:
        step = "this file system does not keep what is written: choose another --runs_dir"
        return [stops("checkpoint", f"written, but not read back: {error}", step)]
    read = time.perf_counter() - began
    size = len(packed)
    saw = (
        f"{in_bytes(size)}: written and synced in {in_seconds(written)} ({in_bytes(size / written)}/s), "
        f"read and checked in {in_seconds(read)} ({in_bytes(size / read)}/s)"
    )
    return [ok("checkpoint", saw, bytes=size, write_seconds=written, read_seconds=read)]


def state_of(config: Config) -> dict[str, Any]:
    """What a checkpoint of this run holds, after its first step."""
    cpu = torch.device("cpu")
    classes = count_classes(config)
    model = network(config, classes)
    precision = Precision(config.train.precision, cpu)
    optimizer = build_optimizer(model, config.optim, precision.dtype)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # which makes its moments
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
