"""Starts a module under its own torchrun and waits for it, but not for ever."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[1]
TICK = 0.5  # seconds between looks at a launch's memory
# Not --standalone: that goes by the name localhost, which not every container can resolve.
TORCHRUN = ("-m", "torch.distributed.run", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0")
_ERROR = re.compile(
    r"(?:\[rank\d+\]: ?)?((?:error|failed) \(rank \d+\): .+|(?!torch\.distributed\.elastic)[\w.]*Error\b.*)"
)


class LaunchFailed(Exception):
    """A launched module did not do what was asked of it: one line that says what."""


@dataclass(frozen=True)
class Launcher:
    """How modules are started.

    Attributes:
        processes: of each launch.
        threads: of torch, in each process.
        timeout: seconds that a launch may take.
        logs: directory that keeps the output of a launch that fails.
    """

    processes: int
    threads: int
    timeout: float
    logs: Path

    def launch(
        self, module: str, order: Mapping[str, Any], folder: Path, measure_memory: bool = False
    ) -> tuple[list[Path], int]:
        """The files into which the ranks of one launch wrote, in order, and the most memory that they took together.

        Memory is in bytes, of all processes of the launch, shared pages counted once; 0 unless it is measured:
        looking takes time, which belongs into no other figure.

        Args:
            module: of benchmarks/, by its full name; its one argument is a file that holds `order` as JSON.
            folder: an empty directory. Each rank is to write `RANK.json` there.

        Raises:
            LaunchFailed: the exit status is not 0, it ran out of time, or a rank wrote nothing.
        """
        file, log = folder / "order.json", folder / "output.log"
        file.write_text(json.dumps(order), encoding="utf-8")
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
            end(process)
        paths = [folder / f"{rank}.json" for rank in range(self.processes)]
        silent = [path.stem for path in paths if not path.exists()]
        if silent:
            raise LaunchFailed(f"rank {silent[0]} told nothing{self.explain(module, log)}")
        return paths, peak

    @property
    def torchrun(self) -> list[str]:
        """What stands before a module or a script, and its arguments."""
        return [sys.executable, *TORCHRUN, "--local-addr=127.0.0.1", f"--nproc-per-node={self.processes}"]

    def environment(self) -> dict[str, str]:
        """The caller's, without what would make a launch believe that it is a job of its own on a cluster."""
        foreign = ("SLURM_", "WANDB_", "REGNET_", "TORCHELASTIC_", "MASTER_")
        ranks = {"RANK", "LOCAL_RANK", "WORLD_SIZE"}
        kept = {name: value for name, value in os.environ.items() if not (name.startswith(foreign) or name in ranks)}
        return {**kept, "OMP_NUM_THREADS": str(self.threads), "PYTHONUNBUFFERED": "1"}

    def wait(self, process: subprocess.Popen, measure_memory: bool) -> int:
        deadline, peak = time.monotonic() + self.timeout, 0
        while True:
            left = deadline - time.monotonic()
            try:
                status = process.wait(max(0.0, min(left, TICK) if measure_memory else left))
            except subprocess.TimeoutExpired:
                if time.monotonic() >= deadline:
                    raise LaunchFailed(f"not done after {self.timeout:g} s") from None
                peak = max(peak, sum(map(proportional_bytes, family(process.pid))))
                continue
            if status:
                raise LaunchFailed(f"exit status {status}")
            return peak

    def explain(self, module: str, log: Path) -> str:
        """The first error in a launch's output, and where that is kept."""
        text = log.read_text(encoding="utf-8", errors="replace")
        kept = self.logs / f"{module.removeprefix('benchmarks.').replace('.', '-')}.log"
        kept.write_text(text, encoding="utf-8")
        return f"{first_error(text)} (its output: {kept})"


def first_error(output: str) -> str:
    """Behind a colon, the first error in what a launch told; empty if there is none."""
    errors = filter(None, map(_ERROR.fullmatch, output.splitlines()))
    return next((f": {error[1]}" for error in errors), "")


def exit_when_signalled() -> None:
    """Makes SIGTERM an exception, as Ctrl-C is, after which no launch is left behind; and of Ctrl-C no traceback.

    The process still ends by the signal: a script of several benchmarks ends with it, as shells have it.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    sys.excepthook = _tell_all_but_interrupts


def _tell_all_but_interrupts(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if kind is not KeyboardInterrupt:
        sys.__excepthook__(kind, error, trace)


def end(process: subprocess.Popen) -> None:
    """Leaves nothing of a launch behind. torchrun's ranks are no part of its process group."""
    if process.poll() is None:
        held = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))  # impatience leaves nothing
        for pid in family(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            parent = int(path.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    found = [pid]
    for member in found:
        found += children.get(member, [])
    return found


def proportional_bytes(pid: int) -> int:
    """Memory of a process, with its part of what it shares with others; 0 for one that has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
