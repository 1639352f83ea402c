"""Exit statuses, and how a process leaves."""

import os
import sys
from typing import NoReturn

DONE, FAILED, USAGE, PREEMPTED = 0, 1, 2, 75  # 75 is EX_TEMPFAIL: queue me again


def preempted() -> int:
    """The exit status of a process that can be continued; torchrun takes any but 0 for a failure."""
    return DONE if "TORCHELASTIC_RUN_ID" in os.environ else PREEMPTED


def leave(status: int) -> NoReturn:
    """Ends the process; one of several ranks without the interpreter's own ending.

    All is written and the ranks have parted by then; a thread that ends a moment later would abort the process.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
