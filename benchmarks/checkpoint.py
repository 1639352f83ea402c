"""Measures how much checkpoints slow training down.

python -m benchmarks.checkpoint [--every STEPS] [--json FILE]

Compares the throughput of the trainer's own steps on one batch that stays on the device: without checkpoints, with
asynchronous checkpoints every --every steps, and with synchronous ones. The three alternate within one run. Every
checkpoint is complete: copied, checked for non-finite values, hashed, written, synced to disk and renamed.

The first measurement of each variant is a warm-up and is excluded.
"""

import argparse
import sys
import tempfile
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from benchmarks import command
from benchmarks.timing import Variant, alternate, environment, ratio, spreads
from benchmarks.trainer import build_trainer
from commandline.exit_codes import exit_process
from data.manifest import Verify, read_manifest, verify
from regnet.config.schema import Config
from regnet.distributed.world import World
from regnet.training.trainer import Trainer

LABELS = {
    "none": "steps without checkpoints",
    "async": "asynchronous checkpoints",
    "sync": "synchronous checkpoints",
    "async_ratio": "ratio, asynchronous to none",
    "sync_ratio": "ratio, synchronous to none",
}


def measure(args: argparse.Namespace, config: Config, world: World) -> command.Report:
    """Measures all three variants; returns the report for the JSON file."""
    machine = environment(world.device)
    directory = Path(config.data.shards)
    verify(directory, read_manifest(directory), Verify.once)
    with build_trainer(config, world) as (trainer, _):
        trainer.run.resume_or_start(trainer.state)
        rates = alternate(variants(trainer, args.every), args.rounds, args.seconds, world.device)
        trainer.run.wait()
        (size,) = {path.stat().st_size for path in Path(config.runs_dir).rglob("step-*.pt")}
    results = {
        **spreads(rates),
        "async_ratio": ratio(rates, "async", "none"),
        "sync_ratio": ratio(rates, "sync", "none"),
    }
    return {
        **machine,
        "config": command.config_description(args),
        "resolution": config.data.resolution,
        "batch_size": config.train.batch_size,
        "every": args.every,
        "checkpoint_bytes": size,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "results": {name: asdict(spread) for name, spread in results.items()},
    }


def variants(trainer: Trainer, every: int) -> dict[str, Variant]:
    with closing(trainer.train_batches.epoch(0)) as batches:
        batch = next(batches)
    progress = trainer.state.progress

    def steps(save: bool, wait: bool) -> Generator[int]:
        for step in range(1, sys.maxsize):
            trainer.train_step.run(batch, trainer.config.optim.lr)
            progress.global_step += 1
            if save and step % every == 0:
                trainer.save()
                if wait:
                    trainer.run.wait()
            yield len(batch.labels)

    return {
        "none": lambda: steps(save=False, wait=False),
        "async": lambda: steps(save=True, wait=False),
        "sync": lambda: steps(save=True, wait=True),
    }


def show(report: command.Report) -> None:
    command.print_environment(report)
    side = report["resolution"]
    print(
        f"{report['config']} at {side}x{side}, batches of {report['batch_size']}; a checkpoint of "
        f"{report['checkpoint_bytes'] / 1e6:.1f} MB every {report['every']} steps"
    )
    print(f"{report['rounds']} rounds of {report['seconds']:g} s per variant")
    command.print_table(LABELS, report["results"])


def main(argv: list[str]) -> int:
    parser = command.parser("benchmarks.checkpoint", __doc__)
    parser.add_argument(
        "--every",
        type=command.positive,
        default=10,
        metavar="STEPS",
        help="steps between checkpoints (default: %(default)s)",
    )
    # In runs/, so that the disk of normal runs is measured.
    Path("runs").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir="runs") as runs:
        more = {"runs_dir": runs, "tracking.wandb": "disabled"}
        return command.run_in_process_group(
            parser.parse_args(argv), lambda args: command.configure(args, more), measure, show
        )


if __name__ == "__main__":
    exit_process(main(sys.argv[1:]))
