"""Whether torch.compile works on this node: it compiles generated code when a run starts."""

import torch

from regnet.errors import UsageError

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
