"""Fast process start for tests: commands run in processes forked from a server that has already imported torch.

A fresh process spends four of its six seconds on imports, and the test suite starts several hundred. A forked process
runs the same script under the same name from its first line. Tests of the launchers, and of what happens during the
imports, start fresh processes as a user would.
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

ROOT = Path(__file__).parents[2]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["fork_server", "preload"])
# Below the kernel's ephemeral ports, and a separate range for each pytest-xdist worker.
_PORTS = itertools.count(20_000 + 500 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]))

MIXED_EXIT_CODES = -99  # some ranks exited with 0 and some with 75


@dataclass(frozen=True)
class ForkedCommand:
    """A script (or -m and a module) with its arguments, run by `ranks` processes; 0: one process outside a group."""

    arguments: list[str]
    ranks: int = 0


class ForkedProcesses:
    """The processes of a started `ForkedCommand`, with the part of subprocess.Popen's interface that tests use."""

    def __init__(self, command: ForkedCommand, environment: dict[str, str]) -> None:
        self._output = tempfile.TemporaryDirectory(prefix="regnet-output-")
        self._killed = False
        rank_variables = [{}]
        if command.ranks:
            shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": str(command.ranks)}
            rank_variables = [{**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(command.ranks)]
        with _server_environment():
            self._processes = [
                _CONTEXT.Process(
                    target=_run_command,
                    args=(
                        command.arguments,
                        {**environment, **variables},
                        self._file("out", rank),
                        self._file("err", rank),
                    ),
                )
                for rank, variables in enumerate(rank_variables)
            ]
            for process in self._processes:
                process.start()
        atexit.register(self.kill)  # runs before multiprocessing's own exit handler, which would wait for them

    def _file(self, kind: str, rank: int) -> str:
        return f"{self._output.name}/{kind}-{rank}"

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    @property
    def pid(self) -> int:
        return self.pids[0]

    def poll(self) -> int | None:
        """None while a process is alive, then the common exit code or that of a failed rank (neither 0 nor 75)."""
        exit_codes = [process.exitcode for process in self._processes]
        if None in exit_codes:
            return None
        equal = len(set(exit_codes)) == 1
        return exit_codes[0] if equal else next((code for code in exit_codes if code not in (0, 75)), MIXED_EXIT_CODES)

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def send_signal(self, number: int) -> None:
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """Kills the processes and their children, including a process that has not yet created its process group."""
        atexit.unregister(self.kill)  # at exit the process ids may have been reused
        if not self._killed:
            self._killed = True
            # The id of a process that has ended may be another's by now, unless processes of its group are left.
            alive = [process.pid for process in self._processes if process.exitcode is None]
            for pid, send in [*itertools.product(alive, [os.kill]), *itertools.product(self.pids, [os.killpg])]:
                with contextlib.suppress(ProcessLookupError):
                    send(pid, signal.SIGKILL)

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
def _server_environment():
    """The environment in which the fork server starts."""
    before = dict(os.environ)
    os.environ.update(PYTHONPATH=f"{ROOT}:{ROOT / 'tests' / 'helpers'}", OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1")
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def free_port() -> str:
    for port in _PORTS:
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return str(port)
    raise AssertionError("unreachable: the ports are unlimited")


def _run_command(arguments: list[str], environment: dict[str, str], out: str, err: str) -> None:
    os.setsid()
    multiprocessing.set_start_method(None, force=True)  # Python's default, not this process's forkserver
    os.chdir(ROOT)
    for path, number in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # that of the environment
    sys.argv = arguments
    sys.path[:0] = [str(ROOT)]
    if arguments[0] == "-m":
        del arguments[0]
        sys.modules.pop(arguments[0], None)  # as in a fresh process, where it is not imported yet
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(arguments[0], run_name="__main__")
