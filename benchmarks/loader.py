"""Measures whether the data loader keeps up with the model.

python -m benchmarks.loader [--json FILE]

Two comparisons, whose variants alternate within one run:

1. Throughput of this project's training loader (FFCV; padded crop, flip, resizing and normalisation in batches on the
   device) and of a torch DataLoader that does the same with single PIL images, as in torchvision's examples. --workers
   W means W processes for the DataLoader, and W torch threads next to the decoding thread for this loader. The
   DataLoader reads decoded images from memory, so file access and decoding do not slow it down.
2. Throughput of training steps (forward, backward, optimiser) on batches from the loader and on one batch that stays
   on the device. A ratio of 1 means that loading takes no time. The batch is halved until four steps fit into
   --seconds, because a CPU would not finish a step on hundreds of images in time.

Excluded: opening the shards, compilation, starting the DataLoader's processes, and a warm-up of each variant.
Included: the start of an epoch, because nothing is prefetched before the clock starts. The clock is read while the
device is idle. Ratios are computed round by round.

On a CPU the machine must be otherwise idle: next to another program, spinning threads make steps up to ten times
slower, at random, and ratios are meaningless.
"""

import argparse
import os
import sys
from collections.abc import Generator
from contextlib import closing
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks import command
from benchmarks.images import CROP_PADDING, StoredImages
from benchmarks.timing import Spread, alternate, environment, rate, ratio, spreads
from benchmarks.torch_loader import RandomBatches, Transformed
from commandline.exit_codes import exit_process
from data.loader import Batch, RankInfo, TrainingLoader
from data.manifest import Verify, read_manifest, verify
from data.open_loaders import open_loaders
from regnet.config.schema import Config
from regnet.data_adapter import loader_options
from regnet.distributed.world import World
from regnet.models.regnet import Model
from regnet.optim.optimizers import build_optimizer
from regnet.training.amp import Precision
from regnet.training.torch_setup import configure_torch

POOL = 20_000  # images in the first comparison: 61 MB in memory at 32x32
STEPS = 4  # minimum number of steps per measurement
PROBE, PROBES = 16, 8  # images per step and number of steps that estimate the speed of the device


class Step:
    """A training step: forward, backward, optimiser."""

    def __init__(self, config: Config, classes: int, device: torch.device) -> None:
        self.precision = Precision(config.train.precision, device)
        model = Model(config.model.design(), classes).to(device)
        if config.train.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in its stub
        self.optimizer = build_optimizer(model, config.optim, self.precision.dtype)
        self.forward = torch.compile(model, dynamic=False) if config.train.compile else model

    def __call__(self, images: Tensor, labels: Tensor) -> None:
        with self.precision.autocast():
            logits = self.forward(images)
        scaler = self.precision.scaler
        scaler.scale(F.cross_entropy(logits.float(), labels)).backward()
        scaler.step(self.optimizer)
        scaler.update()
        self.optimizer.zero_grad(set_to_none=True)


def endless(loader: TrainingLoader) -> Generator[Batch]:
    """The batches of all epochs."""
    for epoch in count():
        with closing(loader.epoch(epoch)) as batches:
            yield from batches


def with_batch_size(loader: TrainingLoader, samples: int, batch_size: int) -> TrainingLoader:
    """The same loader over the first `samples` samples, in full batches."""
    sampler = replace(loader.sampler, samples=samples, batch_size=batch_size, drop_last=True)
    return TrainingLoader(loader.reader, sampler, loader.pipeline, loader.rank)


def compare_loaders(
    loader: TrainingLoader, dataset: Dataset, workers: int, rounds: int, seconds: float
) -> dict[str, Spread]:
    """Throughput of both loaders."""
    device, size = loader.rank.device, loader.sampler.batch_size
    # Complete passes with an equal number of batches per worker: none is idle, or active while the other loader runs.
    passes: DataLoader = DataLoader(
        dataset,
        batch_sampler=RandomBatches(loader.samples, size, 10 * workers),
        num_workers=workers,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )

    def data_loader() -> Generator[int]:
        while True:
            count = 0
            for images, labels in passes:
                images.to(device, non_blocking=True)
                labels.to(device, non_blocking=True)
                count += len(images)
            yield count

    def ffcv() -> Generator[int]:
        with closing(endless(loader)) as batches:
            for batch in batches:
                yield len(batch.images)

    threads = torch.get_num_threads()
    torch.set_num_threads(workers)
    rates = alternate({"data_loader": data_loader, "ffcv": ffcv}, rounds, seconds, device)
    torch.set_num_threads(threads)
    return {**spreads(rates), "loader_ratio": ratio(rates, "ffcv", "data_loader")}


def compare_steps(loader: TrainingLoader, step: Step, rounds: int, seconds: float) -> dict[str, Spread]:
    """Throughput of steps on loaded batches and on a resident batch."""
    with closing(endless(loader)) as batches:
        resident = next(batches)

    def on_resident() -> Generator[int]:
        while True:
            step(resident.images, resident.labels)
            yield len(resident.images)

    def on_loaded() -> Generator[int]:
        with closing(endless(loader)) as batches:
            for batch in batches:
                step(batch.images, batch.labels)
                yield len(batch.images)

    variants = {"step_loaded": on_loaded, "step_resident": on_resident}
    rates = alternate(variants, rounds, seconds, loader.rank.device)
    return {**spreads(rates), "step_ratio": ratio(rates, "step_loaded", "step_resident")}


def affordable_batch(step: Step, config: Config, seconds: float, device: torch.device) -> int:
    """The configured batch size, halved until four steps take at most `seconds`."""
    size, side = config.train.batch_size, config.data.resolution
    probe = min(PROBE, size)
    images = torch.randn(probe, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(probe, dtype=torch.int64, device=device)

    def one_step() -> Generator[int]:
        step(images, labels)
        yield probe

    # The fastest probe counts: the first one includes compilation, and other processes may delay the others.
    fastest = max(rate(one_step(), 0, device) for _ in range(PROBES))
    while size > PROBE and STEPS * size > seconds * fastest:
        size //= 2
    return size


def measure(args: argparse.Namespace, config: Config, world: World) -> dict[str, Any]:
    """Measures both comparisons; returns the report for the JSON file."""
    device = world.device
    machine = environment(device)
    directory = Path(config.data.shards)
    manifest = read_manifest(directory)
    verify(directory, manifest, Verify.once)
    configure_torch(config.seed, config.train, device)
    full, _ = open_loaders(directory, manifest, loader_options(config), RankInfo(0, 1, device))
    pool = with_batch_size(full, min(full.samples, max(POOL, args.batch_size)), config.train.batch_size)
    images = StoredImages.read(pool.reader, "train", torch.arange(pool.samples), pool.sampler.batch_size)
    dataset = Transformed(images, manifest, config.data.resolution)
    results = compare_loaders(pool, dataset, args.workers, args.rounds, args.seconds)
    step = Step(config, len(manifest.classes), device)
    size = affordable_batch(step, config, args.seconds, device)
    loader = with_batch_size(full, full.samples, size)
    step_results = compare_steps(loader, step, args.rounds, args.seconds)
    return {
        **machine,
        "threads": {
            "workers": args.workers,
            "torch_loaders": args.workers,
            "torch_steps": torch.get_num_threads(),
            "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
        },
        "shards": str(directory),
        "images": pool.samples,
        "resolution": {"stored": manifest.resolution, "trained": config.data.resolution},
        "batch_size": config.train.batch_size,
        "config": command.config_description(args),
        "precision": config.train.precision,
        "optimizer": config.optim.name,
        "step_batch_size": size,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "results": {name: asdict(spread) for name, spread in {**results, **step_results}.items()},
    }


def show(report: dict[str, Any]) -> None:
    """Prints the environment, the settings and the results as a table."""
    threads, resolution = report["threads"], report["resolution"]
    command.print_environment(report)
    print(
        f"{report['shards']}: {report['images']:,} images of {resolution['stored']}x{resolution['stored']} "
        f"to {resolution['trained']}x{resolution['trained']}, batches of {report['batch_size']}"
    )
    print(
        f"DataLoader: {threads['workers']} processes; FFCV: 1 decoding thread, {threads['torch_loaders']} torch threads"
    )
    print(
        f"steps: {report['config']}, {report['precision']}, {report['optimizer']}, "
        f"batches of {report['step_batch_size']}, {threads['torch_steps']} torch threads"
        + (f" (OMP_WAIT_POLICY={threads['omp_wait_policy']})" if threads["omp_wait_policy"] else "")
    )
    print(f"{report['rounds']} rounds of {report['seconds']:g} s per variant, without warm-up and compilation")
    command.print_table(ROWS, report["results"], sections=("loader_ratio",))


ROWS = {
    "ffcv": "FFCV + device augmentation",
    "data_loader": "torch DataLoader + PIL",
    "loader_ratio": "ratio, FFCV to DataLoader",
    "step_loaded": "step, batches from the loader",
    "step_resident": "step, one resident batch",
    "step_ratio": "ratio (goal: at least 0.95)",
}


def parse(argv: list[str]) -> argparse.Namespace:
    parser = command.parser("benchmarks.loader", __doc__)
    parser.add_argument(
        "--workers",
        type=command.positive,
        default=2,
        metavar="N",
        help="DataLoader processes; torch threads of the FFCV loader (default: %(default)s)",
    )
    return parser.parse_args(argv)


def configure(args: argparse.Namespace) -> Config:
    """The configuration file's model, with the augmentation of this benchmark."""
    return command.configure(
        args,
        {
            "data.workers": 1,  # decoding is never the bottleneck
            "train.grad_accum_steps": 1,
            "augment.flip": "true",
            "augment.crop_padding": CROP_PADDING,
            "augment.cutout_size": 0,
            "augment.randaugment_num_ops": 0,
            "augment.mixup_prob": 0,
            "augment.cutmix_prob": 0,
        },
    )


if __name__ == "__main__":
    exit_process(command.run_in_process_group(parse(sys.argv[1:]), configure, measure, show))
