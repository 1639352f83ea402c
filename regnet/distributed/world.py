"""The processes of a run. A world of one needs no process group, and none of this then does anything."""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from regnet.config.schema import DistributedConfig
from regnet.distributed.heartbeat import Heartbeat, PeerLost
from regnet.distributed.preemption import PreemptionNotice
from regnet.distributed.rendezvous import Patience, agree_on_session, open_store
from regnet.errors import UsageError

T = TypeVar("T")


class OtherRankFailed(Exception):
    """Another rank could not go on, and tells why; its exit status is this rank's too."""

    def __init__(self, rank: int, exit_status: int) -> None:
        super().__init__(f"rank {rank} could not go on")
        self.exit_status = exit_status


@dataclass(frozen=True)
class World:
    """This process among those of the run.

    Attributes:
        rank, size: of this process, of all.
        local_rank: of this process on its machine.
        device: that this process computes on.
        control: processes talk about decisions through this group, on the host, beside the device's traffic.
        lifeline: by which each knows that the others live.
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
        """Adds a tensor (on the device) over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Gives every rank rank zero's values, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def broadcast_object(self, value: T) -> T:
        """Rank zero's value, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self.control, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, on every rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value, group=self.control)
        return values

    def together(self, action: Callable[[], T] | None) -> T | None:
        """Runs `action` on the ranks that have one; what it raises on any rank ends the run on all.

        Raises:
            Elsewhere: another rank's action failed; that rank raises, and tells, the error itself.
        """
        result, error = None, None
        try:
            result = action() if action is not None else None
        except Exception as raised:  # noqa: BLE001  # raised again as soon as the other ranks know
            error = raised
        failures = self.gather(None if error is None else getattr(error, "exit_status", 1))
        if error is not None:
            raise error
        for rank, status in enumerate(failures):
            if status is not None:
                raise OtherRankFailed(rank, status)
        return result

    def with_timeout(self, limit: timedelta) -> "World":
        """The same world, whose exchanges on the host may take so long. A rank that dies meanwhile is noticed anyway.

        All ranks call it together.
        """
        return self if self.size == 1 else replace(self, control=dist.new_group(backend="gloo", timeout=limit))

    def explain(self, error: Exception) -> Exception:
        """What ended this process: `error`, or PeerLost, which names the rank that is gone. All ranks are told."""
        return error if self.heartbeat is None else self.heartbeat.explain(error)

    def on_main(self, action: Callable[[], T]) -> T | None:
        """`together`, on rank zero alone."""
        return self.together(action if self.is_main else None)

    def on_each_node(self, action: Callable[[], T]) -> T | None:
        """`together`, on one rank of each machine, however long it takes."""
        return self.with_timeout(timedelta(days=7)).together(action if self.local_rank == 0 else None)


class SharedFlags:
    """Flags that any rank may raise and that all ranks see at the same step, without waiting for one another.

    `exchange` starts the exchange of this step's flags and returns the outcome of the last step's, which has
    arrived by then: a decision is one step late, and costs nothing. A world of one is not late.
    """

    def __init__(self, world: World, flags: int) -> None:
        self.world = world
        self._sent = torch.zeros(flags, dtype=torch.int32)
        self._work: dist.Work | None = None

    def exchange(self, *raised: bool) -> list[bool]:
        """This rank's flags in; for each flag, whether any rank raised it."""
        if self.world.size == 1:
            return list(raised)
        agreed = self.settle()
        self._sent = torch.tensor(raised, dtype=torch.int32)
        self._work = dist.all_reduce(self._sent, op=dist.ReduceOp.MAX, group=self.world.control, async_op=True)
        return agreed

    def settle(self) -> list[bool]:
        """Waits for the last exchange, which nothing may be left of when the processes part."""
        if self._work is not None:
            self._work.wait()
        return [bool(flag) for flag in self._sent.tolist()]


@contextmanager
def join(device: str, options: DistributedConfig, notice: PreemptionNotice) -> Iterator[World]:
    """Joins the processes that torchrun started, if it did.

    Args:
        device: "auto", "cpu" or "cuda".
        notice: what asks this process to leave, also before all have come.

    Raises:
        UsageError: CUDA was asked for and there is no GPU for this process.
        Preempted: before all had come.
        PeerLost: another rank is gone; raised in place of what its absence made fail.
    """
    size, rank, local_rank = (int(os.environ.get(name, default)) for name, default in _TORCHRUN)
    place = choose_device(device, local_rank)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if size == 1:
        yield World(0, 1, 0, place, None, None)
        return
    wait = timedelta(seconds=options.timeout)
    try:
        patience = Patience(options.timeout, notice)
        store = open_store(rank, patience)
        store.set_timeout(wait)
        store = dist.PrefixStore(agree_on_session(store, rank, size, patience), store)
        heartbeat = Heartbeat(store, rank, size, options.heartbeat_timeout)
    except (dist.DistError, TimeoutError) as error:
        raise _not_joined(error) from error
    try:
        try:
            backend = "nccl" if place.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=wait)
            control = dist.new_group(backend="gloo", timeout=wait)
        except RuntimeError as error:
            raise _not_joined(error) from error
        yield World(rank, size, local_rank, place, control, heartbeat)
    except Exception as error:
        # The groups are left as they are: taking one down waits for ranks that may be waiting for this one.
        cause = heartbeat.explain(error)
        if cause is error:
            raise
        raise cause from error
    heartbeat.close()
    dist.destroy_process_group()


def _not_joined(error: Exception) -> PeerLost:
    return PeerLost(f"the ranks could not be joined: {' '.join(str(error).split())[:500]}")


_TORCHRUN = (("WORLD_SIZE", "1"), ("RANK", "0"), ("LOCAL_RANK", "0"))


def choose_device(device: str, local_rank: int) -> torch.device:
    """What a process computes on. Raises UsageError: CUDA is asked for, or there, and no GPU left for this process."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise UsageError(f"{socket.gethostname()} has {count} GPUs, too few for its process number {local_rank}")
    return torch.device("cuda", local_rank)
