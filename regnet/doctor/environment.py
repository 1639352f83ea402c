"""What a machine is: its software, its processors, its limits, its place in a SLURM allocation."""

import os
import platform
import resource
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist

from regnet.config.schema import Config
from regnet.distributed.world import choose_device
from regnet.doctor.findings import Finding, guarded, in_bytes, note, ok, plural, stops
from regnet.errors import UsageError

INSTALL = "run `make install` in the repository, and use its .venv/bin/python"
_DRIVER = Path("/proc/driver/nvidia/version")
_CGROUPS = Path("/sys/fs/cgroup")
_FEW_FILES = 1024
_SMALL_SHM = 1 << 30  # NCCL keeps some ten MB there for each pair of neighbours; containers give 64 MB in all
_LITTLE_TIME = 600  # seconds


def check_machine(config: Config, processes: int) -> list[Finding]:
    """Everything about this machine that needs neither data nor other machines.

    Args:
        processes: of the run on this machine.
    """
    return [
        *python(),
        *pytorch(),
        *guarded("driver", driver, "ask whoever runs this machine: the NVIDIA driver does not answer", OSError),
        *guarded("GPUs", lambda: gpus(config, processes), "see nvidia-smi; a GPU may be lost or taken", RuntimeError),
        *ffcv(),
        *guarded("cores", lambda: cores(config, processes), "is /proc mounted?", OSError),
        *guarded("open files", open_files, "ulimit -n 65536", OSError),
        *guarded("/dev/shm", shared_memory, "mount a tmpfs at /dev/shm (docker run --shm-size=8g)", OSError),
        *slurm(os.environ),
    ]


def check_device(config: Config, local_rank: int) -> list[Finding]:
    """What this process would compute on."""
    try:
        device = choose_device(config.train.device, local_rank)
    except UsageError as error:
        return [stops("device", str(error), _way_to_gpu(config))]
    except RuntimeError as error:  # a driver that breaks while it is asked
        return [stops("device", str(error), "see nvidia-smi; a GPU may be lost or taken")]
    why = f"train.device: {config.train.device}"
    if device.type == "cpu" and config.train.device == "auto":
        why += ", and no GPU that PyTorch can use"
    return [ok("device", f"{device.type} ({why})")]


def _way_to_gpu(config: Config) -> str:
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA: `make install` on a machine with a GPU, or --train.device cpu"
    if torch.cuda.device_count() == 0:
        return "ask for a GPU (SLURM: --gpus-per-node), look at CUDA_VISIBLE_DEVICES, or --train.device cpu"
    return "start no more processes on a machine than it has GPUs, and set LOCAL_RANK for each"


def python() -> list[Finding]:
    saw = f"{platform.python_version()} on {platform.system()} {platform.release()} {platform.machine()}"
    if platform.python_version_tuple()[:2] in (("3", "11"), ("3", "12")):
        return [ok("python", saw)]
    return [note("python", saw, "3.11 and 3.12 are tested: PYTHON=/path/to/python3.12 make install")]


def pytorch() -> list[Finding]:
    cuda = f"CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    nccl = "no NCCL"
    if torch.version.cuda and dist.is_nccl_available():
        nccl = f"NCCL {'.'.join(map(str, torch.cuda.nccl.version()))}"
    return [ok("torch", f"{torch.__version__}, {cuda}, {nccl}")]


def driver() -> list[Finding]:
    if not _DRIVER.exists():
        return [ok("driver", "no NVIDIA driver")]
    words = _DRIVER.read_text().partition("\n")[0].split()
    version = next((word for word in words if word[0].isdigit()), "of unknown version")
    if torch.cuda.is_available():
        return [ok("driver", f"NVIDIA {version}")]
    if torch.version.cuda is None:
        return [note("driver", f"NVIDIA {version}, but this PyTorch is built without CUDA", INSTALL)]
    saw = f"NVIDIA {version}, but PyTorch sees no GPU"
    return [note("driver", saw, f"look at CUDA_VISIBLE_DEVICES; CUDA {torch.version.cuda} may need a newer driver")]


def gpus(config: Config, processes: int) -> list[Finding]:
    count = torch.cuda.device_count()
    if count == 0:
        return [ok("GPUs", f"none; {plural(processes, 'process', 'processes')} here", count=0)]
    found = [torch.cuda.get_device_properties(index) for index in range(count)]
    kinds = [f"{gpu.name} {in_bytes(gpu.total_memory)}" for gpu in found]
    told = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    saw = f"{told}; {plural(processes, 'process', 'processes')} here"
    if 1 < processes < count and config.train.device != "cpu":
        return [note("GPUs", saw, f"{count - processes} of them stay idle: --nproc_per_node={count}", count=count)]
    return [ok("GPUs", saw, count=count)]


def ffcv() -> list[Finding]:
    try:
        import data.reading.shard_reader  # noqa: F401  # FFCV, and all of it that a run uses
    except (ImportError, OSError) as error:  # OSError: a shared library that does not load
        return [stops("FFCV", f"cannot be imported: {error}", INSTALL)]
    return [ok("FFCV", "can be imported")]


def cores(config: Config, processes: int) -> list[Finding]:
    allowed = allowed_cores()
    threads = torch.get_num_threads()
    wanted = processes * threads
    users = f"{plural(processes, 'process', 'processes')} of {plural(threads, 'thread')}"
    saw = f"{allowed:g} allowed of {os.cpu_count()}; {users}"
    if config.data.workers > 1:
        saw += f" and {config.data.workers} for decoding"
    if wanted > allowed:
        fewer = max(1, int(allowed) // processes)
        step = f"OMP_NUM_THREADS={fewer}" if fewer < threads else "ask for more cores (SLURM: --cpus-per-task)"
        return [note("cores", saw, f"threads wait for one another: {step}")]
    return [ok("cores", saw)]


def allowed_cores() -> float:
    """By affinity, which SLURM sets, and by the cgroups' quotas, which containers have."""
    allowed = [float(len(os.sched_getaffinity(0)))]
    for group in cgroups():
        with suppress(OSError, ValueError):  # no such file, as in the root; or "max", no quota
            quota, period = (group / "cpu.max").read_text().split()
            allowed.append(int(quota) / int(period))
    return min(allowed)


def cgroups() -> list[Path]:
    """The cgroups (version 2) that hold this process, its own first: each may set a limit."""
    own = Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    return [group for group in (_CGROUPS / own, *(_CGROUPS / own).parents) if group.is_relative_to(_CGROUPS)]


def open_files() -> list[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    saw = f"at most {soft:,} in a process"
    if soft < _FEW_FILES:
        return [note("open files", saw, f"each shard and each other process takes some: ulimit -n {hard}", limit=soft)]
    return [ok("open files", saw, limit=soft)]


def shared_memory() -> list[Finding]:
    place = os.statvfs("/dev/shm")
    size, free = place.f_blocks * place.f_frsize, place.f_bavail * place.f_frsize
    saw = f"{in_bytes(size)}"
    if free < _SMALL_SHM and torch.cuda.device_count() > 1:
        return [note("/dev/shm", f"{saw}, {in_bytes(free)} free", "NCCL may need more: docker run --shm-size=8g")]
    return [ok("/dev/shm", saw, bytes=size)]


def slurm(env: Mapping[str, str]) -> list[Finding]:
    """What the allocation says about itself; nothing outside one."""
    if "SLURM_JOB_ID" not in env:
        return []
    facts = [f"job {env['SLURM_JOB_ID']}"]
    for name, words in _SLURM_FACTS.items():
        if env.get(name):
            facts.append(words.format(env[name]))
    left = _seconds_left(env)
    facts.append("time left unknown" if left is None else f"{left / 60:,.0f} min left")
    saw = ", ".join(facts)
    tasks = env.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks != "1" and "WORLD_SIZE" not in env:
        advice = "start one torchrun a node (srun --ntasks-per-node=1), or set RANK, WORLD_SIZE and LOCAL_RANK"
        return [stops("SLURM", f"{saw}; {tasks} tasks that know nothing of one another", advice)]
    if left is not None and left < _LITTLE_TIME:
        return [note("SLURM", saw, "the job ends soon: ask for a longer --time")]
    return [ok("SLURM", saw)]


_SLURM_FACTS = {
    "SLURM_JOB_PARTITION": "partition {}",
    "SLURM_JOB_NUM_NODES": "{} nodes",
    "SLURM_NTASKS": "{} tasks",
    "SLURM_GPUS_ON_NODE": "{} GPUs on this node",
    "SLURM_RESTART_COUNT": "requeued {} times",
}


def _seconds_left(env: Mapping[str, str]) -> float | None:
    try:
        return float(env["SLURM_JOB_END_TIME"]) - time.time()
    except (KeyError, ValueError):  # older versions of SLURM do not tell
        return None
