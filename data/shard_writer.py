"""Writes one shard, an FFCV file, from images and labels; the writing process may be killed at any time."""

import errno
import hashlib
import os
import queue
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from data.image_encoding import Encoding, load_image
from data.manifest import CONTENT_MODULUS, Shard, sha256
from data.reading.ffcv_imports import MIN_PAGE_SIZE, DatasetWriter, IntField, MemoryAllocator, RGBImageField
from data.sources.source import Source

_LARGEST_PAGE = 1 << 30  # bytes; Linux writes at most 2 GiB at once


@dataclass
class ChannelSums:
    """Exact sums of the three channels over all pixels, which give their mean and standard deviation."""

    pixels: int = 0
    values: list[int] = field(default_factory=lambda: [0, 0, 0])
    squares: list[int] = field(default_factory=lambda: [0, 0, 0])

    def add(self, image: np.ndarray) -> None:
        flat = image.reshape(-1, 3).astype(np.int64)
        self.merge(ChannelSums(len(flat), flat.sum(0).tolist(), (flat * flat).sum(0).tolist()))

    def merge(self, other: "ChannelSums") -> None:
        self.pixels += other.pixels
        self.values = [a + b for a, b in zip(self.values, other.values, strict=True)]
        self.squares = [a + b for a, b in zip(self.squares, other.squares, strict=True)]

    def mean_and_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """In units of the byte range scaled to 0..1; the std of a constant channel is one level."""
        means = [value / self.pixels for value in self.values]
        variances = [square / self.pixels - mean**2 for square, mean in zip(self.squares, means, strict=True)]
        stds = [max(variance, 1.0) ** 0.5 for variance in variances]
        return tuple(mean / 255 for mean in means), tuple(std / 255 for std in stds)


@dataclass(frozen=True)
class WrittenShard:
    """A shard, its channel sums, and the numbers of images that were converted to RGB, by kind."""

    shard: Shard
    sums: ChannelSums
    converted: Counter[str]


class _Rows:
    """The sequence that FFCV writes: row i is (image, label, sample id)."""

    def __init__(self, source: Source, split: str, indices: Sequence[int], first_id: int, encoding: Encoding) -> None:
        self.source, self.split, self.encoding = source, split, encoding
        self.indices, self.first_id = indices, first_id
        self.sums, self.converted = ChannelSums(), Counter[str]()
        self.content = 0

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int, int]:
        pixels, label, converted_from = load_image(self.source, self.split, self.indices[row], self.encoding)
        self.sums.add(pixels)
        if converted_from:
            self.converted[converted_from] += 1
        self.content = (self.content + self._digest(pixels, label, self.first_id + row)) % CONTENT_MODULUS
        return pixels, label, self.first_id + row

    def _digest(self, pixels: np.ndarray, label: int, sample: int) -> int:
        storage = f"jpg {self.encoding.quality}" if self.encoding.mode == "jpg" else "raw"
        if self.encoding.mixed:
            storage += f" {pixels.shape[0]}x{pixels.shape[1]}"
        return int(hashlib.sha256(f"{sample} {label} {storage} ".encode() + pixels.tobytes()).hexdigest(), 16)


def _page_size(encoding: Encoding) -> int:
    """Bytes that FFCV writes at a time: its minimum, or room for a few images (a JPEG is never larger than the pixels).

    A file starts and ends with a full page, so that FFCV's default of 8 MiB would be most of a small dataset. For mixed
    sizes a page holds one image of the largest possible size.
    """
    images = (1 if encoding.mixed else 8) * 3 * encoding.resolution**2
    return min(max(MIN_PAGE_SIZE, 1 << (images - 1).bit_length()), _LARGEST_PAGE)


class _InlineWriter(DatasetWriter):
    """FFCV's writer without its worker processes: it would wait forever for one that died or raised."""

    def __init__(self, path: Path, encoding: Encoding, done: Synchronized) -> None:
        image = RGBImageField(write_mode=encoding.mode, jpeg_quality=encoding.quality)
        fields = {"image": image, "label": IntField(), "id": IntField()}
        super().__init__(str(path), fields, page_size=_page_size(encoding), num_workers=1)
        self.done = done

    def _write_common(
        self, num_samples: int, queue_content: Iterable[Any], work_fn: Callable[..., None], extra_worker_args: tuple
    ) -> None:
        self.num_samples = num_samples
        self.prepare()
        # FFCV shares the table of samples with its worker processes; here ordinary memory is enough.
        table = bytearray(num_samples * self.metadata_type.itemsize)
        shared_memory: SharedMemory = self.metadata_sm
        shared_memory.close()
        shared_memory.unlink()
        self.metadata_sm: Any = SimpleNamespace(buf=table)
        work: queue.SimpleQueue = queue.SimpleQueue()
        for item in [*queue_content, None]:
            work.put(item)
        allocations: queue.SimpleQueue = queue.SimpleQueue()
        allocator = MemoryAllocator(self.fname, self.data_region_start, self.page_size)
        arguments = (self.metadata_sm, self.metadata_type, self.fields, allocator, self.done)
        work_fn(work, *arguments, allocations, *extra_worker_args)
        # The allocator writes unbuffered and does not check how many bytes of a page were written.
        expected = allocator.offset + allocator.next_page_written.value * self.page_size
        if os.path.getsize(self.fname) != expected:
            raise OSError(errno.ENOSPC, "short write", self.fname)
        self.finalize(allocations.get())


def write_shard(
    source: Source,
    split: str,
    indices: Sequence[int],
    first_id: int,
    path: Path,
    encoding: Encoding,
    done: Synchronized,
) -> WrittenShard:
    """Writes one shard atomically. The same images give the same bytes.

    Args:
        done: counts the samples written so far.

    Raises:
        DataError: an image cannot be stored.
        OSError: the disk failed.
    """
    rows = _Rows(source, split, indices, first_id, encoding)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        _InlineWriter(temporary, encoding, done).from_indexed_dataset(rows)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        digest, size = sha256(temporary), temporary.stat().st_size
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    shard = Shard(path.name, first_id, len(indices), size, digest, f"{rows.content:064x}")
    return WrittenShard(shard, rows.sums, rows.converted)
