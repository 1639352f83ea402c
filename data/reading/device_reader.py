"""Stored samples on the device, and the reader that streams them there batch by batch."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from typing import Protocol

import torch
from torch import Tensor

from data.augment.random_resized_crop import CropBoxes
from data.reading.shard_reader import ShardReader, StoredBatch


class DeviceReader(Protocol):
    """Reads samples by id onto the device.

    Attributes:
        sizes: height and width of every stored image by split: int64 (samples, 2), pixels, on the CPU.
    """

    @property
    def sizes(self) -> Mapping[str, Tensor]: ...

    def read(self, split: str, batches: Sequence[Tensor], boxes: CropBoxes | None = None) -> Generator[StoredBatch]:
        """The samples of each list of ids, in that order; images may be overwritten by the next batch.

        Images and labels are on the device, ids on the CPU.

        Args:
            boxes: the crop of every image of the split; None for whole images.
        """


class StreamingReader:
    """Copies what is decoded from the shards to the device, concurrently with the previous step."""

    def __init__(self, reader: ShardReader, device: torch.device) -> None:
        self.reader, self.device = reader, device
        self.sizes = reader.sizes
        on_gpu = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if on_gpu else None
        self._copied = torch.cuda.Event() if on_gpu else None

    def read(self, split: str, batches: Sequence[Tensor], boxes: CropBoxes | None = None) -> Generator[StoredBatch]:
        with closing(self.reader.read(split, batches, boxes)) as decoded:
            for batch in decoded:
                yield self.copy(*batch)
                if self._copied is not None:
                    self._copied.synchronize()  # usually finished already; only then may the reader reuse its buffer

    def copy(self, images: Tensor, labels: Tensor, ids: Tensor) -> StoredBatch:
        """A decoded batch on the device; on a CPU its images and ids stay in the reader's buffer."""
        if self._stream is None or self._copied is None:
            # Images and ids are consumed before the next batch is requested; labels are passed on.
            return images, labels.clone(), ids
        with torch.cuda.stream(self._stream):
            copies = [tensor.to(self.device, non_blocking=True) for tensor in (images, labels)]
            self._copied.record()
        current = torch.cuda.current_stream(self.device)
        current.wait_event(self._copied)  # on the device: the host continues and enqueues the step
        for copy in copies:
            copy.record_stream(current)
        return copies[0], copies[1], ids
