"""Counts how often the host waits for the device."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Functions that need a tensor's values on the host, or whose output size depends on them.
_NEEDS_VALUES = {
    "item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__", "__contains__",
    "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount", "equal", "allclose",
}  # fmt: skip
_INDEXING = {"__getitem__", "__setitem__"}


@contextmanager
def host_waits(device: torch.device) -> Iterator[list[str]]:
    """Collects the calls within this context that make the host wait for the device, one entry per call.

    On CUDA, torch's sync debug mode reports file and line. On a CPU, where nothing waits, these are the names of Python
    calls that would wait if the tensors were on a GPU; calls inside torch's C++ code are not seen.
    """
    waits: list[str] = []
    if device.type == "cuda":
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield waits
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits += sync_warnings(warned)
    else:
        with _CallRecorder(waits):
            yield waits


def sync_warnings(warned: list[warnings.WarningMessage]) -> list[str]:
    """File and line of each synchronisation. Skips torch's general warning that the mode is a prototype."""
    synchronisations = [each for each in warned if "called a synchronizing CUDA operation" in str(each.message)]
    return [f"{Path(each.filename).name}:{each.lineno}" for each in synchronisations]


class _CallRecorder(TorchFunctionMode):
    """Records the calls that need values on the host."""

    def __init__(self, waits: list[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        if args and isinstance(args[0], Tensor) and (name in _NEEDS_VALUES or _indexes_by_mask(name, args)):
            self.waits.append(name)
        return function(*args, **(kwargs or {}))


def _indexes_by_mask(name: str, args: tuple[Any, ...]) -> bool:
    """Whether the call indexes a tensor by a boolean mask, whose sum determines the size of the result."""
    if name not in _INDEXING:
        return False
    indices = args[1] if isinstance(args[1], tuple) else (args[1],)
    return any(isinstance(index, Tensor) and index.dtype == torch.bool for index in indices)
