"""Faults of what a run depends on: disks, clocks, the connections of heartbeats, Weights & Biases."""

import contextlib
import errno
import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import no_locks
from injected_fault import InjectedFault
from limits import LIMIT


def delayed(call: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    def later(*arguments: Any) -> Any:
        time.sleep(seconds)
        return call(*arguments)

    return later


class SystemFaults(InjectedFault):
    def slow_shutdown(self) -> None:
        """This rank closes its heartbeat connection long after the other ranks."""
        from regnet.distributed.heartbeat import Heartbeat

        Heartbeat.close = delayed(Heartbeat.close, 7)

    def hanging_wandb(self) -> None:
        """The final call of Weights & Biases does not return."""
        import wandb

        wandb.Run.finish = lambda *_, **__: time.sleep(LIMIT)

    def unreachable_wandb(self) -> None:
        """wandb.init does not return."""
        import wandb

        wandb.init = lambda **_: time.sleep(LIMIT)

    def connected_wandb(self) -> None:
        """Training begins only when Weights & Biases is connected."""
        from regnet.tracking.wandb_tracker import WandbTracker

        original = WandbTracker.__init__

        def connected(tracker, connect, *arguments) -> None:
            run = connect()
            original(tracker, lambda: run, *arguments)

        WandbTracker.__init__ = connected

    def outlives_wandb(self) -> None:
        """After the given step, training goes on when the server of Weights & Biases has ended."""
        address = urlsplit(os.environ["WANDB_BASE_URL"])

        def step(now, step):
            with contextlib.suppress(ConnectionRefusedError):
                while now:
                    socket.create_connection((address.hostname, address.port)).close()
                    time.sleep(0.01)
            return step()

        self.step += 1
        self.at_step(step)

    def impatient_wandb(self) -> None:
        """wandb asks every 0.1 s whether the run was stopped at the server."""
        from wandb.sdk.lib.run_stopping import RunStopChecker

        RunStopChecker.__init__.__kwdefaults__["poll_interval"] = 0.1

    def slow_disk(self) -> None:
        """Every fsync takes 0.4 s."""
        os.fsync = delayed(os.fsync, 0.4)

    def no_locks(self) -> None:
        fcntl.flock = no_locks.flock

    def failing_disk(self) -> None:
        """The given fsync, counted from 1, fails with an I/O error."""
        original = os.fsync

        def fsync(file) -> None:
            self.steps += 1
            if self.steps == self.step:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            original(file)

        os.fsync = fsync

    def raises_while_disk_hangs(self) -> None:
        """An exception in the given step, while a checkpoint is blocked in fsync."""

        def step(now, step):
            os.fsync = lambda file: time.sleep(LIMIT)
            if now:
                raise RuntimeError("a defect on this rank alone")
            return step()

        self.at_step(step)

    def fast_clock(self) -> None:
        """This rank's clock gains an hour each time it is read."""
        import regnet.distributed.preemption

        reads = []
        fast = SimpleNamespace(monotonic=lambda: time.monotonic() + 3600 * (reads.append(1) or len(reads)))
        regnet.distributed.preemption.time = fast

    def killed_while_writing(self) -> None:
        """The kernel kills this process in the middle of the first write past byte STEP of a file."""
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.step, self.step))
