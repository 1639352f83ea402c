"""Measures the time from the launch of train_ddp.py to its first step.

python -m benchmarks.start [CHECKOUT ...] --shards DIR [--processes N] [--imports] [--json FILE]

Starts the trainer of each checkout of this repository (default: this one) in turns, and kills it when metrics.jsonl has
the row of the first step. Reports the seconds from the launch until then, the CPU seconds of all its processes, and the
ratios of each checkout to the first. Several processes are started by torchrun, whose own start counts as well. The
first round is excluded: it fills the page cache and Python's bytecode caches.

--imports prints instead where the time of the imports goes in a single process (python -X importtime, which itself
takes time).
"""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks import command
from benchmarks.launch import ROOT, Launcher, LaunchFailed, kill_tree, process_tree, stat_fields
from benchmarks.timing import environment, ratio, spreads

POLL_SECONDS = 0.002
_IMPORT = re.compile(r"^import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)$", re.MULTILINE)  # own microseconds; module
_SHOWN = 12  # packages


def start(args: argparse.Namespace, checkout: Path, folder: Path, *python: str) -> tuple[float, float]:
    """Starts a trainer; returns the seconds and the CPU seconds until its first step.

    Args:
        folder: for its output, output.log.
        python: options of the interpreter, for a single process.

    Raises:
        LaunchFailed: it ended before its first step, or reached the time limit.
    """
    logs = Path("runs")
    logs.mkdir(exist_ok=True)
    launcher = Launcher(args.processes, 1, args.timeout, logs)
    program = [sys.executable, *python] if args.processes == 1 else launcher.torchrun
    options = [
        "--config",
        str(checkout / args.config),
        "--data.shards",
        args.shards,
        *(f"--{setting}" for setting in args.set),
    ]
    with tempfile.TemporaryDirectory(dir=folder) as runs, open(folder / "output.log", "wb") as output:
        run, metrics = ["--runs_dir", runs, "--name", "start"], Path(runs, "start", "metrics.jsonl")
        launched = time.monotonic()
        process = subprocess.Popen(
            [*program, str(checkout / "train_ddp.py"), *options, *run, "--tracking.log_every", "1"],
            env=launcher.environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            while True:
                over = _has_ended(process) or time.monotonic() > launched + launcher.timeout
                if metrics.exists() and b'"kind": "step"' in metrics.read_bytes():
                    break
                if over:  # checked before the file was read, which holds all that an ended trainer has written
                    raise LaunchFailed(f"{checkout}: no first step{launcher.explain('start', folder / 'output.log')}")
                time.sleep(POLL_SECONDS)
            return time.monotonic() - launched, sum(map(cpu_seconds, process_tree(process.pid)))
        finally:
            kill_tree(process)


def _has_ended(process: subprocess.Popen) -> bool:
    """Unlike `poll`, leaves the process's CPU time readable."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process and of its children that have ended. 0 for a process that its parent has reaped."""
    with contextlib.suppress(OSError):
        return sum(map(int, stat_fields(pid)[11:15])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def import_seconds(args: argparse.Namespace, checkout: Path, folder: Path) -> dict[str, float]:
    """Seconds of the imports until the first step, by package: those that take longest, and `all`."""
    start(args, checkout, folder, "-X", "importtime")
    seconds: dict[str, float] = defaultdict(float)
    for microseconds, module in _IMPORT.findall((folder / "output.log").read_text(encoding="utf-8")):
        seconds[module.partition(".")[0]] += int(microseconds) / 1e6
    longest = sorted(seconds.items(), key=lambda item: -item[1])[:_SHOWN]
    return {"all": sum(seconds.values()), **dict(longest)}


def measure(args: argparse.Namespace) -> command.Report:
    command.check_output_paths(args, "json")
    report = {**environment(torch.device(args.device)), "config": command.config_description(args)}
    with tempfile.TemporaryDirectory(prefix="regnet-start-") as folder:
        if args.imports:
            imports = {str(checkout): import_seconds(args, checkout, Path(folder)) for checkout in args.checkouts}
            return {**report, "imports": imports}
        seconds: dict[str, list[float]] = {str(checkout): [] for checkout in args.checkouts}
        cpu: dict[str, list[float]] = {str(checkout): [] for checkout in args.checkouts}
        for number in range(args.rounds + 1):
            for checkout in args.checkouts if number % 2 else args.checkouts[::-1]:
                measured = start(args, checkout, Path(folder))
                if number:
                    seconds[str(checkout)].append(measured[0])
                    cpu[str(checkout)].append(measured[1])
    first = str(args.checkouts[0])
    results = {
        name: {key: asdict(spread) for key, spread in spreads(values).items()}
        | {f"{key} ratio": asdict(ratio(values, key, first)) for key in list(values)[1:]}
        for name, values in (("seconds", seconds), ("CPU seconds", cpu))
    }
    return {**report, "processes": args.processes, "results": results}


def show(report: command.Report) -> None:
    command.print_environment(report)
    for checkout, packages in report.get("imports", {}).items():
        print(f"{checkout}: " + ", ".join(f"{name} {seconds:.2f} s" for name, seconds in packages.items()))
    for name, spreads_of in report.get("results", {}).items():
        for label, spread in spreads_of.items():
            print(f"{name}, {label}: {spread['median']:.2f} ({spread['lowest']:.2f} to {spread['highest']:.2f})")


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.start",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("checkouts", nargs="*", type=Path, default=[ROOT], metavar="CHECKOUT", help="directory of a clone")
    add(
        "--config",
        type=Path,
        default=Path("configs/demo.yaml"),
        metavar="FILE",
        help="in each checkout (default: %(default)s)",
    )
    add("--shards", default="shards/demo", metavar="DIR", help="written by data.convert (default: %(default)s)")
    add("--set", action="append", default=[], metavar="OPTION=VALUE", help="override an option; repeatable")
    add("--processes", type=command.positive, default=1, metavar="N", help="(default: %(default)s)")
    add("--rounds", type=command.positive, default=5, metavar="N", help="starts of each (default: %(default)s)")
    add("--timeout", type=float, default=300.0, metavar="S", help="seconds for a start (default: %(default)s)")
    add("--imports", action="store_true", help="measure the imports of a single process instead")
    add("--json", type=Path, metavar="FILE", help="also write all results, including each round, to this file")
    args = parser.parse_args(argv)
    args.device = command.resolve_device("auto")
    if args.imports:
        args.processes = 1
    return command.run_benchmark(args, lambda: measure(args), show, LaunchFailed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
