"""Do FFCV and augmentation on the device keep the network fed? python -m benchmarks.loader [--json FILE]

Two comparisons, measured in one run, the sides in turns:

1. Images a second of this project's training loader (FFCV; padded crop, flip, enlarging and normalisation in
   batches on the device) and of a torch DataLoader that does the same to single PIL images, as torchvision's
   examples do. W workers are W processes for the DataLoader, and W threads of torch for this loader, beside the
   one that decodes. The DataLoader gets the same images ready in memory, as arrays of bytes, so that no decoding
   of files holds it back.
2. Images a second of training steps (forward, backward, optimiser) on batches from the loader and on one batch
   that stays on the device: 1 means that loading costs nothing. The batch is halved until four steps fit into
   --seconds, since a CPU would not get through one batch of hundreds in time.

In no figure: opening the shards, compilation, starting the DataLoader's processes, and a first turn of each side.
In every figure: the start of an epoch, since nothing is loaded before the clock runs. The clock is read while the
device is idle. Ratios are taken round by round.

On a CPU the machine must be idle: beside another program, threads that spin while they wait for one another make
steps up to ten times slower, by chance, and ratios mean nothing.
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
from data.loader import Batch, Place, TrainingLoader, open_loaders
from data.manifest import Verify, read_manifest, verify
from regnet.config.schema import Config
from regnet.data_adapter import loader_options
from regnet.distributed.world import World
from regnet.models.regnet import Model
from regnet.optim.optimizers import build_optimizer
from regnet.training.amp import Precision
from regnet.training.torch_setup import configure_torch

POOL = 20_000  # images that the first comparison reads: 61 MB of 32x32 in memory
STEPS = 4  # at least as many in each turn
PROBE, PROBES = 16, 8  # images of a step, and steps, that tell how fast the device is


class Step:
    """One step of training: forward, backward, optimiser."""

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
    """Epoch after epoch."""
    for epoch in count():
        with closing(loader.epoch(epoch)) as batches:
            yield from batches


def with_batch_size(loader: TrainingLoader, samples: int, batch_size: int) -> TrainingLoader:
    """The same loader over the first samples alone, in whole batches."""
    mix = replace(loader.mix, samples=samples)
    how = loader.augment, loader.growth, mix, loader.cut, loader.window
    return TrainingLoader(loader.source, *how, samples, batch_size, True, loader.place)


def compare_loaders(
    loader: TrainingLoader, dataset: Dataset, workers: int, rounds: int, seconds: float
) -> dict[str, Spread]:
    """Images a second of both loaders."""
    device, size = loader.place.device, loader.batch_size
    # Whole passes, with equal shares for the workers: none is left idle, or at work in the other side's turn.
    passes: DataLoader = DataLoader(
        dataset,
        batch_sampler=RandomBatches(loader.samples, size, 10 * workers),
        num_workers=workers,
        persistent_workers=True,
        pin_memory=device.type == "cuda",
    )

    def data_loader() -> Generator[int]:
        while True:
            images_done = 0
            for images, labels in passes:
                images.to(device, non_blocking=True)
                labels.to(device, non_blocking=True)
                images_done += len(images)
            yield images_done

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
    """Images a second of steps on fresh batches and on a resident one."""
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

    sides = {"step_loaded": on_loaded, "step_resident": on_resident}
    rates = alternate(sides, rounds, seconds, loader.place.device)
    return {**spreads(rates), "step_ratio": ratio(rates, "step_loaded", "step_resident")}


def affordable_batch(step: Step, config: Config, seconds: float, device: torch.device) -> int:
    """The configured batch size, halved until four steps fit into so many seconds."""
    size, side = config.train.batch_size, config.data.resolution
    probe = min(PROBE, size)
    images = torch.randn(probe, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(probe, dtype=torch.int64, device=device)

    def one_step() -> Generator[int]:
        step(images, labels)
        yield probe

    # The fastest, since the first one compiles and any may be held up.
    fastest = max(rate(one_step(), 0, device) for _ in range(PROBES))
    while size > PROBE and STEPS * size > seconds * fastest:
        size //= 2
    return size


def measure(args: argparse.Namespace, config: Config, world: World) -> dict[str, Any]:
    """Both comparisons, as they go into the JSON file."""
    device = world.device
    where = environment(device)
    directory = Path(config.data.shards)
    manifest = read_manifest(directory)
    verify(directory, manifest, Verify.once)
    configure_torch(config.seed, config.train, device)
    # A loader's streams belong to the rank's place; there is one rank here.
    full, _ = open_loaders(directory, manifest, loader_options(config), Place(0, 1, device))
    pool = with_batch_size(full, min(full.samples, max(POOL, args.batch_size)), config.train.batch_size)
    images = StoredImages.read(pool.source, "train", torch.arange(pool.samples), pool.batch_size)
    dataset = Transformed(images, manifest, config.data.resolution)
    results = compare_loaders(pool, dataset, args.workers, args.rounds, args.seconds)
    step = Step(config, len(manifest.classes), device)
    size = affordable_batch(step, config, args.seconds, device)
    loader = with_batch_size(full, full.samples, size)
    step_results = compare_steps(loader, step, args.rounds, args.seconds)
    return {
        **where,
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
        "config": command.described(args),
        "precision": config.train.precision,
        "optimizer": config.optim.name,
        "step_batch_size": size,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "results": {name: asdict(spread) for name, spread in {**results, **step_results}.items()},
    }


def show(report: dict[str, Any]) -> None:
    """The report as a table, under a few lines of what was measured where."""
    threads, resolution = report["threads"], report["resolution"]
    command.print_place(report)
    print(
        f"{report['shards']}: {report['images']:,} images of {resolution['stored']}x{resolution['stored']} "
        f"to {resolution['trained']}x{resolution['trained']}, batches of {report['batch_size']}"
    )
    print(f"DataLoader: {threads['workers']} processes; FFCV: 1 decoding thread, {threads['torch_loaders']} of torch")
    print(
        f"steps: {report['config']}, {report['precision']}, {report['optimizer']}, "
        f"batches of {report['step_batch_size']}, {threads['torch_steps']} threads of torch"
        + (f" (OMP_WAIT_POLICY={threads['omp_wait_policy']})" if threads["omp_wait_policy"] else "")
    )
    print(f"rounds: {report['rounds']}, of {report['seconds']:g} s for each side; warm-up and compilation left out")
    command.print_table(ROWS, report["results"], sections=("loader_ratio",))


ROWS = {
    "ffcv": "FFCV + device augmentation",
    "data_loader": "torch DataLoader + PIL",
    "loader_ratio": "ratio, FFCV over DataLoader",
    "step_loaded": "step, batches from the loader",
    "step_resident": "step, one resident batch",
    "step_ratio": "ratio (aim: 0.95 or more)",
}


def parse(argv: list[str]) -> argparse.Namespace:
    parser = command.parser("benchmarks.loader", __doc__)
    parser.add_argument(
        "--workers",
        type=command.positive,
        default=2,
        metavar="N",
        help="DataLoader processes, torch threads beside FFCV (%(default)s)",
    )
    return parser.parse_args(argv)


def configure(args: argparse.Namespace) -> Config:
    """The configuration file's network, with this program's loader."""
    return command.configure(
        args,
        {
            "data.workers": 1,  # decoding is never what takes the time
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
    sys.exit(command.run(parse(sys.argv[1:]), configure, measure, show))
