"""The lock of a run directory, held as long as rank zero of an attempt is alive."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from commandline.errors import InputError
from commandline.file_lock import try_lock
from regnet.errors import UsageError

LOCK = ".lock"


def take_lock(directory: Path, patience: float, may_take_over: Callable[[], bool]) -> TextIO:
    """Waits for an attempt that is about to end: ranks whose launcher or node died need a while to notice.

    A restarted job knows that its earlier attempt is over, and takes over after that time: on a node that lost its
    network, a process may live on and hold the lock. It keeps the old lock file, this attempt creates a new one, and
    AtomicWriter stops the old one from writing.

    Args:
        patience: seconds to wait.
        may_take_over: whether this process belongs to a restart of the job that holds the lock.

    Raises:
        InputError: another process is training the run, or the file system has no locks.
    """
    path = directory / LOCK
    deadline, waiting = time.monotonic() + patience, False
    while True:
        file = open(path, "a")  # noqa: SIM115  # held until the process ends
        if try_lock(file) and _is_at(file, path):
            return file
        file.close()
        if not waiting:
            waiting = True
            print(
                f"{directory}: another process is training this run; waiting up to {patience:g} s for it to end",
                flush=True,
            )
        if time.monotonic() > deadline:
            if not may_take_over():
                raise UsageError(
                    f"{directory}: another process is training this run. Use another --name, or wait until it has ended"
                )
            print(f"{directory}: taken over from an earlier attempt, which still holds the lock", flush=True)
            path.unlink(missing_ok=True)
        time.sleep(0.2)


def _is_at(file: TextIO, path: Path) -> bool:
    """False for a lock file that another attempt, which has taken over, has just deleted."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def is_locked(directory: Path) -> bool:
    """Whether a process is training the run, on this node or on one that shares its file locks.

    True where the file system has no locks: the run may be training.
    """
    try:
        with open(directory / LOCK, "rb") as lock:
            return not try_lock(lock, shared=True)
    except FileNotFoundError:
        return False
    except InputError:
        return True
