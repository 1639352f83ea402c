"""What a result depends on bit by bit besides the configuration: PyTorch, and each process's device and threads."""

from collections.abc import Sequence
from typing import Any

import torch

Environment = dict[str, Any]
_READABLE = {"threads": "threads per process"}
_REMEDY = {"threads": " (OMP_NUM_THREADS)"}


def describe_environment(device: torch.device) -> Environment:
    """The environment of this process in plain values, for a checkpoint.

    On a CPU, PyTorch chooses its kernels by the instruction set, and the order of a sum depends on the threads.
    """
    found: Environment = {"torch": str(torch.__version__)}
    if device.type == "cuda":
        return found | {"device": torch.cuda.get_device_name(device)}
    instructions = torch.backends.cpu.get_cpu_capability()
    return found | {"device": f"{device.type} ({instructions})", "threads": torch.get_num_threads()}


def describe_changes(before: Sequence[Environment] | None, now: Sequence[Environment]) -> str:
    """What differs between two lists of environments, one for each process; empty if nothing does.

    Args:
        before: None if it is unknown.
    """
    if before is None:
        return ""
    changes = []
    if len(before) != len(now):
        changes.append(f"processes was {len(before)}, now {len(now)}")
    for name in ("torch", "device", "threads"):
        old, new = _values(before, name), _values(now, name)
        if old != new and old and new:
            changes.append(f"{_READABLE.get(name, name)} was {old}, now {new}{_REMEDY.get(name, '')}")
    return "; ".join(changes)


def summarise(environments: Sequence[Environment]) -> dict[str, str]:
    """The values of all processes, by name; different ones are joined by `and`."""
    names = dict.fromkeys(name for environment in environments for name in environment)
    return {name: _values(environments, name) for name in names}


def _values(environments: Sequence[Environment], name: str) -> str:
    """The distinct values in the order of the ranks; empty where none of the processes has one."""
    distinct = dict.fromkeys(str(environment[name]) for environment in environments if name in environment)
    return " and ".join(distinct)
