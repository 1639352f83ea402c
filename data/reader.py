"""FFCV behind a watchdog: lists of sample ids in, batches of bytes out, over any number of shards.

FFCV 1.0.2 as it comes opens one file, blocks its consumer for ever when its thread dies, leaks that thread
when a loop is left early, and re-uses buffers under the consumer's hands. This module drives FFCV's own
decoders and compiled pipeline, and closes those holes.
"""

import os
import queue
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import BinaryIO

import numba
import numpy as np
import torch
from torch import Tensor

from data.errors import DataError, LoaderError
from data.ffcv_parts import (
    Compiler,
    EpochIterator,
    Graph,
    IntDecoder,
    PipelineSpec,
    Reader,
    SimpleRGBImageDecoder,
    Squeeze,
    ToTensor,
    cast_int_to_byte_ptr,
)
from data.shards import Manifest

Batch = tuple[Tensor, Tensor, Tensor]  # images uint8 (N, H, W, 3), labels int64 (N,), ids int64 (N,)


class _MappedShards:
    """All shards of a split, mapped into memory and joined into one table of samples.

    The pointers in FFCV's tables are offsets into a file. Here they become addresses in memory, so that one
    compiled pipeline reads every shard.
    """

    def __init__(self, directory: Path, manifest: Manifest, split: str) -> None:
        metadata, pointers, sizes = [], [], []
        self.maps = []  # the mappings live as long as the addresses into them
        self._files: list[tuple[Path, BinaryIO, int]] = []
        for shard in manifest.splits[split]:
            path = directory / shard.name
            reader = Reader(str(path))
            file = open(path, "rb")  # noqa: SIM115  # open as long as it is mapped
            mapped = np.memmap(file, "uint8", mode="r")
            self._files.append((path, file, mapped.size))
            base = np.uint64(mapped.ctypes.data)
            rows = reader.metadata.copy()
            _check_rows(path, rows, shard.first_id, shard.samples, manifest)
            rows["f0"]["data_ptr"] += base
            metadata.append(rows)
            pointers.append(reader.alloc_table["ptr"] + base)
            sizes.append(reader.alloc_table["size"])
            self.maps.append(mapped)
            self.handlers = reader.handlers
        self.metadata = np.concatenate(metadata)
        joined = np.concatenate(pointers)
        by_address = np.argsort(joined)
        self._tables = (joined[by_address], np.concatenate(sizes)[by_address])

    @property
    def state(self) -> tuple[np.ndarray, np.ndarray]:
        """What the compiled pipeline gets: addresses, ascending, and the bytes that each holds."""
        return self._tables

    def start_batch(self, batch: int) -> None:
        """FFCV tells of each batch before it reads it. A mapped file that shrinks would end the process by SIGBUS."""
        for path, file, size in self._files:
            now = os.fstat(file.fileno())
            if now.st_nlink == 0:
                raise LoaderError(f"{path} was deleted or replaced while it was in use")
            if now.st_size != size:
                raise LoaderError(f"{path} has {now.st_size} bytes instead of {size}: it changed while it was in use")

    # FFCV opens its storage for each epoch; the mappings outlive that.
    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...

    @staticmethod
    def compile_read():  # type: ignore[no-untyped-def]  # returns numba's compiled function
        table = numba.uint64[::1]

        def read(address, tables):  # type: ignore[no-untyped-def]
            size = tables[1][np.searchsorted(tables[0], address)]
            return numba.carray(cast_int_to_byte_ptr(address), size)

        return Compiler.compile(read, numba.uint8[::1](numba.uint64, numba.types.Tuple([table, table])))


def _check_rows(path: Path, rows: np.ndarray, first_id: int, samples: int, manifest: Manifest) -> None:
    if len(rows) != samples or not np.array_equal(rows["f2"], np.arange(first_id, first_id + samples)):
        raise DataError(f"{path}: not the samples {first_id} to {first_id + samples - 1} that the manifest says")
    if rows["f1"].min() < 0 or rows["f1"].max() >= len(manifest.classes):
        raise DataError(f"{path}: a label outside 0 to {len(manifest.classes) - 1}")
    image = rows["f0"]
    if not ((image["width"] == manifest.resolution) & (image["height"] == manifest.resolution)).all():
        raise DataError(f"{path}: images of another size than {manifest.resolution}, which the manifest says")


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
                if not self._deliver(self.run_pipeline(index, ids, index % slots, None)):
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

    Raises:
        DataError: the shards do not hold what the manifest says, or there are fewer cores than workers.
    """

    def __init__(
        self, directory: Path, manifest: Manifest, batch_size: int, workers: int, batches_ahead: int, timeout: float
    ) -> None:
        self.timeout = timeout
        threads = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # made when numba is imported
        if workers > threads:
            raise DataError(f"data.workers is {workers}, more than the {threads} threads that this process may use")
        splits = {split: _MappedShards(directory, manifest, split) for split in manifest.splits}
        kind = manifest.resolution, workers
        if kind not in _COMPILED:
            _COMPILED[kind] = _compile(splits["train"], workers)
        graph, code = _COMPILED[kind]
        # The part of FFCV's Loader that its iterator uses.
        self._loaders = {
            split: SimpleNamespace(
                reader=shards,
                memory_manager=SimpleNamespace(schedule_epoch=lambda batches, shards=shards: shards),
                graph=graph,
                code=code,
                batch_size=batch_size,
                batches_ahead=batches_ahead,
                num_workers=workers,
            )
            for split, shards in splits.items()
        }

    def read(self, split: str, batches: Sequence[Tensor]) -> Generator[Batch]:
        """The samples of each list of ids, in that order. A batch is valid until the next one is asked for.

        Raises:
            LoaderError: decoding failed, or no batch came within the time-out.
        """
        lists = [ids.numpy().astype(np.uint64) for ids in batches]
        epoch = _Epoch(self._loaders[split], lists, self.timeout)
        try:
            yield from epoch
        finally:
            epoch.close()
            epoch.join(self.timeout)


# By the stored resolution and the threads: compiling takes a second, and the code reads any split of any shards.
_COMPILED: dict[tuple[int, int], tuple[Graph, tuple]] = {}


def _compile(shards: _MappedShards, workers: int) -> tuple[Graph, tuple]:
    """FFCV's pipeline for (image, label, id), compiled for this many threads."""
    torch_threads = torch.get_num_threads()
    Compiler.set_num_threads(workers)
    specs = {
        "image": PipelineSpec("image", SimpleRGBImageDecoder(), [ToTensor()]),
        "label": PipelineSpec("label", IntDecoder(), [ToTensor(), Squeeze(1)]),
        "id": PipelineSpec("id", IntDecoder(), [ToTensor(), Squeeze(1)]),
    }
    positions = {name: position for position, name in enumerate(shards.handlers)}
    graph = Graph(specs, shards.handlers, positions, shards.metadata, shards.compile_read())
    code = graph.codegen_all(graph.collect_requirements()[1])
    torch.set_num_threads(torch_threads)
    return graph, code
