"""Starts the project's commands as processes, waits for them, and sends them signals."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fork_server import ForkedCommand, ForkedProcesses
from limits import LIMIT

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "tiny.yaml"
FAULT_INJECTION = "tests/helpers/fault_injection.py"
Command = list[str] | ForkedCommand
Process = subprocess.Popen[str] | ForkedProcesses
PYTHON = (sys.executable,)
TORCHRUN = (str(Path(sys.executable).with_name("torchrun")), "--standalone")


def environment(**extra: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB_", "SLURM_"))}
    # One thread per process: on few cores, the threads of several processes would only compete.
    return {**inherited, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **extra}


def trainer(
    run_dir: Path,
    shards: Path,
    *flags: str,
    processes: int = 0,
    launcher: tuple[str, ...] = (),
    script: tuple[str, ...] = ("train_ddp.py",),
) -> Command:
    """The command that trains run `tiny` in run_dir. Without a launcher (PYTHON, TORCHRUN), its ranks are forked."""
    program = [*script, "--config", str(TINY), "--runs_dir", str(run_dir), "--data.shards", str(shards), *flags]
    if not launcher:
        return ForkedCommand(program, processes)
    return [*launcher, *([f"--nproc_per_node={processes}"] if processes else []), *program]


def faulty_trainer(run_dir: Path, shards: Path, fault: str, *flags: str, **options: Any) -> Command:
    """`trainer` with an injected fault: see tests/helpers/fault_injection.py."""
    return trainer(run_dir, shards, *flags, script=(FAULT_INJECTION, fault), **options)


def with_fault(command: ForkedCommand, fault: str) -> ForkedCommand:
    """A command of `trainer` or `faulty_trainer` with one more fault."""
    script, *rest = command.arguments
    if script == FAULT_INJECTION:
        fault, *rest = f"{rest[0]},{fault}", *rest[1:]
    return ForkedCommand([FAULT_INJECTION, fault, *rest], command.ranks)


def run(command: Command, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end and kills any process that it leaves behind."""
    process = start(command, **env)
    try:
        out, err = process.communicate(timeout=LIMIT)
    finally:
        kill_group(process)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def start(command: Command, **env: str) -> Process:
    if isinstance(command, ForkedCommand):
        return ForkedProcesses(command, environment(**env))
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(**env),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def ranks_of(process: Process) -> list[int]:
    """Process ids of the ranks, in rank order."""
    if isinstance(process, ForkedProcesses):
        return process.pids
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in children.read_text().split()]


def _state_and_group(pid: int | str) -> tuple[str, int]:
    """The kernel's letter for a process's state, and its process group; Z for a process that has exited."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        state, _, group = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:3]
        return state, int(group)
    return "Z", 0


def command_line(pid: int) -> str:
    """The words of a process's command line, each followed by a zero byte; empty for a process that has exited."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def has_exited(pid: int) -> bool:
    """Whether a process has exited, reaped or not."""
    return _state_and_group(pid)[0] == "Z"


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP has stopped a process."""
    return _state_and_group(pid)[0] == "T"


def kill_group(process: Process) -> None:
    """Kills processes with their children, and returns when all have exited: until then they hold locks and files."""
    if isinstance(process, ForkedProcesses):
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=LIMIT)
    for group in process.pids if isinstance(process, ForkedProcesses) else [process.pid]:
        wait_until(lambda group=group: not _has_live_member(group), f"process group {group} has exited")


def _has_live_member(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):  # PermissionError: the id is another process's by now
        return False
    # Zombies remain members until they are reaped, and not every container has a process that reaps orphans.
    members = (_state_and_group(path.name) for path in Path("/proc").glob("[0-9]*"))
    return any(found == group and state not in "ZX" for state, found in members)


def wait_until(condition: Callable[[], object], what: str = "the condition holds", interval: float = 0.02) -> None:
    deadline = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < deadline, f"waited {LIMIT:.0f} s until {what}"
        time.sleep(interval)


def has_handler(process: Process, number: int) -> bool:
    """Whether the process has installed a handler for a signal, as commands do before their slow imports."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def signal_pending(pid: int, number: int) -> bool:
    """Whether a signal sent to a process has not been delivered yet."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(("SigPnd:", "ShdPnd:")) and int(line.split()[1], 16) >> (number - 1) & 1:
            return True
    return False
