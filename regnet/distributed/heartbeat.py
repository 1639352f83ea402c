"""Signs of life: no rank waits for ever for another that is gone.

Each rank beats in the store that they share, and watches the next rank's beat, round a ring, so that
the cost of it is the same for any number of ranks. Whoever sees an end tells it to all.
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

BEAT = 0.5  # seconds
_DECISIVE = 6  # beats that a rank which lives does not miss
_GRACE = 5.0  # seconds in which the main thread, if nothing blocks it, ends by itself
_DONE = "done"
_TOLD = "told"


class PeerLost(RuntimeError):
    """Another rank is gone, or has failed; the message names it."""


class Heartbeat:
    """One rank's beat, and its ear for those of others.

    Time is counted in own beats, so that a machine that was suspended accuses nobody when it wakes.

    Args:
        store: that all ranks share.
        timeout: seconds of silence after which a rank counts as gone.

    Attributes:
        last_words: told why, before the process is ended over a main thread that is blocked.
    """

    def __init__(self, store: dist.Store, rank: int, size: int, timeout: float) -> None:
        self.rank, self.size, self.timeout = rank, size, timeout
        self.last_words: Callable[[str], None] = lambda why: None
        # A connection of its own: on a shared one it would wait for the main thread's turn to end.
        self._store = dist.PrefixStore("lifeline", store.clone())  # type: ignore[attr-defined]  # missing in its stub
        self._store.set_timeout(timedelta(seconds=timeout))
        self._closed = threading.Event()
        self._explained: Exception | None = None
        self._heard = ""  # what all were told, once this rank knows it
        self._silent: list[int] = []  # ranks that were found to be gone
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._store.set(self._key(rank), "0")
        self._thread.start()

    def close(self) -> None:
        """This rank is done; nobody need miss it."""
        self._closed.set()
        self._thread.join()
        self._leave(self.timeout)

    def _leave(self, patience: float) -> None:
        """Rank zero, which may keep the store, leaves last: when the others are done, or after so many seconds."""
        self._store.set(self._key(self.rank), _DONE)
        deadline = time.monotonic() + patience
        keys = [self._key(rank) for rank in range(self.size) if rank not in self._silent]
        while self.rank == 0 and set(self._store.multi_get(keys)) != {_DONE.encode()} and time.monotonic() < deadline:
            time.sleep(0.05)

    def explain(self, error: Exception) -> Exception:
        """What really ended this rank: `error`, or PeerLost if another rank ended first. Tells it to all.

        From here on the process ends by itself, at the latest after `timeout` seconds or ten.
        """
        if self._explained is None:
            faulthandler.dump_traceback_later(max(self.timeout, 2 * _GRACE), exit=True)
            self._closed.set()
            self._explained = self._find_cause(error)
            with contextlib.suppress(dist.DistError):  # without a store there is nobody to tell
                self._leave(_DECISIVE * BEAT)
        return self._explained

    def _find_cause(self, error: Exception) -> Exception:
        may_be_anothers = type(error) in EXCHANGE_FAILED
        own = f"rank {self.rank} failed: {' '.join(str(error).split()) or type(error).__name__}"
        try:
            if may_be_anothers and not self._heard:
                self._look_for_silent_ranks()
            told = self._heard or self._tell(own)
        except dist.DistError:
            told = self._heard or _STORE_GONE
        return PeerLost(told) if may_be_anothers and told != own else error

    def _look_for_silent_ranks(self) -> None:
        keys = [self._key(rank) for rank in range(self.size)]
        before = self._store.multi_get(keys)
        for beat in range(_DECISIVE):
            time.sleep(BEAT)
            self._store.set(self._key(self.rank), f"ending {beat}")
            if self._store.check([_TOLD]):
                return
        after = self._store.multi_get(keys)
        self._silent = [rank for rank in range(self.size) if before[rank] == after[rank] != _DONE.encode()]
        if self._silent:
            self._tell(f"rank {', '.join(map(str, self._silent))} is gone")

    def _tell(self, why: str) -> str:
        """What all are told: the first that was said."""
        return self._store.compare_set(_TOLD, "", why).decode()

    def _watch(self) -> None:
        following = (self.rank + 1) % self.size
        seen, silence, beats = b"", 0, 0
        why = None
        while why is None:
            if self._closed.wait(BEAT):
                return
            beats += 1
            try:
                self._store.set(self._key(self.rank), str(beats))
                theirs = self._store.get(self._key(following))
                silence = silence + 1 if theirs == seen != _DONE.encode() else 0
                seen = theirs
                if silence * BEAT > self.timeout:
                    self._tell(f"rank {following} is gone: no sign of life for {self.timeout:g} s")
                if self._store.check([_TOLD]):
                    why = self._heard = self._store.get(_TOLD).decode()
                    self._store.set(self._key(self.rank), _DONE)
            except dist.DistError:
                why = self._heard or _STORE_GONE
        if not self._closed.wait(_GRACE):
            self._end(why)

    def _end(self, why: str) -> None:
        print(f"failed (rank {self.rank}): {why}", file=sys.stderr, flush=True)
        try:
            self.last_words(why)
        finally:
            os._exit(1)

    @staticmethod
    def _key(rank: int) -> str:
        return f"beat/{rank}"


_STORE_GONE = "the store that holds the ranks together is gone, the launcher's or rank zero's"
# What a collective raises that lacks a rank; exactly these, for an out-of-memory error is a RuntimeError too.
EXCHANGE_FAILED = (RuntimeError, dist.DistBackendError, dist.DistNetworkError, dist.DistStoreError, dist.DistError)
