"""FFCV's decoders and compiled pipeline behind a watchdog. Importing this module imports FFCV, numba and OpenCV.

Plain FFCV 1.0.2 blocks its consumer forever when its thread dies, and leaks that thread when a loop ends early; see
also shard_reader, which imports it when something is decoded.
"""

import queue
import threading
from collections.abc import Sequence
from types import SimpleNamespace

import numba
import numpy as np
import torch
from torch import Tensor

from data.errors import LoaderError
from data.reading.crop_decoder import CropDecoder
from data.reading.ffcv_imports import (
    Compiler,
    EpochIterator,
    Graph,
    IntDecoder,
    IntField,
    Operation,
    PipelineSpec,
    RGBImageField,
    SimpleRGBImageDecoder,
    Squeeze,
    ToTensor,
    cast_int_to_byte_ptr,
)
from data.reading.mmap_shards import MappedShards

Decoded = tuple[Tensor, Tensor, Tensor]  # images uint8 (N, H, W, 3), labels int64 (N,), ids int64 (N,)

_TABLE = numba.uint64[::1]
_BOXES = numba.int64[:, ::1]
_FLAGS = numba.uint8[::1]


class EpochThread(EpochIterator):
    """FFCV's decoding thread, with a timeout for every wait."""

    def __init__(self, loader: SimpleNamespace, batches: Sequence[np.ndarray], timeout: float) -> None:
        self.timeout = timeout
        super().__init__(loader, [])
        # FFCV would split one list into equal batches; these are given, and may differ in size.
        self.iter_ixes = iter(batches)
        threading.Thread.start(self)

    def start(self) -> None:
        """Does nothing: FFCV's constructor would start the thread before the batches are set."""

    def run(self) -> None:
        numba.set_num_threads(self.loader.num_workers)  # for this thread only
        slots = self.loader.batches_ahead + 2
        try:
            for index, ids in enumerate(self.iter_ixes):
                batch = self.run_pipeline(index, ids, index % slots, None)
                self.memory_context.check_batch(ids)
                if not self._deliver(batch):
                    return
            self._deliver(None)
        except Exception as error:  # noqa: BLE001  # any error is raised again by the consumer
            self._deliver(error)

    def _deliver(self, item: Decoded | Exception | None) -> bool:
        while not self.terminate_event.is_set():
            try:
                self.output_queue.put(item, timeout=0.01)  # short: closing an epoch early waits for it
                return True
            except queue.Full:
                continue
        return False

    def __next__(self) -> Decoded:
        try:
            item = self.output_queue.get(timeout=self.timeout)
        except queue.Empty:
            state = "stalled" if self.is_alive() else "died"
            raise LoaderError(
                f"the loader's thread {state}: no batch for {self.timeout:g} s (data.loader_timeout)"
            ) from None
        if item is None:
            raise StopIteration
        if isinstance(item, LoaderError):
            raise item
        if isinstance(item, Exception):
            raise LoaderError(f"the loader failed: {type(item).__name__}: {item}") from item
        return item


# By the side of the decoded images, whether they are crops, and the number of threads: compilation takes a second, and
# the code can read any split of any shards.
_COMPILED: dict[tuple[int, bool, int], tuple[Graph, tuple]] = {}


def compiled_pipeline(shards: MappedShards, side: int, crops: bool, workers: int) -> tuple[Graph, tuple]:
    """FFCV's graph and compiled code for images of this side: whole ones, or crops."""
    key = side, crops, workers
    if key not in _COMPILED:
        _COMPILED[key] = _compile(shards, CropDecoder(side) if crops else SimpleRGBImageDecoder(), workers)
    return _COMPILED[key]


def _compile(shards: MappedShards, decoder: Operation, workers: int) -> tuple[Graph, tuple]:
    """FFCV's pipeline for (image, label, id), compiled for this number of threads."""
    torch_threads = torch.get_num_threads()
    Compiler.set_num_threads(workers)
    specs = {
        "image": PipelineSpec("image", decoder, [ToTensor()]),
        "label": PipelineSpec("label", IntDecoder(), [ToTensor(), Squeeze(1)]),
        "id": PipelineSpec("id", IntDecoder(), [ToTensor(), Squeeze(1)]),
    }
    fields = {"image": RGBImageField(), "label": IntField(), "id": IntField()}
    positions = {name: position for position, name in enumerate(fields)}
    graph = Graph(specs, fields, positions, shards.metadata, _compile_read())
    code = graph.codegen_all(graph.collect_requirements()[1])
    torch.set_num_threads(torch_threads)
    return graph, code


def _compile_read():  # type: ignore[no-untyped-def]  # returns numba's compiled function
    def read(address, tables):  # type: ignore[no-untyped-def]
        size = tables[1][np.searchsorted(tables[0], address)]
        return numba.carray(cast_int_to_byte_ptr(address), size)

    tables = numba.types.Tuple([_TABLE, _TABLE, _BOXES, _FLAGS])
    return Compiler.compile(read, numba.uint8[::1](numba.uint64, tables))
