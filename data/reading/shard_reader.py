"""FFCV behind a watchdog: lists of sample ids in, batches of bytes out, over any number of shards.

Plain FFCV 1.0.2 opens one file, blocks its consumer forever when its thread dies, leaks that thread when a loop ends
early, and reuses buffers that the consumer still holds. This module drives FFCV's own decoders and compiled pipeline
without these defects.
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
from data.reading.crop_decoder import CropDecoder
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

StoredBatch = tuple[Tensor, Tensor, Tensor]  # images uint8 (N, H, W, 3), labels int64 (N,), ids int64 (N,)


class _Epoch(EpochIterator):
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

    def _deliver(self, item: StoredBatch | Exception | None) -> bool:
        while not self.terminate_event.is_set():
            try:
                self.output_queue.put(item, timeout=0.01)  # short: closing an epoch early waits for it
                return True
            except queue.Full:
                continue
        return False

    def __next__(self) -> StoredBatch:
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


def max_workers() -> int:
    """The most decoding threads that this process may use."""
    return numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # set when numba is imported


class ShardReader:
    """Decodes samples of either split by id.

    Args:
        batch_size: the largest batch that will be requested.
        workers: decoding threads.
        prefetch_batches: batches decoded ahead of time.
        timeout: seconds without a batch after which the loader counts as stalled.
        release_every: batches after which the shards' pages are released to the system; 0 for never.

    Attributes:
        sizes: height and width of every stored image by split: int64 (samples, 2), pixels.

    Raises:
        DataError: the shards do not match the manifest, or there are fewer cores than workers.
    """

    def __init__(
        self,
        directory: Path,
        manifest: Manifest,
        batch_size: int,
        workers: int,
        prefetch_batches: int,
        timeout: float,
        release_every: int = 0,
    ) -> None:
        threads = max_workers()
        if workers > threads:
            raise DataError(f"data.workers is {workers}, but this process may use at most {threads} threads")
        self.batch_size, self.workers, self.timeout = batch_size, workers, timeout
        self.prefetch_batches, self.release_every = prefetch_batches, release_every
        self.resolution = manifest.resolution
        self.shards = {split: MappedShards(directory, manifest, split) for split in manifest.splits}
        self.sizes = {split: torch.from_numpy(shards.sizes) for split, shards in self.shards.items()}

    def read(self, split: str, batches: Sequence[Tensor], boxes: CropBoxes | None = None) -> Generator[StoredBatch]:
        """The samples of each list of ids, in that order. A batch is valid until the next one is requested.

        Args:
            boxes: the crop of every image of the split; None for whole images, which must have one size.

        Raises:
            LoaderError: decoding failed or timed out.
        """
        shards = self.shards[split]
        box_array = _NO_BOXES if boxes is None else boxes.boxes.numpy()
        side = self.resolution if boxes is None else boxes.side
        storage = EpochShards(shards, box_array, self.release_every)
        graph, code = _compiled(shards, side, boxes is not None, self.workers)
        loader = SimpleNamespace(  # the part of FFCV's Loader that its iterator uses
            reader=shards,
            memory_manager=SimpleNamespace(schedule_epoch=lambda batches: storage),
            graph=graph,
            code=code,
            batch_size=self.batch_size,
            batches_ahead=self.prefetch_batches,
            num_workers=self.workers,
        )
        lists = [ids.numpy().astype(np.uint64) for ids in batches]
        epoch = _Epoch(loader, lists, self.timeout)
        try:
            yield from epoch
        finally:
            epoch.close()
            epoch.join(self.timeout)


_NO_BOXES = np.empty((0, 4), np.int64)
# By the side of the decoded images, whether they are crops, and the number of threads: compilation takes a second, and
# the code can read any split of any shards.
_COMPILED: dict[tuple[int, bool, int], tuple[Graph, tuple]] = {}


def _compiled(shards: MappedShards, side: int, crops: bool, workers: int) -> tuple[Graph, tuple]:
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
    positions = {name: position for position, name in enumerate(shards.handlers)}
    graph = Graph(specs, shards.handlers, positions, shards.metadata, shards.compile_read())
    code = graph.codegen_all(graph.collect_requirements()[1])
    torch.set_num_threads(torch_threads)
    return graph, code
