"""Exit statuses, and how a process leaves."""

import os
import sys
from typing import NoReturn

DONE, FAILED, USAGE, PREEMPTED = 0, 1, 2, 75  # 75 is EX_TEMPFAIL: queue me again


def preempted() -> int:
    """The exit status of a process that can be continued; torchrun takes any but 0 for a failure."""
    return DONE if "TORCHELASTIC_RUN_ID" in os.environ else PREEMPTED


def leave(status: int) -> NoReturn:
    """Ends the process, without what libraries have left for the interpreter's end.

    All is written and the ranks have parted by then. A thread that ends a moment later would abort the process, and
    Weights & Biases, if a call of its never came back, would wait for its server.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
