"""Gradients averaged over ranks: one set of rules for the trainer and for whatever measures it."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from regnet.distributed.world import World


def wrap_ddp(forward: nn.Module, world: World, deterministic: bool) -> nn.Module:
    """The network, on the device, with gradients that backward averages over ranks; itself in a world of one."""
    if world.size == 1:
        return forward
    # Rank zero's BatchNorm statistics are given to all ranks where they are read, not in every step.
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
    """Whether every rank gathers all gradients and adds them itself, in place of the backend's all-reduce."""
    # After its first step DDP packs gradients anew, in the order in which they came, and a ring then adds
    # those of three ranks or more in another order: a resumed run would part from one never killed.
    return ranks > 2 and (deterministic or device_type == "cpu")


def rank_order_hook(world: World, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """DDP's gradient exchange with one order of summation, wherever in a bucket a gradient lies."""
    own = bucket.buffer()
    parts = [torch.empty_like(own) for _ in range(world.size)]
    work = dist.all_gather(parts, own, async_op=True)

    def average(_: torch.futures.Future[list[Tensor]]) -> Tensor:
        for part in parts[1:]:
            parts[0] += part
        return parts[0].div_(world.size)

    return work.get_future().then(average)
