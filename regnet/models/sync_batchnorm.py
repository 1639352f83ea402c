"""Synchronised BatchNorm: statistics over the global batch instead of each rank's part, on any device.

torch.nn.SyncBatchNorm does not support CPU tensors. This implementation uses differentiable all-reduces, so the code
that runs on GPUs can be tested without them.
"""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from regnet.models.batchnorm import BatchNorm2d


class SyncBatchNorm2d(BatchNorm2d):
    """BatchNorm2d with training statistics over the samples of all ranks, however many each rank has."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        values = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        count = torch.full((1,), x.numel() // x.shape[1], dtype=values.dtype, device=x.device)
        sums = _all_reduce(torch.cat([values.sum((0, 2, 3)), count]))
        mean, total = sums[:-1] / sums[-1], sums[-1].detach()
        # Two passes: E[x^2] - E[x]^2 cancels catastrophically if a channel's mean is much larger than its deviation.
        centred = values - mean.view(1, -1, 1, 1)
        variance = _all_reduce(centred.square().sum((0, 2, 3))) / total
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * total / (total - 1), self.momentum)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias.view(1, -1, 1, 1), centred, scale.view(1, -1, 1, 1)).to(x.dtype)


class _AllReduce(torch.autograd.Function):
    """Differentiable sum over ranks. Every output depends on every input, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


def _all_reduce(x: Tensor) -> Tensor:
    return _AllReduce.apply(x)


def convert_sync_batchnorm(model: nn.Module) -> nn.Module:
    """Replaces every BatchNorm2d inside `model` in place, keeping parameters and buffers."""
    for name, child in model.named_children():
        if isinstance(child, BatchNorm2d):
            synced = SyncBatchNorm2d(child.num_features, child.eps, child.momentum)
            synced.load_state_dict(child.state_dict())
            setattr(model, name, synced)
        else:
            convert_sync_batchnorm(child)
    return model
