"""Process-wide PyTorch settings: seeds, determinism, cuDNN benchmarking and the allocator."""

import ctypes
import hashlib
import os

import torch

from regnet.config.schema import TrainConfig

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def prepare_torch(seed: int, train: TrainConfig, device: torch.device) -> None:
    """Sets what PyTorch keeps for the whole process."""
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(seed)
    torch.autograd.set_detect_anomaly(train.detect_anomaly)
    torch.backends.cudnn.benchmark = train.cudnn_benchmark and not train.deterministic
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def seed_of_rank(seed: int, rank: int) -> int:
    """For torch's generators; no other rank's, and no other run's."""
    return int.from_bytes(hashlib.sha256(f"{seed} {rank}".encode()).digest()[:8], "little")


def keep_freed_memory() -> None:
    """Makes glibc reuse freed memory of any size, as on GPUs torch does itself; the process never shrinks.

    Otherwise every large tensor is mapped anew, and the kernel clears its pages in each step (mallopt(3)).
    """
    mallopt = ctypes.CDLL(None).mallopt
    if not (mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1)):
        raise OSError("mallopt refused to keep freed memory")
