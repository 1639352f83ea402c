"""DistributedDataParallel: sums the gradients of all ranks.

Not averages: the loss of a rank is its part of the mean over the global batch.
"""

from inspect import signature
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from regnet.distributed.eager_ddp import ddp_class
from regnet.distributed.world import World

# Above it, the exchange of gradients is worth hiding behind the backward pass: about 100 MB in float32.
_LARGEST_IN_ONE_BUCKET = 25_000_000


def uses_one_bucket(parameters: int) -> bool:
    """Whether gradients are exchanged by one all-reduce after the backward pass, instead of in buckets during it."""
    return parameters <= _LARGEST_IN_ONE_BUCKET


def wrap_ddp(network: nn.Module, world: World, in_rank_order: bool = False) -> nn.Module:
    """Wraps a network that is on its device in DistributedDataParallel; returns it as it is for a single process.

    Args:
        in_rank_order: see `needs_rank_order`.
    """
    if world.size == 1:
        return network
    # BatchNorm statistics are broadcast from rank zero only where they are read, not in every step.
    available = signature(DistributedDataParallel).parameters  # both options are new in torch 2.13
    sync_buffers = "forward_sync_buffers" if "forward_sync_buffers" in available else "broadcast_buffers"
    options: dict[str, Any] = {sync_buffers: False}
    if "batched_grad_copy" in available:
        options["batched_grad_copy"] = True
    wrapped = ddp_class()(
        network,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        gradient_as_bucket_view=True,
        **options,
    )
    wrapped.register_comm_hook(world, _rank_order_hook if in_rank_order else _sum_hook)
    return wrapped


def needs_rank_order(ranks: int, device_type: str, deterministic: bool) -> bool:
    """Whether every rank gathers all gradients and adds them in rank order, instead of the backend's all-reduce.

    Never needed for a single bucket.
    """
    # After its first step DDP rebuilds its buckets in the order in which gradients became ready. A ring all-reduce of
    # three or more ranks then adds them in a different order, so a resumed run would not be bit-exact.
    return ranks > 2 and (deterministic or device_type == "cpu")


def _sum_hook(world: World, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    future = dist.all_reduce(bucket.buffer(), async_op=True).get_future()
    return future.then(lambda done: done.value()[0])


def _rank_order_hook(world: World, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """Sums in a fixed order, independent of the layout of the buckets."""
    local = bucket.buffer()
    parts = [torch.empty_like(local) for _ in range(world.size)]
    work = dist.all_gather(parts, local, async_op=True)

    def add(_: torch.futures.Future[list[Tensor]]) -> Tensor:
        for part in parts[1:]:
            parts[0] += part
        return parts[0]

    return work.get_future().then(add)
