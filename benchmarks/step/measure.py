"""Measures all variants alternately, and the peak rates of the hardware."""

import time
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import profile

from benchmarks import command
from benchmarks.command import Report
from benchmarks.step.kernels import kernels_per_step
from benchmarks.step.machine import bandwidth, matrix_rate, work_of
from benchmarks.step.parts import PARTS, Clock, timed_parts
from benchmarks.step.waits import host_waits
from benchmarks.timing import Spread, Variant, alternate, environment, ratio, spreads
from benchmarks.trainer import build_trainer
from data.loader import Batch, TrainingLoader
from data.manifest import Verify, read_manifest, verify
from regnet.config.schema import Config
from regnet.distributed.world import World
from regnet.tracking.console import ConsoleTracker
from regnet.tracking.registry import Trackers
from regnet.training.trainer import Trainer

TRACED = 3  # steps


def measure(args: Namespace, config: Config, world: World) -> Report:
    """Runs all measurements; returns the report for the JSON file, with the times of this rank."""
    machine = environment(world.device)
    directory = Path(config.data.shards)
    manifest = read_manifest(directory)
    verify(directory, manifest, Verify.once)
    with build_trainer(config, world) as (trainer, train):
        run = trainer.run
        run.resume_or_start(trainer.state)
        run.trackers = Trackers(
            [tracker for tracker in run.trackers.trackers if not isinstance(tracker, ConsoleTracker)]
        )
        steps = Steps(trainer, train)
        rates = alternate(steps.variants(), args.rounds, 0, world.device)
        # On a CPU, communication between ranks and a running compiler would be counted too.
        countable = world.device.type == "cuda" or not (world.size > 1 or config.train.compile)
        waits = steps.host_waits() if countable else None
        if args.trace:
            steps.trace(args.trace)
        trainer.flags.wait()
        run.wait()
    batch = steps.resident
    work = work_of(config.model, trainer.classes, batch.images, batch.labels, trainer.train_step.precision)
    return {
        **machine,
        "config": command.config_description(args),
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "precision": config.train.precision,
        "resolution": config.data.resolution,
        "batch_size": config.train.batch_size,
        "steps": trainer.steps_per_epoch,
        "rounds": args.rounds,
        "results": {
            name: asdict(spread)
            for name, spread in {**spreads(rates), "ratio": ratio(rates, "trainer", "resident")}.items()
        },
        "milliseconds": {name: asdict(spread) for name, spread in steps.milliseconds().items()},
        "kernels": kernels_per_step(config, manifest) if world.is_main else None,
        "host_waits": waits,
        "machine": {
            "flops_per_second": matrix_rate(trainer.train_step.precision, args.seconds, world.device),
            "bytes_per_second": bandwidth(args.seconds, world.device),
        },
        "work": asdict(work),  # per process
    }


class Steps:
    """Epochs of a trainer, complete or with separately timed parts, and its steps on one batch."""

    def __init__(self, trainer: Trainer, loader: TrainingLoader) -> None:
        self.trainer, self.loader = trainer, loader
        self.global_size = trainer.config.train.batch_size
        with closing(loader.epoch(0)) as batches:
            batch = next(batches)
            self.resident = Batch(batch.images.clone(memory_format=torch.preserve_format), *batch[1:])
        self.part_seconds: dict[str, list[dict[str, float]]] = {"apart": [], "alone": []}

    def variants(self) -> dict[str, Variant]:
        """One piece of work of each variant is an epoch, counted in images over all ranks."""
        functions: dict[str, Callable[[], None]] = {
            "trainer": self.epoch,
            "resident": self.on_resident,
            "apart": self.apart,
        }
        if isinstance(self.trainer.train_step.network, DistributedDataParallel):
            functions["alone"] = self.alone

        def variant(function: Callable[[], None]) -> Generator[int]:
            function()
            yield self.trainer.steps_per_epoch * self.global_size

        return {name: partial(variant, function) for name, function in functions.items()}

    def epoch(self) -> None:
        progress = self.trainer.state.progress
        progress.step = progress.global_step = 0  # restarts the schedule, whose end must not be measured
        self.trainer.train_epoch(time.perf_counter())

    def on_resident(self) -> None:
        for _ in range(self.trainer.steps_per_epoch):
            self.trainer.train_step.run(self.resident, self.trainer.config.optim.lr)

    def apart(self) -> None:
        self._timed("apart", nullcontext())

    def alone(self) -> None:
        assert isinstance(self.trainer.train_step.network, DistributedDataParallel)
        self._timed("alone", self.trainer.train_step.network.no_sync())

    def _timed(self, name: str, exchange: AbstractContextManager) -> None:
        clock = Clock(self.trainer.world.device)
        with exchange, timed_parts(self.trainer, self.loader, clock), clock.part("total"):
            self.epoch()
        total = clock.seconds.pop("total")
        clock.seconds["rest"] = total - sum(clock.seconds.values())
        self.part_seconds[name].append(
            {part: seconds / self.trainer.steps_per_epoch for part, seconds in clock.seconds.items()}
        )

    def milliseconds(self) -> dict[str, Spread]:
        """Milliseconds of each part of a step, without the warm-up."""

        def spread(epochs: list[dict[str, float]], part: str) -> Spread:
            return Spread.of([1000 * epoch[part] for epoch in epochs])

        apart, alone = self.part_seconds["apart"][1:], self.part_seconds["alone"][1:]
        spreads_of_parts = {part: spread(apart, part) for part in PARTS if any(part in epoch for epoch in apart)}
        if alone:
            pairs = zip(apart, alone, strict=True)
            spreads_of_parts["exchange"] = Spread.of(
                [1000 * (synced["backward"] - unsynced["backward"]) for synced, unsynced in pairs]
            )
            spreads_of_parts["backward"] = spread(alone, "backward")
        return spreads_of_parts

    def host_waits(self) -> dict[str, int]:
        """Host waits by name, in the steps of one epoch before the report that ends it."""
        self.trainer.report_steps = lambda pending: None  # type: ignore[method-assign]
        try:
            with host_waits(self.trainer.world.device) as waits:
                self.epoch()
        finally:
            del self.trainer.report_steps  # restores the method of the class
        return dict(Counter(waits))

    def trace(self, path: Path) -> None:
        """Writes a torch.profiler trace of a few steps."""
        trainer, steps = self.trainer, self.trainer.steps_per_epoch
        trainer.steps_per_epoch = min(TRACED, steps)
        try:
            with profile() as profiler:
                self.epoch()
        finally:
            trainer.steps_per_epoch = steps
        if trainer.world.is_main:
            profiler.export_chrome_trace(str(path))
