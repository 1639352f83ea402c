"""Standard output and standard error that a command can always write to."""

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import TextIO

from commandline.errors import CommandError
from commandline.exit_codes import FAILED, OUTPUT_CLOSED


class OutputLost(CommandError):
    """Standard output cannot be written any more. Silent if its reader has closed it, as `head` does."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"standard output: {cause.strerror}")
        self.closed_by_reader = isinstance(cause, BrokenPipeError)
        self.exit_code = OUTPUT_CLOSED if self.closed_by_reader else FAILED

    def report(self, rank: str) -> None:
        if not self.closed_by_reader:
            super().report(rank)


@contextlib.contextmanager
def usable_streams(output_is_result: bool) -> Iterator[None]:
    """Makes the standard streams usable inside the context.

    A closed stream is opened on /dev/null; otherwise the next file that the program opens would get its descriptor, and
    with it whatever a library prints. A character that the encoding lacks is written as a backslash escape. If a write
    fails, because the reader or the terminal is gone or the disk is full, everything that follows is discarded. Streams
    that a caller has put in place of the standard ones are not touched.

    Args:
        output_is_result: raise OutputLost when a write to standard output fails.
    """
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    if sys.stdout is sys.__stdout__:
        sys.stdout = _usable(sys.stdout, output_is_result)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _usable(sys.stderr, output_is_result=False)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OutputLost):
                stream.flush()
        sys.stdout, sys.stderr = before


def _open_closed_descriptors() -> None:
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one


def _usable(stream: TextIO | None, output_is_result: bool) -> TextIO:
    if stream is None:  # closed when Python started
        return open(os.devnull, "w", encoding="utf-8", errors="backslashreplace")
    assert isinstance(stream, io.TextIOWrapper)
    raw = _Output(stream.fileno(), output_is_result)
    return io.TextIOWrapper(
        # Without a buffer with python -u. The raw stream writes everything, as TextIOWrapper requires.
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace" if stream.errors in ("strict", "surrogateescape") else stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Output(io.FileIO):
    """The descriptor of a standard stream, which becomes /dev/null once a write has failed.

    Args:
        output_is_result: raise OutputLost then.
    """

    def __init__(self, descriptor: int, output_is_result: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._output_is_result = output_is_result

    def write(self, data) -> int:  # type: ignore[no-untyped-def]  # a ReadableBuffer, which only stubs define
        size = memoryview(data).nbytes
        try:
            self._write_all(memoryview(data).cast("B"))
        except OSError as error:
            self._discard()
            if self._output_is_result:
                raise OutputLost(error) from error
        return size

    def _write_all(self, data: memoryview) -> None:
        while data:
            written = super().write(data)
            if written is None:  # non-blocking, and its reader is slow
                select.select([], [self], [])
            else:
                data = data[written:]

    def _discard(self) -> None:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, self.fileno())
        os.close(null)
