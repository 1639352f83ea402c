"""SIGINT, SIGTERM and SIGHUP end a command with one line and the exit code that a shell expects, 128 + the signal."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Raised in the main thread by the first of the signals. Not an Exception: nothing may handle it as a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}")
        self.exit_code = 128 + number


def exit_on_signals() -> None:
    """From now on a signal ends the process at once: for the slow imports, when there is nothing to clean up."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, _exit_now)


def _exit_now(number: int, _: FrameType | None) -> NoReturn:
    with contextlib.suppress(OSError):  # the terminal may be gone
        print(Interrupted(number), file=sys.stderr, flush=True)
    os._exit(128 + number)


def restore_defaults() -> None:
    """Ends the effect of `exit_on_signals`."""
    for number in SIGNALS:
        if signal.getsignal(number) is _exit_now:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


@contextlib.contextmanager
def raised_as_exceptions() -> Iterator[None]:
    """A signal raises `Interrupted`; further ones are ignored: they stop neither the clean-up nor the line about it."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    interrupted = False
    try:
        for number in SIGNALS:
            if before[number] is not signal.SIG_IGN:
                signal.signal(number, _raise)
        yield
    except Interrupted:
        interrupted = True
        raise
    finally:
        if not interrupted:
            for number in SIGNALS:
                signal.signal(number, before[number])


def _raise(number: int, _: FrameType | None) -> NoReturn:
    ignore()
    raise Interrupted(number)


def ignore() -> None:
    """Ignores the signals until `raised_as_exceptions` ends: for last steps that are short and must not be divided."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Signals arrive after this block. A process that is forked inside never gets them: its parent ends it."""
    arrived: list[int] = []
    # A mask holds them back from this thread alone: another one, of a library, may get them, and Python would then call
    # the handlers here.
    handlers = {number: signal.signal(number, lambda number, _: arrived.append(number)) for number in SIGNALS}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for late in arrived:
            signal.raise_signal(late)
