"""What the environment says about this process: how a launcher started it.

A variable is honoured or refused. A launcher that is only half described would otherwise start several runs that know
nothing of one another.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from commandline.environment import VariableError

_SINGLE = "unset WORLD_SIZE, RANK and LOCAL_RANK"
_ALL = "WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT"
_CURE = f"start with torchrun, or set {_ALL} for every process; for a single process, {_SINGLE}"
# The number of processes that srun, Open MPI, MPICH or Intel MPI, and MVAPICH have started together with this one.
_TASKS = {"SLURM_STEP_NUM_TASKS": "srun"}
_TASKS |= dict.fromkeys(("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"), "mpirun")
_TASKS_CURE = (
    "start torchrun once per node, or submit slurm/direct.sbatch, which sets them; "
    "if every process trains another run, set WORLD_SIZE=1"
)
_MAX_PORT, _MAX_DIGITS = 65535, 9


@dataclass(frozen=True)
class Launch:
    """This process among those of its run.

    Attributes:
        size: number of processes.
        rank: rank of this process.
        local_rank: rank among the processes on this node.
        address: where the processes meet; empty for a single process.
        port: of the store at this address; 0 for a single process.
    """

    size: int = 1
    rank: int = 0
    local_rank: int = 0
    address: str = ""
    port: int = 0


def read_launch(env: Mapping[str, str] = os.environ) -> Launch:
    """Reads the variables that torchrun, slurm/rank.sh or a user have set.

    Raises:
        VariableError: they are malformed or incomplete, or several processes were started without them.
    """
    if "WORLD_SIZE" not in env:
        _check_alone(env)
        return Launch()
    size = _number(env, "WORLD_SIZE", 1)
    if size == 1:
        for name in ("RANK", "LOCAL_RANK"):
            if name in env:
                _number(env, name, 0, below=1)
        return Launch()
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if not env.get(name)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise VariableError(f"WORLD_SIZE is {size}, but {_join(missing)} {verb} not set", _CURE)
    rank, local_rank = (_number(env, name, 0, below=size) for name in ("RANK", "LOCAL_RANK"))
    return Launch(size, rank, local_rank, env["MASTER_ADDR"], _number(env, "MASTER_PORT", 1, below=_MAX_PORT + 1))


def _check_alone(env: Mapping[str, str]) -> None:
    """Raises VariableError if variables show that other processes were started together with this one."""
    for name in ("RANK", "LOCAL_RANK"):
        if name in env:
            raise VariableError(f"{name} is {env[name]!r}, but WORLD_SIZE is not set", _CURE)
    for name, launcher in _TASKS.items():
        if env.get(name, "1") != "1":
            problem = f"{launcher} has started several processes ({name} is {env[name]!r}), but WORLD_SIZE is not set"
            raise VariableError(f"{problem}, so each would train the same run", _TASKS_CURE)


def _number(env: Mapping[str, str], name: str, least: int, below: int | None = None) -> int:
    text = env[name]
    number = int(text) if text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS else -1
    if number < least or (below is not None and number >= below):
        kind = f"an integer of at least {least}" if below is None else f"an integer from {least} to {below - 1}"
        size = f" with WORLD_SIZE {env['WORLD_SIZE']}" if name.endswith("RANK") else ""
        raise VariableError(f"{name} must be {kind}{size}, got {text!r}", _CURE)
    return number


def _join(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
