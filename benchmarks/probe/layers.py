"""The layers of a network by shape, and the time of each."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.probe.clock import Clock

VARIANTS = {  # memory format, whether cuDNN measures algorithms, whether groups are merged into one
    "nhwc": (torch.channels_last, False, False),
    "nhwc, tuned": (torch.channels_last, True, False),
    "nchw, tuned": (torch.contiguous_format, True, False),
    "dense": (torch.channels_last, True, True),
}


class Convolution(NamedTuple):
    """Shape of a convolution; `side` is that of its input in pixels."""

    in_width: int
    out_width: int
    kernel: int
    stride: int
    groups: int
    side: int

    @property
    def kind(self) -> str:
        if self.groups > 1:
            return f"grouped {self.kernel}x{self.kernel}"
        return f"{self.kernel}x{self.kernel}"

    def __str__(self) -> str:
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel}, {self.in_width} to {self.out_width} at {self.side}{groups}{stride}"


class Normalized(NamedTuple):
    """Shape of the input of a BatchNorm."""

    width: int
    side: int


def layers_of(network: nn.Module, resolution: int) -> tuple[Counter[Convolution], Counter[Normalized]]:
    """How often each shape of convolution and BatchNorm occurs in a network on a CPU."""
    convolutions: Counter[Convolution] = Counter()
    normalized: Counter[Normalized] = Counter()

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        side = inputs[0].shape[-1]
        if isinstance(module, nn.Conv2d):
            kernel, stride = module.kernel_size[0], module.stride[0]
            widths = module.in_channels, module.out_channels
            convolutions[Convolution(*widths, kernel, stride, module.groups, side)] += 1
        elif isinstance(module, nn.BatchNorm2d):
            normalized[Normalized(module.num_features, side)] += 1

    handles = [module.register_forward_hook(count) for module in network.modules()]
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, resolution, resolution))
    for handle in handles:
        handle.remove()
    return convolutions, normalized


def time_convolution(shape: Convolution, batch: int, dtype: torch.dtype, clock: Clock) -> dict[str, Any]:
    """Times of the passes by variant; `dense` only for grouped convolutions."""
    variants = {name: how for name, how in VARIANTS.items() if shape.groups > 1 or name != "dense"}
    return {name: _time_variant(shape, batch, dtype, clock, *how) for name, how in variants.items()}


def _time_variant(
    shape: Convolution,
    batch: int,
    dtype: torch.dtype,
    clock: Clock,
    memory: torch.memory_format,
    tuned: bool,
    dense: bool,
) -> dict[str, Any]:
    groups = 1 if dense else shape.groups

    def random(*sizes: int) -> Tensor:
        return torch.randn(sizes, device=clock.device, dtype=dtype).contiguous(memory_format=memory)

    images = random(batch, shape.in_width, shape.side, shape.side)
    weight = random(shape.out_width, shape.in_width // groups, shape.kernel, shape.kernel)
    stride, padding = [shape.stride] * 2, [shape.kernel // 2] * 2

    def forward() -> Tensor:
        return F.conv2d(images, weight, None, stride, padding, 1, groups)

    output = forward()
    gradient = torch.randn_like(output)

    def backward(*mask: bool) -> object:
        return torch.ops.aten.convolution_backward(
            gradient, images, weight, None, stride, padding, [1, 1], False, [0, 0], groups, mask
        )

    passes: dict[str, Callable[[], object]] = {
        "forward": forward,
        "input": partial(backward, True, False, False),
        "weight": partial(backward, False, True, False),
    }
    weights = weight.nbytes * groups // shape.groups  # without the zeros that make a grouped convolution dense
    moved = images.nbytes + weights + output.nbytes  # every pass reads two of the three and writes the third
    with _tuned(tuned):
        return {name: clock.time(call, moved) for name, call in passes.items()}


@contextmanager
def _tuned(tuned: bool) -> Iterator[None]:
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = tuned
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def time_others(shape: Normalized, batch: int, dtype: torch.dtype, clock: Clock) -> dict[str, Any]:
    """Times of BatchNorm's passes, of a ReLU in place and of an addition; channels last."""

    def random() -> Tensor:
        images = torch.randn(batch, shape.width, shape.side, shape.side, device=clock.device, dtype=dtype)
        return images.contiguous(memory_format=torch.channels_last)

    images, gradient = random().requires_grad_(), random()
    layer = nn.BatchNorm2d(shape.width, device=clock.device)
    layer.num_batches_tracked = None  # counted by a kernel of its own, once for all layers
    output = layer(images)
    plain, size = output.detach().clone(), gradient.nbytes

    @torch.no_grad()
    def forward() -> Tensor:
        return layer(images)

    def backward() -> object:
        return torch.autograd.grad(output, [images, layer.weight, layer.bias], gradient, retain_graph=True)

    return {
        "BatchNorm": clock.time(forward, 3 * size),  # reads twice (statistics, then normalisation), writes once
        "BatchNorm, backward": clock.time(backward, 5 * size),  # reads images and gradient twice, writes once
        "ReLU": clock.time(lambda: F.relu_(plain), 2 * size),
        "addition": clock.time(lambda: plain + gradient, 3 * size),
    }
