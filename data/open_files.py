"""The limit of open files, which is raised as far as the system permits before many files are opened."""

import os
import resource

from data.errors import DataError


def allow_open_files(count: int, purpose: str, remedy: str) -> None:
    """Raises the soft limit (`ulimit -n`) if `count` further files would exceed it.

    Raises:
        DataError: the hard limit is lower; the message gives `purpose`, the limit and `remedy`.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/proc/self/fd")) + count
    if soft == resource.RLIM_INFINITY or needed <= soft:
        return
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise DataError(
            f"{purpose}: needs {needed:,} open files, but the limit of this process is {hard:,} "
            f"(ulimit -Hn); {remedy}, or have the limit raised"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
