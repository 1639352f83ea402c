"""How long a test waits for something real before it fails: for a process to end, a line, a file or a signal.

There is one limit for all of them, because a passing test never waits that long: it waits for the event itself. The
limit grows with the time that importing torch takes at the start of the session, so that it also suits a slow or busy
machine. TEST_LIMIT sets it in seconds.
"""

import os
import time

_SHORTEST = 600.0  # building the container image takes five minutes on two quiet cores


def _measured_limit() -> float:
    started = time.monotonic()
    import torch  # noqa: F401

    return max(_SHORTEST, 200 * (time.monotonic() - started))


if "TEST_LIMIT" not in os.environ:
    os.environ["TEST_LIMIT"] = f"{_measured_limit():.0f}"  # inherited by pytest-xdist's workers
LIMIT = float(os.environ["TEST_LIMIT"])
TEST_TIMEOUT = 4 * LIMIT  # of a whole test, which may wait for several events and set up fixtures


def scaled(seconds: float) -> float:
    """A time-out that the tested program must reach, on a machine as slow as this one."""
    return round(seconds * LIMIT / _SHORTEST, 1)
