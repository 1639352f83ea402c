"""Times the parts of a step by wrapping the trainer's own methods."""

import time
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from typing import Any

import torch

from benchmarks.timing import synchronise
from data.loader import TrainingLoader
from data.reading.device_reader import StreamingReader
from regnet.training.trainer import Trainer

# In the order of a step. "rest" is the loop itself, the agreement between ranks, and the learning-rate schedule.
PARTS = ("load", "copy", "augment", "forward", "backward", "count", "update", "report", "rest")


class Clock:
    """Seconds per part. The device is idle whenever the clock is read, so parts no longer overlap."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        synchronise(self.device)
        start = time.perf_counter()
        yield
        synchronise(self.device)
        self.seconds[name] += time.perf_counter() - start

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            with self.part(name):
                return function(*arguments, **named)

        return call

    def timed_items(self, name: str, function: Callable[..., Generator]) -> Callable[..., Generator]:
        """For a generator function: times the wait for each item."""

        def call(*arguments: Any) -> Generator:
            with closing(function(*arguments)) as items:
                while True:
                    with self.part(name):
                        item = next(items, None)
                    if item is None:
                        return
                    yield item

        return call


@contextmanager
def timed_parts(trainer: Trainer, loader: TrainingLoader, clock: Clock) -> Iterator[None]:
    """Within this context, the parts of the trainer's steps are timed separately, with a synchronisation after each."""
    reader, transform_at = loader.reader, loader.pipeline.at
    methods: list[tuple[Any, str, str]] = [
        (trainer.train_step, "forward_pass", "forward"),
        (trainer.train_step, "backward_pass", "backward"),
        (trainer.train_step, "update_metrics", "count"),
        (trainer.train_step, "update", "update"),
        (trainer, "report_steps", "report"),
    ]
    if isinstance(reader, StreamingReader):
        methods.append((reader, "copy", "copy"))
    reads: Any = reader.reader if isinstance(reader, StreamingReader) else reader
    try:
        for owner, method, name in methods:
            setattr(owner, method, clock.timed(name, getattr(owner, method)))
        reads.read = clock.timed_items("load", reads.read)
        loader.pipeline.at = lambda side: clock.timed("augment", transform_at(side))  # type: ignore[method-assign]
        yield
    finally:
        for owner, method, _ in [*methods, (reads, "read", "load"), (loader.pipeline, "at", "augment")]:
            delattr(owner, method)  # restores the method of the class
