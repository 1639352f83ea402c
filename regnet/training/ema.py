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

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Updates the EMA with the weights of `model`; integer buffers (num_batches_tracked) are copied.

        Args:
            step: number of earlier updates.
        """
        ema_tensors: list[Tensor] = []
        tensors: list[Tensor] = []
        for ema_tensor, tensor in zip(_tensors(self.module), _tensors(model), strict=True):
            if ema_tensor.is_floating_point():
                ema_tensors.append(ema_tensor)
                tensors.append(tensor)
            else:
                ema_tensor.copy_(tensor)
        torch._foreach_lerp_(ema_tensors, tensors, 1 - min(self.decay, (1 + step) / (10 + step)))


def _tensors(model: nn.Module) -> chain[Tensor]:
    return chain(model.parameters(), model.buffers())
