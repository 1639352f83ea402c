"""Muon: momentum whose step along each convolution is made orthogonal.

Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks (2024), with its coefficients.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

_COEFFICIENTS = (3.4445, -4.775, 2.0315)
_ITERATIONS = 5
_SMALLEST = 1e-30  # norm that is divided by: nothing is left of nought


class Muon(SGD):
    """SGD with Nesterov momentum, and Muon in groups that have `matrices`: into so many each weight is cut along dim 0.

    A grouped convolution is as many maps as it has groups, so each is made orthogonal by itself. Weight decay of
    these is decoupled.

    Args:
        groups: SGD's, each with `matrices` (0 for plain SGD).
        dtype: of the matrix products.
    """

    def __init__(self, groups: Iterable[dict[str, Any]], lr: float, momentum: float, dtype: torch.dtype) -> None:
        # SGD takes the step; where it is to take an orthogonal one, it finds that in the gradient's place.
        plain, turned = {"momentum": momentum, "nesterov": momentum > 0}, {"momentum": 0.0}
        super().__init__([group | (turned if group["matrices"] else plain) for group in groups], lr, fused=True)
        self._step_supports_amp_scaling = False  # momentum gathers gradients as they are
        self._momentum, self._dtype = momentum, dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        for group in self.param_groups:
            if group["matrices"]:
                self._turn(group["params"], group["matrices"])
        return super().step(closure)

    def _turn(self, weights: list[Tensor], matrices: int) -> None:
        """Puts the steps to take in place of gradients, all weights of one shape at once."""
        alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for weight in weights:
            alike[weight.shape].append(weight)
        for shape, some in alike.items():
            steps = torch.stack([self._momentum_step(weight) for weight in some])
            rows, columns = shape[0] // matrices, math.prod(shape[1:])
            turned = orthogonal(steps.reshape(-1, rows, columns), self._dtype) * max(1.0, rows / columns) ** 0.5
            for weight, step in zip(some, turned.to(steps.dtype).reshape(steps.shape), strict=True):
                weight.grad.copy_(step)  # type: ignore[union-attr]

    def _momentum_step(self, weight: Tensor) -> Tensor:
        state, grad = self.state[weight], weight.grad
        assert grad is not None
        if "average" not in state:
            state["average"] = torch.zeros_like(weight)
        average = state["average"].lerp_(grad, 1 - self._momentum)
        return torch.lerp(grad, average, self._momentum)


def orthogonal(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, rows, columns) -> the same, with singular values near one: five Newton-Schulz steps towards U V^T."""
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    # Before it loses digits or range: gradients may be far smaller, or larger, than fp16 can tell.
    x = (x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_SMALLEST)).to(dtype)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT
