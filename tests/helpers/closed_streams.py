"""Runs a command in a process whose standard streams are closed, full or limited to ASCII.

closed_streams.py (closed | broken | full | ascii) PROGRAM [ARGUMENT ...]
"""

import io
import os
import runpy
import sys


def closed() -> None:
    """As in a shell's <&- >&- 2>&-."""
    for descriptor in range(3):
        os.close(descriptor)
    for name in ("stdin", "stdout", "stderr"):
        setattr(sys, name, None)
        setattr(sys, f"__{name}__", None)


def broken() -> None:
    """Standard output is a pipe whose reader has exited, as in `| head`."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)


def full() -> None:
    """Standard output is a file on a full disk."""
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def ascii() -> None:
    """As with PYTHONIOENCODING=ascii, which Python reads when it starts."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding="ascii", write_through=True)
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


if __name__ == "__main__":
    {mode.__name__: mode for mode in (closed, broken, full, ascii)}[sys.argv.pop(1)]()
    del sys.argv[0]
    if sys.argv[0] == "-m":
        del sys.argv[0]
        sys.modules.pop(sys.argv[0], None)  # preloaded by the fork server
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(sys.argv[0], run_name="__main__")
