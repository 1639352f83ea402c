"""Which job started this process. A launcher that restarts a job after a crash or a preemption runs the same command
again; `--overwrite` in that command must not delete what the job itself has done so far.
"""

import os
import uuid
from collections.abc import Iterable


def launch_name() -> str:
    """REGNET_LAUNCH, by which a launcher names every attempt of a job: `JOB.ANYTHING`. Empty if it is not set."""
    return os.environ.get("REGNET_LAUNCH", "")


def job_of(launch: str) -> str:
    """The job that an attempt belongs to."""
    return launch.partition(".")[0]


def job_ids() -> tuple[str, ...]:
    """Identities of the job that started this process, each `LAUNCHER:ID`; empty if no launcher is known."""
    ids = {
        "launch": job_of(launch_name()),
        "torchrun": _torchrun_id(),
        "slurm": os.environ.get("SLURM_JOB_ID", ""),
    }
    return tuple(f"{launcher}:{number}" for launcher, number in ids.items() if number)


def _torchrun_id() -> str:
    """Names one launch of torchrun; empty without torchrun.

    TORCHELASTIC_RUN_ID is --rdzv-id, which may be the same in every launch. The store that torchrun hosts lives as long
    as the launch, restarts of its ranks included, so the first rank to ask for the id puts one there.
    """
    run_id = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if not run_id or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # some kinds of rendezvous have no store
        return run_id
    import torch.distributed as dist  # slow, and needed under torchrun only

    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False)
    return store.compare_set("regnet/launch", "", uuid.uuid4().hex).decode()


def restarts(earlier: Iterable[str]) -> bool:
    """Whether this process belongs to a restart of the job with these identities."""
    for identity in set(earlier) & set(job_ids()):
        counter = _AMBIGUOUS.get(identity) or _AMBIGUOUS.get(identity.partition(":")[0])
        if counter is None or os.environ.get(counter, "0") != "0":
            return True
    return False


# Identities that several jobs may share, and the counter that shows a restart: a shell in a SLURM allocation can start
# the same command twice, and torchrun's static rendezvous calls every job "none".
_AMBIGUOUS = {"slurm": "SLURM_RESTART_COUNT", "torchrun:none": "TORCHELASTIC_RESTART_COUNT"}
