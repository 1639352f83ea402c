"""A signal that asks the run to leave becomes a flag, read at the next step boundary."""

import os
import signal
from types import FrameType, TracebackType

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Notice:
    """While entered: SIGTERM, SIGUSR1 and Ctrl-C set `given` and nothing else; a second Ctrl-C ends the process.

    Attributes:
        given: the name of the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.given: str | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Notice":
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._take)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _take(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.given == "SIGINT":
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        self.given = self.given or signal.Signals(number).name
