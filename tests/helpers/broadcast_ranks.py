"""Broadcasts tensors of several dtypes and shapes on every rank: see test_world.py."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist

from regnet.config.schema import DistributedConfig
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.world import World, join_world


def main(world: World) -> None:
    tensors = [
        torch.full((), world.rank),
        torch.arange(6.0).view(2, 3) + world.rank,
        torch.full((4, 3), 0.5 + world.rank).t(),
        torch.tensor([], dtype=torch.float64),
        torch.tensor([7, 8]) * (world.rank + 1),
    ]
    sent, broadcast = [], dist.broadcast
    dist.broadcast = lambda tensor, src: sent.append(str(tensor.dtype)) or broadcast(tensor, src)
    world.broadcast_(tensors)
    world.broadcast_([])
    results = world.gather([tensor.tolist() for tensor in tensors])
    if world.is_main:
        print(json.dumps([results, sent]))


if __name__ == "__main__":
    with join_world("cpu", DistributedConfig(), PreemptionNotice()) as world:
        main(world)
