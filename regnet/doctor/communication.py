"""Checks between the processes of a run: their launch, their placement on nodes and GPUs, and all-reduce."""

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

from commandline.environment import VariableError
from regnet.config.schema import Config
from regnet.distributed.launcher import read_launch
from regnet.distributed.world import World, choose_device
from regnet.doctor.findings import Finding, fail, format_bytes, format_seconds, join_hosts, ok, plural
from regnet.errors import UsageError

_MAX_HOSTS = 8  # named in a message
_REPETITIONS_SMALL, _REPETITIONS_LARGE = 20, 3
_FLOAT = 4  # bytes


@dataclass(frozen=True)
class ProcessInfo:
    """Where a process runs.

    Attributes:
        device: type of the device that the run would use, "cpu" or "cuda"; empty if none is available.
        gpu: UUID of the GPU, which does not depend on CUDA_VISIBLE_DEVICES; empty for none.
    """

    host: str
    rank: int
    local_rank: int
    device: str
    gpu: str


def check_launch(env: Mapping[str, str]) -> list[Finding]:
    """FAIL if the variables that describe this process are invalid; nothing if they are valid."""
    try:
        read_launch(env)
    except VariableError as error:
        return [fail("launch", error.problem, error.cure)]
    return []


def process_info(config: Config, rank: int) -> ProcessInfo:
    """Where this process runs."""
    local_rank = read_launch().local_rank
    device, gpu = "", ""
    try:
        device = choose_device(config.train.device, local_rank).type
        if device == "cuda":
            gpu = str(torch.cuda.get_device_properties(local_rank).uuid)
    except (UsageError, RuntimeError):
        pass  # check_device reports it
    return ProcessInfo(socket.gethostname(), rank, local_rank, device, gpu)


def reports_device(own: ProcessInfo, processes: Sequence[ProcessInfo]) -> bool:
    """Whether a process reports on its device: the first one on its node with this type of device."""
    return own == next(other for other in processes if (other.host, other.device) == (own.host, own.device))


def check_placement(processes: Sequence[ProcessInfo]) -> list[Finding]:
    """Whether all processes have the same type of device, and no two the same GPU."""
    by_host = Counter(process.host for process in processes)
    message = f"{plural(len(processes), 'process', 'processes')}: "
    message += join_hosts([f"{count} on {host}" for host, count in by_host.items()], _MAX_HOSTS)
    if len({process.device for process in processes} - {""}) > 1:
        without_gpu = sorted({process.host for process in processes if process.device == "cpu"})
        fix = f"repair or exclude {join_hosts(without_gpu, _MAX_HOSTS)}, or use --train.device cpu"
        return [fail("ranks", f"{message}; some have a GPU and others do not", fix)]
    gpu_users = Counter((process.host, process.gpu) for process in processes if process.gpu)
    shared = [(host, count) for (host, _), count in gpu_users.items() if count > 1]
    if shared:
        fix = "set LOCAL_RANK for every process (SLURM: to SLURM_LOCALID), or start fewer processes"
        host, count = shared[0]
        return [fail("ranks", f"{message}; {count} processes on {host} have the same GPU", fix)]
    return [ok("ranks", message, processes=len(processes), nodes=len(by_host))]


def check_all_reduce(world: World, parameters: int, on_gpu: bool, timeout: timedelta) -> list[Finding]:
    """Times all-reduce of one number and of all gradients, and checks the results. Collective call."""
    if world.size == 1:
        return [ok("all-reduce", "not needed by a single process")]
    device, group = torch.device("cpu"), None
    if on_gpu:
        device = torch.device("cuda", world.local_rank)
        torch.cuda.set_device(device)
        group = dist.new_group(backend="nccl", timeout=timeout)
    small = _time_all_reduce(torch.zeros(1, device=device), group, world, _REPETITIONS_SMALL)
    large = _time_all_reduce(torch.zeros(parameters, device=device), group, world, _REPETITIONS_LARGE)
    correct = world.gather((small is not None and large is not None, socket.gethostname()))
    wrong = [f"rank {rank} on {host}" for rank, (is_correct, host) in enumerate(correct) if not is_correct]
    if wrong or small is None or large is None:
        fix = "a network or a driver corrupts data: exclude the node (if there are several, one after another)"
        return [fail("all-reduce", f"wrong sum on {join_hosts(wrong, _MAX_HOSTS)}", fix)]
    size = parameters * _FLOAT
    message = (
        f"{'NCCL' if on_gpu else 'gloo'}, {world.size} processes: one number takes {format_seconds(small)}, "
        f"{format_bytes(size)} of gradients {format_seconds(large)} ({format_bytes(size / large)}/s)"
    )
    return [ok("all-reduce", message, small_seconds=small, seconds=large, bytes=size, bytes_per_second=size / large)]


def _time_all_reduce(tensor: Tensor, group: dist.ProcessGroup | None, world: World, repetitions: int) -> float | None:
    """Median seconds per all-reduce, or None if a sum is wrong."""
    seconds = []
    for _ in range(repetitions + 1):
        tensor.fill_(world.rank)
        _synchronize(tensor.device)
        started = time.perf_counter()
        dist.all_reduce(tensor, group=group)
        _synchronize(tensor.device)
        seconds.append(time.perf_counter() - started)
    if not (tensor == sum(range(world.size))).all():
        return None
    return statistics.median(seconds[1:])  # the first one sets up connections


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
