"""Flags that any rank may set and that all ranks see at the same step."""

import math
import time

import torch
import torch.distributed as dist

from regnet.distributed.world import World

MAX_INTERVAL = 16  # steps
_SECONDS = 0.1  # between two exchanges, if steps are shorter
_UNKNOWN = 2**40  # microseconds: longer than any step


def exchange_interval(step_time: int) -> int:
    """Steps from one exchange to the next, if a step takes `step_time` microseconds."""
    return max(1, min(MAX_INTERVAL, int(_SECONDS * 1e6) // max(1, step_time)))


class SharedFlags:
    """Flags that any rank may set and that all ranks see at the same step, without blocking.

    Short steps share an exchange: it visits all ranks one after another (gloo's ring all-reduce), which with many ranks
    takes longer than a step. An exchange starts an asynchronous all-reduce, whose result the next exchange returns: it
    is complete by then. It carries the step time of the slowest rank, from which all ranks compute the same interval.
    So a flag is seen two intervals after it was set, at the latest: 0.2 s, or two steps if these take longer. A single
    process sees its flags immediately.
    """

    def __init__(self, world: World, flags: int) -> None:
        self.world = world
        self._seen = [0] * flags  # result of the last exchange, unless that is still in progress
        self._sent = torch.zeros(0)
        self._work: dist.Work | None = None
        self.restart()

    def restart(self) -> None:
        """Call it before steps of another kind: their duration is unknown, so the first ones exchange at every step.

        Flags that are set but not exchanged yet are dropped.
        """
        self.wait()
        self._own = [False] * len(self._seen)
        self._step_time = _UNKNOWN  # of the slowest rank
        self._steps, self._interval, self._exchanged_at = 0, 1, -math.inf

    def exchange(self, *flags: bool) -> list[bool]:
        """Takes the flags of this rank after a step; returns for each flag whether any rank has set it.

        A flag that is set once is returned once.
        """
        if self.world.size == 1:
            return list(flags)
        self._own = [own or flag for own, flag in zip(self._own, flags, strict=True)]
        self._steps += 1
        if self._steps < self._interval:
            return [False] * len(flags)
        self.wait()
        seen, self._interval = self._seen, exchange_interval(self._step_time)
        self._start()
        return [bool(flag) for flag in seen]

    def _start(self) -> None:
        now = time.perf_counter()
        step_time = int(min((now - self._exchanged_at) / self._steps * 1e6, _UNKNOWN))
        self._sent = torch.tensor([*self._own, step_time], dtype=torch.int64)
        self._work = dist.all_reduce(self._sent, op=dist.ReduceOp.MAX, group=self.world.control, async_op=True)
        self._own = [False] * len(self._own)
        self._steps, self._exchanged_at = 0, now

    def wait(self) -> None:
        """Waits for the last exchange; required before the process group is destroyed."""
        if self._work is not None:
            self._work.wait()
            self._work = None
            *self._seen, self._step_time = self._sent.tolist()
