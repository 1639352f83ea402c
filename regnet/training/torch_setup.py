"""Process-wide PyTorch settings: seed, determinism, cuDNN benchmarking and the CPU allocator."""

import ctypes
import hashlib
import os
from collections.abc import Mapping

import torch

from regnet.config.schema import TrainConfig
from regnet.errors import UsageError

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_MALLOC_VARIABLES = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
_DETERMINISTIC_CUBLAS = (":4096:8", ":16:8")  # the values that torch accepts


def configure_torch(seed: int, train: TrainConfig, device: torch.device) -> None:
    """Applies the settings to this process.

    Raises:
        UsageError: train.deterministic, but the environment asks cuBLAS for something else.
    """
    if device.type == "cpu" and not configures_malloc(os.environ):
        keep_freed_memory()
    torch.manual_seed(seed)
    torch.autograd.set_detect_anomaly(train.detect_anomaly)
    torch.backends.cudnn.benchmark = train.cudnn_benchmark and not train.deterministic
    if train.deterministic:
        workspace = os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", _DETERMINISTIC_CUBLAS[0])
        if workspace not in _DETERMINISTIC_CUBLAS:
            raise UsageError(
                f"train.deterministic needs CUBLAS_WORKSPACE_CONFIG={' or '.join(_DETERMINISTIC_CUBLAS)}, "
                f"got {workspace!r}: unset it, or use --train.deterministic false"
            )
    if train.compile:
        torch.use_deterministic_algorithms(train.deterministic)  # configures the compiler as well
    else:  # the same without the import of the compiler, which takes a second
        torch.set_deterministic_debug_mode("error" if train.deterministic else "default")


def rank_seed(seed: int, rank: int) -> int:
    """Seed of torch's generators, different for each rank and for each seed of a run."""
    return int.from_bytes(hashlib.sha256(f"{seed} {rank}".encode()).digest()[:8], "little")


def configures_malloc(env: Mapping[str, str]) -> bool:
    """Whether the user has set glibc's own variables for what keep_freed_memory changes; they are honoured."""
    return any(name in env for name in _MALLOC_VARIABLES) or "glibc.malloc." in env.get("GLIBC_TUNABLES", "")


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory instead of returning it to the OS, like PyTorch's caching allocator on GPUs.

    Otherwise every large tensor is newly mapped, and the kernel clears its pages in every step; see mallopt(3).
    """
    mallopt = ctypes.CDLL(None).mallopt
    if not (mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1)):
        raise OSError("mallopt failed to set M_MMAP_MAX and M_TRIM_THRESHOLD")
