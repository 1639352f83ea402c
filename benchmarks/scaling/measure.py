"""Measures all numbers of processes alternately, round by round."""

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
from benchmarks.scaling.protocol import Key, RankResult, Request
from benchmarks.timing import cores, environment
from data.manifest import Verify, read_manifest, verify
from regnet.config.parser import as_flags
from regnet.config.schema import Config

MODULE = "benchmarks.scaling.rank"


def measure(args: argparse.Namespace) -> Report:
    """Measures and analyses; returns the report for the JSON file.

    Raises:
        UsageError, DataError: invalid options, or unusable shards.
        LaunchFailed: the message names the number of processes.
    """
    options.complete(args)
    config = options.configure(args)
    shards = Path(config.data.shards)
    verify(shards, read_manifest(shards), Verify.once)
    machine = environment(torch.device(args.device))
    logs = Path("runs").resolve()
    logs.mkdir(exist_ok=True)
    gradients, rounds = measure_rounds(args, config, logs)
    setting = {
        **machine,
        "device_type": args.device,
        "shared": args.device == "cpu",
        "processes": args.processes,
        "threads": {str(count): threads(count) for count in args.processes},
        "config": command.config_description(args),
        "resolution": config.data.resolution,
        "precision": config.train.precision,
        "deterministic": config.train.deterministic,
        "batch_size": args.batch_size,
        "gradient_bytes": gradients,
        "rounds": args.rounds,
        "seconds": args.seconds,
    }
    return {**setting, **analyse(rounds, setting, vars(args))}


def measure_rounds(args: argparse.Namespace, config: Config, logs: Path) -> tuple[int, Rounds]:
    """The size of the gradients in bytes, and all measurements; every other round runs in reverse order."""
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
    """Torch threads of each process; together the processes use all cores."""
    return max(1, cores() // processes)


def launch(launcher: Launcher, args: argparse.Namespace, config: Config) -> tuple[int, Mapping[Key, float]]:
    with tempfile.TemporaryDirectory(prefix="regnet-scaling-") as folder:
        flags = list(as_flags(with_temporary_run(config, folder)))
        sizes = options.images_of(args, launcher.processes)
        request = Request(flags, sizes, options.messages(args), args.seconds, folder)
        try:
            paths, _ = launcher.launch(MODULE, asdict(request), Path(folder))
        except LaunchFailed as failure:
            raise LaunchFailed(f"--processes {launcher.processes}: {failure}") from failure
        return combine([RankResult.read(path) for path in paths])


def with_temporary_run(config: Config, folder: str) -> dict[str, Any]:
    """The configuration as a dict, with the run in `folder` and an absolute path of the shards."""
    plain = asdict(config)
    return {**plain, "runs_dir": folder, "data": {**plain["data"], "shards": str(Path(config.data.shards).resolve())}}


def combine(results: list[RankResult]) -> tuple[int, dict[Key, float]]:
    """Combines the ranks of a launch: each time is that of the slowest rank, because the others wait for it."""
    first = results[0]
    return first.gradient_bytes, {key: max(rank.seconds[key] for rank in results) for key in first.seconds}
