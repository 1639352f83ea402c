"""Muon: SGD with momentum whose updates of convolution weights are orthogonalised.

Source: Jordan et al., Muon: An optimizer for hidden layers in neural networks (2024), including the coefficients.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD

_NEWTON_SCHULZ_COEFFICIENTS = (3.4445, -4.775, 2.0315)
_NEWTON_SCHULZ_ITERATIONS = 5


class Muon(SGD):
    """Muon for parameter groups with `num_matrices`, SGD with Nesterov momentum for the others.

    A weight of a Muon group is split along dim 0 into `num_matrices` matrices, one for each group of a grouped
    convolution, and each is orthogonalised separately. Weight decay of these weights is decoupled.

    Args:
        groups: parameter groups as for SGD, each with `num_matrices`, which is 0 for a group that SGD trains.
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
        # In Muon groups the gradient is replaced by the orthogonalised update; plain SGD then applies it.
        sgd, muon = {"momentum": momentum, "nesterov": momentum > 0}, {"momentum": 0.0}
        super().__init__([group | (muon if group["num_matrices"] else sgd) for group in groups], lr, fused=True)
        self._step_supports_amp_scaling = False  # momentum accumulates gradients, so they must be unscaled
        self._momentum, self._dtype = momentum, dtype
        self.orthogonalize: Callable[..., tuple[Tensor, ...]] = self._orthogonalize_updates

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        weights = [weight for group in self._muon_groups() for weight in group["params"]]
        if weights:
            grads = [weight.grad for weight in weights]
            torch._foreach_copy_(grads, self.orthogonalize(*self._momentum_updates(weights, grads)))
        return super().step(closure)

    def _muon_groups(self) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if group["num_matrices"]]

    def _momentum_updates(self, weights: list[Tensor], grads: list[Tensor]) -> tuple[Tensor, ...]:
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        buffers = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_lerp_(buffers, grads, 1 - self._momentum)
        return torch._foreach_lerp(grads, buffers, self._momentum)

    def _orthogonalize_updates(self, *updates: Tensor) -> tuple[Tensor, ...]:
        """The orthogonalised updates, in the order of the groups. Matrices of the same shape are processed together."""
        counts = [group["num_matrices"] for group in self._muon_groups() for _ in group["params"]]
        by_shape: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, (update, count) in enumerate(zip(updates, counts, strict=True)):
            by_shape[update.shape[0] // count, math.prod(update.shape[1:])].append(index)
        results = [torch.empty_like(update) for update in updates]
        for shape, indices in by_shape.items():
            stack = torch.cat([updates[index].reshape(-1, *shape) for index in indices])
            parts = _orthogonalize_and_scale(stack, self._dtype).split([counts[index] for index in indices])
            for index, part in zip(indices, parts, strict=True):
                results[index].copy_(part.reshape(results[index].shape))
        return tuple(results)


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Approximates U V^T of each matrix by five Newton-Schulz iterations: (n, rows, columns) -> the same shape.

    All singular values of the result are near 1.
    """
    wide = matrices.shape[1] <= matrices.shape[2]
    x = matrices if wide else matrices.mT
    x = _normalize(x).to(dtype)  # before the cast: gradients may be outside the range of fp16
    a, b, c = _NEWTON_SCHULZ_COEFFICIENTS
    for _ in range(_NEWTON_SCHULZ_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.mT


def _normalize(matrices: Tensor) -> Tensor:
    """Divides each matrix by its Frobenius norm: (n, rows, columns) -> the same shape. Zeros stay zeros.

    Entries are first scaled by a power of two, as squares of float32 numbers below 1e-19 or above 1e19 underflow or
    overflow: the momentum of a weight whose gradient is zero decays towards zero. Such a scaling is exact, so it does
    not change the result where the squares are representable.
    """
    largest = matrices.abs().amax(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(matrices.dtype).tiny)
    mantissas, _ = largest.frexp()
    scaled = matrices * (mantissas / largest)
    norms = scaled.norm(dim=(1, 2), keepdim=True)
    return scaled / norms.where(norms != 0, 1)


def _orthogonalize_and_scale(updates: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, rows, columns) -> orthogonalised updates of the same shape; those of tall matrices are scaled up."""
    rows, columns = updates.shape[1:]
    return (orthogonalize(updates, dtype) * max(1.0, rows / columns) ** 0.5).to(updates.dtype)
