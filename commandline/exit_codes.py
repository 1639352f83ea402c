"""Exit codes, and how a process exits."""

import contextlib
import gc
import os
import sys
import tempfile
from typing import NoReturn

DONE, FAILED, USAGE, PREEMPTED = 0, 1, 2, 75  # 75 is EX_TEMPFAIL: launchers queue the run again
INTERRUPTED, OUTPUT_CLOSED = 130, 141  # as shells report SIGINT and SIGPIPE


def preempted_exit_code() -> int:
    """The exit code of a process that can be resumed; 0 under torchrun, which treats any other code as a failure."""
    return DONE if "TORCHELASTIC_RUN_ID" in os.environ else PREEMPTED


def exit_process(code: int) -> NoReturn:
    """Exits at once, without the interpreter's clean-up.

    By then everything is written and the process group is closed. During clean-up, a library thread that is still
    running may abort the process, and Weights & Biases waits for its server if one of its calls has not returned.
    """
    _remove_temporary_directories()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # closed by whoever started the process
            stream.flush()
    os._exit(code)


def _remove_temporary_directories() -> None:
    """Those that libraries leave to Python's clean-up: Weights & Biases makes five in every run."""
    gc.unfreeze()  # what startup.resume_garbage_collection has hidden from get_objects
    for found in gc.get_objects():
        if issubclass(type(found), tempfile.TemporaryDirectory):
            with contextlib.suppress(OSError):
                found.cleanup()
