"""BatchNorm layers whose batches are counted together.

torch.nn.BatchNorm2d adds 1 to its num_batches_tracked in every training step, by an operation for each layer.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d, but the network that contains it counts its batches: see `count_batches`."""

    momentum: float  # None would mean a cumulative average

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        return F.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, self.training, self.momentum, self.eps
        )


def count_batches(network: nn.Module) -> None:
    """Adds 1 to num_batches_tracked of each BatchNorm2d that is in training mode, by one operation for all."""
    norms = [module for module in network.modules() if isinstance(module, BatchNorm2d) and module.training]
    counters = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
    if counters:
        torch._foreach_add_(counters, 1)
