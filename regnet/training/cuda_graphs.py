"""CUDA graph capture: small kernels finish sooner than the host can launch them one by one.

Source: torch.cuda.graph. Kernels are captured on the stream that also replays them, and where they are ready to be
captured: they have run before, which chose their algorithms and created their handles.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from regnet.errors import UsageError

Replay = Callable[[], None]


def supports_graphs(device: torch.device) -> bool:
    return device.type == "cuda"


class GraphCapture:
    """Captures functions; after a failure it captures nothing more, and its user runs them uncaptured.

    The graphs of one object share the memory of their intermediate results, so none may be replayed between two that
    were captured together.

    Args:
        what: is captured, for messages: "the updates".
        required: raise an error if the capture fails, instead of a message.
        report: prints the message.
    """

    def __init__(self, what: str, required: bool, report: Callable[[str], None]) -> None:
        self.what, self.required, self.report = what, required, report
        self._pool: Any = None  # created at the first capture: a handle needs CUDA

    def __call__(self, *functions: Callable[[], None]) -> list[Replay] | None:
        """A function that replays the kernels of each function, in the order of their replays; None after a failure.

        Raises:
            UsageError: the capture failed, and is required.
        """
        try:
            return [self.capture(function) for function in functions]
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            if self.required:
                raise UsageError(
                    f"train.cuda_graphs is true, but {self.what} cannot be captured ({reason}): use auto or false"
                ) from error
            self.report(f"CUDA graphs: {self.what} cannot be captured, so they run slower ({reason})")
            return None

    def capture(self, function: Callable[[], None]) -> Replay:
        """Captures one function; none of its kernels run."""
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        # In the default mode, calls of other threads, such as those of NCCL's watchdog, would make the capture fail.
        with torch.cuda.graph(graph, self._pool, stream, capture_error_mode="thread_local"):
            function()
        return graph.replay


class CapturedFunction:
    """A function of tensors and integers, captured when a combination of shapes, dtypes and modes first occurs.

    Args:
        function: computes without gradients, has no side effects, does not synchronise with the device, draws no random
            numbers, and reads everything else from the same addresses each time. It gets integers as int64 () tensors;
            the tensors that it returns are overwritten by the next call.
    """

    def __init__(self, capture: GraphCapture, function: Callable[..., Any]) -> None:
        self.capture, self.function = capture, function
        self._calls: dict[Hashable, CapturedCall | None] = {}

    @torch.no_grad()
    def __call__(self, *inputs: Tensor | int) -> Any:
        key = call_key(*inputs)
        if key not in self._calls:
            self._calls[key] = self._capture(inputs)
        call = self._calls[key]
        return self.function(*inputs) if call is None else call(*inputs)

    def _capture(self, inputs: Sequence[Tensor | int]) -> "CapturedCall | None":
        self.function(*inputs)  # chooses algorithms and creates handles, which a capture must not do
        call = CapturedCall(self.function, inputs)
        replays = self.capture(call.run)
        if replays is None:
            return None
        call.replay = replays[0]
        return call


class CapturedCall:
    """A call whose inputs and outputs stay at the same addresses.

    Attributes:
        replay: runs the kernels of `run`.
    """

    replay: Replay

    def __init__(self, function: Callable[..., Any], inputs: Sequence[Tensor | int]) -> None:
        self.function = function
        device = next(value.device for value in inputs if isinstance(value, Tensor))
        self._inputs = [
            value.clone() if isinstance(value, Tensor) else torch.tensor(value, device=device) for value in inputs
        ]
        self._outputs: Any = None

    def run(self) -> None:
        self._outputs = self.function(*self._inputs)

    def __call__(self, *inputs: Tensor | int) -> Any:
        own, values = [], []
        for tensor, value in zip(self._inputs, inputs, strict=True):
            if isinstance(value, Tensor):
                own.append(tensor)
                values.append(value)
            else:
                tensor.fill_(value)
        torch._foreach_copy_(own, values)
        self.replay()
        return self._outputs


def call_key(*inputs: Tensor | int) -> Hashable:
    """Equal for calls that run the same kernels: shapes, dtypes, and the modes of PyTorch."""
    tensors = [value for value in inputs if isinstance(value, Tensor)]
    device_type = tensors[0].device.type
    modes = (torch.is_inference_mode_enabled(), torch.is_autocast_enabled(device_type))
    return (*modes, *((tensor.shape, tensor.dtype) for tensor in tensors))
