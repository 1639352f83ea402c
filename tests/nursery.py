"""Processes that need not import torch: forked from one that has, which is kept for all tests of a worker.

A process that starts anew spends four of its six seconds on imports, and a suite of these tests starts some hundreds.
What runs in a forked one is the same script under the same name, from its first line; the launchers, and what happens
before the imports are done, are tested with processes that start as users start them.
"""

import atexit
import contextlib
import itertools
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["nursery", "warm"])
# Below those that the kernel hands out to others, and apart for each of pytest's workers.
_PORTS = itertools.count(20_000 + 500 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]))


MIXED_EXIT_CODES = -99  # some ranks ended with 0 and some with 75


@dataclass(frozen=True)
class ForkedCommand:
    """A script, or -m and a module, and its arguments, to be run by so many ranks; by a process alone if by none."""

    arguments: list[str]
    ranks: int = 0


class ForkedProcesses:
    """The processes of a started `ForkedCommand`; has of subprocess.Popen's face what the tests use."""

    def __init__(self, what: ForkedCommand, environment: dict[str, str]) -> None:
        self._output = tempfile.TemporaryDirectory(prefix="regnet-output-")
        self._killed = False
        places = [{}]
        if what.ranks:
            meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port(), "WORLD_SIZE": str(what.ranks)}
            places = [{**meet, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(what.ranks)]
        with _preparing():
            self._processes = [
                _CONTEXT.Process(
                    target=_become,
                    args=(what.arguments, {**environment, **place}, self._file("out", rank), self._file("err", rank)),
                )
                for rank, place in enumerate(places)
            ]
            for process in self._processes:
                process.start()
        atexit.register(self.kill)  # before multiprocessing would wait for them

    def _file(self, kind: str, rank: int) -> str:
        return f"{self._output.name}/{kind}-{rank}"

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    @property
    def pid(self) -> int:
        return self.pids[0]

    def poll(self) -> int | None:
        """None while one is alive; else the status of all, or of one that failed: 0 and 75 are no failures."""
        statuses = [process.exitcode for process in self._processes]
        if None in statuses:
            return None
        alike = len(set(statuses)) == 1
        return (
            statuses[0] if alike else next((status for status in statuses if status not in (0, 75)), MIXED_EXIT_CODES)
        )

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def send_signal(self, number: int) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """And whatever they have started; one that has no group of its own yet as well."""
        atexit.unregister(self.kill)  # their numbers may be others' by then
        if not self._killed:
            self._killed = True
            for pid, end in itertools.product(self.pids, (os.kill, os.killpg)):
                with contextlib.suppress(ProcessLookupError):
                    end(pid, signal.SIGKILL)

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        for process in self._processes:
            process.join(max(0.0, deadline - time.monotonic()))
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired("forked ranks", timeout)
        return status

    def communicate(self, timeout: float) -> tuple[str, str]:
        self.wait(timeout)
        ranks = range(len(self._processes))
        out, err = ("".join(Path(self._file(kind, rank)).read_text() for rank in ranks) for kind in ("out", "err"))
        return out, err


@contextlib.contextmanager
def _preparing():
    """What the first process, which all others are forked from, is started with."""
    before = dict(os.environ)
    os.environ.update(PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}", OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _free_port() -> str:
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return str(port)
    raise AssertionError("count() has no end")


def _become(arguments: list[str], environment: dict[str, str], out: str, err: str) -> None:
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # Python's own, not that by which this one came to be
    os.chdir(ROOT)
    for path, number in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    sys.path[:0] = [str(ROOT)]
    if arguments[0] == "-m":
        del arguments[0]
        sys.modules.pop(arguments[0], None)  # as in a fresh process
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(arguments[0], run_name="__main__")
