"""The command line, and the settings of the launches."""

import argparse
from itertools import takewhile
from pathlib import Path

import torch

from benchmarks import command
from benchmarks.scaling.model import MIB
from benchmarks.timing import cores
from regnet.config.schema import Config
from regnet.errors import UsageError

SMALLEST_MESSAGE = 4096  # bytes


def parser(description: str | None) -> argparse.ArgumentParser:
    result = command.parser("benchmarks.scaling", description)

    def number(name: str, default: int, metavar: str, text: str) -> None:
        result.add_argument(
            name, type=command.positive, default=default, metavar=metavar, help=f"{text} (default: %(default)s)"
        )

    add = result.add_argument
    add(
        "--processes",
        metavar="1,2,4,...",
        help="numbers of processes (default: powers of two up to the number of GPUs, or of cores on a CPU)",
    )
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="device (default: %(default)s)")
    add("--precision", choices=("fp32", "bf16", "fp16"), help="precision (default: that of --config)")
    number("--largest-message", 64, "MIB", "largest all-reduce for the measurement of latency and bandwidth")
    number("--up-to", 1024, "N", "processes of the largest predicted cluster")

    def link(prefix: str, default: str, which: str) -> None:
        for name, unit, described in (("latency", "US", "microseconds"), ("bandwidth", "GB/S", "1e9 bytes/s")):
            text = f"{name} {which} in {described} (default: {default})"
            add(f"--{prefix}{name}", type=float, metavar=unit, help=text)

    link("", "as measured", "of the cluster's links")
    add("--per-node", type=command.positive, metavar="N", help="processes of a node (default: all; no network)")
    link("network-", "as inside a node", "between nodes, of all network adapters of a node together")
    number("--timeout", 3600, "S", "time limit of a launch in seconds")
    add("--figure", type=Path, metavar="FILE.png", help="draw measured and predicted efficiency")
    return result


def complete(args: argparse.Namespace) -> None:
    """Fills in defaults that depend on the machine, rejects impossible options, and parses `processes` into a list.

    Raises:
        UsageError: an impossible option; the message names it.
    """
    args.device = command.resolve_device(args.device)
    available = torch.cuda.device_count() if args.device == "cuda" else cores()
    args.processes = numbers(args.processes) if args.processes else powers(available)
    largest = args.processes[-1]
    if largest > available:
        raise UsageError(
            f"--processes {largest}: this machine has {available} {'GPUs' if args.device == 'cuda' else 'cores'}"
        )
    if any(args.batch_size % count for count in args.processes) or args.batch_size < 4 * largest:
        raise UsageError(
            f"--batch-size {args.batch_size}: must be a multiple of every --processes, and at least {4 * largest}"
        )
    for name in ("latency", "bandwidth", "network_latency", "network_bandwidth", "seconds"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')} {value}: must be a positive number")
    if args.per_node is None and (args.network_latency or args.network_bandwidth):
        raise UsageError("--network-latency and --network-bandwidth need --per-node")
    command.check_figure_path(args)


def powers(limit: int) -> list[int]:
    """The powers of two up to `limit`."""
    return list(takewhile(lambda power: power <= limit, (2**exponent for exponent in range(limit.bit_length()))))


def numbers(text: str) -> list[int]:
    """Raises UsageError: not increasing integers that start with 1, which all others are compared with."""
    try:
        counts = [int(number) for number in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--processes {text}: must be comma-separated integers") from error
    if counts[0] != 1 or counts != sorted(set(counts)):
        raise UsageError(f"--processes {text}: must be increasing and start with 1, e.g. 1,2,4")
    return counts


def configure(args: argparse.Namespace) -> Config:
    """Raises UsageError: an unreadable configuration file, or conflicting options."""
    more = {
        "train.device": args.device,
        "train.grad_accum_steps": 1,
        "data.workers": 1,
        "tracking.wandb": "disabled",
        **({"train.precision": args.precision} if args.precision else {}),
    }
    return command.configure(args, more)


def images_of(args: argparse.Namespace, processes: int) -> list[int]:
    """Batch sizes per process to measure: those of strong and of weak scaling.

    A single process measures the sizes of all numbers of processes, to fit the compute time as a function of the batch
    size, and a smaller one: with only two sizes (1 and 2 processes) the fit could not be checked.
    """
    size, largest = args.batch_size, args.processes[-1]
    if processes > 1:
        return sorted({size // processes, size // largest})
    return sorted({size // count for count in (*args.processes, 2 * largest)})


def messages(args: argparse.Namespace) -> list[int]:
    """Sizes of the all-reduces in bytes: 4 KiB, 16 KiB, ... up to --largest-message."""
    largest = args.largest_message * MIB
    return [SMALLEST_MESSAGE * 4**power for power in range(32) if SMALLEST_MESSAGE * 4**power <= largest]
