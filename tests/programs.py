"""Runs the project's commands with timeouts, and reads what runs have written."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fork_server import ForkedCommand, ForkedProcesses

from regnet.checkpoint.file import load
from regnet.checkpoint.manager import CheckpointManager

ROOT = Path(__file__).parents[1]
TINY = ROOT / "tests" / "tiny.yaml"
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
    """`trainer` with an injected fault: see tests/fault_injection.py."""
    return trainer(run_dir, shards, *flags, script=("tests/fault_injection.py", fault), **options)


def run(command: Command, timeout: float = 120, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end and kills any process that it leaves behind."""
    process = start(command, **env)
    try:
        out, err = process.communicate(timeout=timeout)
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


def _process_state(pid: int) -> str:
    """The kernel's letter for a process's state; Z for a process that has exited, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def has_exited(pid: int) -> bool:
    """Whether a process has exited, reaped or not."""
    return _process_state(pid) == "Z"


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP has stopped a process."""
    return _process_state(pid) == "T"


def kill_group(process: Process) -> None:
    if isinstance(process, ForkedProcesses):
        process.kill()
    else:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait(timeout=10)


def wait_until(condition: Callable[[], object], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"the condition did not hold within {timeout:g} s"
        time.sleep(0.02)


def handles(process: Process, number: int) -> bool:
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


def rows(run_dir: Path, kind: str) -> list[dict]:
    """Rows of one kind in a run's metrics.jsonl, without timings. An incomplete last line is ignored."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    parsed = [json.loads(line) for line in lines if line.endswith("\n")]
    timings = ("seconds", "images_per_second")
    return [{key: row[key] for key in row if key not in timings} for row in parsed if row["kind"] == kind]


def result(run_dir: Path) -> dict:
    return json.loads((run_dir / "result.json").read_text())


def state(run_dir: Path) -> dict:
    return json.loads((run_dir / "state.json").read_text())


def outcome(run_dir: Path) -> tuple[Any, ...]:
    """Everything that must be bit-identical in equivalent runs: reported metrics and the newest checkpoint."""
    final = result(run_dir)
    reported = rows(run_dir, "step"), rows(run_dir, "epoch"), final["weights_sha256"], final["class_accuracy"]
    newest = CheckpointManager(run_dir / "checkpoints", 1).paths()[-1]
    return *reported, newest.name, comparable(load(newest))


def comparable(value: Any) -> Any:
    """A checkpoint's content with tensors as lists, so that == compares them; without timings and the configuration."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.tolist()
    if isinstance(value, dict):
        return {key: comparable(entry) for key, entry in value.items() if key not in ("seconds", "config")}
    return [comparable(entry) for entry in value] if isinstance(value, list | tuple) else value


@contextlib.contextmanager
def mounted_tmpfs(path: Path, *options: str) -> Iterator[Path]:
    """A separate in-memory file system at `path`."""
    path.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, timeout=20).returncode != 0:
        pytest.skip("mounting a tmpfs needs root and the permission to mount")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True, timeout=20)
