"""FFCV behind a watchdog: lists of sample ids in, batches of bytes out, over any number of shards.

Plain FFCV 1.0.2 opens one file, blocks its consumer forever when its thread dies, leaks that thread when a loop ends
early, and reuses buffers that the consumer still holds. This module drives FFCV's own decoders and compiled pipeline
without these defects.
"""

import os
from collections.abc import Generator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from data.augment.random_resized_crop import CropBoxes
from data.errors import DataError, import_errors
from data.manifest import Manifest
from data.reading.mmap_shards import EpochShards, MappedShards

StoredBatch = tuple[Tensor, Tensor, Tensor]  # images uint8 (N, H, W, 3), labels int64 (N,), ids int64 (N,)
_NO_BOXES = np.empty((0, 4), np.int64)


def max_workers() -> int:
    """The most decoding threads that this process may use: numba's limit, without the import of numba."""
    return int(os.environ.get("NUMBA_NUM_THREADS", len(os.sched_getaffinity(0))))


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
        with import_errors():  # here, because it is slow, and not needed for cached images
            from data.reading.ffcv_pipeline import EpochThread, compiled_pipeline

        shards = self.shards[split]
        box_array = _NO_BOXES if boxes is None else boxes.boxes.numpy()
        side = self.resolution if boxes is None else boxes.side
        storage = EpochShards(shards, box_array, self.release_every)
        graph, code = compiled_pipeline(shards, side, boxes is not None, self.workers)
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
        epoch = EpochThread(loader, lists, self.timeout)
        try:
            yield from epoch
        finally:
            epoch.close()
            epoch.join(self.timeout)
