"""Peak rates of the hardware, and the work of a step."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.timing import rate
from regnet.config.schema import ModelConfig
from regnet.models.complexity import profile_operators
from regnet.models.regnet import Model
from regnet.training.amp import Precision

# Large enough for full speed, small enough for many products per second on a CPU.
_SIDE = {"cpu": 1024, "cuda": 8192}
_COPIED = {"cpu": 2**27, "cuda": 2**30}  # bytes, larger than any cache


def fastest(work: Callable[[], object], amount: int, seconds: float, device: torch.device) -> float:
    """Units of work per second: the best of three measurements after a warm-up."""

    def pieces() -> Generator[int]:
        while True:
            work()
            yield amount

    return max([rate(pieces(), seconds / 3, device) for _ in range(4)][1:])


def matrix_rate(precision: Precision, seconds: float, device: torch.device) -> float:
    """FLOP/s of large matrix products (2 per multiply-add), with TF32 if convolutions use it."""
    side = _SIDE[device.type]
    a, b = torch.randn(2, side, side, device=device).to(precision.dtype)
    matmul, before = torch.backends.cuda.matmul, torch.backends.cuda.matmul.allow_tf32
    matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        return fastest(lambda: torch.mm(a, b), 2 * side**3, seconds, device)
    finally:
        matmul.allow_tf32 = before


def bandwidth(seconds: float, device: torch.device) -> float:
    """Bytes read and written per second by a copy in device memory."""
    source = torch.ones(_COPIED[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return fastest(lambda: target.copy_(source), 2 * _COPIED[device.type], seconds, device)


@dataclass(frozen=True)
class Work:
    """The work of one step on one device.

    Attributes:
        flops: FLOP of convolutions and linear layers; backward (inputs and weights) counts twice as much as forward.
        bytes: input and output bytes of every operation, forward and backward, without caches.
    """

    flops: int
    bytes: int


def work_of(model: ModelConfig, classes: int, images: Tensor, labels: Tensor, precision: Precision) -> Work:
    """The work of a step on these images, without the optimiser."""
    network = Model(model.design(), classes)
    multiply_adds = sum(operator.multiply_adds for operator in profile_operators(network.eval(), images.shape[-1]))
    network.to(images.device).train()
    with Traffic() as traffic:
        with precision.autocast():
            logits = network(images)
        F.cross_entropy(logits.float(), labels, reduction="sum").backward()
    return Work(6 * multiply_adds * len(images), traffic.bytes)


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            tensors = tree_leaves((args, kwargs, result))
            self.bytes += sum(leaf.nbytes for leaf in tensors if isinstance(leaf, Tensor))
        return result
