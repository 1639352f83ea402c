"""The command line, and what follows from it for every launch."""

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
    made = command.parser("benchmarks.scaling", description)

    def number(name: str, default: int, metavar: str, what: str) -> None:
        made.add_argument(name, type=command.positive, default=default, metavar=metavar, help=f"{what} (%(default)s)")

    add = made.add_argument
    add("--processes", metavar="1,2,4,...", help="(powers of two up to the number of GPUs, or of cores on a CPU)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(%(default)s)")
    add("--precision", choices=("fp32", "bf16", "fp16"), help="(the configuration's)")
    number("--largest-message", 64, "MIB", "of the all-reduces that tell latency and bandwidth")
    number("--up-to", 1024, "N", "processes of the cluster that is foretold")
    add("--latency", type=float, metavar="US", help="of the cluster's links, microseconds (as measured here)")
    add("--bandwidth", type=float, metavar="GB/S", help="of the cluster's links, 1e9 bytes/s (as measured here)")
    number("--timeout", 3600, "S", "seconds that a launch may take")
    add("--picture", type=Path, metavar="FILE.png", help="draw efficiency, measured and foretold")
    return made


def complete(args: argparse.Namespace) -> None:
    """Fills in what depends on the machine, and refuses what cannot be. `processes` becomes a list of numbers.

    Raises:
        UsageError: names the option.
    """
    args.device = command.device_type(args.device)
    places = torch.cuda.device_count() if args.device == "cuda" else cores()
    args.processes = numbers(args.processes) if args.processes else powers(places)
    most = args.processes[-1]
    if most > places:
        raise UsageError(f"--processes {most}: there are {places} {'GPUs' if args.device == 'cuda' else 'cores'}")
    if any(args.batch_size % count for count in args.processes) or args.batch_size < 4 * most:
        raise UsageError(f"--batch-size {args.batch_size}: not four images or more for each of {most}, equally")
    for name in ("latency", "bandwidth", "seconds"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name} {value}: not a number above 0")
    command.check_picture(args)


def powers(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`."""
    return list(takewhile(lambda power: power <= most, (2**exponent for exponent in range(most.bit_length()))))


def numbers(text: str) -> list[int]:
    """Raises UsageError: not whole numbers that rise from 1, with which all are compared."""
    try:
        found = [int(number) for number in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--processes {text}: not numbers between commas") from error
    if found[0] != 1 or found != sorted(set(found)):
        raise UsageError(f"--processes {text}: numbers that rise from 1 are needed, such as 1,2,4")
    return found


def configure(args: argparse.Namespace) -> Config:
    """Raises UsageError: a file that cannot be read, or an impossible combination."""
    more = {
        "train.device": args.device,
        "train.grad_accum_steps": 1,
        "train.cuda_graphs": "false",  # several processes record nothing, and one is to be compared with them
        "data.workers": 1,
        "tracking.wandb": "disabled",
        **({"train.precision": args.precision} if args.precision else {}),
    }
    return command.configure(args, more)


def images_of(args: argparse.Namespace, processes: int) -> list[int]:
    """Batches of each process that are measured: the strong one and the weak one.

    One process has those of all, from which follows how its compute depends on the images, and a smaller one: the two
    of 1 and 2 processes alone would lie on any line.
    """
    size, most = args.batch_size, args.processes[-1]
    if processes > 1:
        return sorted({size // processes, size // most})
    return sorted({size // count for count in (*args.processes, 2 * most)})


def messages(args: argparse.Namespace) -> list[int]:
    """Bytes: from 4 KiB to the largest, each four times the one before."""
    largest = args.largest_message * MIB
    return [SMALLEST_MESSAGE * 4**power for power in range(32) if SMALLEST_MESSAGE * 4**power <= largest]
