"""What the benchmarks' command lines share: options, exit status, tables."""

import argparse
import json
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

if TYPE_CHECKING:  # which draws, and not every benchmark does
    from regnet.report.figure import Picture

Report = dict[str, Any]  # as it goes into the JSON file; "results" holds a Spread of each side and ratio, as a mapping


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def parser(
    module: str, description: str | None, seconds: str = "for each side in each round"
) -> argparse.ArgumentParser:
    """With the options that all benchmarks of the trainer have; `seconds` tells what --seconds is for."""
    made = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--shards", default="shards/cifar100", metavar="DIR", help="what python -m data.convert wrote (%(default)s)")
    add(
        "--config",
        type=Path,
        default=Path("configs/baseline.yaml"),
        metavar="FILE",
        help="network, optimiser, precision and device (%(default)s)",
    )
    add(
        "--resolution",
        type=positive,
        default=32,
        metavar="N",
        help="side of the images that the network sees, pixels (%(default)s)",
    )
    add("--batch-size", type=positive, default=500, metavar="N", help="images (%(default)s)")
    add("--rounds", type=positive, default=3, metavar="N", help="how often each side is measured (%(default)s)")
    add("--seconds", type=float, default=5.0, metavar="S", help=f"{seconds}, about (%(default)s)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="of the configuration, as --set train.precision=bf16; can be repeated",
    )
    add("--json", type=Path, metavar="FILE", help="write all figures, round by round, to this file too")
    return made


def configure(args: argparse.Namespace, more: Mapping[str, Any]) -> Config:
    """The configuration file as the shared options, and `more`, change it.

    Raises:
        UsageError: an impossible combination, an option that is not to be set, or a report that could not be written.
    """
    check_places(args, "json")
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
            raise UsageError(f"--set {name}: this benchmark says itself what that is")
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return parse_config([*flags, *(f"--{setting}" for setting in args.set)])


def check_places(args: argparse.Namespace, *names: str) -> None:
    """Raises UsageError for an option that names a file to be written, in a directory that does not exist."""
    for name in names:
        path = getattr(args, name)
        if path and not path.parent.is_dir():
            raise UsageError(f"--{name} {path}: no such directory")


def check_picture(args: argparse.Namespace) -> None:
    """Raises UsageError: --picture is in no directory, or no PNG file."""
    check_places(args, "picture")
    if args.picture and args.picture.suffix != ".png":
        raise UsageError(f"--picture {args.picture}: its name must end in .png")


def device_type(asked: str) -> str:
    """What --device auto, cpu or cuda means here: cpu or cuda. Raises UsageError: there is no GPU."""
    gpus = torch.cuda.device_count()
    if asked == "cuda" and not gpus:
        raise UsageError("--device cuda: there is no GPU")
    return ("cuda" if gpus else "cpu") if asked == "auto" else asked


def described(args: argparse.Namespace) -> str:
    """The configuration, as a report names it."""
    return " ".join([str(args.config), *args.set])


def run(
    args: argparse.Namespace,
    configure: Callable[[argparse.Namespace], Config],
    measure: Callable[[argparse.Namespace, Config, World], Report],
    show: Callable[[Report], None],
) -> int:
    """Exit status 0 done, 1 the loader broke, 2 wrong usage or input. Of several processes rank zero tells."""

    def joined() -> Report | None:
        config = configure(args)
        with join_world(config.train.device, config.distributed, PreemptionNotice()) as world:
            report = measure(args, config, world)
            return report if world.is_main else None

    return tell(args, joined, show, LoaderError)


def tell(
    args: argparse.Namespace,
    measure: Callable[[], Report | None],
    show: Callable[[Report], None],
    *broken: type[Exception],
) -> int:
    """Shows what was measured, if that is this process's to do, and keeps it as --json says.

    Returns:
        exit status 0 done, 1 for one of the `broken`, 2 wrong usage or input.
    """
    try:
        report = measure()
    except (UsageError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except broken as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    if report is None:
        return 0
    show(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return 0


def tell_and_draw(
    args: argparse.Namespace,
    measure: Callable[[argparse.Namespace], Report],
    show: Callable[[Report], None],
    picture: Callable[[Report], "Picture"],
) -> int:
    """`tell` of what was measured in launches, with the picture that --picture asks for."""

    def show_and_draw(report: Report) -> None:
        show(report)
        if args.picture:
            args.picture.write_bytes(picture(report).png())

    return tell(args, lambda: measure(args), show_and_draw, LaunchFailed, LoaderError)


def print_place(report: Report) -> None:
    print(
        f"{report['date']}  {report['device']}, {report['cores']} cores, load {report['load']:.1f}, "
        f"torch {report['torch']}"
    )


def print_table(labels: Mapping[str, str], results: Mapping[str, Any], sections: tuple[str, ...] = ()) -> None:
    """Rates and ratios, named by `labels`; a line follows each of the `sections`."""
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
