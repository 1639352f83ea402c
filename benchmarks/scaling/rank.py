"""The measurements of one rank. torchrun starts this module with one argument, a file with a `Request`."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import torch

from benchmarks.scaling.protocol import Key, RankResult, Request
from benchmarks.timing import synchronise
from benchmarks.trainer import build_trainer
from commandline.exit_codes import DONE, exit_process
from data.loader import Batch
from regnet.config.parser import parse_config
from regnet.config.schema import Config
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.world import World, join_world
from regnet.training.trainer import Trainer

Action = Callable[[], object]
WARM_UP = 3  # steps: passes are captured in the third one; DDP rebuilds its buckets after the first


def build_actions(trainer: Trainer, batch: Batch, request: Request) -> dict[Key, Action]:
    """All measurements of this rank. Steps have a learning rate of 0, so that all are equal."""
    world = trainer.world
    measurements: dict[Key, Action] = {}

    def add_steps(images: int) -> None:
        part = Batch(batch.images[:images], batch.labels[:images], batch.targets[:images], images * world.size)

        def compute() -> None:
            with trainer.train_step.no_sync():
                trainer.train_step.run(part, 0.0)

        measurements["step", images] = lambda: trainer.train_step.run(part, 0.0)
        if world.size > 1:
            measurements["compute", images] = compute

    def add_all_reduce(kind: str, size: int) -> None:
        tensor = torch.zeros(size // 4, device=world.device)
        measurements[kind, size] = lambda: world.sum_(tensor)

    for images in request.images:
        add_steps(images)
    if world.size > 1:
        add_all_reduce("gradients", gradient_bytes(trainer))
        for size in request.messages:
            add_all_reduce("message", size)
    return measurements


def gradient_bytes(trainer: Trainer) -> int:
    return sum(weight.numel() * weight.element_size() for weight in trainer.state.model.parameters())


def measure_all(actions: Mapping[Key, Action], seconds: float, world: World) -> dict[Key, float]:
    """Mean seconds of each action, measured twice, the second time in reverse order to cancel slow drifts."""
    times: dict[Key, list[float]] = {key: [] for key in actions}
    for key in (*actions, *reversed(list(actions))):
        times[key].append(mean_seconds(actions[key], seconds / 2, world))
    return {key: sum(values) / 2 for key, values in times.items()}


def mean_seconds(action: Action, seconds: float, world: World) -> float:
    """Mean duration of an action, repeated equally often on all ranks for about `seconds`, after a warm-up call."""
    synchronised = torch.zeros(1, device=world.device)
    trial = clock(action, 1, world)
    synchronised += trial / world.size
    count = max(1, int(seconds / world.sum_(synchronised).item()))
    world.sum_(synchronised).item()  # a barrier: all ranks start together
    return clock(action, count, world)


def clock(action: Action, count: int, world: World) -> float:
    """Mean duration of `count` calls, from an idle device to an idle device."""
    synchronise(world.device)
    start = time.perf_counter()
    for _ in range(count):
        action()
    synchronise(world.device)
    return (time.perf_counter() - start) / count


def measure(config: Config, request: Request, world: World) -> RankResult:
    with build_trainer(config, world) as (trainer, train):
        with closing(train.epoch(0)) as batches:
            batch = next(batches)
        measurements = build_actions(trainer, batch, request)
        for (kind, _), action in measurements.items():
            for _ in range(WARM_UP if kind in ("step", "compute") else 1):
                action()
        return RankResult(gradient_bytes(trainer), measure_all(measurements, request.seconds, world))


def main(path: Path) -> None:
    request = Request(**json.loads(path.read_text(encoding="utf-8")))
    config = parse_config(request.flags)
    with join_world(config.train.device, config.distributed, PreemptionNotice()) as world:
        measure(config, request, world).write(Path(request.reports) / f"{world.rank}.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
    exit_process(DONE)
