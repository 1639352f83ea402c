"""Lists the runs of a directory: status, progress, best validation accuracy, age, and how to resume them.

python -m regnet.runs [runs] [--json]
"""

import argparse
import json
import contextlib
import fcntl
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from commandline.command import run_command
from commandline.exit_codes import DONE
from regnet.errors import UsageError
from regnet.runs.json_format import format_json
from regnet.runs.status import STATE, RunFormatError, RunState, Status, read_state

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True)
class RunSummary:
    """The status of a run.

    Attributes:
        state: see run_status.
        best_top1: validation accuracy of the best epoch, 0 to 1; None before the first.
        age: seconds since state.json was written.
        next: how to resume the run; empty if it is finished or running.
    """

    name: str
    state: str
    epoch: int
    epochs: int
    best_top1: float | None
    age: float
    reason: str
    next: str


def read_run(directory: Path) -> RunSummary | None:
    """The status of a run; None if the directory holds no run.

    Raises:
        RunFormatError: another version of this program wrote it.
    """
    state = read_state(directory)
    if state is None:
        return None
    status = run_status(directory, state)
    return RunSummary(
        directory.name,
        status,
        state.epoch,
        state.epochs,
        _best_top1(directory / "metrics.jsonl"),
        time.time() - (directory / STATE).stat().st_mtime,
        state.reason,
        "" if status in (Status.finished, Status.running) else _how_to_resume(directory),
    )


def run_status(directory: Path, state: RunState) -> str:
    """The status in state.json, but `died` if that is running and no process holds the run's lock."""
    return "died" if state.state is Status.running and not _is_locked(directory) else str(state.state)


def _best_top1(log: Path) -> float | None:
    """The best validation accuracy in metrics.jsonl; torn lines are skipped."""
    found = []
    for line in log.read_bytes().splitlines() if log.exists() else ():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            row = json.loads(line)
            if row["kind"] == "epoch":
                found.append(float(row["val_top1"]))
    return max(found, default=None)


def _is_locked(directory: Path) -> bool:
    """Whether a process is training the run, on this node or on one that shares its file locks."""
    try:
        with open(directory / ".lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False


def _how_to_resume(directory: Path) -> str:
    config = directory / "config.yaml"
    return f"resume with: train_ddp.py --config {config}" if config.exists() else "it did not start training"


def as_age(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "0 s"


def show(runs: list[RunSummary], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "state", "epochs", "best top-1", "age"):
        table.add_column(heading, justify="left" if heading in ("run", "state") else "right", overflow="fold")
    for run in runs:
        best = "" if run.best_top1 is None else f"{run.best_top1:.2%}"
        table.add_row(run.name, run.state, f"{run.epoch}/{run.epochs}", best, as_age(run.age))
    console.print(table)
    for run in runs:
        if run.next:
            why = f" ({run.reason})" if run.reason else ""
            console.print(f"{run.name}: {run.state}{why}; {run.next}", highlight=False, markup=False, soft_wrap=True)


def run(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m regnet.runs", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "directory", type=Path, nargs="?", default=Path("runs"), help="directory that holds the runs (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    if not args.directory.is_dir():
        raise UsageError(f"{args.directory}: no such directory")
    runs = []
    for path in args.directory.iterdir():
        try:
            run = read_run(path) if path.is_dir() else None
        except RunFormatError as error:
            print(f"skipped: {error}", file=sys.stderr)
            continue
        if run is not None:
            runs.append(run)
    runs.sort(key=lambda run: (run.age, run.name))
    if args.json:
        print(format_json([asdict(run) for run in runs]))
    elif runs:
        show(runs, Console())
    else:
        print(f"{args.directory}: no runs yet")
    return DONE


def main(argv: list[str] | None = None) -> int:
    return run_command(run, argv, output_is_result=True)
