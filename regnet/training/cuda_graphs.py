"""CUDA graph capture: small kernels finish sooner than the host can launch them one by one.

`capture_step` is the one place that decides what is captured. Source: torch.cuda.graph and
torch.cuda.make_graphed_callables.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from regnet.config.schema import TrainConfig
from regnet.distributed.world import World
from regnet.models.regnet import set_head_train_mode
from regnet.optim.muon import Muon
from regnet.training.amp import Precision
from regnet.training.batches import TrainingBatches
from regnet.training.train_step import TrainStep


class Capture(NamedTuple):
    """A graph and the tensors that it reads and writes, whose addresses never change."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: Any


class CapturedFunction:
    """A function of tensors and integers on a GPU, captured for each combination of shapes when it first occurs.

    The modes of that call (autocast, inference) and the inputs' dtypes are captured with it.

    Args:
        function: computes without gradients, has no side effects, does not synchronise with the device, draws no random
            numbers, and reads everything else from the same addresses each time. It gets integers as int64 () tensors;
            the tensors that it returns are overwritten by the next call.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._captures: dict[tuple[torch.Size, ...], Capture] = {}

    @torch.no_grad()
    def __call__(self, *inputs: Tensor | int) -> Any:
        shapes = tuple(value.shape if isinstance(value, Tensor) else torch.Size() for value in inputs)
        if shapes not in self._captures:
            self._captures[shapes] = self._capture(inputs)
        graph, static, outputs = self._captures[shapes]
        for tensor, value in zip(static, inputs, strict=True):
            if not isinstance(value, Tensor):
                tensor.fill_(value)
        torch._foreach_copy_(
            [tensor for tensor, value in zip(static, inputs, strict=True) if isinstance(value, Tensor)],
            [value for value in inputs if isinstance(value, Tensor)],
        )
        graph.replay()
        return outputs

    def _capture(self, inputs: tuple[Tensor | int, ...]) -> Capture:
        static = [
            value.clone() if isinstance(value, Tensor) else torch.tensor(value, device="cuda") for value in inputs
        ]
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            self.function(*static)  # warm-up: chooses algorithms and creates handles, which a capture must not do
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            outputs = self.function(*static)
        return Capture(graph, static, outputs)


class CapturedNetwork(nn.Module):
    """A network whose training passes are captured for batches of one shape; other batches run uncaptured.

    The next backward pass overwrites the gradients, so they cannot be accumulated.

    Args:
        network: in the mode in which it is trained.
        images: a batch of that shape, dtype and memory format, with any contents.
    """

    def __init__(self, network: nn.Module, images: Tensor, precision: Precision) -> None:
        super().__init__()
        self.network, self.shape = network, images.shape
        # The mismatch is intended: gradients accumulate on the capture's stream, which waits for the replaying stream.
        torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
        buffers = [buffer.clone() for buffer in network.buffers()]
        with precision.autocast():
            self.captured: Callable[[Tensor], Tensor]
            self.captured = torch.cuda.make_graphed_callables(_Uncaptured(network), (images,))  # type: ignore[assignment]
        for buffer, before in zip(network.buffers(), buffers, strict=True):
            buffer.copy_(before)  # warm-up and capture have changed BatchNorm's statistics

    def forward(self, images: Tensor) -> Tensor:
        if self.training and images.shape == self.shape:
            return self.captured(images)
        return self.network(images)


class _Uncaptured(nn.Module):
    """Wraps the network, because make_graphed_callables replaces the `forward` of what it captures."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def should_capture_step(train: TrainConfig, world: World) -> bool:
    """Whether a run captures its steps: a single process on a GPU.

    Gradient accumulation adds to gradients, which a captured pass overwrites; anomaly detection synchronises.
    """
    single_gpu = world.size == 1 and world.device.type == "cuda"
    return train.cuda_graphs and single_gpu and train.grad_accum_steps == 1 and not train.detect_anomaly


def capture_step(train_step: TrainStep, train_batches: TrainingBatches) -> None:
    """Captures the forward and backward passes, augmentation, Muon's updates, evaluation and the teacher."""
    state, loss = train_step.state, train_step.loss
    train_batches.capture = CapturedFunction
    with torch.random.fork_rng(devices=[train_step.world.device]):  # warm-up passes must not change random states
        train_step.network = _captured_network(train_step)
    train_step.predict = CapturedFunction(train_step.predict)
    if loss.teacher is not None:
        loss.teacher = CapturedFunction(loss.teacher)
    if isinstance(state.optimizer, Muon):
        state.optimizer.orthogonalize = CapturedFunction(state.optimizer.orthogonalize)


def _captured_network(train_step: TrainStep) -> CapturedNetwork:
    """Captured for full batches of the final resolution."""
    train, side = train_step.config.train, train_step.config.data.resolution
    train_step.network.train()
    if train.freeze_backbone:
        set_head_train_mode(train_step.state.model)
    images = torch.zeros((train.batch_size, 3, side, side), device=train_step.world.device)
    images = images.contiguous(memory_format=train_step.memory_format)
    return CapturedNetwork(train_step.network, images, train_step.precision)
