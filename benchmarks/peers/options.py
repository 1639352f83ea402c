"""The command line of the comparison, and the settings of its launches."""

import argparse
import os
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.command import check_figure_path, check_output_paths, positive, resolve_device
from benchmarks.images import CROP_PADDING
from benchmarks.peers.network import REGNETX_002, measures
from benchmarks.peers.protocol import Settings
from benchmarks.peers.roster import PEERS
from benchmarks.timing import cores
from data.manifest import Manifest
from regnet.config.parser import as_flags, parse_config
from regnet.config.schema import Config
from regnet.errors import UsageError
from regnet.models.regnet import Model

MOMENTUM, WEIGHT_DECAY = 0.9, 0.0005


def parser(description: str | None) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    def number(name: str, default: int | None, text: str) -> None:
        result.add_argument(name, type=positive, default=default, metavar="N", help=text)

    add = result.add_argument
    add(
        "--shards",
        default="shards/cifar100",
        metavar="DIR",
        help="shards written by python -m data.convert (default: %(default)s)",
    )
    add(
        "--network",
        choices=("ours", "regnetx_002"),
        default="ours",
        help="model; ours: that of --config (default: %(default)s)",
    )
    add(
        "--config",
        type=Path,
        default=Path("configs/baseline.yaml"),
        metavar="FILE",
        help="configuration with the model (default: %(default)s)",
    )
    add("--peers", default=",".join(PEERS), metavar="A,B,...", help="trainers to compare (default: %(default)s)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="device (default: %(default)s)")
    number("--processes", None, "processes of each trainer (default: one per GPU, or one)")
    number("--workers", None, "worker processes of each DataLoader (default: the number of cores per process)")
    number("--rounds", 3, "launches of each trainer (default: %(default)s)")
    number("--epochs", 3, "epochs of each launch, at least 2 (default: %(default)s)")
    number("--steps", None, "steps per epoch, for shorter epochs (default: all training images)")
    number("--batch-size", 500, "images per step, over all processes (default: %(default)s)")
    number("--resolution", 32, "side of the input images in pixels (default: %(default)s)")
    add("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="precision (default: %(default)s)")
    add("--lr", type=float, default=0.05, help="learning rate of SGD in all trainers (default: %(default)s)")
    add(
        "--timeout",
        type=positive,
        default=3600,
        metavar="S",
        help="time limit of a launch in seconds (default: %(default)s)",
    )
    add("--json", type=Path, metavar="FILE", help="also write all results, including each round, to this file")
    add("--figure", type=Path, metavar="FILE.png", help="draw the throughput as a bar chart")
    return result


def complete(args: argparse.Namespace) -> None:
    """Fills in defaults that depend on the machine, and rejects impossible options.

    Raises:
        UsageError: an impossible option; the message names it.
    """
    args.device = resolve_device(args.device)
    gpus = torch.cuda.device_count()
    args.processes = args.processes or (gpus if args.device == "cuda" else 1)
    own_cores = max(1, cores() // args.processes)
    args.workers = args.workers or own_cores
    args.threads = int(os.environ.get("OMP_NUM_THREADS", own_cores))
    if args.device == "cuda" and args.processes > gpus:
        raise UsageError(f"--processes {args.processes}: this machine has {gpus} GPUs")
    if args.precision == "fp16" and args.device == "cpu":
        raise UsageError("--precision fp16: not all trainers support it on a CPU; use bf16")
    if args.epochs < 2:
        raise UsageError("--epochs 1: must be at least 2, because the throughput excludes the first epoch")
    if args.batch_size % args.processes or args.batch_size < 2 * args.processes:
        raise UsageError(
            f"--batch-size {args.batch_size}: must be a multiple of --processes ({args.processes}), "
            "with at least 2 images for each process"
        )
    check_output_paths(args, "json")
    check_figure_path(args)


def trainer_flags(args: argparse.Namespace) -> list[str]:
    """Flags that make this trainer do the same work as the others.

    Raises:
        UsageError: the configuration file cannot be read.
    """
    design = (
        REGNETX_002 if args.network == "regnetx_002" else asdict(parse_config(["--config", str(args.config)]).model)
    )
    options = {
        "model": {**design, "weights": ""},  # all trainers start from random weights
        "data": {"shards": str(Path(args.shards).resolve()), "resolution": args.resolution, "drop_last": True},
        "augment": {"flip": True, "crop_padding": CROP_PADDING},
        "train": {
            "epochs": args.epochs,
            "batch_size": args.batch_size,
            "precision": args.precision,
            "device": args.device,
            "max_steps_per_epoch": args.steps or 0,
        },
        "optim": {
            "name": "sgd",
            "lr": args.lr,
            "momentum": MOMENTUM,
            "weight_decay": WEIGHT_DECAY,
            "decay_norm_and_bias": True,
        },
        "schedule": {"name": "cosine", "warmup_epochs": 0, "start_lr": args.lr, "min_lr": args.lr},
        "early_stopping": {"patience": 0},
        "tracking": {"wandb": "disabled", "report": False},
    }
    return list(as_flags(options))


def settings(args: argparse.Namespace, config: Config, manifest: Manifest) -> Settings:
    """The settings that all launches share; paths are filled in later.

    Raises:
        UsageError: there are fewer training images than a step needs.
    """
    full_steps = manifest.samples("train") // args.batch_size
    if not full_steps:
        raise UsageError(
            f"--batch-size {args.batch_size}: {args.shards} has only {manifest.samples('train')} training images"
        )
    return Settings(
        network=args.network,
        design=asdict(config.model),
        measures=measures(Model(config.model.design(), len(manifest.classes)), args.resolution),
        shards=config.data.shards,
        images="",
        config="",
        reports="",
        resolution=args.resolution,
        batch_size=args.batch_size,
        epochs=args.epochs,
        steps=min(full_steps, args.steps or full_steps),
        precision=args.precision,
        channels_last=config.train.channels_last,
        lr=config.optim.lr,
        momentum=config.optim.momentum,
        weight_decay=config.optim.weight_decay,
        device=args.device,
        workers=args.workers,
        launched=0.0,
    )
