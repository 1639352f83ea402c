"""Prepares batches on a second CUDA stream, concurrently with the steps that use the batches before them."""

from collections.abc import Generator
from itertools import cycle
from typing import Any, TypeVar

import torch

T = TypeVar("T")
SLOTS = 2  # batches whose memory is in use: one is prepared while a step uses the other


class RunAhead:
    """Runs a generator's kernels on a stream of its own.

    The host enqueues a batch when it is requested. It is then usually ahead of the device, which still executes the
    step before on the consumer's stream, so that the kernels of both streams run concurrently. Two orders are enforced,
    on the device:

    * a step starts when its batch is ready;
    * a batch is prepared when the step that used the batch before the previous one is complete, because the allocator
      gives it the memory of that batch.

    Args:
        cuda: torch.cuda, or a substitute for tests.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self.device, self.cuda = device, cuda
        self.stream = cuda.Stream(device)  # for all epochs: memory that it allocated is reused on the same stream only

    def __call__(self, batches: Generator[T]) -> Generator[T]:
        """The same batches for the caller's current stream; each is valid until the next but one is requested."""
        self.stream.wait_stream(self.cuda.current_stream(self.device))  # what the caller has enqueued may be read here
        kept: list[T | None] = [None] * SLOTS
        used = [self.cuda.Event() for _ in range(SLOTS)]  # waiting for an event that is not yet recorded does nothing
        try:
            for slot in cycle(range(SLOTS)):
                with self.cuda.stream(self.stream):
                    self.stream.wait_event(used[slot])
                    kept[slot] = None  # not before: its memory may be given to what is enqueued next
                    batch = kept[slot] = next(batches, None)
                    ready = self.stream.record_event()
                if batch is None:
                    return
                consumer = self.cuda.current_stream(self.device)
                consumer.wait_event(ready)
                yield batch
                used[slot].record(self.cuda.current_stream(self.device))
        finally:
            # The batches kept are released after this: their memory is reused after the last steps that use them.
            self.stream.wait_stream(self.cuda.current_stream(self.device))
            batches.close()
