"""Locks on files, which end with the process that holds them."""

import fcntl
from typing import IO

from commandline.errors import InputError


def try_lock(file: IO, shared: bool = False) -> bool:
    """Takes the lock of an open file if it is free.

    Args:
        shared: with other processes that also take it shared.

    Raises:
        InputError: the file system has no locks.
    """
    return _lock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def wait_for_lock(file: IO) -> None:
    """Takes the lock of an open file when it is free.

    Raises:
        InputError: the file system has no locks.
    """
    _lock(file, fcntl.LOCK_EX)


def _lock(file: IO, operation: int) -> bool:
    try:
        fcntl.flock(file, operation)
    except BlockingIOError:
        return False
    except OSError as error:
        raise InputError(
            f"{file.name}: cannot be locked ({error.strerror}): mount this file system with locks (NFS version 3: "
            "start rpc.statd; Lustre: option flock), or use a directory on another one"
        ) from error
    return True
