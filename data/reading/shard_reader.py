"""FFCV behind a watchdog: lists of sample ids in, batches of bytes out, over any number of shards.

FFCV 1.0.2 as it comes opens one file, blocks its consumer for ever when its thread dies, leaks that thread
when a loop is left early, and re-uses buffers under the consumer's hands. This module drives FFCV's own
decoders and compiled pipeline, and closes those holes.
"""

import queue
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numba
import numpy as np
import torch
from torch import Tensor

from data.augment.random_resized_crop import CropBoxes
from data.errors import DataError, LoaderError
from data.manifest import Manifest
from data.reading.crop_decoder import BoxDecoder
from data.reading.ffcv_imports import (
    Compiler,
    EpochIterator,
    Graph,
    IntDecoder,
    Operation,
    PipelineSpec,
    SimpleRGBImageDecoder,
    Squeeze,
    ToTensor,
)
from data.reading.mmap_shards import EpochShards, MappedShards

Batch = tuple[Tensor, Tensor, Tensor]  # images uint8 (N, H, W, 3), labels int64 (N,), ids int64 (N,)


class _Epoch(EpochIterator):
    """FFCV's decoding thread with an end to every wait."""

    def __init__(self, loader: SimpleNamespace, batches: Sequence[np.ndarray], timeout: float) -> None:
        self.timeout = timeout
        super().__init__(loader, [])
        # FFCV would cut one list into equal batches; ours come ready and may differ in size.
        self.iter_ixes = iter(batches)
        threading.Thread.start(self)

    def start(self) -> None:
        """FFCV's constructor would start the thread before the batches are in place."""

    def run(self) -> None:
        numba.set_num_threads(self.loader.num_workers)  # of this thread alone
        slots = self.loader.batches_ahead + 2
        try:
            for index, ids in enumerate(self.iter_ixes):
                batch = self.run_pipeline(index, ids, index % slots, None)
                self.memory_context.check_batch(ids)
                if not self._deliver(batch):
                    return
            self._deliver(None)
        except Exception as error:  # noqa: BLE001  # whatever it is, the consumer raises it
            self._deliver(error)

    def _deliver(self, item: Batch | Exception | None) -> bool:
        while not self.terminate_event.is_set():
            try:
                self.output_queue.put(item, timeout=0.01)  # no longer, for whoever leaves early waits
                return True
            except queue.Full:
                continue
        return False

    def __next__(self) -> Batch:
        try:
            item = self.output_queue.get(timeout=self.timeout)
        except queue.Empty:
            state = "stalled" if self.is_alive() else "died"
            raise LoaderError(f"the loader's thread {state}: no batch for {self.timeout:g} s") from None
        if item is None:
            raise StopIteration
        if isinstance(item, Exception):
            raise LoaderError(f"the loader failed: {type(item).__name__}: {item}") from item
        return item


class ShardReader:
    """Decodes samples of either split by their ids.

    Args:
        batch_size: the largest batch that will be asked for.
        workers: decoding threads.
        batches_ahead: batches decoded before they are asked for.
        timeout: seconds to wait for a batch before the loader counts as stalled.
        forget_every: batches after which the system may have the memory back that the shards took; 0 for never.

    Raises:
        DataError: the shards do not hold what the manifest says, or there are fewer cores than workers.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        batch_size: int,
        workers: int,
        batches_ahead: int,
        timeout: float,
        forget_every: int = 0,
    ) -> None:
        threads = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # made when numba is imported
        if workers > threads:
            raise DataError(f"data.workers is {workers}, and this process may use {threads} threads at most")
        self.batch_size, self.workers, self.batches_ahead, self.timeout = batch_size, workers, batches_ahead, timeout
        self.forget_every, self.resolution = forget_every, manifest.resolution
        self.shards = {split: MappedShards(directory, manifest, split) for split in manifest.splits}
        self.sizes = {split: torch.from_numpy(shards.sizes) for split, shards in self.shards.items()}

    def read(self, split: str, batches: Sequence[Tensor], boxes: CropBoxes | None = None) -> Generator[Batch]:
        """The samples of each list of ids, in that order. A batch is valid until the next one is asked for.

        Args:
            boxes: what to cut out of the images of this split; by default they are whole, and must be of one size.

        Raises:
            LoaderError: decoding failed, or no batch came within the time-out.
        """
        shards = self.shards[split]
        places = _NO_PLACES if boxes is None else boxes.places.numpy()
        side = self.resolution if boxes is None else boxes.side
        storage = EpochShards(shards, places, self.forget_every)
        graph, code = _compiled(shards, side, boxes is not None, self.workers)
        loader = SimpleNamespace(  # the part of FFCV's Loader that its iterator uses
            reader=shards,
            memory_manager=SimpleNamespace(schedule_epoch=lambda batches: storage),
            graph=graph,
            code=code,
            batch_size=self.batch_size,
            batches_ahead=self.batches_ahead,
            num_workers=self.workers,
        )
        lists = [ids.numpy().astype(np.uint64) for ids in batches]
        epoch = _Epoch(loader, lists, self.timeout)
        try:
            yield from epoch
        finally:
            epoch.close()
            epoch.join(self.timeout)


_NO_PLACES = np.empty((0, 4), np.int64)
# By the side of what comes out, whether it is cut, and the threads: compiling takes a second, and the code reads any
# split of any shards.
_COMPILED: dict[tuple[int, bool, int], tuple[Graph, tuple]] = {}


def _compiled(shards: MappedShards, side: int, cuts: bool, workers: int) -> tuple[Graph, tuple]:
    kind = side, cuts, workers
    if kind not in _COMPILED:
        _COMPILED[kind] = _compile(shards, BoxDecoder(side) if cuts else SimpleRGBImageDecoder(), workers)
    return _COMPILED[kind]


def _compile(shards: MappedShards, decoder: Operation, workers: int) -> tuple[Graph, tuple]:
    """FFCV's pipeline for (image, label, id), compiled for this many threads."""
    torch_threads = torch.get_num_threads()
    Compiler.set_num_threads(workers)
    specs = {
        "image": PipelineSpec("image", decoder, [ToTensor()]),
        "label": PipelineSpec("label", IntDecoder(), [ToTensor(), Squeeze(1)]),
        "id": PipelineSpec("id", IntDecoder(), [ToTensor(), Squeeze(1)]),
    }
    positions = {name: position for position, name in enumerate(shards.handlers)}
    graph = Graph(specs, shards.handlers, positions, shards.metadata, shards.compile_read())
    code = graph.codegen_all(graph.collect_requirements()[1])
    torch.set_num_threads(torch_threads)
    return graph, code
