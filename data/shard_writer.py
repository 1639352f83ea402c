"""One shard: images and labels in, an FFCV file out, in a process of its own that may be killed."""

import errno
import hashlib
import os
import queue
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from data.errors import DataError
from data.manifest import CONTENT_MODULUS, Shard, sha256
from data.reading.ffcv_imports import MIN_PAGE_SIZE, DatasetWriter, IntField, MemoryAllocator, RGBImageField
from data.sources.registry import Source

LARGEST_SIDE = 16384  # pixels, of which an image fills a page
_LARGEST_PAGE = 1 << 30  # bytes; Linux writes no more than 2 GiB at once
_DEEP = ("I", "F")  # beginnings of the modes with more than a byte to a channel, which conversion would clip
DECODE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what PIL raises


@dataclass(frozen=True)
class Encoding:
    """How images are stored.

    Attributes:
        resolution: side in pixels; of mixed sizes, the longest.
        mode: "raw" or "jpg".
        quality: of JPEG, 1 to 100.
        resize: shrink or enlarge other sizes (shorter side, then the centre) instead of refusing them.
        convert_rgb: turn grey-scale, palette and transparent images into RGB instead of refusing them.
        mixed: keep each image's own shape, and its size too unless a side is longer than `resolution`.
    """

    resolution: int
    mode: str
    quality: int
    resize: bool
    convert_rgb: bool
    mixed: bool


@dataclass
class ChannelSums:
    """Exact sums over all pixels of the three channels, from which mean and standard deviation follow."""

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
        """Of the byte range scaled to 0..1; a channel that never varies gets the smallest step as its std."""
        means = [value / self.pixels for value in self.values]
        variances = [square / self.pixels - mean**2 for square, mean in zip(self.squares, means, strict=True)]
        stds = [max(variance, 1.0) ** 0.5 for variance in variances]
        return tuple(mean / 255 for mean in means), tuple(std / 255 for std in stds)


def load_pixels(source: Source, split: str, index: int, encoding: Encoding) -> tuple[np.ndarray, int]:
    """The bytes to store, uint8 (height, width, 3), and the label.

    Raises:
        DataError: the image cannot be decoded, or is not of the size or kind that was asked for.
    """
    name = source.name(split, index)
    try:
        image, label = source.split(split)[index]
        image.load()
    except DECODE_ERRORS as error:
        raise DataError(f"{name}: cannot be decoded ({error})") from error
    if image.mode.startswith(_DEEP):
        raise DataError(
            f"{name}: mode {image.mode} has more than 8 bits per channel; convert it to 8 bits, or use --skip-bad"
        )
    if image.mode != "RGB":
        if not encoding.convert_rgb:
            raise DataError(f"{name}: mode {image.mode}, not RGB; --convert-rgb accepts such images")
        image = image.convert("RGB")
    if not (encoding.mixed or encoding.resize) and image.size != (encoding.resolution, encoding.resolution):
        size = f"{image.width}x{image.height}"
        wanted = f"{encoding.resolution}x{encoding.resolution}"
        raise DataError(f"{name}: {size} pixels, not {wanted}; --resize or --longest-side accept such images")
    image = to_stored_size(image, encoding.resolution, encoding.mixed)
    if not 0 <= label < len(source.classes):
        raise DataError(f"{name}: label {label}, but there are {len(source.classes)} classes")
    return np.asarray(image), label


def to_stored_size(image: Image.Image, resolution: int, mixed: bool) -> Image.Image:
    """An image as shards have it: no side longer than `resolution` if they are mixed, else a square."""
    if mixed:
        return shrink(image, resolution)
    return image if image.size == (resolution, resolution) else resize_and_cut(image, resolution)


def shrink(image: Image.Image, longest: int) -> Image.Image:
    """An image none of whose sides is longer (pixels), in its own shape."""
    if max(image.size) <= longest:
        return image
    scale = longest / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def resize_and_cut(image: Image.Image, side: int) -> Image.Image:
    """The middle of an image, square, after its shorter side is made this long (pixels)."""
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


class _Rows:
    """What FFCV asks for: row i is (image, label, global sample id)."""

    def __init__(self, source: Source, split: str, indices: Sequence[int], first_id: int, encoding: Encoding) -> None:
        self.source, self.split, self.encoding = source, split, encoding
        self.indices, self.first_id = indices, first_id
        self.sums = ChannelSums()
        self.content = 0

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, row: int) -> tuple[np.ndarray, int, int]:
        pixels, label = load_pixels(self.source, self.split, self.indices[row], self.encoding)
        self.sums.add(pixels)
        self.content = (self.content + self._digest(pixels, label, self.first_id + row)) % CONTENT_MODULUS
        return pixels, label, self.first_id + row

    def _digest(self, pixels: np.ndarray, label: int, sample: int) -> int:
        how = f"jpg {self.encoding.quality}" if self.encoding.mode == "jpg" else "raw"
        if self.encoding.mixed:
            how += f" {pixels.shape[0]}x{pixels.shape[1]}"
        return int(hashlib.sha256(f"{sample} {label} {how} ".encode() + pixels.tobytes()).hexdigest(), 16)


def _page_size(encoding: Encoding) -> int:
    """Bytes that FFCV writes at a time: the least it takes, or room for some images (a JPEG is no larger than they).

    A file begins with a whole page and ends with one, which its own 8 MiB would make most of a small data set; mixed
    sizes have room for the largest that there may be, alone.
    """
    images = (1 if encoding.mixed else 8) * 3 * encoding.resolution**2
    return min(max(MIN_PAGE_SIZE, 1 << (images - 1).bit_length()), _LARGEST_PAGE)


class _InlineWriter(DatasetWriter):
    """FFCV's writer without its worker processes, whose death or exception it would wait out for ever."""

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
        # FFCV shares the table of samples with its worker processes; here plain memory does.
        table = bytearray(num_samples * self.metadata_type.itemsize)
        shared_memory: SharedMemory = self.metadata_sm
        shared_memory.close()
        shared_memory.unlink()
        self.metadata_sm: Any = SimpleNamespace(buf=table)
        work: queue.SimpleQueue = queue.SimpleQueue()
        for todo in [*queue_content, None]:
            work.put(todo)
        allocations: queue.SimpleQueue = queue.SimpleQueue()
        allocator = MemoryAllocator(self.fname, self.data_region_start, self.page_size)
        arguments = (self.metadata_sm, self.metadata_type, self.fields, allocator, self.done)
        work_fn(work, *arguments, allocations, *extra_worker_args)
        # The allocator writes unbuffered and does not look at how much of a page was taken.
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
) -> tuple[Shard, ChannelSums]:
    """Writes one shard whole or not at all; `done` counts the samples written so far.

    The same images give the same bytes.

    Raises:
        DataError: an image that cannot be stored.
        OSError: the disk.
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
    return Shard(path.name, first_id, len(indices), size, digest, f"{rows.content:064x}"), rows.sums
