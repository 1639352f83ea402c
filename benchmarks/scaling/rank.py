"""What one rank measures. torchrun starts this module with one argument, a file that holds an `Order`."""

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import torch

from benchmarks.scaling.protocol import Key, Order, Seen
from benchmarks.timing import synchronise
from benchmarks.trainer import built
from data.loader import Batch
from regnet.config.parser import parse_config
from regnet.config.schema import Config
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.world import World, join_world
from regnet.training.trainer import Trainer

Action = Callable[[], object]
WARM_UP = 3  # steps: in the first DDP finds the order of gradients, after it packs them anew


def actions(trainer: Trainer, batch: Batch, order: Order) -> dict[Key, Action]:
    """Everything that is to be measured. The trainer's own steps, at a rate of 0: they are all alike."""
    world = trainer.world
    found: dict[Key, Action] = {}

    def add_steps(images: int) -> None:
        part = Batch(batch.images[:images], batch.labels[:images], batch.targets[:images], images * world.size)

        def compute() -> None:
            with trainer.gradients_stay_here():
                trainer.step(part, 0.0)

        found["step", images] = lambda: trainer.step(part, 0.0)
        if world.size > 1:
            found["compute", images] = compute

    def add_all_reduce(kind: str, size: int) -> None:
        tensor = torch.zeros(size // 4, device=world.device)
        found[kind, size] = lambda: world.sum_(tensor)

    for images in order.images:
        add_steps(images)
    if world.size > 1:
        add_all_reduce("gradients", gradient_bytes(trainer))
        for size in order.messages:
            add_all_reduce("message", size)
    return found


def gradient_bytes(trainer: Trainer) -> int:
    return sum(weight.numel() * weight.element_size() for weight in trainer.state.model.parameters())


def there_and_back(found: Mapping[Key, Action], seconds: float, world: World) -> dict[Key, float]:
    """The mean seconds of each, in two turns, the second in reverse, against a machine that drifts."""
    times: dict[Key, list[float]] = {key: [] for key in found}
    for key in (*found, *reversed(list(found))):
        times[key].append(mean_seconds(found[key], seconds / 2, world))
    return {key: sum(those) / 2 for key, those in times.items()}


def mean_seconds(action: Action, seconds: float, world: World) -> float:
    """Of an action that all ranks take equally often, for about so many seconds, after one that does not count."""
    together = torch.zeros(1, device=world.device)
    trial = clock(action, 1, world)
    together += trial / world.size
    count = max(1, int(seconds / world.sum_(together).item()))
    world.sum_(together).item()  # all begin at once
    return clock(action, count, world)


def clock(action: Action, count: int, world: World) -> float:
    """The mean seconds of so many, from an idle device to an idle device."""
    synchronise(world.device)
    began = time.perf_counter()
    for _ in range(count):
        action()
    synchronise(world.device)
    return (time.perf_counter() - began) / count


def measure(config: Config, order: Order, world: World) -> Seen:
    with built(config, world) as (trainer, train):
        with closing(train.epoch(0)) as batches:
            batch = next(batches)
        found = actions(trainer, batch, order)
        for (kind, _), action in found.items():
            for _ in range(WARM_UP if kind in ("step", "compute") else 1):
                action()
        return Seen(gradient_bytes(trainer), there_and_back(found, order.seconds, world))


def main(path: Path) -> None:
    order = Order(**json.loads(path.read_text(encoding="utf-8")))
    config = parse_config(order.flags)
    with join_world(config.train.device, config.distributed, PreemptionNotice()) as world:
        measure(config, order, world).write(Path(order.reports) / f"{world.rank}.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
