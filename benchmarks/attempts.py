"""Trains a complete run, restarting it until it has finished."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.epochs import EpochRows
from benchmarks.launch import Launcher, LaunchFailed, first_error, kill_tree
from regnet.runs.status import Status, read_state

POLL_SECONDS = 0.1  # between checks of a running process


class Attempt(NamedTuple):
    """How an attempt ended.

    Attributes:
        exit_code: exit code of the process.
        reached: seconds from the launch until the target accuracy; None without a target or if it was not reached.
        error: ": " and the first error in the output; empty if there is none.
    """

    exit_code: int
    reached: float | None
    error: str


def train(run: Path, command: Sequence[str], launcher: Launcher, target: float | None) -> float | None:
    """Restarts a run until it has finished; returns the seconds to the target if it was reached without interruption.

    Raises:
        LaunchFailed: an attempt made no progress (for example after a change of options), or timed out.
    """
    while True:
        before = read_state(run)
        result = attempt(run, command, launcher, None if before else target)
        after = read_state(run)
        if result.exit_code == 0 and after and after.state is Status.finished:
            return result.reached
        if after is None or (before and after.step == before.step):
            reason = f"exit code {result.exit_code}{result.error} (output: {log_of(run)})"
            raise LaunchFailed(f"{run.name}: no progress, {reason}")


def attempt(run: Path, command: Sequence[str], launcher: Launcher, target: float | None) -> Attempt:
    """Starts a run once and waits until the process exits.

    Raises:
        LaunchFailed: the attempt timed out.
    """
    reached, rows = None, EpochRows(run)
    wandb = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    with open(log_of(run), "ab") as output:
        offset = output.tell()  # skips the output of earlier attempts
        launched = time.monotonic()
        process = subprocess.Popen(
            command,
            env=launcher.environment() | wandb,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        while True:
            exit_code, seconds = process.poll(), time.monotonic() - launched
            # Also once the process has ended: it may have written its last rows since the check before.
            if target and reached is None and any(row["val_top1"] >= target for row in rows.new()):
                reached = seconds
            if exit_code is not None:
                break
            if seconds > launcher.timeout:
                raise LaunchFailed(f"{run.name}: not finished after {launcher.timeout:g} s (output: {log_of(run)})")
            time.sleep(POLL_SECONDS)
    finally:
        stop(process)
    return Attempt(exit_code, reached, first_error(log_of(run).read_bytes()[offset:].decode(errors="replace")))


def log_of(run: Path) -> Path:
    return run.with_name(f"{run.name}.log")


def stop(process: subprocess.Popen) -> None:
    """Interrupts a running process, which saves a checkpoint, and kills it if that takes more than a minute."""
    if process.poll() is None:
        try:
            process.terminate()
            process.wait(60)
        except subprocess.TimeoutExpired:
            pass
        finally:
            kill_tree(process)
