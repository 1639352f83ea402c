"""Heartbeats of ranks that are threads, with a store in memory and a scripted clock."""

import threading
from types import SimpleNamespace

import torch.distributed as dist
from limits import LIMIT

from regnet.distributed import heartbeat
from regnet.distributed.heartbeat import Heartbeat

TIMEOUT = 10.0  # seconds without a heartbeat: 20 intervals


class Intervals:
    """An event that a heartbeat waits for; every wait ends when the event is set, or when the test calls `elapse`."""

    def __init__(self):
        self.changed, self.is_set, self.elapsed = threading.Condition(), False, 0
        self.seconds = []  # of every wait

    def set(self):
        with self.changed:
            self.is_set = True
            self.changed.notify_all()

    def wait(self, seconds):
        with self.changed:
            self.seconds.append(seconds)
            number = len(self.seconds)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.is_set or self.elapsed >= number, LIMIT)
            return self.is_set

    def elapse(self, thread):
        """Ends a wait and returns when `thread` waits again, or has ended."""
        with self.changed:
            self._await(self.elapsed + 1, thread)
            self.elapsed += 1
            self.changed.notify_all()
            self._await(self.elapsed + 1, thread)

    def _await(self, number, thread):
        while len(self.seconds) < number and thread.is_alive():
            self.changed.wait(0.01)


class Job:
    """Some ranks of a job, by rank; those of the others never change their heartbeats.

    Attributes:
        alive: the heartbeats of the ranks that live on while another one sleeps.
        now: seconds of the scripted clock.
        sleeps: the sleeps of all ranks so far.
        at_sleep: called with their number.
    """

    def __init__(self, monkeypatch):
        self.now, self.sleeps, self.at_sleep, self.alive = 0.0, 0, lambda number: None, {}
        self.exits, self.last_resort = [], []
        store = dist.HashStore()
        self.store, self._shared = dist.PrefixStore("heartbeat", store), store
        replaced = {
            "time": SimpleNamespace(sleep=self.sleep, monotonic=lambda: self.now),
            "threading": SimpleNamespace(Event=Intervals, Thread=threading.Thread),
            "os": SimpleNamespace(_exit=self.exits.append),
            "faulthandler": SimpleNamespace(dump_traceback_later=self.ends_after),
        }
        for name, module in replaced.items():
            monkeypatch.setattr(heartbeat, name, module)

    def ends_after(self, seconds, exit):
        assert exit
        self.last_resort.append(seconds)

    def start(self, *ranks, size, timeout=TIMEOUT):
        for rank in set(range(size)) - set(ranks):
            self.store.set(f"rank/{rank}", "0")
        self.alive = {rank: Heartbeat(self._shared, rank, size, timeout) for rank in ranks}
        return [self.alive[rank] for rank in ranks]

    def sleep(self, seconds):
        self.now += seconds
        self.sleeps += 1
        self.at_sleep(self.sleeps)
        self.beat()

    def beat(self, *ranks, times=1):
        """One interval after the other passes for these ranks, or for all that are alive."""
        for _ in range(times):
            for rank in ranks or self.alive:
                self.alive[rank]._closed.elapse(self.alive[rank]._thread)

    def heartbeat_of(self, rank):
        return self.store.get(f"rank/{rank}").decode()

    @property
    def failure(self):
        return self.store.get("failure").decode() if self.store.check(["failure"]) else None

    def end(self):
        for beating in self.alive.values():
            beating._closed.set()
            beating._thread.join(LIMIT)
