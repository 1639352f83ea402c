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


def compile_network(network: nn.Module, report: Callable[[str], None] | None) -> None:
    """Lets the stem and each block of a network be compiled in place when it is first used (regional compilation).

    Blocks with the same shapes and drop-path rate share their code, so that a network of many blocks compiles a few
    forms, anew for every shape of images. Module and parameter names do not change; copies are not compiled.

    Args:
        report: gets a line after each step that has compiled something; None for no lines.
    """
    from torch._dynamo import config  # takes a second to import

    # All forms share one cache. At the default limit of eight entries, further forms would silently run uncompiled.
    config.recompile_limit = config.accumulated_recompile_limit = sys.maxsize
    for part in network.modules():
        if isinstance(part, Stem | XBlock):
            # Not dynamic: torch would see the shapes of the first two blocks as one shape that varies.
            part.compile(dynamic=False)
    if report is not None:
        network.register_forward_pre_hook(_Reporter(report))


class _Reporter:
    """Reports what the previous step has compiled; the backward pass is compiled when it first runs."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.report = report
        self.forms, self.seconds = _compiled()

    def __call__(self, network: nn.Module, inputs: Any) -> None:
        forms, seconds = _compiled()
        if forms > self.forms:
            self.report(f"Compiled {forms - self.forms} forms of stem and blocks in {seconds - self.seconds:.1f} s")
            self.forms, self.seconds = forms, seconds


def _compiled() -> tuple[int, float]:
    """How many graphs this process has compiled, and the seconds that this took."""
    from torch._dynamo.utils import calculate_time_spent, counters

    return counters["stats"]["unique_graphs"], calculate_time_spent()["total_wall_time"]
