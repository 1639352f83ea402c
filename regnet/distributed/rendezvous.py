"""How the ranks of one attempt find one another: the store that they share, and a name of their own in it.

torchrun keeps one store for all attempts of a job, with what dead processes wrote in it; and its count of
restarts differs between machines. Ranks that went by either would talk to the dead.
"""

import os
import socket
import time
import uuid

import torch.distributed as dist

from regnet.distributed.preemption import PreemptionNotice
from regnet.errors import UsageError

_LOOK = 0.05  # seconds
_HURRY = 3.0  # seconds
_LAUNCHER = 10.0  # seconds


class Preempted(Exception):
    """A signal came before the ranks had found one another; there is nothing to save."""


class Patience:
    """For ranks that have not come yet: so many seconds, and few once this one is asked to leave.

    A wait inside the store would hear no signal, so all waits are made of short ones, with a look at this between.
    """

    def __init__(self, seconds: float, notice: PreemptionNotice) -> None:
        self._until, self._seconds, self._notice = time.monotonic() + seconds, seconds, notice

    def at_most(self, seconds: float) -> "Patience":
        return Patience(min(seconds, self._seconds), self._notice)

    def check(self, missing: str) -> None:
        """Raises TimeoutError, which says what is missing, or Preempted when it is used up."""
        if self._notice.age > _HURRY:
            raise Preempted(f"asked to leave by {self._notice.given} while {missing}")
        if time.monotonic() > self._until:
            raise TimeoutError(f"{missing} for {self._seconds:g} s")


def open_store(rank: int, patience: Patience) -> dist.Store:
    """The launcher's store; where it keeps none, as srun does, rank zero's."""
    try:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    except (KeyError, ValueError) as error:
        raise UsageError(
            "WORLD_SIZE asks for several processes, but MASTER_ADDR and MASTER_PORT do not say where"
        ) from error
    launcher_keeps = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    keeps = rank == 0 and not launcher_keeps
    if launcher_keeps:  # it was there when this rank was started, so it is there or gone
        patience = patience.at_most(_LAUNCHER)
    while not keeps and not _answers(host, port):  # a store that is not there yet costs pages of C++ stacks
        patience.check(f"there was no store at {host}:{port}")
    return dist.TCPStore(host, port, is_master=keeps, wait_for_workers=False)


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
        return True
    except OSError:
        time.sleep(_LOOK)
        return False


def agree_on_session(store: dist.Store, rank: int, size: int, patience: Patience) -> str:
    """Returns when all ranks of this attempt have come.

    Rank zero makes the name up, answers whoever asks for it, also the dead, and waits for those who heard it.

    Raises:
        TimeoutError: names who did not come.
        Preempted: before all had come.
    """
    me = uuid.uuid4().hex
    if rank == 0:
        _gather(store, me, set(range(1, size)), patience)
        return me
    store.set(f"join/{rank}", me)
    while not store.check([f"session/{me}"]):
        patience.check("rank 0 did not come")
        time.sleep(_LOOK)
    session = store.get(f"session/{me}").decode()
    store.set(f"heard/{session}/{rank}", "")
    return session


def _gather(store: dist.Store, session: str, missing: set[int], patience: Patience) -> None:
    while missing:
        for rank in sorted(missing):
            if store.check([f"heard/{session}/{rank}"]):
                missing.discard(rank)
            elif store.check([f"join/{rank}"]):
                store.set(f"session/{store.get(f'join/{rank}').decode()}", session)
        if missing:
            patience.check(f"rank {', '.join(map(str, sorted(missing)))} did not come")
            time.sleep(_LOOK)
