"""Runs a module under torchrun, with a timeout."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from commandline.interrupts import held_back

ROOT = Path(__file__).parents[1]
MEMORY_POLL_SECONDS = 0.5
SIGNAL_SECONDS = 10.0  # a process takes longer to end or stop only if a disk or a device hangs
# Not --standalone, which uses the host name localhost: some containers cannot resolve it.
TORCHRUN = ("-m", "torch.distributed.run", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0")
_ERROR = re.compile(
    r"(?:\[rank\d+\]: ?)?((?:error|failed)(?: \(rank \d+\))?: .+|(?!torch\.distributed\.elastic)[\w.]*Error\b.*)"
)
_DEATH = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")  # torchrun's line about the first rank to fail


class LaunchFailed(Exception):
    """A launched module failed; the message is one line."""


@dataclass(frozen=True)
class Launcher:
    """How modules are launched.

    Attributes:
        processes: number of processes of a launch.
        threads: torch threads of each process.
        timeout: time limit of a launch in seconds.
        logs: directory that keeps the output of failed launches.
    """

    processes: int
    threads: int
    timeout: float
    logs: Path

    def launch(
        self, module: str, settings: Mapping[str, Any], folder: Path, measure_memory: bool = False
    ) -> tuple[list[Path], int]:
        """Runs a module on all ranks. Returns the ranks' report files, in rank order, and the peak memory.

        The peak memory is the sum over all processes of the launch in bytes, with shared pages counted once. It is 0
        unless `measure_memory` is set, because measuring it takes time that would distort the other results.

        Args:
            module: full name of a module in benchmarks/; its only argument is a file with `settings` as JSON.
            folder: an empty directory, to which each rank writes RANK.json.

        Raises:
            LaunchFailed: non-zero exit code, timeout, or a rank without a report.
        """
        file, log = folder / "settings.json", folder / "output.log"
        file.write_text(json.dumps(settings), encoding="utf-8")
        with open(log, "wb") as output:
            process = subprocess.Popen(
                [*self.torchrun, "--module", module, str(file)],
                cwd=ROOT,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            peak = self.wait(process, measure_memory)
        except LaunchFailed as failure:
            raise LaunchFailed(f"{failure}{self.explain(module, log)}") from failure
        finally:
            kill_tree(process)
        paths = [folder / f"{rank}.json" for rank in range(self.processes)]
        missing = [path.stem for path in paths if not path.exists()]
        if missing:
            raise LaunchFailed(f"rank {missing[0]} wrote no report{self.explain(module, log)}")
        return paths, peak

    @property
    def torchrun(self) -> list[str]:
        """The torchrun command, without the module or script to run."""
        return [sys.executable, *TORCHRUN, "--local-addr=127.0.0.1", f"--nproc-per-node={self.processes}"]

    def environment(self) -> dict[str, str]:
        """The caller's environment, without variables that belong to a surrounding cluster job or launch."""
        prefixes = ("SLURM_", "WANDB_", "REGNET_", "TORCHELASTIC_", "MASTER_")
        ranks = {"RANK", "LOCAL_RANK", "WORLD_SIZE"}
        kept = {name: value for name, value in os.environ.items() if not (name.startswith(prefixes) or name in ranks)}
        return {**kept, "OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}

    def wait(self, process: subprocess.Popen, measure_memory: bool) -> int:
        deadline, peak = time.monotonic() + self.timeout, 0
        while True:
            remaining = deadline - time.monotonic()
            try:
                exit_code = process.wait(max(0.0, min(remaining, MEMORY_POLL_SECONDS) if measure_memory else remaining))
            except subprocess.TimeoutExpired:
                if time.monotonic() >= deadline:
                    raise LaunchFailed(f"not finished after {self.timeout:g} s") from None
                peak = max(peak, sum(map(pss_bytes, process_tree(process.pid))))
                continue
            if exit_code:
                raise LaunchFailed(f"exit code {exit_code}")
            return peak

    def explain(self, module: str, log: Path) -> str:
        """The first error in a launch's output, and the file that keeps the output."""
        text = log.read_text(encoding="utf-8", errors="replace")
        kept = self.logs / f"{module.removeprefix('benchmarks.').replace('.', '-')}.log"
        kept.write_text(text, encoding="utf-8")
        return f"{first_error(text)} (output: {kept})"


def first_error(output: str) -> str:
    """': ' and the first error in the output, or how the first rank ended; empty if the output contains neither."""
    errors = filter(None, map(_ERROR.fullmatch, output.splitlines()))
    if error := next(errors, None):
        return f": {error[1]}"
    if death := _DEATH.search(output):
        code, rank = int(death[1]), death[2]
        ending = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with code {code}"
        return f": rank {rank} {ending}"
    return ""


def exit_when_signalled() -> None:
    """Turns SIGTERM into an exception, so that no launch is left running, and suppresses the traceback of Ctrl-C.

    After Ctrl-C the process is still terminated by the signal, so that a shell script of several benchmarks stops too.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.excepthook = _print_unless_interrupt


def _print_unless_interrupt(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if kind is not KeyboardInterrupt:
        sys.__excepthook__(kind, error, trace)


def kill_tree(process: subprocess.Popen) -> None:
    """Kills a process and its descendants; torchrun's ranks are not in its process group."""
    if process.poll() is None:
        with held_back():  # a second Ctrl-C must not interrupt the clean-up
            end_tree(process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(SIGNAL_SECONDS)


def end_tree(pid: int) -> None:
    """Kills a process and its descendants, and waits until all have ended: they write to files until then."""
    tree: list[int] = []
    while new := [member for member in process_tree(pid) if member not in tree]:
        _signal_and_wait(new, signal.SIGSTOP, "TtZX")  # or one could start another that is not killed
        tree += new
    _signal_and_wait(tree, signal.SIGKILL, "ZX")


def _signal_and_wait(pids: Sequence[int], number: int, states: str) -> None:
    """Sends a signal to processes, and waits until the state of each, a letter of the kernel, is one of `states`."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    deadline = time.monotonic() + SIGNAL_SECONDS
    while any(_state(pid) not in states for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.01)


def _state(pid: int) -> str:
    """The kernel's letter for the state of a process: X if it does not exist any more."""
    with contextlib.suppress(OSError):
        return stat_fields(pid)[0]
    return "X"


def stat_fields(pid: int) -> list[str]:
    """State, parent and the further fields of /proc/PID/stat, see proc(5). Raises OSError if there is no process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def process_tree(pid: int) -> list[int]:
    """Ids of a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has exited in the meantime
            member = int(path.parent.name)
            children.setdefault(int(stat_fields(member)[1]), []).append(member)
    tree = [pid]
    for member in tree:
        tree += children.get(member, [])
    return tree


def pss_bytes(pid: int) -> int:
    """Proportional set size of a process: shared pages count in equal parts. 0 for a process that has exited."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
