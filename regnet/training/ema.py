"""The moving average of the weights."""

from copy import deepcopy
from itertools import chain

import torch
from torch import Tensor, nn


class ModelEma(nn.Module):
    """An exponential moving average of weights and BatchNorm statistics, which begins with those of `model`.

    torch.optim.swa_utils.AveragedModel would do, but that each of its updates sends a number to the device and waits.

    Args:
        decay: per update, 0 to 1.

    Attributes:
        module: the network with the averages.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.module = deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Takes in the weights of a model of the same kind; its counters, which have no mean, are copied."""
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for average, value in zip(_tensors(self.module), _tensors(model), strict=True):
            if average.is_floating_point():
                averages.append(average)
                values.append(value)
            else:
                average.copy_(value)
        torch._foreach_lerp_(averages, values, 1 - self.decay)


def _tensors(model: nn.Module) -> chain[Tensor]:
    return chain(model.parameters(), model.buffers())
