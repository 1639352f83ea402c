"""Gradient clipping."""

from collections.abc import Iterable

import torch
from torch import nn


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> None:
    """Scales all gradients down together if their joint norm exceeds `max_norm`, without synchronising.

    Unlike in torch.nn.utils.clip_grad_norm_, the norm is a float64. In float32 the squares of gradients above 1e19
    overflow, and an infinite norm would silently clip every gradient to zero.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch._foreach_norm(gradients, 2, dtype=torch.float64)
    norm = torch.linalg.vector_norm(torch.stack(norms))
    torch._foreach_mul_(gradients, (max_norm / norm.clamp(min=max_norm)).float())
