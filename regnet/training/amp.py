"""Automatic mixed precision (AMP): autocast and the gradient scaler."""

from contextlib import AbstractContextManager

import torch

# Reached after 30 consecutive overflows; fairseq aborts at this loss scale as well.
_MIN_LOSS_SCALE = 1e-4
_AUTOCAST_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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
