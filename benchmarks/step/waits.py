"""How often the host waits for the device."""

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# What needs a tensor's numbers, or how many there will be, on the host.
_NEEDS_NUMBERS = {
    "item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__", "__contains__",
    "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "equal", "allclose",
}  # fmt: skip


class HostWaits(TorchFunctionMode):
    """Counts, inside it, calls that make the host wait for the device.

    On any device it sees calls from Python; where all tensors are the host's, any of them counts as if it were on a
    device. On CUDA it also counts what the driver's own watch reports, from C++ as well.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.calls: list[str] = []
        self._watch = _DriverWatch() if device.type == "cuda" else None

    def __enter__(self) -> "HostWaits":
        if self._watch is not None:
            self._watch.__enter__()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._watch is not None:
            self._watch.__exit__(kind, error, trace)
            self.calls += self._watch.seen

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(function, "__name__", "")
        # With the driver's watch on, it alone decides: it sees these calls too.
        if self._watch is None and name in _NEEDS_NUMBERS and args and isinstance(args[0], Tensor):
            self.calls.append(name)
        return function(*args, **(kwargs or {}))


class _DriverWatch(AbstractContextManager["_DriverWatch"]):
    """torch's own: it warns of every operation that waits for the device, but for an explicit synchronize()."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._recorded = warnings.catch_warnings(record=True)

    def __enter__(self) -> "_DriverWatch":
        self._warnings = self._recorded.__enter__()
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        return self

    def __exit__(self, *exception: object) -> None:
        torch.cuda.set_sync_debug_mode("default")
        self._recorded.__exit__(*exception)  # type: ignore[arg-type]
        self.seen = [str(w.message) for w in self._warnings or () if "synchroniz" in str(w.message)]
