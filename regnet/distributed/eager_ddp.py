"""DistributedDataParallel that does not import torch's compiler, which takes about a second in every process."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel


def ddp_class() -> type[DistributedDataParallel]:
    """torch's class if this process compiles anything, otherwise EagerDdp."""
    return DistributedDataParallel if "torch._dynamo" in sys.modules else EagerDdp


class EagerDdp(DistributedDataParallel):
    """DistributedDataParallel for a network that is not compiled; the same otherwise."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        with _stand_in_for_dynamo():
            super().__init__(*arguments, **options)

    def _run_ddp_forward(self, *inputs: Any, **options: Any) -> Any:
        # The original also tells the compiler which module is active; the decorator of that imports the compiler.
        return self.module(*inputs, **options)


class _Utils:
    """Answers the constructor, which asks whether the compiler is to exchange the gradients ("python_reducer")."""

    def get_optimize_ddp_mode(self) -> str:
        return "no_optimization"

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("torch._dynamo.utils"), name)


class _Dynamo(SimpleNamespace):
    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("torch._dynamo"), name)


@contextmanager
def _stand_in_for_dynamo() -> Iterator[None]:
    """Puts a stand-in in the place of torch._dynamo, which is a lazily imported attribute of torch.

    A version of torch that asks for anything else gets the real module, imported as usual.
    """
    stand_in = _Dynamo(utils=_Utils())
    torch.__dict__["_dynamo"] = stand_in
    try:
        yield
    finally:
        if torch.__dict__.get("_dynamo") is stand_in:  # the import of the real module would have replaced it
            del torch.__dict__["_dynamo"]
