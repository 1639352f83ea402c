"""Measures the accuracy and training time of a configuration over several seeds.

python -m benchmarks.accuracy --config FILE [--seeds 3] [-- --trainer.option ...]

Trains the configuration once with each of the seeds 0, 1, ... and reports the validation accuracy of each run's last
epoch, with mean and sample standard deviation. The validation images select nothing: no epoch is chosen and no run is
left out.

Interrupted runs resume, also when this command is interrupted and started again; finished runs are not repeated. The
command fails if an attempt makes no progress. The reported time is the sum of all epochs with their evaluations. With
--target, the time from the launch of a run (imports included) until the end of the first epoch that reaches the target
is reported too, if the run was not interrupted.

Options after -- are passed to the trainer for every seed. Runs are stored in RUNS_DIR/NAME-SEED, their output in
NAME-SEED.log, and a report with the curves in RUNS_DIR/NAME-accuracy. On a CPU the machine must be otherwise idle.
"""

import argparse
import json
import statistics
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.attempts import train
from benchmarks.command import Report, check_output_paths, positive, print_environment, resolve_device, run_benchmark
from benchmarks.epochs import EpochRows
from benchmarks.launch import ROOT, Launcher, LaunchFailed, exit_when_signalled
from benchmarks.timing import cores, environment
from regnet.config.parser import parse_config
from regnet.errors import UsageError
from regnet.report.html_report import write_report
from regnet.report.run_data import read_run_data
from regnet.runs.atomic_write import replace_file
from regnet.runs.directory import run_path
from regnet.runs.files import RESULT
from regnet.runs.json_format import format_json

# Set here for each seed. --name is allowed: it becomes the prefix of the run names.
RESERVED = ("--seed", "--tracking.wandb_group", "--overwrite")


@dataclass(frozen=True)
class Hardware:
    """What a run was trained on; its times are only meaningful together with this."""

    device: str
    processes: int
    threads: int


@dataclass(frozen=True)
class SeedResult:
    """Results of a finished run.

    Attributes:
        top1, top5: validation accuracy after the last epoch, 0 to 1.
        seconds: duration of all epochs, evaluations included.
        images_per_second: training throughput, median over the epochs.
        target: the target accuracy, 0 to 1; None if not set.
        reached: seconds from the launch until the target; None if there is no target, if the run did not reach it, or
            if the run was interrupted.
    """

    seed: int
    hardware: Hardware
    epochs: int
    top1: float
    top5: float
    train_loss: float
    seconds: float
    images_per_second: float
    target: float | None
    reached: float | None


def read_result(run: Path, seed: int, hardware: Hardware, target: float | None, reached: float | None) -> SeedResult:
    """Reads the results of a finished run, and stores them with the hardware in NAME-SEED.json next to the run.

    Raises:
        LaunchFailed: an earlier call trained the run on different hardware.
    """
    result = json.loads((run / RESULT).read_text(encoding="utf-8"))
    rows = EpochRows(run).new()
    stored = run.with_name(f"{run.name}.json")
    if stored.exists():
        before = json.loads(stored.read_text(encoding="utf-8"))
        if before["hardware"] != asdict(hardware):
            other = "{processes} x {threads} threads of {device}".format(**before["hardware"])
            raise LaunchFailed(f"{run.name} was trained on {other}; use another --runs_dir or --name")
        if (before["epochs"], before["target"]) == (len(rows), target):
            reached = before["reached"]
    trained = SeedResult(
        seed,
        hardware,
        len(rows),
        result["top1"],
        result["top5"],
        rows[-1]["train_loss"],
        sum(row["seconds"] for row in rows),
        statistics.median(row["images_per_second"] for row in rows),
        target,
        reached,
    )
    replace_file(stored, (format_json(asdict(trained), indent=None) + "\n").encode())
    return trained


def measure(args: argparse.Namespace) -> Report:
    """Trains all runs that have not finished yet; returns the report for the JSON file."""
    clash = next((flag for flag in args.trainer if flag.partition("=")[0] in RESERVED), None)
    if clash:
        raise UsageError(f"{clash}: this benchmark sets {clash.partition('=')[0]} itself")
    config = parse_config(["--config", str(args.config), *args.trainer])
    kind = resolve_device(config.train.device)
    machine = environment(torch.device(kind))
    processes = args.processes or (torch.cuda.device_count() if kind == "cuda" else 1)
    launcher = Launcher(processes, max(1, cores() // processes), args.timeout, run_path(config).parent)
    hardware, target = Hardware(machine["device"], processes, launcher.threads), args.target / 100 or None
    run_path(config).parent.mkdir(parents=True, exist_ok=True)
    single = processes == 1  # without torchrun, which takes seconds to start
    command = [
        *([sys.executable] if single else launcher.torchrun),
        str(ROOT / "train_ddp.py"),
        "--config",
        str(args.config),
        *args.trainer,
    ]
    runs, results = [], []
    for seed in range(args.seeds):
        run = run_path(config).with_name(f"{config.name}-{seed}")
        seed_flags = ["--seed", str(seed), "--name", run.name, "--tracking.wandb_group", config.name]
        reached = train(run, [*command, *seed_flags], launcher, target)
        runs.append(run)
        results.append(read_result(run, seed, hardware, target, reached))
        epochs, requested = results[-1].epochs, config.train.epochs
        if epochs > requested or (epochs < requested and not config.early_stopping.patience):
            raise LaunchFailed(f"{run.name} was trained for {epochs} epochs, but train.epochs is {requested}")
        print(f"{run.name}: {results[-1].top1:.2%}", file=sys.stderr)
    report_path = write_report(
        [read_run_data(run) for run in runs], run_path(config).with_name(f"{config.name}-accuracy")
    )
    return {
        **machine,
        "config": " ".join([str(args.config), *args.trainer]),
        **asdict(hardware),
        "target": target,
        "runs": [asdict(result) for result in results],
        "mean": statistics.fmean(result.top1 for result in results),
        "std": statistics.stdev(result.top1 for result in results) if len(results) > 1 else None,
        "report": str(report_path),
    }


def show(report: Report) -> None:
    print_environment(report)
    print(f"{report['config']}, {report['processes']} x {report['threads']} threads")
    target = report["target"]
    table = Table()
    for heading in ("seed", "top-1", "top-5", "train loss", "epochs", "time", "images/s"):
        table.add_column(heading, justify="right")
    if target:
        table.add_column(f"launch to {target:.2%}", justify="right")
    for run in report["runs"]:
        cells = [
            str(run["seed"]),
            f"{run['top1']:.2%}",
            f"{run['top5']:.2%}",
            f"{run['train_loss']:.3f}",
            str(run["epochs"]),
            f"{run['seconds']:,.0f} s",
            f"{run['images_per_second']:,.0f}",
        ]
        if target:
            cells.append("" if run["reached"] is None else f"{run['reached']:,.1f} s")
        table.add_row(*cells)
    Console().print(table)
    std = "" if report["std"] is None else f" +- {report['std']:.2%}"
    print(f"top-1 of {len(report['runs'])} seeds: {report['mean']:.2%}{std}; report: {report['report']}")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--config",
        type=Path,
        default=Path("configs/best.yaml"),
        metavar="FILE",
        help="configuration (default: %(default)s)",
    )
    add(
        "--seeds",
        type=positive,
        default=3,
        metavar="N",
        help="number of runs, with seeds 0 to N - 1 (default: %(default)s)",
    )
    add("--processes", type=positive, metavar="N", help="processes of each run (default: one per GPU, or one)")
    add(
        "--target",
        type=float,
        default=0.0,
        metavar="PERCENT",
        help="validation accuracy for the time to target (default: none)",
    )
    add(
        "--timeout",
        type=float,
        default=86400.0,
        metavar="S",
        help="time limit of an attempt in seconds (default: %(default)s)",
    )
    add("--json", type=Path, metavar="FILE", help="also write all results to this file")
    add("trainer", nargs="*", metavar="--", help="options for train_ddp.py")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Exit code: 0 success, 1 a run failed, 2 invalid usage or input."""
    args = parse(argv)

    def checked_measure() -> Report:
        check_output_paths(args, "json")
        return measure(args)

    return run_benchmark(args, checked_measure, show, LaunchFailed)


if __name__ == "__main__":
    exit_when_signalled()
    sys.exit(main(sys.argv[1:]))
