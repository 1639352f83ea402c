"""Exponential moving average (EMA) of the weights."""

from copy import deepcopy
from itertools import chain

import torch
from torch import Tensor, nn


class ModelEma(nn.Module):
    """EMA of weights and BatchNorm statistics, initialised with those of `model`.

    The decay warms up: update t, counted from 0, uses min(decay, (1 + t) / (10 + t)), as in TensorFlow's
    ExponentialMovingAverage. Otherwise most of the EMA after a thousand steps with a decay of 0.9998 would be the
    initialisation.

    torch.optim.swa_utils.AveragedModel is not used because each of its updates synchronises with the device.

    Args:
        decay: per update after the warm-up, 0 to 1.

    Attributes:
        module: the network with the EMA weights.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = deepcopy(model).requires_grad_(False)
        self.decay = decay

    def update(self, model: nn.Module, step: int) -> None:
        """Updates the EMA with the weights of `model`; integer buffers (num_batches_tracked) are copied.

        Args:
            step: number of earlier updates.
        """
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        copied = [pair for pair in pairs if not pair[0].is_floating_point()]
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_([ema for ema, _ in averaged], [tensor for _, tensor in averaged], weight)
            if copied:
                torch._foreach_copy_([ema for ema, _ in copied], [tensor for _, tensor in copied])


def _tensors(model: nn.Module) -> chain[Tensor]:
    return chain(model.parameters(), model.buffers())
