"""Preemption: signals and the time limit set a flag, which the run reads after each step.

The flag travels: PreemptionNotice -> SharedFlags -> Trainer.train_epoch (saves) -> Run.record_preemption.

No slow imports: the handlers must be installed before torch is imported, which takes seconds.
"""

import math
import os
import signal
import time
from types import FrameType

from commandline.errors import CommandError
from commandline.exit_codes import preempted_exit_code

# SIGHUP: the terminal was closed. SIGUSR1, SIGUSR2 and SIGXCPU: batch systems announce the end of a job by them.
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


class Preempted(CommandError):
    """A signal arrived before the rendezvous was complete; there is nothing to save."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.exit_code = preempted_exit_code()

    def report(self, rank: str) -> None:
        print(f"{self}{rank}")


class PreemptionNotice:
    """Why the run should save a checkpoint and exit, if it should.

    Once the handlers are installed, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU and Ctrl-C only set the reason; a second
    Ctrl-C ends the process.
    """

    def __init__(self) -> None:
        self._signal: str | None = None
        self._interrupted = False
        self._received = math.inf  # time of the first signal, on the monotonic clock
        self._deadline = math.inf

    def install(self) -> None:
        """Installs the signal handlers; before torch is imported, and in the main thread."""
        for number in _SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores it
                signal.signal(number, self._handle)

    @property
    def reason(self) -> str | None:
        """Name of the signal, or the time limit; None if the run should go on."""
        if self._signal is None and time.monotonic() > self._deadline:
            return "the time limit (train.max_minutes)"
        return self._signal

    @property
    def seconds_since_signal(self) -> float:
        """Seconds since the first signal; negative if there was none."""
        return time.monotonic() - self._received

    def set_time_limit(self, minutes: float) -> None:
        """Starts the time limit now; 0 for none."""
        self._deadline = time.monotonic() + 60 * minutes if minutes else math.inf

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        self._interrupted = self._interrupted or number == signal.SIGINT
        if self._signal is None:
            self._signal, self._received = signal.Signals(number).name, time.monotonic()
