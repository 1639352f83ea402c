"""Writes one shard, an FFCV file, from images and labels; the writing process may be killed at any time."""

import errno
import hashlib
import mmap
import multiprocessing
import os
import queue
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from data.image_encoding import Encoding, load_image
from data.manifest import CONTENT_MODULUS, Shard
from data.reading.ffcv_imports import MIN_PAGE_SIZE, DatasetWriter, IntField, MemoryAllocator, RGBImageField
from data.sources.source import Source
from data.writing.channel_statistics import ChannelStatistics

_LARGEST_PAGE = 1 << 30  # bytes; Linux writes at most 2 GiB at once
_HASHED_AT_ONCE = 1 << 24  # bytes
_UNSYNCED = 1 << 28  # bytes written until they are flushed to disk, so that no flush takes long


class Progress:
    """What a writer has done so far, in memory that it shares with the process it was forked from.

    Without a lock, which a killed writer would keep.
    """

    def __init__(self) -> None:
        self._counts = memoryview(mmap.mmap(-1, 16)).cast("Q")

    @property
    def samples(self) -> int:
        """Number of images stored or rejected."""
        return self._counts[0]

    @property
    def steps(self) -> int:
        """Grows with every image, and with every piece of a file that was flushed or hashed."""
        return self._counts[1]

    def sample(self) -> None:
        self._counts[0] += 1
        self.step()

    def step(self) -> None:
        self._counts[1] += 1


@dataclass(frozen=True)
class WrittenShard:
    """A shard and what the whole dataset needs to know about its images.

    Attributes:
        changes: numbers of images that were changed when read, by kind, see `data.image_reading`.
        images: a hash of each image's pixels, the same in all processes of one conversion: int64 (samples,).
    """

    shard: Shard
    statistics: ChannelStatistics
    changes: Counter[str]
    images: np.ndarray


class _Rows:
    """The sequence that FFCV writes: row i is (image, label, sample id)."""

    def __init__(
        self,
        source: Source,
        split: str,
        indices: Sequence[int],
        first_id: int,
        encoding: Encoding,
        progress: Progress,
    ) -> None:
        self.source, self.split, self.encoding = source, split, encoding
        self.indices, self.first_id, self.progress = indices, first_id, progress
        self.statistics, self.changes = ChannelStatistics(), Counter[str]()
        self.images = np.zeros(len(indices), np.int64)
        self.content = 0

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int, int]:
        loaded, label, changes = load_image(self.source, self.split, self.indices[row], self.encoding)
        pixels = np.ascontiguousarray(loaded)
        self.statistics.add(pixels)
        self.changes.update(changes)
        self.images[row] = hash((pixels.shape, pixels.tobytes()))
        self.content = (self.content + self._digest(pixels, label, self.first_id + row)) % CONTENT_MODULUS
        self.progress.sample()
        return pixels, label, self.first_id + row

    def _digest(self, pixels: np.ndarray, label: int, sample: int) -> int:
        storage = f"jpg {self.encoding.quality}" if self.encoding.mode == "jpg" else "raw"
        if self.encoding.mixed:
            storage += f" {pixels.shape[0]}x{pixels.shape[1]}"
        digest = hashlib.sha256(f"{sample} {label} {storage} ".encode())
        digest.update(pixels.data)
        return int.from_bytes(digest.digest(), "big")


def _page_size(encoding: Encoding) -> int:
    """Bytes that FFCV writes at a time: its minimum, or room for a few images (a JPEG is never larger than the pixels).

    A file starts and ends with a full page, so that FFCV's default of 8 MiB would be most of a small dataset. For mixed
    sizes a page holds one image of the largest possible size.
    """
    images = (1 if encoding.mixed else 8) * 3 * encoding.resolution**2
    return min(max(MIN_PAGE_SIZE, 1 << (images - 1).bit_length()), _LARGEST_PAGE)


class _CheckedAllocator(MemoryAllocator):
    """FFCV's allocator of pages, which writes unbuffered and does not check how many bytes were written."""

    def __init__(self, path: str, offset_start: int, page_size: int, progress: Progress) -> None:
        super().__init__(path, offset_start, page_size)
        self.progress, self.synced = progress, 0

    def flush_page(self) -> None:
        super().flush_page()
        end = self.offset + self.next_page_written.value * self.page_size
        if self.next_page_written.value and os.fstat(self.fp.fileno()).st_size != end:
            raise OSError(errno.ENOSPC, "short write", self.fname)
        if end - self.synced >= _UNSYNCED:
            os.fdatasync(self.fp.fileno())
            self.synced = end
            self.progress.step()


class _InlineWriter(DatasetWriter):
    """FFCV's writer without its worker processes: it would wait forever for one that died or raised."""

    def __init__(self, path: Path, encoding: Encoding, progress: Progress) -> None:
        image = RGBImageField(write_mode=encoding.mode, jpeg_quality=encoding.quality)
        fields = {"image": image, "label": IntField(), "id": IntField()}
        super().__init__(str(path), fields, page_size=_page_size(encoding), num_workers=1)
        self.progress = progress

    def prepare(self) -> None:
        """Replaces the shared memory for the table of samples: one process needs none, and a killed one would leave it.

        FFCV looks the class up in its own module.
        """
        module: Any = sys.modules[DatasetWriter.__module__]
        original = module.shared_memory
        module.shared_memory = SimpleNamespace(SharedMemory=_OrdinaryMemory)
        try:
            super().prepare()
        finally:
            module.shared_memory = original

    def _write_common(
        self, num_samples: int, queue_content: Iterable[Any], work_fn: Callable[..., None], extra_worker_args: tuple
    ) -> None:
        self.num_samples = num_samples
        self.prepare()
        work: queue.SimpleQueue = queue.SimpleQueue()
        for item in [*queue_content, None]:
            work.put(item)
        allocations: queue.SimpleQueue = queue.SimpleQueue()
        allocator = _CheckedAllocator(self.fname, self.data_region_start, self.page_size, self.progress)
        per_hundred = multiprocessing.Value("Q", 0)  # FFCV's count, which is not used: it grows by 100 samples at once
        arguments = (self.metadata_sm, self.metadata_type, self.fields, allocator, per_hundred)
        work_fn(work, *arguments, allocations, *extra_worker_args)
        self.finalize(allocations.get())


class _OrdinaryMemory:
    """The part of multiprocessing.shared_memory.SharedMemory's interface that FFCV uses."""

    def __init__(self, create: bool, size: int) -> None:
        self.buf = bytearray(size)


def write_shard(
    source: Source,
    split: str,
    indices: Sequence[int],
    first_id: int,
    path: Path,
    encoding: Encoding,
    progress: Progress,
) -> WrittenShard:
    """Writes one shard next to `path`, under a name that ends in a digest. The same images give the same bytes.

    Raises:
        DataError: an image cannot be stored.
        OSError: the disk failed.
    """
    rows = _Rows(source, split, indices, first_id, encoding, progress)
    _InlineWriter(path, encoding, progress).from_indexed_dataset(rows)
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    digest = _sha256(path, progress)
    final = path.rename(path.with_name(f"{path.stem}-{digest[:8]}{path.suffix}"))
    shard = Shard(final.name, first_id, len(indices), final.stat().st_size, digest, f"{rows.content:064x}")
    return WrittenShard(shard, rows.statistics, rows.changes, rows.images)


def _sha256(path: Path, progress: Progress) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_HASHED_AT_ONCE):
            digest.update(block)
            progress.step()
    return digest.hexdigest()
