"""A whole run of the trainer, in as many attempts as it takes."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.epochs import EpochRows
from benchmarks.launch import Launcher, LaunchFailed, end, first_error
from regnet.runs.status import Status, read_state

TICK = 0.1  # seconds between looks at a run that is to reach a target


class Attempt(NamedTuple):
    """How an attempt ended.

    Attributes:
        status: of the exit.
        reached: seconds from the launch to the target; None if there is none, or it was not met.
        error: behind a colon, the first that it told; empty if none.
    """

    status: int
    reached: float | None
    error: str


def train(run: Path, command: Sequence[str], launcher: Launcher, target: float | None) -> float | None:
    """Starts a run until it is done, also one that was; seconds to the target, if it was met without interruption.

    Raises:
        LaunchFailed: an attempt got no further, as one with other options than before, or ran out of time.
    """
    while True:
        before = read_state(run)
        ended = attempt(run, command, launcher, None if before else target)
        after = read_state(run)
        if ended.status == 0 and after and after.state is Status.finished:
            return ended.reached
        if after is None or (before and after.step == before.step):
            told = f"exit status {ended.status}{ended.error} (its output: {log_of(run)})"
            raise LaunchFailed(f"{run.name}: got no further, {told}")


def attempt(run: Path, command: Sequence[str], launcher: Launcher, target: float | None) -> Attempt:
    """Starts a run once and waits for its end.

    Raises:
        LaunchFailed: it ran out of time.
    """
    reached, rows = None, EpochRows(run)
    wandb = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    with open(log_of(run), "ab") as output:
        begun = output.tell()  # what earlier attempts told is no news
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
        while (status := process.poll()) is None:
            seconds = time.monotonic() - launched
            if seconds > launcher.timeout:
                raise LaunchFailed(f"{run.name}: not done after {launcher.timeout:g} s (its output: {log_of(run)})")
            if target and reached is None and any(row["val_top1"] >= target for row in rows.new()):
                reached = seconds
            time.sleep(TICK)
    finally:
        leave(process)
    return Attempt(status, reached, first_error(log_of(run).read_bytes()[begun:].decode(errors="replace")))


def log_of(run: Path) -> Path:
    return run.with_name(f"{run.name}.log")


def leave(process: subprocess.Popen) -> None:
    """Lets a run that this command leaves save itself first."""
    if process.poll() is None:
        try:
            process.terminate()
            process.wait(60)
        except subprocess.TimeoutExpired:
            pass
        finally:
            end(process)
