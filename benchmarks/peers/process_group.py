"""The process group and device of a hand-written training loop."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.peers.protocol import Settings, run


@dataclass(frozen=True)
class Process:
    """Rank and device of this process."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def device_ids(self) -> list[torch.device] | None:
        """The device_ids argument of DistributedDataParallel."""
        return [self.device] if self.device.type == "cuda" else None

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sums a tensor over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor


@contextmanager
def join(device: str) -> Iterator[Process]:
    """Joins the process group. A single process needs neither a group nor DistributedDataParallel."""
    rank, local_rank, world_size = (int(os.environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    own_device = torch.device(device, local_rank) if device == "cuda" else torch.device(device)
    process = Process(rank, world_size, local_rank, own_device)
    torch.manual_seed(0)
    if device == "cuda":
        torch.cuda.set_device(process.device)
        torch.backends.cudnn.benchmark = True  # recommended by all of these trainers for images of one size
    if world_size > 1:
        dist.init_process_group("nccl" if device == "cuda" else "gloo")
    yield process
    if world_size > 1:
        dist.destroy_process_group()


def run_loop(train: Callable[[Settings, Process], None]) -> None:
    """The command line of a hand-written loop: joins the process group, then trains."""

    def train_in_group(settings: Settings) -> None:
        with join(settings.device) as process:
            train(settings, process)

    run(train_in_group)
