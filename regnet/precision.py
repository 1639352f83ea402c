"""Which arithmetic is used: how exact, how repeatable, and how gradients keep from vanishing in it."""

import ctypes
import hashlib
import os
from contextlib import AbstractContextManager

import torch

from regnet.config import TrainConfig

# After 30 halvings in a row; fairseq gives up here too.
_SMALLEST_SCALE = 1e-4
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h
_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def prepare_torch(seed: int, train: TrainConfig, device: torch.device) -> None:
    """Sets what PyTorch keeps for the whole process."""
    if device.type == "cpu":
        keep_freed_memory()
    torch.manual_seed(seed)
    torch.autograd.set_detect_anomaly(train.detect_anomaly)
    torch.backends.cudnn.benchmark = train.autotune and not train.deterministic
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


class Precision:
    """Weights stay fp32; under bf16 and fp16 the forward pass runs in autocast, under fp16 with a gradient scaler.

    Args:
        name: fp32, bf16 or fp16.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self._device = device.type
        self._dtype = _AUTOCAST[name]
        self.scaler = torch.amp.GradScaler(self._device, enabled=name == "fp16")

    @property
    def dtype(self) -> torch.dtype:
        """Of convolutions and matrix products in the forward pass."""
        return self._dtype or torch.float32

    @property
    def skips_overflow(self) -> bool:
        """Whether a step with gradients that are not finite is left out instead of taken."""
        return self.scaler.is_enabled()

    def overflows(self) -> bool:
        """Whether so many steps were left out that it is not the scale's fault. Waits for the device."""
        return self.skips_overflow and self.scaler.get_scale() < _SMALLEST_SCALE

    def autocast(self) -> AbstractContextManager:
        # Each weight is used once, and what is recorded must not hold a weight that was cast before.
        return torch.autocast(self._device, self._dtype, enabled=self._dtype is not None, cache_enabled=False)
