"""The processes of a run: their devices, the process group and collectives, which do nothing in a single process."""

import os
import re
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from commandline.environment import check_libraries
from commandline.errors import CommandError
from regnet.config.schema import DistributedConfig
from regnet.distributed.heartbeat import Heartbeat, PeerLost
from regnet.distributed.launcher import read_launch
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.rendezvous import RendezvousDeadline, agree_on_attempt_id, open_store
from regnet.errors import UsageError

T = TypeVar("T")


class OtherRankFailed(CommandError):
    """Another rank failed and reports why; this rank exits silently with the same exit code."""

    def __init__(self, rank: int, exit_code: int) -> None:
        super().__init__(f"rank {rank} failed")
        self.exit_code = exit_code

    def report(self, rank: str) -> None:
        pass


@dataclass(frozen=True)
class World:
    """This process and the process group of the run. Every rank must call its methods together, except where noted.

    Attributes:
        rank: rank of this process.
        size: number of processes.
        local_rank: rank among the processes on this node.
        device: device of this process.
        control: gloo process group for decisions and Python objects, which does not wait for collectives on the device;
            None for a single process.
        heartbeat: detects ranks that are dead or hung; None for a single process.
    """

    rank: int
    size: int
    local_rank: int
    device: torch.device
    control: dist.ProcessGroup | None
    heartbeat: Heartbeat | None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sums a tensor on the device over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Copies rank zero's values to all ranks, in place, by one broadcast per dtype."""
        if self.size == 1:
            return
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):  # in the same order on all ranks
            same = [tensor for tensor in tensors if tensor.dtype == dtype]
            flat = torch.cat([tensor.flatten() for tensor in same])
            dist.broadcast(flat, src=0)
            parts = flat.split([tensor.numel() for tensor in same])
            torch._foreach_copy_(same, [part.view(tensor.shape) for part, tensor in zip(parts, same, strict=True)])

    def broadcast_object(self, value: T) -> T:
        """Returns rank zero's value on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Returns the values of all ranks, in rank order, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def run_on_all(self, action: Callable[[], T] | None) -> T | None:
        """Runs `action` on the ranks that pass one; if it fails on any rank, the call fails on all.

        Raises:
            OtherRankFailed: the action failed on another rank, where the error itself is raised.
        """
        result, error = None, None
        try:
            result = action() if action is not None else None
        except Exception as raised:  # noqa: BLE001  # raised again below, once the other ranks know
            error = raised
        failures = self.gather(None if error is None else getattr(error, "exit_code", 1))
        if error is not None:
            raise error
        for rank, status in enumerate(failures):
            if status is not None:
                raise OtherRankFailed(rank, status)
        return result

    def with_timeout(self, limit: timedelta) -> "World":
        """The same world with another timeout for collectives on the host. Heartbeats still detect dead ranks."""
        return self if self.size == 1 else replace(self, control=dist.new_group(backend="gloo", timeout=limit))

    def report_failure(self, error: Exception) -> Exception:
        """Reports a failure of this rank to all ranks; returns its cause: `error`, or PeerLost with the lost rank.

        Not collective.
        """
        return error if self.heartbeat is None else self.heartbeat.report_failure(error)

    def on_main(self, action: Callable[[], T]) -> T | None:
        """`run_on_all`, with the action on rank zero only."""
        return self.run_on_all(action if self.is_main else None)

    def on_each_node(self, action: Callable[[], T]) -> T | None:
        """`run_on_all`, with the action on one rank of each node, which may take up to seven days."""
        return self.with_timeout(timedelta(days=7)).run_on_all(action if self.local_rank == 0 else None)


@contextmanager
def join_world(
    device: str, options: DistributedConfig, notice: PreemptionNotice, option: str = "--train.device"
) -> Iterator[World]:
    """Joins the process group if a launcher started several processes.

    Args:
        device: "auto", "cpu" or "cuda".
        notice: ends the rendezvous early if this process is preempted.
        option: of the command that sets `device`, for the message if there is no GPU.

    Raises:
        UsageError: the variables of the launcher are invalid, or there is no GPU for this process.
        Preempted: this process was preempted during the rendezvous.
        PeerLost: another rank failed; raised instead of the errors that this causes.
    """
    launch = read_launch()
    check_libraries()
    chosen = choose_device(device, launch.local_rank, option)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        # DDP, warm-up, capture and replay of CUDA graphs share one stream, which must not be the default one.
        torch.cuda.set_stream(torch.cuda.Stream(chosen))
    if launch.size == 1:
        yield World(0, 1, 0, chosen, None, None)
        return
    timeout = timedelta(seconds=options.timeout)
    try:
        deadline = RendezvousDeadline(options.timeout, notice)
        store = open_store(launch, deadline)
        store.set_timeout(timeout)
        store = dist.PrefixStore(agree_on_attempt_id(store, launch.rank, launch.size, deadline), store)
        heartbeat = Heartbeat(store, launch.rank, launch.size, options.heartbeat_timeout)
    except (dist.DistError, TimeoutError) as error:
        raise _rendezvous_failed(error) from error
    try:
        try:
            backend = "nccl" if chosen.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=launch.rank, world_size=launch.size, timeout=timeout)
            control = dist.new_group(backend="gloo", timeout=timeout)
        except RuntimeError as error:
            raise _rendezvous_failed(error) from error
        yield World(launch.rank, launch.size, launch.local_rank, chosen, control, heartbeat)
    except Exception as error:
        # The process group is not destroyed: that would wait for ranks that may be waiting for this one.
        cause = heartbeat.report_failure(error)
        if cause is error:
            raise
        raise cause from error
    heartbeat.close()
    dist.destroy_process_group()


def _rendezvous_failed(error: Exception) -> PeerLost:
    if "EADDRINUSE" in str(error):
        port = f"port {os.environ['MASTER_PORT']} of {socket.gethostname()}"
        return PeerLost(f"rendezvous failed: another program uses {port}; set another MASTER_PORT on all ranks")
    interface = os.environ.get("GLOO_SOCKET_IFNAME")
    check_interface = f", and that GLOO_SOCKET_IFNAME={interface} is an interface of this node" if interface else ""
    return PeerLost(
        f"rendezvous failed: {' '.join(str(error).split())[:500]}; check that WORLD_SIZE processes were started and "
        f"that MASTER_ADDR:MASTER_PORT is reachable from every node{check_interface}"
    )


def choose_device(device: str, local_rank: int, option: str = "--train.device") -> torch.device:
    """The device of a process.

    Args:
        device: "auto", "cpu" or "cuda".
        option: of the command that sets `device`, for the message.

    Raises:
        UsageError: CUDA is requested or available, or CUDA_VISIBLE_DEVICES names GPUs, but there is none for this
            process.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available() and _allows_cpu(visible)):
        return torch.device("cpu")
    count = torch.cuda.device_count()
    host = socket.gethostname()
    setting = "" if visible is None else f" with CUDA_VISIBLE_DEVICES={visible}"
    if count == 0:
        cure = "correct or unset CUDA_VISIBLE_DEVICES, or use" if visible is not None else "use"
        raise UsageError(f"no GPU found on {host}{setting} (local rank {local_rank}): {cure} {option} cpu")
    if local_rank >= count:
        raise UsageError(
            f"{host} has {count} GPU{'' if count == 1 else 's'}{setting}, but local rank {local_rank} needs one: start "
            f"at most {count} process{'' if count == 1 else 'es'} per node (--nproc_per_node) or use {option} cpu"
        )
    return torch.device("cuda", local_rank)


def _allows_cpu(visible: str | None) -> bool:
    """Whether CUDA_VISIBLE_DEVICES is unset, or says that there is no GPU, as SLURM (NoDevFiles) and users write it.

    Anything else names GPUs, and CUDA would ignore what it does not know (all, cuda:0).
    """
    return visible is None or re.fullmatch(r"\s*(-\d.*|NoDevFiles|none|void|)\s*", visible, re.IGNORECASE) is not None
