"""Kernels recorded once and launched together: small ones are done sooner than a host launches them one by one.

Source: CUDA graphs, as torch.cuda.graph and torch.cuda.make_graphed_callables record them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from regnet.config.schema import TrainConfig
from regnet.distributed.world import World
from regnet.training.amp import Precision

F = TypeVar("F", bound=Callable[..., Any])


class Recording(NamedTuple):
    """What a graph reads and writes, at the same place each time."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: Any


class CapturedFunction:
    """A function of tensors and whole numbers on a GPU, recorded for inputs of each shape when they first come.

    The modes of that call (autocast, inference) and the inputs' dtypes are recorded with it.

    Args:
        function: computes without gradients, changes nothing, asks the device nothing, draws from no generator, and
            finds whatever else it reads where it was. Numbers come to it as tensors int64 (); the tensors that it
            returns are overwritten when it is called again.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._recordings: dict[tuple[torch.Size, ...], Recording] = {}

    @torch.no_grad()
    def __call__(self, *inputs: Tensor | int) -> Any:
        shapes = tuple(value.shape if isinstance(value, Tensor) else torch.Size() for value in inputs)
        if shapes not in self._recordings:
            self._recordings[shapes] = self._record(inputs)
        graph, kept, outputs = self._recordings[shapes]
        numbers = {place: value for place, value in enumerate(inputs) if not isinstance(value, Tensor)}
        for place, value in numbers.items():
            kept[place].fill_(value)
        torch._foreach_copy_(
            [mine for place, mine in enumerate(kept) if place not in numbers],
            [value for value in inputs if isinstance(value, Tensor)],
        )
        graph.replay()
        return outputs

    def _record(self, inputs: tuple[Tensor | int, ...]) -> Recording:
        kept = [value.clone() if isinstance(value, Tensor) else torch.tensor(value, device="cuda") for value in inputs]
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            self.function(*kept)  # chooses algorithms and makes handles, which no recording may hold
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=aside):
            outputs = self.function(*kept)
        return Recording(graph, kept, outputs)


class CapturedNetwork(nn.Module):
    """A network whose forward and backward passes in training are recorded for batches of one shape; others run freely.

    A gradient is overwritten by the next backward pass, which therefore must not add to it.

    Args:
        network: in the mode that it is trained in.
        images: a batch of that shape, dtype and memory format, of any content.
    """

    def __init__(self, network: nn.Module, images: Tensor, precision: Precision) -> None:
        super().__init__()
        self.network, self.shape = network, images.shape
        # What adds gradients up lives on the stream of the recording, and waits for the one that replays it.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        statistics = [buffer.clone() for buffer in network.buffers()]
        with precision.autocast():
            self.recorded: Callable[[Tensor], Tensor]
            self.recorded = torch.cuda.make_graphed_callables(_Freely(network), (images,))  # type: ignore[assignment]
        for buffer, before in zip(network.buffers(), statistics, strict=True):
            buffer.copy_(before)  # what the recording's own batches left in them

    def forward(self, images: Tensor) -> Tensor:
        if self.training and images.shape == self.shape:
            return self.recorded(images)
        return self.network(images)


class _Freely(nn.Module):
    """The network by another name: the one that is recorded has its `forward` replaced."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def records(train: TrainConfig, world: World) -> bool:
    """Whether a run records what it can.

    Not what adds to gradients, which a recorded pass overwrites, or asks the device for each of them.
    """
    alone_on_gpu = world.size == 1 and world.device.type == "cuda"
    return train.cuda_graphs and alone_on_gpu and train.grad_accum_steps == 1 and not train.detect_anomaly


def recorder(train: TrainConfig, world: World) -> Callable[[F], F]:
    """What makes a function a recorded one, in a run that records."""
    return CapturedFunction if records(train, world) else lambda function: function  # type: ignore[return-value]
