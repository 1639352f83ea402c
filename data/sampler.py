"""Which samples a rank sees in which step: pure functions, the same for every number of processes and shards.

An epoch is a permutation of all samples, cut into global batches; a rank takes a contiguous slice of each.
"""

import torch
from torch import Tensor

from data.errors import DataError
from data.rng import Purpose, hashes

RUN = 64  # neighbours that stay together when windows are filled


def epoch_order(samples: int, seed: int, epoch: int, window: int = 0) -> Tensor:
    """The permutation of epoch `epoch`: int64 (samples,). Sorting by a hash shuffles without any state.

    Args:
        window: samples that are shuffled among one another before the next ones come. They are runs of neighbours, the
            runs drawn at random, so that an epoch reads a little of the shards at a time. 0 for all samples.
    """
    ids = torch.arange(samples)
    order = torch.argsort(hashes(seed, epoch, Purpose.order, ids), stable=True)
    if not window:
        return order
    in_runs = torch.argsort(hashes(seed, epoch, Purpose.run, ids // RUN), stable=True)
    windows = torch.empty_like(ids)
    windows[in_runs] = ids // window
    return order[torch.argsort(windows[order], stable=True)]


def steps_per_epoch(samples: int, batch_size: int, drop_last: bool) -> int:
    """Number of global batches; the last one may be smaller unless it is dropped."""
    return samples // batch_size if drop_last else -(-samples // batch_size)


def trainable_steps(samples: int, batch_size: int, drop_last: bool, world: int) -> int:
    """`steps_per_epoch`, for processes that need two samples of every batch: BatchNorm does.

    Raises:
        DataError: there is no batch, or the last one has too few samples.
    """
    steps = steps_per_epoch(samples, batch_size, drop_last)
    if steps < 1:
        raise DataError(f"{samples} training samples do not fill one batch of {batch_size} (train.batch_size)")
    last = min(batch_size, samples - (steps - 1) * batch_size)
    if last < 2 * world:
        raise DataError(
            f"the last of {steps} batches has {last} of {samples} samples, fewer than 2 for each of "
            f"{world} processes: change train.batch_size, or set data.drop_last: true"
        )
    return steps


def share(length: int, rank: int, world: int) -> slice:
    """Rank `rank`'s contiguous part of `length` things; parts differ by one at most and cover each thing once."""
    return slice(length * rank // world, length * (rank + 1) // world)


def global_batch(order: Tensor, step: int, batch_size: int) -> Tensor:
    """The sample ids of global step `step`, in order."""
    return order[step * batch_size : (step + 1) * batch_size]


def rank_batch(order: Tensor, step: int, batch_size: int, rank: int, world: int) -> Tensor:
    """The part of global step `step` that belongs to a rank; it may be empty in a last, small batch."""
    batch = global_batch(order, step, batch_size)
    return batch[share(len(batch), rank, world)]
