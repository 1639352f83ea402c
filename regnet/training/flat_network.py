"""The training passes of a network, as functions of tensors whose addresses never change.

The trained parameters are views of one flat parameter, as in PyTorch's FSDP, and their gradients are views of one
buffer. DistributedDataParallel therefore exchanges one bucket by one all-reduce, and everything before and after it can
be captured as CUDA graphs.
"""

from collections import Counter
from collections.abc import Hashable
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.parallel import DistributedDataParallel

from regnet.training.compute_copy import ComputeCopy
from regnet.training.cuda_graphs import GraphCapture, Replay, call_key

# cuDNN reads weights in place if they begin at a multiple of 128 bytes.
_ALIGNMENT = 32
# Uncaptured uses choose algorithms and create handles, which must not happen during capture.
_USES_BEFORE_CAPTURE = 2


class FlatNetwork(nn.Module):
    """Runs the forward and backward pass of a network, and writes the gradients into one buffer.

    The network's parameters stay ordinary parameters, with a `grad` that is never None. The first backward pass after
    this module's `zero_grad` overwrites it, further ones add to it. Parameters must not be moved to other memory.

    Args:
        network: on its device and in its memory format.
        compute: a copy of it for the passes.

    Attributes:
        flat: the only parameter, and so all that DistributedDataParallel sees: float32 (numbers,).
        capture: captures the passes as CUDA graphs; None to run them uncaptured. A shape of images is captured when it
            occurs for the third time in an epoch, so an epoch's smaller last batch is not.
    """

    def __init__(self, network: nn.Module, compute: ComputeCopy) -> None:
        super().__init__()
        self._networks = (network, compute.network)  # a tuple hides them from DistributedDataParallel
        self.compute = compute
        self.capture: GraphCapture | None = None
        self._captured: dict[Hashable, CapturedPasses] = {}
        self._uses: Counter[Hashable] = Counter()
        pairs = zip(network.parameters(), compute.network.parameters(), strict=True)
        trained = [pair for pair in pairs if pair[0].requires_grad]
        self._trained = [parameter for parameter, _ in trained]
        self._inputs = [parameter for _, parameter in trained]
        indices = range(len(trained))
        dtypes = dict.fromkeys(parameter.dtype for parameter in self._inputs)
        self._same_dtype = [[index for index in indices if self._inputs[index].dtype == dtype] for dtype in dtypes]
        self.flat = nn.Parameter(self._flatten())
        self._use_buffer(torch.empty_like(self.flat))

    def _flatten(self) -> Tensor:
        """Moves the trained parameters into one tensor, which it returns."""
        sizes = [-(-parameter.numel() // _ALIGNMENT) * _ALIGNMENT for parameter in self._trained]
        self._offsets = list(accumulate(sizes, initial=0))[:-1]
        flat = self._trained[0].new_zeros(sum(sizes))
        for parameter, view in zip(self._trained, self._views(flat), strict=True):
            parameter.data = view.copy_(parameter.detach())
        return flat

    def _views(self, flat: Tensor) -> list[Tensor]:
        """Views of a flat tensor with the shapes and strides of the trained parameters."""
        return [
            flat.as_strided(parameter.shape, parameter.stride(), flat.storage_offset() + offset)
            for parameter, offset in zip(self._trained, self._offsets, strict=True)
        ]

    def share_bucket(self, wrapped: DistributedDataParallel) -> None:
        """Uses the memory of DistributedDataParallel's bucket for the gradients, which are then exchanged in place."""
        for _ in range(2):  # after its first backward pass DistributedDataParallel allocates its bucket again
            self.flat.grad = None
            wrapped(None).backward()
        assert self.flat.grad is not None
        self._use_buffer(self.flat.grad)

    def _use_buffer(self, buffer: Tensor) -> None:
        self._buffer = buffer.detach().zero_()
        self.flat.grad = None
        self._gradients = self._views(self._buffer)
        for parameter, gradient in zip(self._trained, self._gradients, strict=True):
            parameter.grad = gradient

    def train(self, mode: bool = True) -> "FlatNetwork":
        """Sets the mode of the network; an epoch begins with it."""
        for network in self._networks:
            network.train(mode)
        self._uses.clear()
        return super().train(mode)

    def forward(self, images: Tensor | None) -> Tensor:
        """Logits (n, classes) of images (n, 3, H, W); a captured pass overwrites those of its previous use.

        Without images: a scalar that depends on `flat` only, for `share_bucket`.
        """
        if images is None:
            return self.flat.sum()
        return _RunPasses.apply(images, self.flat, self, self._passes(images))

    def _passes(self, images: Tensor) -> "Passes":
        """The passes for these images: captured ones, or uncaptured ones of a single use."""
        accumulates = self.flat.grad is not None
        if self.capture is None:
            return Passes(self, accumulates)
        key = (accumulates, call_key(images))
        if key not in self._captured:
            self._uses[key] += 1
            if self._uses[key] <= _USES_BEFORE_CAPTURE:
                return Passes(self, accumulates)
            captured = CapturedPasses(self, accumulates, images)
            replays = self.capture(captured.compute_forward, captured.compute_backward)
            if replays is None:
                self.capture = None
                return Passes(self, accumulates)
            captured.replay_forward, captured.replay_backward = replays
            self._captured[key] = captured
        return self._captured[key]

    def logits(self, images: Tensor) -> Tensor:
        """Logits with a graph for the backward pass, computed with the network's current weights."""
        self.compute.cast_weights()
        with torch.enable_grad():
            return self.compute.network(images)

    def write_gradients(self, logits: Tensor, gradient: Tensor, accumulates: bool) -> None:
        """Writes the gradients of the parameters, given those of the logits, or adds them to those that are there."""
        with torch.enable_grad():
            scalar = _WithGradient.apply(logits, gradient)
        found = torch.autograd.grad(scalar, self._inputs)
        for indices in self._same_dtype:
            own = [self._gradients[index] for index in indices]
            new = [_restride(found[index], self._gradients[index].stride()) for index in indices]
            if not accumulates:
                torch._foreach_copy_(own, new)
            elif new[0].dtype == own[0].dtype:
                torch._foreach_add_(own, new)
            else:  # foreach additions have no fast kernel for two dtypes
                widened = [torch.empty_like(each) for each in own]
                torch._foreach_copy_(widened, new)
                torch._foreach_add_(own, widened)

    def backward_done(self) -> Tensor:
        """The gradient of `flat`: the buffer itself, which DistributedDataParallel therefore need not copy."""
        self.flat.grad = None  # otherwise autograd would add the buffer to itself
        return self._buffer.detach()


class Passes:
    """A forward pass, and the backward pass that follows it."""

    images: Tensor
    logits: Tensor
    gradient: Tensor | None = None
    _output: Tensor | None = None

    def __init__(self, network: FlatNetwork, accumulates: bool) -> None:
        self.network, self.accumulates = network, accumulates

    def forward(self, images: Tensor) -> Tensor:
        self.images = images
        self.compute_forward()
        return self.logits

    def backward(self, gradient: Tensor) -> None:
        self.gradient = gradient
        self.compute_backward()

    def compute_forward(self) -> None:
        self._output = self.network.logits(self.images)
        self.logits = self._output.detach()
        if self.gradient is None:
            self.gradient = torch.empty_like(self.logits)

    def compute_backward(self) -> None:
        assert self._output is not None
        assert self.gradient is not None
        output, self._output = self._output, None  # releases what the forward pass has saved
        self.network.write_gradients(output, self.gradient, self.accumulates)


class CapturedPasses(Passes):
    """Passes whose tensors stay at the same addresses.

    Attributes:
        replay_forward, replay_backward: run the kernels of `compute_forward` and `compute_backward`.
    """

    replay_forward: Replay
    replay_backward: Replay

    def __init__(self, network: FlatNetwork, accumulates: bool, images: Tensor) -> None:
        super().__init__(network, accumulates)
        self.images = images.clone()

    def forward(self, images: Tensor) -> Tensor:
        self.images.copy_(images)
        self.replay_forward()
        return self.logits

    def backward(self, gradient: Tensor) -> None:
        assert self.gradient is not None
        self.gradient.copy_(gradient)
        self.replay_backward()


class _WithGradient(torch.autograd.Function):
    """A scalar whose gradient with respect to `logits` is `gradient`, and that has no other meaning.

    torch.autograd.grad(logits, inputs, gradient) does the same, but imports SymPy, which takes a third of a second.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return logits.new_empty(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, _: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient, None


class _RunPasses(torch.autograd.Function):
    """Makes the passes one node of autograd's graph, whose input is the flat parameter."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, flat: Tensor, network: FlatNetwork, passes: Passes) -> Tensor:
        ctx.network, ctx.passes = network, passes
        return passes.forward(images).detach()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None, None]:
        ctx.passes.backward(gradient)
        ctx.passes = None
        return None, ctx.network.backward_done(), None, None


def _restride(gradient: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The same tensor with the strides of its parameter, if they differ in dimensions of size 1 only.

    PyTorch's foreach kernels need equal strides; of a 1x1 convolution's weight, there are two valid ones.
    """
    pairs = zip(gradient.shape, gradient.stride(), strides, strict=True)
    sizes = {size for size, own, wanted in pairs if own != wanted}
    return gradient.as_strided(gradient.shape, strides) if sizes == {1} else gradient
