"""Optimisers that do not import torch's compiler."""

import inspect
from typing import TypeVar, cast

import torch
from torch.optim import Optimizer

Kind = TypeVar("Kind", bound=Optimizer)

# torch decorates them so that torch.compile does not trace them (torch._disable_dynamo, _use_grad_for_differentiable).
_DECORATED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict", "step")


def without_dynamo(optimizer: type[Kind]) -> type[Kind]:
    """A subclass that skips the decorators whose first call imports torch._dynamo, which takes about a second.

    Only a compiled optimiser step needs them, and no optimiser is compiled here. A step still computes no gradients,
    as its decorator ensures. With a version of torch that decorates otherwise, the methods stay as they are.
    """
    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in _DECORATED}
    methods["step"] = torch.no_grad()(methods["step"])
    return cast(type[Kind], type(optimizer.__name__, (optimizer,), methods))
