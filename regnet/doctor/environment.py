"""Checks of a node: software, GPUs, CPU cores, limits of the operating system, SLURM allocation."""

import os
import platform
import resource
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist

from commandline.environment import INSTALL
from regnet.config.schema import Config
from regnet.distributed.world import choose_device
from regnet.doctor.findings import Finding, fail, format_bytes, guarded, ok, plural, warn
from regnet.errors import UsageError

_CUDA_BUILD = "in the repository, run `.venv/bin/pip uninstall -y torch torchvision`, then `tools/install.sh`"
GPU_LOST = "run nvidia-smi: a GPU may be lost or in exclusive use by another process"
_DRIVER = Path("/proc/driver/nvidia/version")
_CGROUPS = Path("/sys/fs/cgroup")
_MIN_OPEN_FILES = 1024
_MIN_SHM = 1 << 30  # bytes; NCCL uses about 10 MB per pair of neighbours, containers have 64 MB by default
_MIN_TIME_LEFT = 600  # seconds


def check_node(config: Config, processes: int) -> list[Finding]:
    """Checks of this node that need neither the dataset nor other nodes.

    Args:
        processes: number of the run's processes on this node.
    """
    return [
        *python(),
        *pytorch(),
        *guarded("driver", driver, "ask your administrator: the NVIDIA driver does not respond", OSError),
        *guarded("GPUs", lambda: gpus(config, processes), GPU_LOST, RuntimeError),
        *ffcv(),
        *guarded("cores", lambda: cores(config, processes), "mount /proc", OSError),
        *guarded("open files", open_files, "raise the limit: ulimit -n 65536", OSError),
        *guarded("/dev/shm", shared_memory, "mount a tmpfs at /dev/shm (docker run --shm-size=8g)", OSError),
        *slurm(os.environ),
    ]


def check_device(config: Config, local_rank: int) -> list[Finding]:
    """The device that this process would use."""
    try:
        device = choose_device(config.train.device, local_rank)
    except UsageError as error:
        return [fail("device", str(error), _how_to_get_a_gpu())]
    except RuntimeError as error:  # from the driver
        return [fail("device", str(error), GPU_LOST)]
    reason = f"train.device: {config.train.device}"
    if device.type == "cpu" and config.train.device == "auto":
        reason += ", no GPU available to PyTorch"
    return [ok("device", f"{device.type} ({reason})")]


def _how_to_get_a_gpu() -> str:
    if torch.version.cuda is None:
        return f"PyTorch is built without CUDA: {_CUDA_BUILD}, or use --train.device cpu"
    if torch.cuda.device_count() == 0:
        return "request a GPU (SLURM: --gpus-per-node), check CUDA_VISIBLE_DEVICES, or use --train.device cpu"
    return "start at most one process per GPU, and set LOCAL_RANK for every process"


def python() -> list[Finding]:
    message = f"{platform.python_version()} on {platform.system()} {platform.release()} {platform.machine()}"
    if platform.python_version_tuple()[:2] in (("3", "11"), ("3", "12")):
        return [ok("python", message)]
    return [warn("python", message, "only 3.11 and 3.12 are tested: PYTHON=/path/to/python3.12 make install")]


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
        return [warn("driver", f"NVIDIA {version}, but PyTorch is built without CUDA", _CUDA_BUILD)]
    message = f"NVIDIA {version}, but PyTorch finds no GPU"
    return [warn("driver", message, f"check CUDA_VISIBLE_DEVICES; CUDA {torch.version.cuda} may need a newer driver")]


def gpus(config: Config, processes: int) -> list[Finding]:
    count = torch.cuda.device_count()
    if count == 0:
        return [ok("GPUs", f"none; {plural(processes, 'process', 'processes')} on this node", count=0)]
    properties = [torch.cuda.get_device_properties(index) for index in range(count)]
    models = [f"{gpu.name} {format_bytes(gpu.total_memory)}" for gpu in properties]
    message = ", ".join(f"{models.count(model)} x {model}" for model in dict.fromkeys(models))
    message += f"; {plural(processes, 'process', 'processes')} on this node"
    if 1 < processes < count and config.train.device != "cpu":
        fix = f"{count - processes} would be idle: use --nproc_per_node={count}"
        return [warn("GPUs", message, fix, count=count)]
    return [ok("GPUs", message, count=count)]


def ffcv() -> list[Finding]:
    try:
        import data.reading.ffcv_pipeline  # noqa: F401  # imports everything of FFCV that a run uses
    except (ImportError, OSError) as error:  # OSError: a shared library that cannot be loaded
        return [fail("FFCV", f"cannot be imported: {error}", INSTALL)]
    return [ok("FFCV", "can be imported")]


def cores(config: Config, processes: int) -> list[Finding]:
    available = available_cores()
    threads = torch.get_num_threads()
    message = f"{available:g} of {os.cpu_count()} available; {plural(processes, 'process', 'processes')}"
    message += f" with {plural(threads, 'thread')}"
    if config.data.workers > 1:
        message += f" and {config.data.workers} decoding threads"
    if processes > 1:
        message += " each"
    if processes * threads > available:
        fewer = max(1, int(available) // processes)
        fix = f"set OMP_NUM_THREADS={fewer}" if fewer < threads else "request more cores (SLURM: --cpus-per-task)"
        return [warn("cores", message, f"more threads than cores: {fix}")]
    return [ok("cores", message)]


def available_cores() -> float:
    """Limited by the CPU affinity, which SLURM sets, and by cgroup quotas, which containers have."""
    limits = [float(len(os.sched_getaffinity(0)))]
    for group in cgroups():
        with suppress(OSError, ValueError):  # no such file, as in the root cgroup; or "max", no quota
            quota, period = (group / "cpu.max").read_text().split()
            limits.append(int(quota) / int(period))
    return min(limits)


def cgroups() -> list[Path]:
    """The cgroups (version 2) of this process, innermost first. Each may set limits."""
    innermost = _CGROUPS / Path("/proc/self/cgroup").read_text().rpartition("0::/")[2].strip()
    return [group for group in (innermost, *innermost.parents) if group.is_relative_to(_CGROUPS)]


def open_files() -> list[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    message = f"limit of {soft:,} per process"
    if soft < _MIN_OPEN_FILES:
        fix = f"shards and connections to other processes may need more: ulimit -n {hard}"
        return [warn("open files", message, fix, limit=soft)]
    return [ok("open files", message, limit=soft)]


def shared_memory() -> list[Finding]:
    stat = os.statvfs("/dev/shm")
    size, free = stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize
    message = format_bytes(size)
    if free < _MIN_SHM and torch.cuda.device_count() > 1:
        fix = "NCCL may need more: docker run --shm-size=8g"
        return [warn("/dev/shm", f"{message}, {format_bytes(free)} free", fix)]
    return [ok("/dev/shm", message, bytes=size)]


def slurm(env: Mapping[str, str]) -> list[Finding]:
    """The SLURM allocation; no finding outside one."""
    if "SLURM_JOB_ID" not in env:
        return []
    facts = [f"job {env['SLURM_JOB_ID']}"]
    for name, template in _SLURM_FACTS.items():
        if env.get(name):
            facts.append(template.format(env[name]))
    left = _seconds_left(env)
    facts.append("time left unknown" if left is None else f"{left / 60:,.0f} min left")
    message = ", ".join(facts)
    if left is not None and left < _MIN_TIME_LEFT:
        return [warn("SLURM", message, "the job ends soon: request a longer --time")]
    return [ok("SLURM", message)]


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
    except (KeyError, ValueError):  # older versions of SLURM do not set it
        return None
