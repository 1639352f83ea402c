"""The processes of a run among themselves: where they sit, whether they can talk, and how fast."""

import os
import socket
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from regnet.config.schema import Config
from regnet.distributed.world import World, choose_device
from regnet.doctor.findings import Finding, in_bytes, in_seconds, ok, plural, stops
from regnet.errors import UsageError

_TRIES_SMALL, _TRIES_LARGE = 20, 3
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class Seat:
    """Where a process sits.

    Attributes:
        device: that a run would give it; empty if there is none for it.
        gpu: which one that is, whatever number it has for this process.
    """

    host: str
    rank: int
    local_rank: int
    device: str
    gpu: str


def check_launch(env: Mapping[str, str]) -> list[Finding]:
    """What is wrong with what torchrun or srun tell this process; nothing if all is well."""
    launcher = "start with torchrun, or set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT for each process"
    try:
        size, rank, local = (int(env.get(name, d)) for name, d in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0)))
    except ValueError as error:
        return [stops("ranks", f"RANK, WORLD_SIZE or LOCAL_RANK is no number: {error}", launcher)]
    if not 0 <= rank < size or local < 0:
        return [stops("ranks", f"RANK {rank} and LOCAL_RANK {local} of WORLD_SIZE {size}", launcher)]
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not env.get(name)]
    if size > 1 and missing:
        return [stops("ranks", f"WORLD_SIZE is {size}, but there is no {' and no '.join(missing)}", launcher)]
    if size > 1 and not env["MASTER_PORT"].isdecimal():
        return [stops("ranks", f"MASTER_PORT is {env['MASTER_PORT']!r}", launcher)]
    return []


def own_seat(config: Config, rank: int) -> Seat:
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device, gpu = "", ""
    try:
        device = choose_device(config.train.device, local_rank).type
        if device == "cuda":
            gpu = str(torch.cuda.get_device_properties(local_rank).uuid)
    except (UsageError, RuntimeError):
        pass  # the finding on the device says it
    return Seat(socket.gethostname(), rank, local_rank, device, gpu)


def speaks_for_its_like(own: Seat, seats: Sequence[Seat]) -> bool:
    """Whether a process is the first on its machine of those that fare alike: one finding is enough for all."""
    return own == next(seat for seat in seats if (seat.host, seat.device) == (own.host, own.device))


def check_seats(seats: Sequence[Seat]) -> list[Finding]:
    """Whether the processes go together."""
    by_host = Counter(seat.host for seat in seats)
    places = ", ".join(f"{count} on {host}" for host, count in list(by_host.items())[:8])
    if len(by_host) > 8:
        places += f" and {len(by_host) - 8} machines more"
    saw = f"{plural(len(seats), 'process came', 'processes came')}: {places}"
    kinds = {seat.device for seat in seats}
    if len(kinds - {""}) > 1:
        without = sorted({seat.host for seat in seats if seat.device == "cpu"})
        step = f"mend or leave out {', '.join(without[:8])}, or --train.device cpu"
        return [stops("ranks", f"{saw}; some have a GPU and some have none", step)]
    taken = Counter((seat.host, seat.gpu) for seat in seats if seat.gpu)
    twice = [(host, count) for (host, _), count in taken.items() if count > 1]
    if twice:
        step = "set LOCAL_RANK for each process (SLURM_LOCALID), or start fewer of them"
        return [stops("ranks", f"{saw}; {twice[0][1]} processes on {twice[0][0]} have the same GPU", step)]
    return [ok("ranks", saw, processes=len(seats), machines=len(by_host))]


def check_all_reduce(world: World, parameters: int, on_gpu: bool, patience: timedelta) -> list[Finding]:
    """An exchange of one number and one of all gradients, between all processes; each must bring the sum."""
    if world.size == 1:
        return [ok("all-reduce", "one process: nothing to exchange")]
    device, group = torch.device("cpu"), None
    if on_gpu:
        device = torch.device("cuda", world.local_rank)
        torch.cuda.set_device(device)
        group = dist.new_group(backend="nccl", timeout=patience)
    small = _measure(torch.zeros(1, device=device), group, world, _TRIES_SMALL)
    large = _measure(torch.zeros(parameters, device=device), group, world, _TRIES_LARGE)
    wrong = [rank for rank, right in enumerate(world.gather(small is not None and large is not None)) if not right]
    if wrong or small is None or large is None:
        saw = f"a wrong sum over all processes on rank {', '.join(map(str, wrong))}"
        return [stops("all-reduce", saw, "a network or a driver alters data; leave that machine out")]
    size = parameters * _FLOAT
    saw = (
        f"{'NCCL' if on_gpu else 'gloo'}, {world.size} processes: one number in {in_seconds(small)}, "
        f"{in_bytes(size)} of gradients in {in_seconds(large)} ({in_bytes(size / large)}/s)"
    )
    return [ok("all-reduce", saw, small_seconds=small, seconds=large, bytes=size, bytes_per_second=size / large)]


def _measure(tensor: Tensor, group: dist.ProcessGroup | None, world: World, tries: int) -> float | None:
    """Seconds that an exchange takes (the median), or None for a wrong sum."""
    seconds = []
    for _ in range(tries + 1):
        tensor.fill_(world.rank)
        _wait_for(tensor.device)
        began = time.perf_counter()
        dist.all_reduce(tensor, group=group)
        _wait_for(tensor.device)
        seconds.append(time.perf_counter() - began)
    if not (tensor == sum(range(world.size))).all():
        return None
    return statistics.median(seconds[1:])  # the first makes the connections


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
