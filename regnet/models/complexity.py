"""What a network consists of: its operators in forward order, with what each costs for one image.

Multiply-adds are those of convolutions and of the linear layer, as Radosavovic et al. (2020), section 3.1, count them;
activations are the numbers that these put out. Nothing else multiplies weights with more than one number each.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

MB = 2**20


@dataclass(frozen=True)
class Operator:
    """One module's call.

    Attributes:
        index: in forward order, from 1.
        name: of the module in the network; `kind` is its class.
        output: its shape for one image, without the batch: (C, H, W), or (classes,).
        parameters: its own, not those of modules inside it.
        multiply_adds, activations: for one image.
    """

    index: int
    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int
    activations: int

    @property
    def output_shape(self) -> str:
        return "x".join(["N", *map(str, self.output)])

    @property
    def output_size(self) -> int:
        """Numbers in its output, for one image."""
        return torch.Size(self.output).numel()


def operators(model: nn.Module, resolution: int, channels: int = 3) -> list[Operator]:
    """Every operator, as their forward calls finish, for an image of this side (pixels)."""
    found: list[Operator] = []

    def finished(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shape, macs = tuple(output.shape[1:]), 0
        size = torch.Size(shape).numel()
        if isinstance(module, nn.Conv2d):
            macs = size * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            macs = module.weight.numel()
        own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        kind = type(module).__name__
        found.append(Operator(len(found) + 1, name, kind, shape, own, macs, size if macs else 0))

    hooks = [
        module.register_forward_hook(lambda *call, name=name: finished(name, *call))
        for name, module in model.named_modules()
        if not isinstance(module, nn.Sequential)
    ]
    try:
        with torch.inference_mode():
            model(torch.zeros(1, channels, resolution, resolution))
    finally:
        for hook in hooks:
            hook.remove()
    return found


@dataclass(frozen=True)
class Sizes:
    """Memory of one image in fp32, in MB of 2^20 bytes.

    Attributes:
        input: the image.
        forward_backward: every operator's output, and its gradient.
        parameters: the weights.
    """

    input: float
    forward_backward: float
    parameters: float

    @property
    def total(self) -> float:
        return self.input + self.forward_backward + self.parameters


def sizes(found: list[Operator], resolution: int, channels: int = 3) -> Sizes:
    numbers = (
        channels * resolution**2,
        2 * sum(operator.output_size for operator in found),
        sum(operator.parameters for operator in found),
    )
    return Sizes(*(4 * count / MB for count in numbers))
