"""All numbers of processes in turns, round by round."""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks import command
from benchmarks.command import Report
from benchmarks.launch import Launcher, LaunchFailed
from benchmarks.scaling import options
from benchmarks.scaling.analyse import Rounds, analyse
from benchmarks.scaling.protocol import Key, Order, Seen
from benchmarks.timing import cores, environment
from data.manifest import Verify, read_manifest, verify
from regnet.config.parser import as_flags
from regnet.config.schema import Config

MODULE = "benchmarks.scaling.rank"


def measure(args: argparse.Namespace) -> Report:
    """Everything, as it goes into the JSON file.

    Raises:
        UsageError, DataError: wrong options, or shards that cannot be used.
        LaunchFailed: says with how many processes.
    """
    options.complete(args)
    config = options.configure(args)
    shards = Path(config.data.shards)
    verify(shards, read_manifest(shards), Verify.once)
    where = environment(torch.device(args.device))
    logs = Path("runs").resolve()
    logs.mkdir(exist_ok=True)
    gradients, rounds = take_turns(args, config, logs)
    setting = {
        **where,
        "device_type": args.device,
        "shared": args.device == "cpu",
        "processes": args.processes,
        "threads": {str(count): threads(count) for count in args.processes},
        "config": command.described(args),
        "resolution": config.data.resolution,
        "precision": config.train.precision,
        "deterministic": config.train.deterministic,
        "batch_size": args.batch_size,
        "gradient_bytes": gradients,
        "rounds": args.rounds,
        "seconds": args.seconds,
    }
    return {**setting, **analyse(rounds, setting, vars(args))}


def take_turns(args: argparse.Namespace, config: Config, logs: Path) -> tuple[int, Rounds]:
    """Bytes of the gradients, and all that was measured; every other round goes in reverse."""
    rounds: Rounds = {count: [] for count in args.processes}
    gradients = 0
    for number in range(args.rounds):
        for count in args.processes if number % 2 == 0 else reversed(args.processes):
            launcher = Launcher(count, threads(count), args.timeout, logs)
            gradients, seconds = launch(launcher, args, config)
            rounds[count].append(seconds)
            print(f"round {number + 1}, --processes {count}: measured", file=sys.stderr, flush=True)
    return gradients, rounds


def threads(processes: int) -> int:
    """Of each process: together they have the machine's cores, however many they are."""
    return max(1, cores() // processes)


def launch(launcher: Launcher, args: argparse.Namespace, config: Config) -> tuple[int, Mapping[Key, float]]:
    with tempfile.TemporaryDirectory(prefix="regnet-scaling-") as folder:
        flags = list(as_flags(with_own_run(config, folder)))
        sizes = options.images_of(args, launcher.processes)
        order = Order(flags, sizes, options.messages(args), args.seconds, folder)
        try:
            paths, _ = launcher.launch(MODULE, asdict(order), Path(folder))
        except LaunchFailed as failure:
            raise LaunchFailed(f"--processes {launcher.processes}: {failure}") from failure
        return combine([Seen.read(path) for path in paths])


def with_own_run(config: Config, folder: str) -> dict[str, Any]:
    """The configuration as a mapping, with a run that ends with its launch; launches start in another directory."""
    plain = asdict(config)
    return {**plain, "runs_dir": folder, "data": {**plain["data"], "shards": str(Path(config.data.shards).resolve())}}


def combine(seen: list[Seen]) -> tuple[int, dict[Key, float]]:
    """A launch's: of every time that of the slowest rank, for whom the others wait."""
    first = seen[0]
    return first.gradient_bytes, {key: max(rank.seconds[key] for rank in seen) for key in first.seconds}
