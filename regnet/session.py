"""A name that the ranks of one attempt share.

torchrun keeps one store for all attempts of a job, with what dead processes wrote in it; and its count of
restarts differs between machines. Ranks that went by either would talk to the dead.
"""

import time
import uuid
from datetime import timedelta

import torch.distributed as dist

_LOOK = 0.05  # seconds


def agree_on_session(store: dist.Store, rank: int, size: int, timeout: timedelta) -> str:
    """Returns when all ranks of this attempt have come.

    Rank zero makes the name up, answers whoever asks for it, also the dead, and waits for those who heard it.

    Raises:
        TimeoutError: names who did not come.
    """
    me = uuid.uuid4().hex
    if rank == 0:
        _gather(store, me, set(range(1, size)), time.monotonic() + timeout.total_seconds())
        return me
    store.set(f"join/{rank}", me)
    try:
        store.wait([f"session/{me}"], timeout)
    except dist.DistStoreError as error:
        raise TimeoutError(f"rank 0 did not come within {timeout.total_seconds():g} s") from error
    session = store.get(f"session/{me}").decode()
    store.set(f"heard/{session}/{rank}", "")
    return session


def _gather(store: dist.Store, session: str, missing: set[int], deadline: float) -> None:
    while missing:
        for rank in sorted(missing):
            if store.check([f"heard/{session}/{rank}"]):
                missing.discard(rank)
            elif store.check([f"join/{rank}"]):
                store.set(f"session/{store.get(f'join/{rank}').decode()}", session)
        if missing and time.monotonic() > deadline:
            raise TimeoutError(f"rank {', '.join(map(str, sorted(missing)))} did not come in time")
        time.sleep(_LOOK)
