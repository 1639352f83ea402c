"""How often the host waits for the device."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# What needs a tensor's numbers, or how many there will be, on the host.
_NEEDS_NUMBERS = {
    "item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__", "__contains__",
    "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount", "equal", "allclose",
}  # fmt: skip
_INDEXES = {"__getitem__", "__setitem__"}


@contextmanager
def host_waits(device: torch.device) -> Iterator[list[str]]:
    """What makes the host wait for the device inside it, one entry for each time.

    On CUDA it is torch's own watch that tells, by file and line. On a CPU, where nothing is ever waited for, it is the
    calls from Python, by name, that would be such waits if the tensors were on a device; those that torch makes in
    C++ are not seen.
    """
    seen: list[str] = []
    if device.type == "cuda":
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield seen
            finally:
                torch.cuda.set_sync_debug_mode("default")
        seen += waits_among(told)
    else:
        with _Calls(seen):
            yield seen


def waits_among(told: list[warnings.WarningMessage]) -> list[str]:
    """Where torch's watch saw a wait. It also says once that it does not see all of them, which is none."""
    told = [each for each in told if "called a synchronizing CUDA operation" in str(each.message)]
    return [f"{Path(each.filename).name}:{each.lineno}" for each in told]


class _Calls(TorchFunctionMode):
    """Notes the calls that need numbers on the host."""

    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self.seen = seen

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if args and isinstance(args[0], Tensor) and (name in _NEEDS_NUMBERS or _by_mask(name, args)):
            self.seen.append(name)
        return function(*args, **(kwargs or {}))


def _by_mask(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a tensor is indexed by a mask, whose count of ones is the result's size."""
    if name not in _INDEXES:
        return False
    indices = args[1] if isinstance(args[1], tuple) else (args[1],)
    return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices)
