"""Model complexity: parameters, multiply-adds, activations and memory of each operator, for one image.

Multiply-adds are counted as in Radosavovic et al. (2020), section 3.1: those of convolutions and linear layers.
Activations are the sizes of the outputs of these layers.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

MB = 2**20


@dataclass(frozen=True)
class Operator:
    """One call of a module in the forward pass.

    Attributes:
        index: position in forward order, from 1.
        name: qualified name of the module in the network.
        kind: class name of the module.
        output: output shape without the batch dimension: (C, H, W) or (classes,).
        parameters: number of the module's own parameters, without those of its children.
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
        """Number of output elements for one image."""
        return torch.Size(self.output).numel()


def profile_operators(model: nn.Module, resolution: int, channels: int = 3) -> list[Operator]:
    """Runs one image of resolution x resolution pixels; the operators are in the order in which their calls finish."""
    operators: list[Operator] = []

    def on_forward(name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shape, macs = tuple(output.shape[1:]), 0
        size = torch.Size(shape).numel()
        if isinstance(module, nn.Conv2d):
            macs = size * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            macs = module.weight.numel()
        parameters = sum(parameter.numel() for parameter in module.parameters(recurse=False))
        kind = type(module).__name__
        operators.append(Operator(len(operators) + 1, name, kind, shape, parameters, macs, size if macs else 0))

    hooks = [
        module.register_forward_hook(lambda *call, name=name: on_forward(name, *call))
        for name, module in model.named_modules()
        if not isinstance(module, nn.Sequential)
    ]
    try:
        with torch.inference_mode():
            model(torch.zeros(1, channels, resolution, resolution))
    finally:
        for hook in hooks:
            hook.remove()
    return operators


@dataclass(frozen=True)
class MemoryEstimate:
    """Estimated fp32 memory for one image, in MB (2^20 bytes).

    Attributes:
        input: the image.
        forward_backward: every operator's output and its gradient.
        parameters: the weights.
    """

    input: float
    forward_backward: float
    parameters: float

    @property
    def total(self) -> float:
        return self.input + self.forward_backward + self.parameters


def estimate_memory(operators: list[Operator], resolution: int, channels: int = 3) -> MemoryEstimate:
    counts = (
        channels * resolution**2,
        2 * sum(operator.output_size for operator in operators),
        sum(operator.parameters for operator in operators),
    )
    return MemoryEstimate(*(4 * count / MB for count in counts))
