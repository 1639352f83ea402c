"""Heartbeats: detect dead or hung ranks instead of waiting for them forever.

Each rank writes heartbeats to the shared store and monitors those of the next rank in a ring, so the cost per rank
does not depend on the number of ranks. The rank that detects a failure publishes it in the store for all others.
"""

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta

import torch.distributed as dist

from commandline.errors import CommandError

INTERVAL = 0.5  # seconds between heartbeats
_DEAD_AFTER = 6  # intervals; a live rank writes a heartbeat in that time
# Seconds for the main thread to exit with its own error; then it counts as blocked and the process is ended.
_GRACE = 5.0
_FAILURE = "failure"  # key of the published failure
_DONE = "done"  # last heartbeat of a rank that does not need to be monitored any more


class PeerLost(CommandError, RuntimeError):
    """Another rank has died, hung or failed; the message names it."""


class Heartbeat:
    """Writes this rank's heartbeats and monitors those of the next rank, in a thread.

    Time is counted in heartbeats of this rank, so a suspended node does not report the other ranks when it resumes.

    Args:
        store: shared by all ranks.
        timeout: seconds without a heartbeat after which a rank counts as dead.

    Attributes:
        before_exit: called with the reason if this thread has to end the process because the main thread is blocked.
    """

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: float) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self.before_exit: Callable[[str], None] = lambda reason: None
        # A separate connection: a shared one would block while the main thread waits for the store.
        self._store = dist.PrefixStore("heartbeat", store.clone())  # type: ignore[attr-defined]  # missing in its stub
        self._store.set_timeout(timedelta(seconds=timeout))
        self._closed = threading.Event()
        self._cause: Exception | None = None  # result of report_failure
        self._failure = ""  # the published failure, once this rank has read it
        self._dead_ranks: list[int] = []
        self._thread = threading.Thread(target=self._monitor, daemon=True)
        self._store.set(self._key(rank), "0")
        self._thread.start()

    def close(self) -> None:
        """Ends heartbeats and monitoring at the regular end of the run."""
        self._closed.set()
        self._thread.join()
        self._sign_off(self.timeout)

    def _sign_off(self, timeout: float) -> None:
        """Rank zero, which may host the store, then waits for the other ranks, at most `timeout` seconds."""
        self._store.set(self._key(self.rank), _DONE)
        deadline = time.monotonic() + timeout
        keys = [self._key(rank) for rank in range(self.size) if rank not in self._dead_ranks]
        while self.rank == 0 and set(self._store.multi_get(keys)) != {_DONE.encode()} and time.monotonic() < deadline:
            time.sleep(0.05)

    def report_failure(self, error: Exception) -> Exception:
        """Publishes the failure of this rank and returns its root cause.

        That is `error`, or PeerLost if another rank failed first. The process is going to exit: at the latest after
        `timeout` seconds or 10, it is forced to.
        """
        if self._cause is None:
            faulthandler.dump_traceback_later(max(self.timeout, 2 * _GRACE), exit=True)
            self._closed.set()
            self._cause = self._root_cause(error)
            with contextlib.suppress(dist.DistError):  # the store may be gone
                self._sign_off(_DEAD_AFTER * INTERVAL)
        return self._cause

    def _root_cause(self, error: Exception) -> Exception:
        may_be_consequence = type(error) in COLLECTIVE_ERRORS
        own_failure = f"rank {self.rank} failed: {' '.join(str(error).split()) or type(error).__name__}"
        try:
            if may_be_consequence and not self._failure:
                self._find_dead_ranks()
            failure = self._failure or self._publish(own_failure)
        except dist.DistError:
            failure = self._failure or _STORE_LOST
        return PeerLost(failure) if may_be_consequence and failure != own_failure else error

    def _find_dead_ranks(self) -> None:
        keys = [self._key(rank) for rank in range(self.size)]
        before = self._store.multi_get(keys)
        for beat in range(_DEAD_AFTER):
            time.sleep(INTERVAL)
            self._store.set(self._key(self.rank), f"failing {beat}")
            if self._store.check([_FAILURE]):
                return
        after = self._store.multi_get(keys)
        self._dead_ranks = [rank for rank in range(self.size) if before[rank] == after[rank] != _DONE.encode()]
        if self._dead_ranks:
            self._publish(f"rank {', '.join(map(str, self._dead_ranks))} stopped responding")

    def _publish(self, failure: str) -> str:
        """Publishes a failure unless another one was published first; returns the one that counts."""
        return self._store.compare_set(_FAILURE, "", failure).decode()

    def _monitor(self) -> None:
        next_rank = (self.rank + 1) % self.size
        last, unchanged, beats = b"", 0, 0
        failure = None
        while failure is None:
            if self._closed.wait(INTERVAL):
                return
            beats += 1
            try:
                self._store.set(self._key(self.rank), str(beats))
                current = self._store.get(self._key(next_rank))
                unchanged = unchanged + 1 if current == last != _DONE.encode() else 0
                last = current
                if unchanged * INTERVAL > self.timeout:
                    self._publish(f"rank {next_rank} stopped responding: no heartbeat for {self.timeout:g} s")
                if self._store.check([_FAILURE]):
                    failure = self._failure = self._store.get(_FAILURE).decode()
                    self._store.set(self._key(self.rank), _DONE)
            except dist.DistError:
                failure = self._failure or _STORE_LOST
        if not self._closed.wait(_GRACE):
            self._exit(failure)

    def _exit(self, failure: str) -> None:
        print(f"failed (rank {self.rank}): {failure}", file=sys.stderr, flush=True)
        try:
            self.before_exit(failure)
        finally:
            os._exit(1)

    @staticmethod
    def _key(rank: int) -> str:
        return f"rank/{rank}"


_STORE_LOST = "lost the connection to the rendezvous store, hosted by the launcher or by rank 0"
# What a collective raises if a rank is missing. Exact types, because an out-of-memory error is a RuntimeError too.
COLLECTIVE_ERRORS = (
    RuntimeError,
    dist.DistBackendError,
    dist.DistNetworkError,
    dist.DistStoreError,
    dist.DistError,
)
