"""Which samples a rank sees in which step: pure functions that do not depend on the number of processes or shards.

An epoch is a permutation of all samples, split into global batches; a rank takes a contiguous slice of each.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.errors import DataError
from data.rng import Purpose, hashes

BLOCK = 64  # consecutive samples that stay together when shuffle windows are filled


def epoch_order(samples: int, seed: int, epoch: int, window: int = 0) -> Tensor:
    """The permutation of an epoch: int64 (samples,). Sorting by a hash shuffles without state.

    Args:
        window: number of samples that are shuffled together before the next ones are read. A window consists of blocks
            of consecutive samples, chosen at random, so that an epoch reads a small part of the shards at a time. 0 for
            a global shuffle.
    """
    ids = torch.arange(samples)
    order = torch.argsort(hashes(seed, epoch, Purpose.order, ids), stable=True)
    if not window:
        return order
    by_block = torch.argsort(hashes(seed, epoch, Purpose.window_block, ids // BLOCK), stable=True)
    windows = torch.empty_like(ids)
    windows[by_block] = ids // window
    return order[torch.argsort(windows[order], stable=True)]


def steps_per_epoch(samples: int, batch_size: int, drop_last: bool) -> int:
    """Number of global batches; the last one may be smaller unless it is dropped."""
    return samples // batch_size if drop_last else -(-samples // batch_size)


def trainable_steps(samples: int, batch_size: int, drop_last: bool, world_size: int) -> int:
    """`steps_per_epoch`, checked: BatchNorm needs at least two samples per process in every batch.

    Raises:
        DataError: there is no batch, or the last one has too few samples.
    """
    needed = 2 * world_size
    for_all = "2 in a batch" if world_size == 1 else f"2 for each of {world_size} processes in a batch"
    fewer = " or fewer processes" if world_size > 1 else ""
    if samples < needed:
        raise DataError(f"there are {samples} training images, but BatchNorm needs {for_all}: use more images{fewer}")
    if batch_size < needed:
        raise DataError(
            f"train.batch_size is {batch_size}, but BatchNorm needs {for_all}: use at least {needed}{fewer}"
        )
    steps = steps_per_epoch(samples, batch_size, drop_last)
    if steps < 1:
        raise DataError(
            f"{samples} training images do not fill one batch of {batch_size}: "
            "use a smaller train.batch_size, or data.drop_last false"
        )
    last = min(batch_size, samples - (steps - 1) * batch_size)
    if last < needed:
        raise DataError(
            f"the last of {steps} batches has {last} of {samples} training images, but BatchNorm needs {for_all}: "
            "change train.batch_size, or set data.drop_last true"
        )
    return steps


def rank_slice(length: int, rank: int, world_size: int) -> slice:
    """A rank's contiguous slice of `length` items; slices cover every item once, and sizes differ by 1 at most."""
    return slice(length * rank // world_size, length * (rank + 1) // world_size)


def global_batch(order: Tensor, step: int, batch_size: int) -> Tensor:
    """The sample ids of global step `step`, in order."""
    return order[step * batch_size : (step + 1) * batch_size]


def rank_batch(order: Tensor, step: int, batch_size: int, rank: int, world_size: int) -> Tensor:
    """A rank's slice of global step `step`; it may be empty if the last batch is small."""
    batch = global_batch(order, step, batch_size)
    return batch[rank_slice(len(batch), rank, world_size)]


@dataclass(frozen=True)
class BatchSampler:
    """The batches of every epoch of a training set.

    Attributes:
        samples: number of training samples.
        batch_size: samples of a global batch, over all ranks.
        drop_last: drop an epoch's last batch if it is smaller.
        shuffle_window: see `epoch_order`.
        seed: seed of the order.
    """

    samples: int
    batch_size: int
    drop_last: bool
    shuffle_window: int
    seed: int

    def steps(self, world_size: int) -> int:
        """Global batches per epoch. Raises DataError as `trainable_steps` does."""
        return trainable_steps(self.samples, self.batch_size, self.drop_last, world_size)

    def rank_batches(self, epoch: int, steps: Sequence[int], rank: int, world_size: int) -> list[Tensor]:
        """A rank's sample ids in each of these steps of an epoch."""
        order = epoch_order(self.samples, self.seed, epoch, self.shuffle_window)
        return [rank_batch(order, step, self.batch_size, rank, world_size) for step in steps]

    def global_size(self, step: int) -> int:
        """Samples of a global batch; the last of an epoch may be smaller."""
        return min(self.batch_size, self.samples - step * self.batch_size)
