"""Which arithmetic is used: how exact, how repeatable, and how gradients keep from vanishing in it."""

from contextlib import AbstractContextManager

import torch

# After 30 halvings in a row; fairseq gives up here too.
_SMALLEST_SCALE = 1e-4
_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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
