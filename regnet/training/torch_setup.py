"""Process-wide PyTorch settings: seed, determinism, cuDNN benchmarking and the CPU allocator."""

import ctypes
import hashlib
import os

import torch

from regnet.config.schema import TrainConfig

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def configure_torch(seed: int, train: TrainConfig, device: torch.device) -> None:
    """Applies the settings to this process."""
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(seed)
    torch.autograd.set_detect_anomaly(train.detect_anomaly)
    torch.backends.cudnn.benchmark = train.cudnn_benchmark and not train.deterministic
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def rank_seed(seed: int, rank: int) -> int:
    """Seed of torch's generators, different for each rank and for each seed of a run."""
    return int.from_bytes(hashlib.sha256(f"{seed} {rank}".encode()).digest()[:8], "little")


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory instead of returning it to the OS, like PyTorch's caching allocator on GPUs.

    Otherwise every large tensor is newly mapped, and the kernel clears its pages in every step; see mallopt(3).
    """
    mallopt = ctypes.CDLL(None).mallopt
    if not (mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1)):
        raise OSError("mallopt failed to set M_MMAP_MAX and M_TRIM_THRESHOLD")
