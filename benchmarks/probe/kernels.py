"""The kernels of one forward and backward pass."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from regnet.training.amp import Precision

_STEPS = 5


class Kernel(NamedTuple):
    """All launches of a kernel in one step; on a CPU, of an operation."""

    name: str
    launches: float
    us: float


def kernels_of(network: nn.Module, images: Tensor, labels: Tensor, precision: Precision) -> list[Kernel]:
    """Kernels of the passes of a network in training mode, the longest first."""

    def step() -> None:
        with precision.autocast():
            logits = network(images)
        F.cross_entropy(logits.float(), labels).backward()
        network.zero_grad()

    for _ in range(2):  # chooses algorithms
        step()
    gpu = images.is_cuda
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as profiler:
        for _ in range(_STEPS):
            step()
        if gpu:
            torch.cuda.synchronize()
    kernels = [
        Kernel(
            each.key, each.count / _STEPS, (each.self_device_time_total if gpu else each.self_cpu_time_total) / _STEPS
        )
        for each in profiler.key_averages()
        if each.device_type == (DeviceType.CUDA if gpu else DeviceType.CPU)
    ]
    return sorted(kernels, key=lambda kernel: -kernel.us)
