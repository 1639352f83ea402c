"""A copy of the network that computes the training passes, with weights in the dtype of those computations."""

from copy import deepcopy
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ComputeCopy:
    """A copy of a network that shares its parameters and buffers, except weights that it has in another dtype.

    Autocast casts every weight by a kernel of its own in the forward pass, and every gradient in the backward pass.
    The weights of the copy are cast together.

    Attributes:
        network: the copy, which may be compiled without affecting the original.
        weights: parameters of the original that the copy has in another dtype.
        casts: the copy's parameters in their place.
    """

    network: nn.Module
    weights: list[Tensor]
    casts: list[Tensor]

    @torch.no_grad()
    def cast_weights(self) -> None:
        """Updates the copy after the original's weights have changed."""
        if self.casts:
            torch._foreach_copy_(self.casts, self.weights)


def compute_copy(network: nn.Module, dtype: torch.dtype) -> ComputeCopy:
    """Copies a network; the parameters that autocast casts, those of convolutions and linear layers, are in `dtype`."""
    weights: list[Tensor] = [
        weight
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
        for weight in module.parameters(recurse=False)
        if weight.dtype != dtype
    ]
    casts: list[Tensor] = [nn.Parameter(weight.detach().to(dtype), weight.requires_grad) for weight in weights]
    shared = {id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())}
    own: dict[int, Any] = {id(weight): cast for weight, cast in zip(weights, casts, strict=True)}
    return ComputeCopy(deepcopy(network, shared | own), weights, casts)
