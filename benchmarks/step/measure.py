"""All sides in turns, and what the machine can do."""

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
from benchmarks.step.machine import bandwidth, matrix_rate, work_of
from benchmarks.step.parts import PARTS, Clock, taken_apart
from benchmarks.step.waits import host_waits
from benchmarks.timing import Side, Spread, alternate, environment, ratio, spreads
from benchmarks.trainer import built
from data.loader import Batch, TrainingLoader
from data.manifest import Verify, read_manifest, verify
from regnet.config.schema import Config
from regnet.distributed.world import World
from regnet.tracking.console import ConsoleTracker
from regnet.tracking.registry import Trackers
from regnet.training.trainer import Trainer

TRACED = 3  # steps


def measure(args: Namespace, config: Config, world: World) -> Report:
    """Everything, as it goes into the JSON file; rank zero's numbers."""
    where = environment(world.device)
    directory = Path(config.data.shards)
    verify(directory, read_manifest(directory), Verify.once)
    with built(config, world) as (trainer, train):
        run = trainer.run
        run.begin(trainer.state)
        run.trackers = Trackers([one for one in run.trackers.trackers if not isinstance(one, ConsoleTracker)])
        steps = Steps(trainer, train)
        rates = alternate(steps.sides(), args.rounds, 0, world.device)
        # On a CPU the ranks' talk, and a compiler at work, would be counted with the steps.
        countable = world.device.type == "cuda" or not (world.size > 1 or config.train.compile)
        waits = steps.host_waits() if countable else None
        if args.trace:
            steps.trace(args.trace)
        trainer.flags.wait()
        run.wait()
    batch = steps.resident
    work = work_of(config.model, trainer.classes, batch.images, batch.labels, trainer.learner.precision)
    return {
        **where,
        "config": command.config_description(args),
        "processes": world.size,
        "threads": torch.get_num_threads(),
        "precision": config.train.precision,
        "resolution": config.data.resolution,
        "batch_size": config.train.batch_size,
        "steps": trainer.steps,
        "rounds": args.rounds,
        "results": {
            name: asdict(spread)
            for name, spread in {**spreads(rates), "ratio": ratio(rates, "trainer", "resident")}.items()
        },
        "milliseconds": {name: asdict(spread) for name, spread in steps.milliseconds().items()},
        "host_waits": waits,
        "machine": {
            "flops_per_second": matrix_rate(trainer.learner.precision, args.seconds, world.device),
            "bytes_per_second": bandwidth(args.seconds, world.device),
        },
        "work": asdict(work),  # of one process
    }


class Steps:
    """Epochs of a trainer, whole or apart, and its steps on one batch."""

    def __init__(self, trainer: Trainer, loader: TrainingLoader) -> None:
        self.trainer, self.loader = trainer, loader
        self.global_size = trainer.config.train.batch_size
        with closing(loader.epoch(0)) as batches:
            batch = next(batches)
            self.resident = Batch(batch.images.clone(memory_format=torch.preserve_format), *batch[1:])
        self.turns: dict[str, list[dict[str, float]]] = {"apart": [], "alone": []}

    def sides(self) -> dict[str, Side]:
        """One turn of each is one piece of work: so many images, over all ranks."""
        turns: dict[str, Callable[[], None]] = {
            "trainer": self.epoch,
            "resident": self.on_resident,
            "apart": self.apart,
        }
        if isinstance(self.trainer.learner.network, DistributedDataParallel):
            turns["alone"] = self.alone

        def side(turn: Callable[[], None]) -> Generator[int]:
            turn()
            yield self.trainer.steps * self.global_size

        return {name: partial(side, turn) for name, turn in turns.items()}

    def epoch(self) -> None:
        progress = self.trainer.state.progress
        progress.step = progress.global_step = 0  # the schedule begins again: its end is not what is measured
        self.trainer.train_epoch(time.perf_counter())

    def on_resident(self) -> None:
        for _ in range(self.trainer.steps):
            self.trainer.learner.step(self.resident, self.trainer.config.optim.lr)

    def apart(self) -> None:
        self._timed("apart", nullcontext())

    def alone(self) -> None:
        assert isinstance(self.trainer.learner.network, DistributedDataParallel)
        self._timed("alone", self.trainer.learner.network.no_sync())

    def _timed(self, name: str, exchange: AbstractContextManager) -> None:
        clock = Clock(self.trainer.world.device)
        with exchange, taken_apart(self.trainer, self.loader, clock), clock.part("whole"):
            self.epoch()
        whole = clock.seconds.pop("whole")
        clock.seconds["rest"] = whole - sum(clock.seconds.values())
        self.turns[name].append({part: seconds / self.trainer.steps for part, seconds in clock.seconds.items()})

    def milliseconds(self) -> dict[str, Spread]:
        """Of each part of a step; the first turns, which warm up, are left out."""

        def of(turns: list[dict[str, float]], part: str) -> Spread:
            return Spread.of([1000 * turn[part] for turn in turns])

        apart, alone = self.turns["apart"][1:], self.turns["alone"][1:]
        found = {part: of(apart, part) for part in PARTS if any(part in turn for turn in apart)}
        if alone:
            pairs = zip(apart, alone, strict=True)
            found["exchange"] = Spread.of([1000 * (both["backward"] - own["backward"]) for both, own in pairs])
            found["backward"] = of(alone, "backward")
        return found

    def host_waits(self) -> dict[str, int]:
        """Calls by name, in one epoch's steps from the first to before the report that ends it."""
        self.trainer.report_steps = lambda pending: None  # type: ignore[method-assign]
        try:
            with host_waits(self.trainer.world.device) as waits:
                self.epoch()
        finally:
            del self.trainer.report_steps  # its class's shows again
        return dict(Counter(waits))

    def trace(self, path: Path) -> None:
        """Writes what torch.profiler sees of some whole steps."""
        trainer, steps = self.trainer, self.trainer.steps
        trainer.steps = min(TRACED, steps)
        try:
            with profile() as profiler:
                self.epoch()
        finally:
            trainer.steps = steps
        if trainer.world.is_main:
            profiler.export_chrome_trace(str(path))
