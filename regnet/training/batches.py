"""The interface between training and data loading: batches of images and labels."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from itertools import islice
from typing import Any, Protocol

from torch import Tensor


class Batch(Protocol):
    """This rank's part of a global batch, on its device.

    Attributes:
        images: (n, 3, H, W).
        labels: int64 (n,).
        targets: targets of the loss: the labels, or probabilities float32 (n, classes).
        global_size: number of samples over all ranks.
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
    """Batches of the training split.

    Attributes:
        steps: batches per epoch.
        capture: wraps the function of tensors that augments a batch in CUDA graph capture; None if disabled.
    """

    steps: int
    capture: Callable[..., Any] | None

    def epoch(self, epoch: int, first_step: int = 0) -> Generator[Batch]: ...


class EvaluationBatches(Protocol):
    """Batches of this rank's part of the validation split.

    Attributes:
        steps: maximum number of batches, the same on all ranks.
    """

    steps: int

    def __iter__(self) -> Generator[Batch]: ...


def take(batches: Generator[Batch], count: int) -> Iterator[Batch]:
    """The first `count` batches; closes the generator immediately after them."""
    with closing(batches):
        yield from islice(batches, count)
