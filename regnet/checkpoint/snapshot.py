"""Copies of checkpoint contents on the host, which training does not change while they are written."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regnet.checkpoint.state_dicts import map_tensors

Kind = tuple[torch.device, torch.dtype]


class Snapshots:
    """Copies nested contents to the CPU, into memory that the next copy overwrites.

    Tensors of one dtype are copied at once: from a GPU, each copy by itself would wait for the device.

    Args:
        pin_memory: page-lock the memory, so that a GPU writes to it directly. It is slow, hence the memory is kept.
    """

    def __init__(self, pin_memory: bool) -> None:
        self._pin_memory = pin_memory
        self._memory: dict[Kind, Tensor] = {}

    def take(self, contents: dict[str, Any]) -> dict[str, Any]:
        """The contents with copies of all tensors, of the same shapes and strides; they share memory."""
        tensors: list[Tensor] = []
        map_tensors(contents, tensors.append)
        copies = iter(self._copy([_dense(tensor.detach()) for tensor in tensors]))
        return map_tensors(contents, lambda _: next(copies))

    def _copy(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        copies = list(tensors)
        for kind, indices in indices_by_kind(tensors).items():
            # views in the order of memory, whatever the strides
            flat = [tensors[index].as_strided((tensors[index].numel(),), (1,)) for index in indices]
            parts = self._copy_flat(kind, flat).split([part.numel() for part in flat])
            for index, part in zip(indices, parts, strict=True):
                copies[index] = part.as_strided(tensors[index].shape, tensors[index].stride())
        for device in {tensor.device for tensor in tensors if tensor.is_cuda}:
            torch.cuda.current_stream(device).synchronize()
        return copies

    def _copy_flat(self, kind: Kind, tensors: list[Tensor]) -> Tensor:
        """The concatenated tensors in memory of the host; complete once the device is synchronised."""
        device, dtype = kind
        size = sum(tensor.numel() for tensor in tensors)
        memory = self._memory.get(kind)
        if memory is None or memory.numel() != size:
            memory = self._memory[kind] = torch.empty(size, dtype=dtype, pin_memory=self._pin_memory)
        if device.type == "cpu":
            return torch.cat(tensors, out=memory)
        # Between two steps the device has memory for the concatenation: that of the activations.
        return memory.copy_(torch.cat(tensors), non_blocking=True)


def indices_by_kind(tensors: Sequence[Tensor]) -> dict[Kind, list[int]]:
    """Indices of the tensors on each device and of each dtype."""
    indices: dict[Kind, list[int]] = {}
    for index, tensor in enumerate(tensors):
        indices.setdefault((tensor.device, tensor.dtype), []).append(index)
    return indices


def _dense(tensor: Tensor) -> Tensor:
    """The tensor, or a contiguous copy if its elements do not fill a block of memory."""
    dense = tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)
    return tensor if dense else tensor.contiguous()
