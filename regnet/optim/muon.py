"""Muon: SGD with momentum whose updates of convolution weights are orthogonalised.

Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks (2024), including the coefficients.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD

from regnet.optim.stacks import Stacking

_NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.775, 2.0315)
_NEWTON_SCHULZ_ITERATIONS = 5


class SgdOptions(NamedTuple):
    """Options of SGD that parameters must share to be updated by one operation."""

    lr: float
    weight_decay: float
    momentum: float
    nesterov: bool


class Muon(SGD):
    """Muon for parameter groups with `num_matrices`, SGD with Nesterov momentum for the others.

    A weight of a Muon group is split along dim 0 into `num_matrices` matrices, one for each group of a grouped
    convolution, and each is orthogonalised separately. Weight decay of these weights is decoupled.

    Args:
        groups: parameter groups as for SGD, each with `num_matrices`, which is 0 for a group that SGD trains. Their
            parameters are on their device, in their memory format.
        dtype: dtype of the matrix products.

    Attributes:
        orthogonalize: momentum updates -> orthogonalised updates; replaced for CUDA graph capture.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        lr: float,
        momentum: float,
        dtype: torch.dtype,
    ) -> None:
        # In Muon groups the orthogonalised update takes the place of the gradient; plain SGD then applies it.
        sgd, muon = {"momentum": momentum, "nesterov": momentum > 0}, {"momentum": 0.0}
        super().__init__([group | (muon if group["num_matrices"] else sgd) for group in groups], lr, fused=True)
        self._step_supports_amp_scaling = False  # momentum accumulates gradients, so they must be unscaled
        self._momentum, self._dtype = momentum, dtype
        muon_groups = [group for group in self.param_groups if group["num_matrices"]]
        self._muon_weights: list[Tensor] = [weight for group in muon_groups for weight in group["params"]]
        counts = [group["num_matrices"] for group in muon_groups for _ in group["params"]]
        self._stacking = Stacking(self._muon_weights, counts) if counts else None
        self.orthogonalize: Callable[..., tuple[Tensor, ...]] = self._orthogonalize_updates

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Updates all parameters that have a gradient.

        SGD's own `step` launches the fused kernels for each group separately, and imports torch._dynamo.
        """
        gradients = self._gradients()
        updates = gradients | self._muon_updates(gradients)
        by_options: dict[SgdOptions, list[Tensor]] = defaultdict(list)
        for group in self.param_groups:
            options = SgdOptions(*(group[name] for name in SgdOptions._fields))
            by_options[options] += [parameter for parameter in group["params"] if parameter in updates]
        for options, parameters in by_options.items():
            if parameters:
                torch._fused_sgd_(
                    parameters,
                    [updates[parameter] for parameter in parameters],
                    self._momentum_buffers(parameters) if options.momentum else [],
                    **options._asdict(),
                    dampening=0.0,
                    maximize=False,
                    is_first_step=False,  # as momentum buffers start with zeros
                )

    def _gradients(self) -> dict[Tensor, Tensor]:
        return {
            parameter: parameter.grad
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        }

    def _muon_updates(self, gradients: dict[Tensor, Tensor]) -> dict[Tensor, Tensor]:
        """The orthogonalised update of each weight of a Muon group."""
        if not self._muon_weights:
            return {}
        grads = [gradients[weight] for weight in self._muon_weights]
        buffers = self._momentum_buffers(self._muon_weights)
        torch._foreach_lerp_(buffers, grads, 1 - self._momentum)
        updates = torch._foreach_lerp(grads, buffers, self._momentum)
        return dict(zip(self._muon_weights, self.orthogonalize(*updates), strict=True))

    def _momentum_buffers(self, parameters: list[Tensor]) -> list[Tensor]:
        for parameter in parameters:
            if "momentum_buffer" not in self.state[parameter]:
                self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return [self.state[parameter]["momentum_buffer"] for parameter in parameters]

    def _orthogonalize_updates(self, *updates: Tensor) -> tuple[Tensor, ...]:
        """The orthogonalised updates, in the order of the groups, scaled up for tall matrices."""
        assert self._stacking is not None
        stacks = [
            orthogonalize(stack, self._dtype) * factors
            for stack, factors in zip(self._stacking.stack(updates), self._stacking.factors, strict=True)
        ]
        return tuple(self._stacking.unstack(stacks))


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Approximates U V^T of each matrix by five Newton-Schulz iterations: (n, rows, columns) -> the same shape.

    All singular values of the result are near 1. A matrix padded with rows or columns of zeros has the same result,
    padded with zeros.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = _normalize(x).to(dtype)  # before the cast: gradients may be outside the range of fp16
    a, b, c = _NEWTON_SCHULZ_COEFFICIENTS
    for _ in range(_NEWTON_SCHULZ_ITERATIONS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


def _normalize(matrices: Tensor) -> Tensor:
    """Divides each matrix by its Frobenius norm: (n, rows, columns) -> the same shape. Zeros stay zeros.

    Entries are first divided by the largest, as squares of float32 numbers below 1e-19 or above 1e19 underflow or
    overflow: the momentum of a weight whose gradient is zero decays towards zero.
    """
    tiny = torch.finfo(matrices.dtype).tiny
    largest = torch.linalg.vector_norm(matrices, math.inf, dim=(1, 2), keepdim=True).clamp(min=tiny)
    scaled = matrices / largest
    return scaled / torch.linalg.vector_norm(scaled, dim=(1, 2), keepdim=True).clamp(min=tiny)
