"""The runs of a directory: how each stands, how good it is, how old, and how it goes on.

python -m regnet.runs [runs] [--json]
"""

import argparse
import contextlib
import fcntl
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from regnet.exit_codes import DONE, USAGE
from regnet.runs.status import STATE, RunState, Status, read_state

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True)
class Run:
    """One run as it stands.

    Attributes:
        state: see run_status.
        best: test accuracy of the best epoch, 0 to 1; None before the first.
        age: seconds since state.json was written.
        next: what to do, or empty.
    """

    name: str
    state: str
    epoch: int
    epochs: int
    best: float | None
    age: float
    reason: str
    next: str


def look(directory: Path) -> Run | None:
    """How a run stands; None where a directory holds none, or one that has not begun."""
    state = read_state(directory)
    if state is None:
        return None
    standing = run_status(directory, state)
    return Run(
        directory.name,
        standing,
        state.epoch,
        state.epochs,
        _best(directory / "metrics.jsonl"),
        time.time() - (directory / STATE).stat().st_mtime,
        state.reason,
        "" if standing in (Status.finished, Status.running) else _next(directory),
    )


def run_status(directory: Path, state: RunState) -> str:
    """As state.json says, but `died` where that says running and no process holds the run's lock."""
    return "died" if state.state is Status.running and not _is_held(directory) else str(state.state)


def _best(log: Path) -> float | None:
    """The best test accuracy on record; a line may be torn, or being written."""
    found = []
    for line in log.read_bytes().splitlines() if log.exists() else ():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            row = json.loads(line)
            if row["kind"] == "epoch":
                found.append(float(row["val_top1"]))
    return max(found, default=None)


def _is_held(directory: Path) -> bool:
    """Whether a process of this machine, or of one with the same file locks, is training the run."""
    try:
        with open(directory / ".lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _next(directory: Path) -> str:
    config = directory / "config.yaml"
    return f"continue with train_ddp.py --config {config}" if config.exists() else "it did not begin"


def as_age(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "0 s"


def show(runs: list[Run], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "state", "epochs", "best", "age"):
        table.add_column(heading, justify="left" if heading in ("run", "state") else "right", overflow="fold")
    for run in runs:
        best = "" if run.best is None else f"{run.best:.2%}"
        table.add_row(run.name, run.state, f"{run.epoch}/{run.epochs}", best, as_age(run.age))
    console.print(table)
    for run in runs:
        if run.next:
            why = f" ({run.reason})" if run.reason else ""
            console.print(f"{run.name}: {run.state}{why}; {run.next}", highlight=False, markup=False, soft_wrap=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m regnet.runs", description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path, nargs="?", default=Path("runs"), help="runs_dir (%(default)s)")
    parser.add_argument("--json", action="store_true", help="for machines")
    args = parser.parse_args(argv)
    if not args.directory.is_dir():
        print(f"error: {args.directory}: no such directory", file=sys.stderr)
        return USAGE
    found = [run for path in sorted(args.directory.iterdir()) if path.is_dir() and (run := look(path)) is not None]
    found.sort(key=lambda run: run.age)
    if args.json:
        print(json.dumps([asdict(run) for run in found], indent=1))
    elif found:
        show(found, Console())
    else:
        print(f"{args.directory}: no runs yet")
    return DONE
