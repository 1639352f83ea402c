"""What asks the run to leave becomes a flag, read at the next step boundary.

Imports nothing slow: signals are to be heard before torch is imported.
"""

import math
import os
import signal
import time
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class PreemptionNotice:
    """Once it listens, SIGTERM, SIGUSR1 and Ctrl-C set a flag and do nothing else; a second Ctrl-C ends the process."""

    def __init__(self) -> None:
        self._signal: str | None = None
        self._interrupted = False
        self._heard = math.inf  # when, on the clock that only runs forward
        self._deadline = math.inf

    def listen(self) -> None:
        """From here on, and in the main thread alone."""
        for number in _SIGNALS:
            signal.signal(number, self._take)

    @property
    def given(self) -> str | None:
        """What has asked the run to leave, in words, or None."""
        if self._signal is None and time.monotonic() > self._deadline:
            return "the time limit (train.max_minutes)"
        return self._signal

    @property
    def age(self) -> float:
        """Seconds since the first signal; negative if there was none."""
        return time.monotonic() - self._heard

    def start_clock(self, minutes: float) -> None:
        """Asks the run to leave after so many minutes from now; 0 for never."""
        self._deadline = time.monotonic() + 60 * minutes if minutes else math.inf

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        self._interrupted = self._interrupted or number == signal.SIGINT
        if self._signal is None:
            self._signal, self._heard = signal.Signals(number).name, time.monotonic()
