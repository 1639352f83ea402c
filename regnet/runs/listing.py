"""Lists the runs of a directory: status, progress, best validation accuracy, age, and how to resume them.

python -m regnet.runs [runs] [--json]
"""

import contextlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from commandline.arguments import ArgumentParser
from commandline.command import run_command
from commandline.exit_codes import DONE
from commandline.paths import path_argument
from regnet.errors import UsageError
from regnet.runs.compatibility import read_config
from regnet.runs.files import CONFIG, has_checkpoint, has_started, run_path
from regnet.runs.json_format import format_json
from regnet.runs.launch_command import replace_pipes, resume_command
from regnet.runs.lock import is_locked
from regnet.runs.status import STATE, RunFormatError, RunState, Status, parse_state

_UNLIMITED = 100_000  # columns
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True)
class RunSummary:
    """The status of a run.

    Attributes:
        state: see read_status.
        best_top1: validation accuracy of the best epoch, 0 to 1; None before the first.
        age: seconds since state.json was written.
        next: how to go on with the run; empty if it is finished or running.
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
        OSError, ValueError: it cannot be read.
        RunFormatError: another version of this program wrote it.
    """
    try:
        state, status = read_status(directory)
    except FileNotFoundError:
        return None
    return RunSummary(
        directory.name,
        status,
        state.epoch,
        state.epochs,
        _best_top1(directory / "metrics.jsonl"),
        time.time() - (directory / STATE).stat().st_mtime,
        state.reason,
        "" if status in (Status.finished, Status.running) else _next_step(directory, state),
    )


def read_runs(directory: Path) -> list[RunSummary]:
    """The runs in a directory, or the one that it is itself. A line on standard error names what cannot be read."""
    runs = []
    for path in [directory] if (directory / STATE).exists() else directory.iterdir():
        try:
            run = read_run(path) if path.is_dir() else None
        except (RunFormatError, ValueError) as error:
            print(f"skipped: {error}", file=sys.stderr)
        except OSError as error:
            print(f"skipped: {error.filename}: {error.strerror}", file=sys.stderr)
        else:
            runs += [run] if run is not None else []
    return runs


def read_status(directory: Path) -> tuple[RunState, str]:
    """The state of a run, and its status: that state, but `died` if it is running and no process holds the run's lock.

    Raises as parse_state does.
    """
    state = parse_state(directory / STATE)
    while state.state is Status.running and not is_locked(directory):
        again = parse_state(directory / STATE)
        if again == state:
            return state, "died"
        state = again  # the run has ended since it was read
    return state, str(state.state)


def _best_top1(log: Path) -> float | None:
    """The best validation accuracy in metrics.jsonl; torn lines are skipped."""
    found = []
    for line in log.read_bytes().splitlines() if log.exists() else ():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            row = json.loads(line)
            if row["kind"] == "epoch":
                found.append(float(row["val_top1"]))
    return max(found, default=None)


def _next_step(directory: Path, state: RunState) -> str:
    """What to do with a run that is neither finished nor running."""
    if not has_started(directory):
        return "it did not start training"
    if state.diverged:
        other = "start over with other options (a lower optim.lr, optim.clip_norm)"
        return f"{other}{' under another --name, or with --overwrite' if has_checkpoint(directory) else ''}"
    try:
        return f"{'resume' if has_checkpoint(directory) else 'start again'} with: {_resume_command(directory, state)}"
    except UsageError as error:  # the configuration is damaged
        return str(error)


def _resume_command(directory: Path, state: RunState) -> str:
    configuration = directory / CONFIG
    if not state.command:  # started from Python
        from_python = ("train_ddp.py", "--config", str(configuration))
        return resume_command(from_python, "", "--train.max_minutes", "0", *_place(directory, ""))
    command = replace_pipes(state.command, configuration)
    return resume_command(command, state.directory, *_place(directory, state.directory))


def _place(directory: Path, started_in: str) -> tuple[str, ...]:
    """The options that name a run whose directory was copied or renamed; none for others."""
    place = started_in / run_path(read_config(directory))
    if place.exists() and place.samefile(directory):
        return ()
    path = directory.absolute()
    return "--runs_dir", str(path.parent), "--name", path.name


def as_age(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "0 s"


def table_console() -> Console:
    """A console whose tables fit the terminal. Elsewhere a row is one line, however long, for grep and awk."""
    console = Console()
    return console if console.is_terminal else Console(width=_UNLIMITED)


def show(runs: list[RunSummary], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "state", "epochs", "best top-1", "age"):
        justify: JustifyMethod = "left" if heading in ("run", "state") else "right"
        table.add_column(heading, justify=justify, no_wrap=heading != "run", overflow="fold")
    for run in runs:
        best = "" if run.best_top1 is None else f"{run.best_top1:.2%}"
        table.add_row(Text(run.name), run.state, f"{run.epoch}/{run.epochs}", best, as_age(run.age))
    console.print(table)
    for run in runs:
        if run.next:
            why = f" ({run.reason})" if run.reason else ""
            console.print(f"{run.name}: {run.state}{why}; {run.next}", highlight=False, markup=False, soft_wrap=True)


def run(argv: list[str]) -> int:
    parser = ArgumentParser(prog="python -m regnet.runs", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "directory",
        type=path_argument,
        nargs="?",
        default=Path("runs"),
        help="directory that holds the runs, or a run (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    if not args.directory.is_dir():
        raise UsageError(f"{args.directory}: no such directory")
    runs = read_runs(args.directory)
    runs.sort(key=lambda run: (run.age, run.name))
    if args.json:
        print(format_json([asdict(run) for run in runs]))
    elif runs:
        show(runs, table_console())
    else:
        print(f"{args.directory}: no runs yet")
    return DONE


def main(argv: list[str] | None = None) -> int:
    return run_command(run, argv, output_is_result=True)
