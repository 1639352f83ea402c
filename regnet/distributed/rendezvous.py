"""Rendezvous: the ranks of one attempt connect to a shared store and agree on an id for the attempt.

torchrun keeps one store for all attempts of a job, including the keys of dead processes, and its restart count differs
between nodes. Relying on either would mix in stale keys of earlier attempts.
"""

import errno
import os
import socket
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from threading import Thread
from typing import TypeVar

import torch.distributed as dist

from regnet.distributed.launcher import Launch
from regnet.distributed.preemption import Preempted, PreemptionNotice

T = TypeVar("T")
_POLL_INTERVAL = 0.05  # seconds
_PREEMPTION_GRACE = 3.0  # seconds after its signal that a preempted rank goes on waiting for the others
_LAUNCHER_TIMEOUT = 10.0  # seconds to connect to the launcher's store
_ANSWER_TIMEOUT = 60.0  # seconds until a store that accepts connections answers


class RendezvousDeadline:
    """Time limit for waiting for other ranks; a few seconds once this rank is preempted.

    Waiting inside the store would block signal handlers, so ranks poll the store and check the deadline in between.
    """

    def __init__(self, seconds: float, notice: PreemptionNotice) -> None:
        self._deadline, self._seconds, self._notice = time.monotonic() + seconds, seconds, notice

    def at_most(self, seconds: float) -> "RendezvousDeadline":
        """A new deadline that starts now and lasts `seconds`, but not longer than the limit of this one."""
        return RendezvousDeadline(min(seconds, self._seconds), self._notice)

    def check(self, waiting_for: str) -> None:
        """Raises TimeoutError or Preempted, with what the rank is waiting for, if the time is up."""
        if self._notice.seconds_since_signal > _PREEMPTION_GRACE:
            raise Preempted(f"interrupted by {self._notice.reason} while waiting for {waiting_for}")
        if time.monotonic() > self._deadline:
            raise TimeoutError(f"waited {self._seconds:g} s for {waiting_for}")


def open_store(launch: Launch, deadline: RendezvousDeadline) -> dist.Store:
    """Connects to the launcher's store, or to rank zero's if the launcher has none (srun)."""
    launcher_hosts = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    hosts = launch.rank == 0 and not launcher_hosts
    if launcher_hosts:  # its store was up before this rank was started, so if it is not reachable, it is gone
        deadline = deadline.at_most(_LAUNCHER_TIMEOUT)
    store = f"the rendezvous store at {launch.address}:{launch.port}"
    while obstacle := _obstacle(launch, hosts):  # TCPStore itself would log long C++ stack traces
        deadline.check(f"{store} ({obstacle})")
        time.sleep(_POLL_INTERVAL)
    connect = partial(dist.TCPStore, launch.address, launch.port, is_master=hosts, wait_for_workers=False)
    return _in_thread(
        connect, deadline.at_most(_ANSWER_TIMEOUT), f"an answer from {store}: another program may use this port"
    )


def _obstacle(launch: Launch, hosts: bool) -> str:
    """Why the store cannot be reached yet; empty if it can. The rank that hosts it needs only its own address."""
    try:
        socket.getaddrinfo(launch.address, launch.port)
        if not hosts:
            with socket.create_connection((launch.address, launch.port), timeout=1) as connection:
                # If nobody listens, the kernel may choose this very port to connect from.
                if connection.getsockname() == connection.getpeername():
                    return os.strerror(errno.ECONNREFUSED)
        return ""
    except (OSError, UnicodeError) as error:  # UnicodeError: no host can have this name
        return getattr(error, "strerror", None) or str(error)


def _in_thread(call: Callable[[], T], deadline: RendezvousDeadline, waiting_for: str) -> T:
    """The result of a call that may wait in C++, where it would block signal handlers and know no deadline."""
    result: Future[T] = Future()

    def work() -> None:
        try:
            result.set_result(call())
        except Exception as error:  # noqa: BLE001  # raised again in the main thread
            result.set_exception(error)

    Thread(target=work, daemon=True).start()
    while not wait([result], _POLL_INTERVAL).done:
        deadline.check(waiting_for)
    return result.result()


def agree_on_attempt_id(store: dist.Store, rank: int, size: int, deadline: RendezvousDeadline) -> str:
    """Waits until all ranks of this attempt have joined and returns an id that only they know.

    Rank zero creates the id, sends it to every rank that asks, dead ones of earlier attempts included, and waits for
    the confirmations.

    Raises:
        TimeoutError: the message names the ranks that did not join.
        Preempted: this rank was preempted before all had joined.
    """
    me = uuid.uuid4().hex
    if rank == 0:
        _send_to_all(store, me, set(range(1, size)), deadline)
        return me
    store.set(f"join/{rank}", me)
    while not store.check([f"attempt/{me}"]):
        deadline.check("rank 0")
        time.sleep(_POLL_INTERVAL)
    attempt = store.get(f"attempt/{me}").decode()
    store.set(f"confirmed/{attempt}/{rank}", "")
    return attempt


def _send_to_all(store: dist.Store, attempt: str, missing: set[int], deadline: RendezvousDeadline) -> None:
    while missing:
        for rank in sorted(missing):
            if store.check([f"confirmed/{attempt}/{rank}"]):
                missing.discard(rank)
            elif store.check([f"join/{rank}"]):
                store.set(f"attempt/{store.get(f'join/{rank}').decode()}", attempt)
        if missing:
            deadline.check(f"rank {', '.join(map(str, sorted(missing)))}")
            time.sleep(_POLL_INTERVAL)
