"""DistributedDataParallel: wrapping the network, and averaging gradients in a fixed order."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from regnet.distributed.world import World


def wrap_ddp(forward: nn.Module, world: World, deterministic: bool) -> nn.Module:
    """Wraps a network that is on its device in DistributedDataParallel; returns it as it is for a single process."""
    if world.size == 1:
        return forward
    # BatchNorm statistics are broadcast from rank zero only where they are read, not in every step.
    wrapped = DistributedDataParallel(
        forward,
        device_ids=[world.device] if world.device.type == "cuda" else None,
        forward_sync_buffers=False,
        gradient_as_bucket_view=True,
    )
    if reduces_in_rank_order(world.size, world.device.type, deterministic):
        wrapped.register_comm_hook(world, rank_order_hook)
    return wrapped


def reduces_in_rank_order(ranks: int, device_type: str, deterministic: bool) -> bool:
    """Whether every rank gathers all gradients and adds them in rank order, instead of the backend's all-reduce."""
    # After its first step DDP rebuilds its buckets in the order in which gradients became ready. A ring all-reduce of
    # three or more ranks then adds them in a different order, so a resumed run would not be bit-exact.
    return ranks > 2 and (deterministic or device_type == "cpu")


def rank_order_hook(world: World, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """DDP communication hook: averages a bucket in a fixed order of summation, independent of the bucket layout."""
    local = bucket.buffer()
    parts = [torch.empty_like(local) for _ in range(world.size)]
    work = dist.all_gather(parts, local, async_op=True)

    def average(_: torch.futures.Future[list[Tensor]]) -> Tensor:
        for part in parts[1:]:
            parts[0] += part
        return parts[0].div_(world.size)

    return work.get_future().then(average)
