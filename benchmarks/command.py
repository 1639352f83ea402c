"""Common parts of the benchmarks' command lines: options, exit codes, tables."""

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.launch import LaunchFailed
from data.errors import DataError, LoaderError
from regnet.config.parser import parse_config
from regnet.config.schema import Config
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.world import World, join_world
from regnet.errors import UsageError
from regnet.runs.atomic_write import replace_file
from regnet.runs.json_format import format_json

if TYPE_CHECKING:  # imports matplotlib, which only some benchmarks need
    from regnet.report.figure import Figure

Report = dict[str, Any]  # the JSON file's content; "results" maps each variant and ratio to its Spread, as a dict


def positive(text: str) -> int:
    if not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def parser(
    module: str, description: str | None, seconds: str = "duration of each measurement"
) -> argparse.ArgumentParser:
    """A parser with the options that all benchmarks of the trainer share; `seconds` describes --seconds."""
    result = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = result.add_argument
    add(
        "--shards",
        default="shards/cifar100",
        metavar="DIR",
        help="shards written by python -m data.convert (default: %(default)s)",
    )
    add(
        "--config",
        type=Path,
        default=Path("configs/baseline.yaml"),
        metavar="FILE",
        help="model, optimiser, precision and device (default: %(default)s)",
    )
    add(
        "--resolution",
        type=positive,
        default=32,
        metavar="N",
        help="side of the input images in pixels (default: %(default)s)",
    )
    add("--batch-size", type=positive, default=500, metavar="N", help="images per step (default: %(default)s)")
    add("--rounds", type=positive, default=3, metavar="N", help="measurements of each variant (default: %(default)s)")
    add(
        "--seconds",
        type=float,
        default=5.0,
        metavar="S",
        help=f"approximate {seconds} in seconds (default: %(default)s)",
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="override a configuration option, e.g. --set train.precision=bf16; repeatable",
    )
    add("--json", type=Path, metavar="FILE", help="also write all results, including each round, to this file")
    return result


def configure(args: argparse.Namespace, more: Mapping[str, Any]) -> Config:
    """The configuration file, overridden by the shared options and by `more`.

    Raises:
        UsageError: conflicting options, a --set option that the benchmark sets itself, or an unwritable report path.
    """
    check_output_paths(args, "json")
    options = {
        "config": args.config,
        "data.shards": args.shards,
        "data.resolution": args.resolution,
        "data.progressive_resizing_epochs": 0,  # so that every step costs the same
        "train.batch_size": args.batch_size,
        **more,
    }
    for setting in args.set:
        if (name := setting.partition("=")[0]) in options:
            raise UsageError(f"--set {name}: this benchmark sets {name} itself")
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return parse_config([*flags, *(f"--{setting}" for setting in args.set)])


def check_output_paths(args: argparse.Namespace, *names: str) -> None:
    """Raises UsageError for an output file whose directory does not exist."""
    for name in names:
        path = getattr(args, name)
        if path and not path.parent.is_dir():
            raise UsageError(f"--{name} {path}: directory {path.parent} does not exist")


def check_figure_path(args: argparse.Namespace) -> None:
    """Raises UsageError: --figure does not name a PNG file in an existing directory."""
    check_output_paths(args, "figure")
    if args.figure and args.figure.suffix != ".png":
        raise UsageError(f"--figure {args.figure}: the file name must end in .png")


def resolve_device(option: str) -> str:
    """Resolves --device auto, cpu or cuda to cpu or cuda. Raises UsageError: cuda without a GPU."""
    gpus = torch.cuda.device_count()
    if option == "cuda" and not gpus:
        raise UsageError("--device cuda: no GPU found")
    return ("cuda" if gpus else "cpu") if option == "auto" else option


def config_description(args: argparse.Namespace) -> str:
    """The configuration file and its overrides, for the report."""
    return " ".join([str(args.config), *args.set])


def run_in_process_group(
    args: argparse.Namespace,
    configure: Callable[[argparse.Namespace], Config],
    measure: Callable[[argparse.Namespace, Config, World], Report],
    show: Callable[[Report], None],
) -> int:
    """Measures in the current process group; rank zero reports.

    Returns:
        Exit code: 0 for success, 1 for a failure of the loader, 2 for invalid input.
    """

    def measure_on_rank() -> Report | None:
        config = configure(args)
        with join_world(config.train.device, config.distributed, PreemptionNotice()) as world:
            report = measure(args, config, world)
            return report if world.is_main else None

    return run_benchmark(args, measure_on_rank, show, LoaderError)


def run_benchmark(
    args: argparse.Namespace,
    measure: Callable[[], Report | None],
    show: Callable[[Report], None],
    *failures: type[Exception],
) -> int:
    """Measures, shows the report and writes --json. A rank without a report (None) prints nothing.

    Returns:
        Exit code: 0 success, 1 one of the `failures` was raised, 2 invalid usage or input.
    """
    try:
        report = measure()
    except (UsageError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except failures as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    if report is None:
        return 0
    show(report)
    if args.json:
        replace_file(args.json, (format_json(report) + "\n").encode())
    return 0


def run_benchmark_with_figure(
    args: argparse.Namespace,
    measure: Callable[[argparse.Namespace], Report],
    show: Callable[[Report], None],
    figure: Callable[[Report], "Figure"],
) -> int:
    """`run_benchmark` for measurements in launched processes; also draws --figure."""

    def show_and_draw(report: Report) -> None:
        show(report)
        if args.figure:
            replace_file(args.figure, figure(report).png())

    return run_benchmark(args, lambda: measure(args), show_and_draw, LaunchFailed, LoaderError)


def print_environment(report: Report) -> None:
    print(
        f"{report['date']}  {report['device']}, {report['cores']} cores, load {report['load']:.1f}, "
        f"torch {report['torch']}"
    )


def print_table(labels: Mapping[str, str], results: Mapping[str, Any], sections: tuple[str, ...] = ()) -> None:
    """Prints rates and ratios with their `labels`, and a line after each of the `sections`."""
    table = Table()
    table.add_column("images/s")
    for heading in ("median", "min..max"):
        table.add_column(heading, justify="right")
    for name, label in labels.items():
        spread = results[name]
        digits = ".3f" if name.endswith("ratio") else ",.0f" if spread["lowest"] >= 100 else ".2f"
        low, high = format(spread["lowest"], digits), format(spread["highest"], digits)
        table.add_row(label, format(spread["median"], digits), f"{low}..{high}", end_section=name in sections)
    Console().print(table)
