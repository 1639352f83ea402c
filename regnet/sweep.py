"""Runs a configuration with several seeds or options, and tabulates the results.

    python -m regnet.sweep flags FILE INDEX [trainer options]    the options of one run, one per line
    python -m regnet.sweep count FILE                            the number of runs
    python -m regnet.sweep table FILE [trainer options]          results, with mean and standard deviation over seeds

FILE is a YAML list. Each entry is a mapping from dotted options to values (`{optim.lr: 0.01, seed: 1}`) or a number,
which is a seed. Runs that differ only in their seeds share a row of the table.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from commandline.arguments import ArgumentParser
from commandline.command import run_command
from commandline.exit_codes import DONE
from commandline.paths import path_argument
from regnet.config.parser import check_known, parse_config
from regnet.config.yaml_file import as_written, read_yaml
from regnet.errors import UsageError
from regnet.runs.directory import run_path
from regnet.runs.files import RESULT
from regnet.runs.listing import table_console

Overrides = dict[str, Any]


def read_sweep(path: Path) -> list[Overrides]:
    """The options that each run of a sweep sets.

    Raises:
        UsageError: the file or an entry is invalid; one line that names it.
    """
    entries = read_yaml(path)
    if isinstance(entries, dict) and "parameters" in entries:
        raise UsageError(f"{path} is a sweep for W&B, whose runs wandb agent starts: use wandb sweep {path}")
    if not isinstance(entries, list) or not entries:
        raise UsageError(f"{path}: must be a list of seeds or of mappings from options to values")
    return [_read_entry(path, number, entry) for number, entry in enumerate(entries)]


def _read_entry(path: Path, number: int, entry: Any) -> Overrides:
    if isinstance(entry, str) and entry.isdecimal():
        return {"seed": entry}
    if not isinstance(entry, dict) or not entry:
        raise UsageError(
            f"{path}: entry {number} must be a seed or a mapping from options to values, got {as_written(entry)}"
        )
    for name in entry:
        if name in ("name", "tracking.wandb_group"):
            raise UsageError(f"{path}: entry {number} must not set {name}, which the sweep itself sets")
        check_known(str(name), f"{name} in entry {number} of {path}")
    return entry


def run_flags(path: Path, index: int, arguments: Sequence[str]) -> list[str]:
    """The trainer's options for run `index`: the given ones, those of its entry, and its own name.

    Raises:
        UsageError: there is no such run, or its options are invalid.
    """
    runs = read_sweep(path)
    if not 0 <= index < len(runs):
        raise UsageError(f"{path}: there is no run {index}: its {len(runs)} runs are numbered from 0")
    group = f"{parse_config(arguments).name}-{path.stem}"
    overrides = {"name": f"{group}-{index}", "tracking.wandb_group": group, **runs[index]}
    flags = [*arguments, *(f"--{name}={_as_text(value)}" for name, value in overrides.items())]
    parse_config(flags)
    return flags


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Row:
    """Runs that differ only in their seeds.

    Attributes:
        changes: the options that they share.
        accuracies: top-1 validation accuracy of every finished run, 0 to 1.
        missing: number of unfinished runs.
    """

    changes: str
    accuracies: tuple[float, ...]
    missing: int

    @property
    def mean(self) -> float:
        return statistics.fmean(self.accuracies) if self.accuracies else math.nan

    @property
    def deviation(self) -> float:
        """Sample standard deviation; NaN for fewer than two runs."""
        return statistics.stdev(self.accuracies) if len(self.accuracies) > 1 else math.nan


def collect_results(path: Path, arguments: Sequence[str]) -> list[Row]:
    """The results of a sweep, in the order of its file."""
    found: dict[str, list[float | None]] = {}
    for index, overrides in enumerate(read_sweep(path)):
        changes = " ".join(f"{name}={_as_text(value)}" for name, value in overrides.items() if name != "seed")
        result = run_path(parse_config(run_flags(path, index, arguments))) / RESULT
        found.setdefault(changes, []).append(_top1(result))
    return [
        Row(changes, tuple(top1 for top1 in results if top1 is not None), results.count(None))
        for changes, results in found.items()
    ]


def _top1(result: Path) -> float | None:
    """The accuracy in a result.json; None if there is none, or a damaged one, which is printed."""
    try:
        return float(json.loads(result.read_text(encoding="utf-8"))["top1"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        print(f"skipped: {result} is damaged ({error})", file=sys.stderr)
        return None


def show(rows: Sequence[Row]) -> None:
    table = Table()
    table.add_column("options")
    for heading in ("runs", "mean", "std", "min..max"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        count = f"{len(row.accuracies)}" + (f" of {len(row.accuracies) + row.missing}" if row.missing else "")
        spread = f"{min(row.accuracies):.2%}..{max(row.accuracies):.2%}" if row.accuracies else ""
        table.add_row(row.changes or "(only seeds)", count, _percent(row.mean), _percent(row.deviation), spread)
    table_console().print(table)


def _percent(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2%}"


def run(argv: list[str]) -> int:
    parser = ArgumentParser(
        prog="python -m regnet.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("flags", "count", "table"), help="see above")
    parser.add_argument("file", type=path_argument, help="the sweep, a YAML list")
    args, rest = parser.parse_known_args(argv)
    if args.command == "flags":
        number, *options = rest or ["nothing"]
        if not (number.isascii() and number.isdecimal()):
            raise UsageError(f"flags requires the number of a run after {args.file}, counted from 0: got {number}")
        print("\n".join(run_flags(args.file, int(number), options)))
    elif args.command == "count":
        if rest:
            raise UsageError(f"count takes no further arguments, got {rest[0]}")
        print(len(read_sweep(args.file)))
    else:
        show(collect_results(args.file, rest))
    return DONE


def main(argv: list[str] | None = None) -> int:
    return run_command(run, argv, output_is_result=True)


if __name__ == "__main__":
    sys.exit(main())
