"""torch.compile: whether it works on this node, and the compilation of a network block by block."""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from regnet.errors import UsageError
from regnet.models.regnet import Stem, XBlock

FIX = "install g++ and the Python headers, or use --train.compile false"


def check_compiler(device: torch.device) -> None:
    """Raises UsageError if torch.compile does not work here."""
    problem = compiler_problem(device)
    if problem:
        raise UsageError(f"train.compile: torch.compile does not work on this node ({problem}): {FIX}")


def compiler_problem(device: torch.device) -> str:
    """Why torch.compile cannot compile a small function; empty if it can. Takes seconds."""
    from torch._dynamo.exc import TorchDynamoException  # takes a second to import

    try:
        torch.compile(_function)(torch.zeros(2, device=device))
    except TorchDynamoException as error:
        return " ".join(str(error).strip().partition("\n\n")[0].split())  # what follows is for developers
    return ""


def _function(x: torch.Tensor) -> torch.Tensor:
    return x.sin() + 1


def compile_network(network: nn.Module, report: Callable[[str], None] | None = None) -> None:
    """Lets the stem and the blocks of a network be compiled in place, one by one, when they are first used.

    Blocks of equal shapes share their code, so a network of many blocks compiles a few forms, once for each shape of
    images; PyTorch calls this regional compilation. Names of modules and parameters do not change, and copies of the
    network are not compiled.

    Args:
        report: gets a line after each pass that has compiled something; None for none.
    """
    from torch._dynamo import config  # takes a second to import

    # All parts share one cache. At the default limit of 8 entries the others would silently run uncompiled.
    config.recompile_limit = config.accumulated_recompile_limit = sys.maxsize
    for part in network.modules():
        if isinstance(part, Stem | XBlock):
            # Kernels for fixed shapes: PyTorch would otherwise take the shapes of different blocks for a varying one.
            part.compile(dynamic=False)
    if report is not None:
        _Reporter(network, report)


class _Reporter:
    """Reports what each forward pass of a network has compiled, including the code of its backward pass."""

    def __init__(self, network: nn.Module, report: Callable[[str], None]) -> None:
        self.report = report
        self.forms, self.seconds = _compiled()
        network.register_forward_hook(self._after_forward)

    def _after_forward(self, network: nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        forms, seconds = _compiled()
        if forms > self.forms:
            shape = "x".join(map(str, inputs[0].shape))
            count = forms - self.forms
            took = seconds - self.seconds
            self.report(f"Compiled {count} form{'s' * (count > 1)} of blocks in {took:.1f} s, for images {shape}")
            self.forms, self.seconds = forms, seconds


def _compiled() -> tuple[int, float]:
    """How many graphs this process has compiled, and the seconds that it took."""
    from torch._dynamo.utils import calculate_time_spent, counters

    return counters["stats"]["unique_graphs"], calculate_time_spent().get("total_wall_time", 0.0)
