"""Counts the operations of a training step, each of which launches one kernel or a few on a GPU."""

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from data.loader import Batch, RankInfo, TrainingLoader
from data.manifest import Manifest
from data.open_loaders import open_loaders
from regnet.config.schema import Config
from regnet.data_adapter import loader_options
from regnet.distributed.world import World
from regnet.training.builder import build_train_step
from regnet.training.loss import Loss

_CPU = torch.device("cpu")
# In the order of a step. "rest" is what a step does between its parts: resetting gradients, summing losses.
KERNEL_PARTS = ("augment", "forward", "loss", "backward", "count", "update", "rest")


def kernels_per_step(config: Config, manifest: Manifest) -> dict[str, int]:
    """Operations of the second step of a run, by part, and their `total`.

    They are counted on the CPU, in a single process, on a small batch, without compilation and without CUDA graphs:
    what is captured or compiled cannot be counted, and the number depends neither on the device nor on the batch size.
    """
    train = replace(config.train, batch_size=8 * config.train.grad_accum_steps, device="cpu", compile=False)
    config = replace(config, train=train, data=replace(config.data, cache="none"))
    world = World(rank=0, size=1, local_rank=0, device=_CPU, control=None, heartbeat=None)
    loader, _ = open_loaders(Path(config.data.shards), manifest, loader_options(config), RankInfo(0, 1, _CPU))
    train_step = build_train_step(config, world, manifest)
    train_step.network.train()

    counter = KernelCounter()
    train_step.loss = _CountedLoss(train_step.loss, counter)
    parts = {"forward_pass": "forward", "backward_pass": "backward", "update_metrics": "count", "update": "update"}
    for method, part in {**parts, "run": "rest"}.items():
        setattr(train_step, method, counter.counted(part, getattr(train_step, method)))
    transform_at = loader.pipeline.at
    loader.pipeline.at = lambda side: counter.counted("augment", transform_at(side))  # type: ignore[method-assign]

    with counter, closing(_batches(loader)) as batches:
        for _ in range(2):  # the first step creates the state of the optimiser
            counter.kernels.clear()
            train_step.run(next(batches), config.optim.lr)
    kernels = {part: counter.kernels[part] for part in KERNEL_PARTS}
    return {**kernels, "total": sum(kernels.values())}


def _batches(loader: TrainingLoader) -> Generator[Batch]:
    for epoch in count():
        yield from loader.epoch(epoch)


class KernelCounter(TorchDispatchMode):
    """Counts the operations that tensors dispatch, by part of the step. Views launch nothing and are not counted.

    An operation on a list of tensors (foreach, fused) counts as one. An operation outside all parts is not counted, and
    one in a part within another part is counted in the inner one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Counter[str] = Counter()
        self._parts: list[str] = []

    def counted(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            with self.part(part):
                return function(*arguments, **named)

        return call

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        self._parts.append(name)
        try:
            yield
        finally:
            self._parts.pop()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self._parts and not function.is_view and function.namespace != "profiler":  # torch's own marks of a step
            self.kernels[self._parts[-1]] += 1
        return function(*args, **(kwargs or {}))


class _CountedLoss(Loss):
    """A loss that is counted as a part of its own within the forward pass."""

    def __init__(self, loss: Loss, counter: KernelCounter) -> None:
        vars(self).update(vars(loss))
        self._counter = counter

    def __call__(self, logits: Tensor, targets: Tensor, teacher_logits: Tensor | None) -> Tensor:
        with self._counter.part("loss"):
            return super().__call__(logits, targets, teacher_logits)
