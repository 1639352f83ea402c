"""The command line of the comparison, and what follows from it for every launch."""

import argparse
import os
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.command import check_picture, check_places, device_type, positive
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
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )

    def number(name: str, default: int | None, what: str) -> None:
        made.add_argument(name, type=positive, default=default, metavar="N", help=what)

    add = made.add_argument
    add("--shards", default="shards/cifar100", metavar="DIR", help="what python -m data.convert wrote (%(default)s)")
    add("--network", choices=("ours", "regnetx_002"), default="ours", help="ours: --config's (%(default)s)")
    add("--config", type=Path, default=Path("configs/baseline.yaml"), metavar="FILE", help="its model (%(default)s)")
    add("--peers", default=",".join(PEERS), metavar="A,B,...", help="beside this trainer: %(default)s")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="(%(default)s)")
    number("--processes", None, "of each peer (one for each GPU, or one)")
    number("--workers", None, "processes of each DataLoader of a process (as many as it has cores)")
    number("--rounds", 3, "how often each peer is launched (%(default)s)")
    number("--epochs", 3, "of each launch, at least 2 (%(default)s)")
    number("--steps", None, "of an epoch, where a whole one would take too long")
    number("--batch-size", 500, "images of a step, over all processes (%(default)s)")
    number("--resolution", 32, "side of the images that the network sees, pixels (%(default)s)")
    add("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="(%(default)s)")
    add("--lr", type=float, default=0.05, help="learning rate of everybody's SGD (%(default)s)")
    add("--timeout", type=positive, default=3600, metavar="S", help="seconds that a launch may take (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="write all figures, round by round, to this file too")
    add("--picture", type=Path, metavar="FILE.png", help="draw images/s")
    return made


def complete(args: argparse.Namespace) -> None:
    """Fills in what depends on the machine, and refuses what cannot be.

    Raises:
        UsageError: names the option.
    """
    args.device = device_type(args.device)
    gpus = torch.cuda.device_count()
    args.processes = args.processes or (gpus if args.device == "cuda" else 1)
    own_cores = max(1, cores() // args.processes)
    args.workers = args.workers or own_cores
    args.threads = int(os.environ.get("OMP_NUM_THREADS", own_cores))
    if args.device == "cuda" and args.processes > gpus:
        raise UsageError(f"--processes {args.processes}: there are {gpus} GPUs")
    if args.precision == "fp16" and args.device == "cpu":
        raise UsageError("--precision fp16: not every peer has it on a CPU; bf16 they all have")
    if args.epochs < 2:
        raise UsageError("--epochs 1: the first epoch is no part of the rates")
    if args.batch_size % args.processes or args.batch_size < 2 * args.processes:
        raise UsageError(
            f"--batch-size {args.batch_size}: not two images or more for each of {args.processes}, equally"
        )
    check_places(args, "json")
    check_picture(args)


def trainer_flags(args: argparse.Namespace) -> list[str]:
    """This trainer's, for what everybody is asked to do.

    Raises:
        UsageError: the configuration file cannot be read.
    """
    design = (
        REGNETX_002 if args.network == "regnetx_002" else asdict(parse_config(["--config", str(args.config)]).model)
    )
    options = {
        "model": {**design, "weights": ""},  # nobody else begins with them
        "data": {"shards": str(Path(args.shards).resolve()), "resolution": args.resolution, "drop_last": True},
        "augment": {"flip": True, "crop_padding": CROP_PADDING},
        "train": {
            "epochs": args.epochs,
            "batch_size": args.batch_size,
            "precision": args.precision,
            "device": args.device,
            "max_steps": args.steps or 0,
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
    """Of every launch; where its files are is told for each.

    Raises:
        UsageError: there are not enough images for a step.
    """
    whole = manifest.samples("train") // args.batch_size
    if not whole:
        raise UsageError(f"--batch-size {args.batch_size}: {args.shards} has {manifest.samples('train')} images")
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
        steps=min(whole, args.steps or whole),
        precision=args.precision,
        channels_last=config.train.channels_last,
        lr=config.optim.lr,
        momentum=config.optim.momentum,
        weight_decay=config.optim.weight_decay,
        device=args.device,
        workers=args.workers,
        launched=0.0,
    )
