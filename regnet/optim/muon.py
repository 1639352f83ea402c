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

Turn = Callable[..., tuple[Tensor, ...]]

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
        record: what may make a function of tensors a recorded one.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float,
        dtype: torch.dtype,
        record: Callable[[Turn], Turn] = lambda turn: turn,
    ) -> None:
        # SGD takes the step; where it is to take an orthogonal one, it finds that in the gradient's place.
        plain, turned = {"momentum": momentum, "nesterov": momentum > 0}, {"momentum": 0.0}
        super().__init__([group | (turned if group["matrices"] else plain) for group in groups], lr, fused=True)
        self._step_supports_amp_scaling = False  # momentum gathers gradients as they are
        self._momentum, self._dtype = momentum, dtype
        self._turned = record(self._turn)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        weights = [weight for group in self._groups_of_matrices() for weight in group["params"]]
        if weights:
            grads = [weight.grad for weight in weights]
            torch._foreach_copy_(grads, self._turned(*self._momentum_steps(weights, grads)))
        return super().step(closure)

    def _groups_of_matrices(self) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if group["matrices"]]

    def _momentum_steps(self, weights: list[Tensor], grads: list[Tensor]) -> tuple[Tensor, ...]:
        for weight in weights:
            if "average" not in self.state[weight]:
                self.state[weight]["average"] = torch.zeros_like(weight)
        averages = [self.state[weight]["average"] for weight in weights]
        torch._foreach_lerp_(averages, grads, 1 - self._momentum)
        return torch._foreach_lerp(grads, averages, self._momentum)

    def _turn(self, *steps: Tensor) -> tuple[Tensor, ...]:
        """The steps to take instead, in the order of the groups; all matrices of one shape at once."""
        matrices = [group["matrices"] for group in self._groups_of_matrices() for _ in group["params"]]
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for place, (step, count) in enumerate(zip(steps, matrices, strict=True)):
            alike[step.shape[0] // count, math.prod(step.shape[1:])].append(place)
        turned = [torch.empty_like(step) for step in steps]
        for shape, places in alike.items():
            stack = torch.cat([steps[place].reshape(-1, *shape) for place in places])
            parts = _along(stack, self._dtype).split([matrices[place] for place in places])
            for place, part in zip(places, parts, strict=True):
                turned[place].copy_(part.reshape(turned[place].shape))
        return tuple(turned)


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


def _along(steps: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, rows, columns) -> the steps to take instead, longer along tall matrices."""
    rows, columns = steps.shape[1:]
    return (orthogonal(steps, dtype) * max(1.0, rows / columns) ** 0.5).to(steps.dtype)
