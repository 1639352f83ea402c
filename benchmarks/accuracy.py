"""How good does a configuration get? python -m benchmarks.accuracy --config FILE [--seeds 3] [-- --trainer.option ...]

Trains it once for each seed, 0 and on, several processes under torchrun, and tells the test accuracy of each run's last
epoch, with mean and sample standard deviation. Nothing is chosen by the test images: neither an epoch nor a run is
left out.

A run that is cut off, with this command or by itself, is continued, and so is all that was left when this command is
given again; finished runs are not repeated. An attempt that gets no further ends it. Time is that of all epochs,
evaluations included; with --target also that from the launch of a run, imports and all, to the end of the first epoch
that is as good, if the run was not interrupted.

What follows -- is for the trainer, for every seed. Runs are in RUNS_DIR/NAME-SEED, with their output in NAME-SEED.log;
the curves, as a page and pictures, in RUNS_DIR/NAME-accuracy. On a CPU the machine must be idle.
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
from benchmarks.command import Report, check_places, device_type, positive, print_place, tell
from benchmarks.epochs import EpochRows
from benchmarks.launch import ROOT, Launcher, LaunchFailed, exit_when_signalled
from benchmarks.timing import cores, environment
from regnet.config.parser import parse_config
from regnet.errors import UsageError
from regnet.report.page import write
from regnet.runs.directory import RESULT, run_path

RESERVED = ("--seed", "--tracking.wandb_group")  # the trainer is told these here; a name among its options is a stem


@dataclass(frozen=True)
class Place:
    """Where a run was trained, without which its times say nothing."""

    device: str
    processes: int
    threads: int


@dataclass(frozen=True)
class TrainedModel:
    """One run that is done.

    Attributes:
        top1, top5: test accuracy after the last epoch, 0 to 1.
        seconds: of all its epochs, evaluations included.
        images_per_second: median over its epochs, of training alone.
        target, reached: an accuracy, and seconds from the launch to it; None where none was set, met, or measured in
            one go.
    """

    seed: int
    place: Place
    epochs: int
    top1: float
    top5: float
    train_loss: float
    seconds: float
    images_per_second: float
    target: float | None
    reached: float | None


def read(run: Path, seed: int, at: Place, target: float | None, reached: float | None) -> TrainedModel:
    """What came of a run that is done. Where it was trained, and what it reached, is kept beside it.

    Raises:
        LaunchFailed: it was trained elsewhere, by an earlier call.
    """
    result = json.loads((run / RESULT).read_text(encoding="utf-8"))
    rows = EpochRows(run).new()
    kept = run.with_name(f"{run.name}.json")
    if kept.exists():
        before = json.loads(kept.read_text(encoding="utf-8"))
        if before["place"] != asdict(at):
            told = "{processes} x {threads} threads of {device}".format(**before["place"])
            raise LaunchFailed(f"{run.name}: was trained on {told}; choose another --runs_dir, or --name")
        if (before["epochs"], before["target"]) == (len(rows), target):
            reached = before["reached"]
    found = TrainedModel(
        seed,
        at,
        len(rows),
        result["top1"],
        result["top5"],
        rows[-1]["train_loss"],
        sum(row["seconds"] for row in rows),
        statistics.median(row["images_per_second"] for row in rows),
        target,
        reached,
    )
    kept.write_text(json.dumps(asdict(found)) + "\n", encoding="utf-8")
    return found


def measure(args: argparse.Namespace) -> Report:
    """Trains what is not trained yet; all runs, as they go into the JSON file."""
    clash = next((flag for flag in args.trainer if flag.partition("=")[0] in RESERVED), None)
    if clash:
        raise UsageError(f"{clash}: this benchmark says itself what that is")
    config = parse_config(["--config", str(args.config), *args.trainer])
    kind = device_type(config.train.device)
    where = environment(torch.device(kind))
    processes = args.processes or (torch.cuda.device_count() if kind == "cuda" else 1)
    launcher = Launcher(processes, max(1, cores() // processes), args.timeout, run_path(config).parent)
    at, target = Place(where["device"], processes, launcher.threads), args.target / 100 or None
    run_path(config).parent.mkdir(parents=True, exist_ok=True)
    alone = processes == 1  # needs no launcher, which would take seconds
    start = [
        *([sys.executable] if alone else launcher.torchrun),
        str(ROOT / "train_ddp.py"),
        "--config",
        str(args.config),
        *args.trainer,
    ]
    runs, found = [], []
    for seed in range(args.seeds):
        run = run_path(config).with_name(f"{config.name}-{seed}")
        own = ["--seed", str(seed), "--name", run.name, "--tracking.wandb_group", config.name]
        reached = train(run, [*start, *own], launcher, target)
        runs.append(run)
        found.append(read(run, seed, at, target, reached))
        asked = config.train.epochs
        if found[-1].epochs > asked or (found[-1].epochs < asked and not config.early_stopping.patience):
            raise LaunchFailed(f"{run.name}: has {found[-1].epochs} epochs, and {asked} are asked for")
        print(f"{run.name}: {found[-1].top1:.2%}", file=sys.stderr)
    page = write(runs, run_path(config).with_name(f"{config.name}-accuracy"))
    return {
        **where,
        "config": " ".join([str(args.config), *args.trainer]),
        **asdict(at),
        "target": target,
        "runs": [asdict(one) for one in found],
        "mean": statistics.fmean(one.top1 for one in found),
        "deviation": statistics.stdev(one.top1 for one in found) if len(found) > 1 else None,
        "page": str(page),
    }


def show(report: Report) -> None:
    print_place(report)
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
    deviation = "" if report["deviation"] is None else f" +- {report['deviation']:.2%}"
    print(f"top-1 of {len(report['runs'])} seeds: {report['mean']:.2%}{deviation}; the curves: {report['page']}")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", type=Path, default=Path("configs/best.yaml"), metavar="FILE", help="(%(default)s)")
    add("--seeds", type=positive, default=3, metavar="N", help="runs, with the seeds 0 to N - 1 (%(default)s)")
    add("--processes", type=positive, metavar="N", help="of each run (one for each GPU, or one)")
    add("--target", type=float, default=0.0, metavar="PERCENT", help="of test images right, to tell the time until it")
    add("--timeout", type=float, default=86400.0, metavar="S", help="seconds for an attempt at a run (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="write all figures to this file too")
    add("trainer", nargs="*", metavar="--", help="options of train_ddp.py")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Exit status 0 done, 1 a run failed, 2 wrong usage or input."""
    args = parse(argv)

    def checked() -> Report:
        check_places(args, "json")
        return measure(args)

    return tell(args, checked, show, LaunchFailed)


if __name__ == "__main__":
    exit_when_signalled()
    sys.exit(main(sys.argv[1:]))
