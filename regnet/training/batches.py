"""What the training loop needs of its data: batches of images and labels, whoever makes them."""

from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from typing import Protocol

from torch import Tensor


class Batch(Protocol):
    """This rank's part of a batch.

    Images (n, 3, H, W), labels int64 (n,), what the loss compares with (labels, or float32 (n, classes)), and samples
    over all ranks.
    """

    @property
    def images(self) -> Tensor: ...

    @property
    def labels(self) -> Tensor: ...

    @property
    def targets(self) -> Tensor: ...

    @property
    def global_size(self) -> int: ...


class TrainingBatches(Protocol):
    """The training samples: `steps` batches an epoch."""

    steps: int

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Batch]: ...


class EvaluationBatches(Protocol):
    """This rank's share of the test samples, in at most `steps` batches, a number that all ranks agree on."""

    steps: int

    def __iter__(self) -> Generator[Batch]: ...


def take(batches: Generator[Batch], count: int) -> Iterator[Batch]:
    """The first `count` batches; the source is closed at once after them."""
    with closing(batches):
        yield from islice(batches, count)
