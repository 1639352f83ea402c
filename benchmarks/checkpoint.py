"""What does a checkpoint cost the training? python -m benchmarks.checkpoint [--every STEPS] [--json FILE]

Images a second of the trainer's own steps on one batch that stays on the device, measured in one run, in turns:
without checkpoints; with one every so many steps, written beside the training; with the same, waited for. Every
checkpoint is whole: copied, checked for numbers that are none, hashed, written, synced to the disk, renamed.

In no figure: the first turn of each side.
"""

import argparse
import sys
import tempfile
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from benchmarks import command
from benchmarks.timing import Side, alternate, environment, ratio, spreads
from benchmarks.trainer import built
from data.manifest import Verify, read_manifest, verify
from regnet.config.schema import Config
from regnet.distributed.world import World
from regnet.training.trainer import Trainer

LABELS = {
    "plain": "steps without checkpoints",
    "beside": "checkpoints written beside the steps",
    "waited": "checkpoints waited for",
    "beside_ratio": "ratio, beside over without",
    "waited_ratio": "ratio, waited for over without",
}


def measure(args: argparse.Namespace, config: Config, world: World) -> command.Report:
    """All three sides, as they go into the JSON file."""
    where = environment(world.device)
    directory = Path(config.data.shards)
    verify(directory, read_manifest(directory), Verify.once)
    with built(config, world) as (trainer, _):
        trainer.run.begin(trainer.state)
        rates = alternate(sides(trainer, args.every), args.rounds, args.seconds, world.device)
        trainer.run.wait()
        (size,) = {path.stat().st_size for path in Path(config.runs_dir).rglob("step-*.pt")}
    results = {
        **spreads(rates),
        "beside_ratio": ratio(rates, "beside", "plain"),
        "waited_ratio": ratio(rates, "waited", "plain"),
    }
    return {
        **where,
        "config": command.config_description(args),
        "resolution": config.data.resolution,
        "batch_size": config.train.batch_size,
        "every": args.every,
        "checkpoint_bytes": size,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "results": {name: asdict(spread) for name, spread in results.items()},
    }


def sides(trainer: Trainer, every: int) -> dict[str, Side]:
    with closing(trainer.train_batches.epoch(0)) as batches:
        batch = next(batches)
    progress = trainer.state.progress

    def steps(save: bool, wait: bool) -> Generator[int]:
        for step in range(1, sys.maxsize):
            trainer.learner.step(batch, trainer.config.optim.lr)
            progress.global_step += 1
            if save and step % every == 0:
                trainer.save()
                if wait:
                    trainer.run.wait()
            yield len(batch.labels)

    return {
        "plain": lambda: steps(save=False, wait=False),
        "beside": lambda: steps(save=True, wait=False),
        "waited": lambda: steps(save=True, wait=True),
    }


def show(report: command.Report) -> None:
    command.print_environment(report)
    side = report["resolution"]
    print(
        f"{report['config']} at {side}x{side}, batches of {report['batch_size']}; a checkpoint of "
        f"{report['checkpoint_bytes'] / 1e6:.1f} MB every {report['every']} steps"
    )
    print(f"rounds: {report['rounds']}, of {report['seconds']:g} s for each side")
    command.print_table(LABELS, report["results"])


def main(argv: list[str]) -> int:
    parser = command.parser("benchmarks.checkpoint", __doc__)
    parser.add_argument(
        "--every", type=command.positive, default=10, metavar="STEPS", help="between checkpoints (%(default)s)"
    )
    # Beside the project's own runs, so that it is their disk that is measured.
    Path("runs").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir="runs") as runs:
        more = {"runs_dir": runs, "tracking.wandb": "disabled"}
        return command.run_in_process_group(
            parser.parse_args(argv), lambda args: command.configure(args, more), measure, show
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
