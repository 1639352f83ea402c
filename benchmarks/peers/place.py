"""Where a rank of a hand-written loop computes."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.peers.protocol import Settings, run


@dataclass(frozen=True)
class Place:
    """This process among those that torchrun started."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def device_ids(self) -> list[torch.device] | None:
        """As DistributedDataParallel wants them."""
        return [self.device] if self.device.type == "cuda" else None

    def sum_(self, tensor: Tensor) -> Tensor:
        """Adds a tensor over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor


@contextmanager
def join(device: str) -> Iterator[Place]:
    """Joins the others; a process alone needs no group, and then no DistributedDataParallel either."""
    rank, local_rank, size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    own = torch.device(device, local_rank) if device == "cuda" else torch.device(device)
    place = Place(rank, size, local_rank, own)
    torch.manual_seed(0)
    if device == "cuda":
        torch.cuda.set_device(place.device)
        torch.backends.cudnn.benchmark = True  # images of one size: each of these loops recommends it
    if size > 1:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    yield place
    if size > 1:
        dist.destroy_process_group()


def run_loop(train: Callable[[Settings, Place], None]) -> None:
    """The command line of a hand-written loop, which finds its place among the others first."""

    def joined(settings: Settings) -> None:
        with join(settings.device) as place:
            train(settings, place)

    run(joined)
