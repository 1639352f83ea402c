"""Automatic mixed precision (AMP): autocast, the gradient scaler, and whether a CPU computes in bf16."""

from collections.abc import Mapping
from contextlib import AbstractContextManager

import torch

# Reached after 30 consecutive overflows; fairseq aborts at this loss scale as well.
_MIN_LOSS_SCALE = 1e-4
_AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# Names in torch.cpu.get_capabilities: three of x86, and ARM's.
_BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16")
FIX = "use --train.precision fp32"


def precision_problem(name: str, device: torch.device) -> str:
    """Why train.precision makes training slower on this device; empty if it does not."""
    if name == "bf16" and device.type == "cpu" and _emulates_bf16():
        return "PyTorch emulates bf16 on this CPU, so training is slower than in fp32"
    return ""


def precision_notes(name: str, device: torch.device) -> list[str]:
    """Lines that a run prints: the problem and its remedy, if there is one."""
    problem = precision_problem(name, device)
    return [f"{problem}: {FIX}"] if problem else []


def _emulates_bf16() -> bool:
    # oneDNN also accepts AVX-512 without bf16 instructions, and converts. If it does not accept the CPU, PyTorch runs
    # bf16 convolutions without it, several times slower. The operator does not exist in builds without oneDNN.
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return (supported is not None and not supported()) or not has_bf16_instructions(torch.cpu.get_capabilities())


def has_bf16_instructions(capabilities: Mapping[str, object]) -> bool:
    """Whether a CPU with the capabilities that torch.cpu.get_capabilities returned has bf16 instructions."""
    return any(capabilities.get(instruction) for instruction in _BF16_INSTRUCTIONS)


class Precision:
    """Weights stay in fp32; bf16 and fp16 autocast the forward pass, and fp16 also uses a gradient scaler.

    Args:
        name: fp32, bf16 or fp16.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self._device = device.type
        self._dtype = _AUTOCAST_DTYPES[name]
        self.scaler = torch.amp.GradScaler(self._device, enabled=name == "fp16")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of convolutions and matrix products in the forward pass."""
        return self._dtype or torch.float32

    @property
    def skips_overflow(self) -> bool:
        """Whether steps with non-finite gradients are skipped."""
        return self.scaler.is_enabled()

    def overflows(self) -> bool:
        """Whether gradients overflow at any loss scale, so training has diverged. Synchronises with the device."""
        return self.skips_overflow and self.scaler.get_scale() < _MIN_LOSS_SCALE

    def autocast(self) -> AbstractContextManager:
        # No cache: each weight is used once, and a captured CUDA graph must not refer to a weight cast before it.
        return torch.autocast(self._device, self._dtype, enabled=self._dtype is not None, cache_enabled=False)
