"""All shards of a split as one memory-mapped table of samples."""

import mmap
import os
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from data.errors import DataError, LoaderError
from data.manifest import Manifest
from data.open_files import allow_open_files
from data.reading.shard_tables import IMAGE_MODES, read_tables

_FILES_PER_SHARD = 2  # the file, and the copy of its descriptor that mmap makes
_OTHER_FILES = 100  # that a run opens afterwards: checkpoints, logs, connections
_CONVERT_AGAIN = "convert the images again: python -m data.convert --overwrite"


class _File(NamedTuple):
    path: Path
    file: BinaryIO
    mapped: mmap.mmap
    samples: int


class MappedShards:
    """All shards of a split, mapped into memory and joined into one table of samples.

    The pointers in FFCV's tables are offsets into a file. Here they become memory addresses, so that one compiled
    pipeline can read every shard.

    Attributes:
        metadata: FFCV's record of every sample; fields f0, f1 and f2 are image, label and id.
        tables: addresses of the stored images, ascending, and their sizes in bytes.

    Raises:
        DataError: a shard does not match the manifest, or its tables do not match its size.
    """

    def __init__(self, directory: Path, manifest: Manifest, split: str) -> None:
        allow_open_files(
            _FILES_PER_SHARD * len(manifest.splits[split]) + _OTHER_FILES,
            f"{directory}: {len(manifest.splits[split]):,} {split} shards",
            "convert the images again with fewer --shards",
        )
        metadata, pointers, sizes = [], [], []
        self._files: list[_File] = []  # kept open, because the tables hold addresses into them
        weakref.finalize(self, _close, self._files)
        for shard in manifest.splits[split]:
            path = directory / shard.name
            tables = read_tables(path)
            file = open(path, "rb")  # noqa: SIM115  # stays open as long as it is mapped
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._files.append(_File(path, file, mapped, shard.samples))
            base = np.uint64(np.frombuffer(mapped, np.uint8).ctypes.data)
            rows = tables.samples
            _check_samples(path, rows, shard.first_id, shard.samples, manifest)
            _check_extents(path, rows["f0"], tables.allocations, len(mapped))
            rows["f0"]["data_ptr"] += base
            metadata.append(rows)
            pointers.append(tables.allocations["ptr"] + base)
            sizes.append(tables.allocations["size"])
        self.metadata = np.concatenate(metadata)
        joined = np.concatenate(pointers)
        by_address = np.argsort(joined)
        self.tables = (joined[by_address], np.concatenate(sizes)[by_address])

    @property
    def sizes(self) -> np.ndarray:
        """Height and width of every image, pixels: int64 (samples, 2)."""
        image = self.metadata["f0"]
        return np.stack([image["height"], image["width"]], 1).astype(np.int64)

    @property
    def labels(self) -> np.ndarray:
        """int64 (samples,)."""
        return self.metadata["f1"].astype(np.int64)

    @property
    def raw(self) -> bool:
        """Whether all images are raw bytes of one size, which need no decoder."""
        sizes, modes = self.sizes, self.metadata["f0"]["mode"]
        return bool((sizes == sizes[0]).all() and (modes == IMAGE_MODES["raw"]).all())

    def raw_images(self, count: int) -> Iterator[np.ndarray]:
        """The images of raw shards in order, at most `count` at a time: uint8 (n, H, W, 3).

        Raises:
            LoaderError: a file has changed, see `check`.
        """
        height, width = self.sizes[0]
        first = 0
        for file in self._files:
            stored = np.frombuffer(file.mapped, np.uint8)
            images = np.lib.stride_tricks.sliding_window_view(stored, 3 * height * width)
            offsets = self.metadata["f0"]["data_ptr"][first : first + file.samples] - np.uint64(stored.ctypes.data)
            for start in range(0, file.samples, count):
                self.check()
                yield images[offsets[start : start + count]].reshape(-1, height, width, 3)
            first += file.samples

    def check(self) -> None:
        """Raises LoaderError if a file has changed: reading one that has shrunk would end the process with SIGBUS."""
        for path, file, mapped, _ in self._files:
            status = os.fstat(file.fileno())
            if status.st_nlink == 0:
                raise LoaderError(f"{path} was deleted or replaced during the run; start the run again")
            if status.st_size != len(mapped):
                raise LoaderError(
                    f"{path} changed during the run: {status.st_size} bytes instead of {len(mapped)}; "
                    "start the run again"
                )

    def release(self) -> None:
        """Releases the pages read so far to the system; they are read again when needed.

        Pages that other processes have mapped stay in memory.
        """
        for _, file, mapped, _ in self._files:
            mapped.madvise(mmap.MADV_DONTNEED)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class EpochShards:
    """The storage that FFCV reads from in one pass over some batches.

    Args:
        boxes: int64 (samples, 4) for a decoder that crops; (0, 4) for one that does not.
        release_every: batches after which pages are released; 0 for never.

    Attributes:
        state: arguments of the compiled pipeline: addresses (ascending), their sizes in bytes, boxes, and a flag for
            every sample that cannot be decoded.
    """

    def __init__(self, shards: MappedShards, boxes: np.ndarray, release_every: int) -> None:
        self.shards, self.release_every = shards, release_every
        self._undecoded = np.zeros(len(boxes), np.uint8)
        self.state = (*shards.tables, boxes, self._undecoded)

    def start_batch(self, batch: int) -> None:
        """Called by FFCV before it reads a batch."""
        self.shards.check()
        if self.release_every and batch % self.release_every == 0:
            self.shards.release()

    def check_batch(self, ids: np.ndarray) -> None:
        """Raises LoaderError if a sample of the batch just read could not be decoded."""
        if len(self._undecoded) and (bad := ids[self._undecoded[ids] > 0]).size:
            raise LoaderError(f"sample {bad[0]} cannot be decoded: its JPEG is damaged; {_CONVERT_AGAIN}")

    # FFCV enters its storage once per epoch; the mappings outlive that.
    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...


def _close(files: Iterable[_File]) -> None:
    for file in files:
        file.file.close()


def _check_samples(path: Path, rows: np.ndarray, first_id: int, samples: int, manifest: Manifest) -> None:
    if not np.array_equal(rows["f2"], np.arange(first_id, first_id + samples)):
        raise DataError(
            f"{path}: does not hold samples {first_id} to {first_id + samples - 1} as its manifest says; "
            f"{_CONVERT_AGAIN}"
        )
    if rows["f1"].min() < 0 or rows["f1"].max() >= len(manifest.classes):
        raise DataError(f"{path}: holds a label outside 0 to {len(manifest.classes) - 1}; {_CONVERT_AGAIN}")
    sides, side = (rows["f0"]["width"], rows["f0"]["height"]), manifest.resolution
    if manifest.mixed:
        if not all(((lengths > 0) & (lengths <= side)).all() for lengths in sides):
            raise DataError(
                f"{path}: holds images whose sides are not 1 to {side} pixels as its manifest says; {_CONVERT_AGAIN}"
            )
    elif not all((lengths == side).all() for lengths in sides):
        raise DataError(
            f"{path}: holds images that are not {side}x{side} pixels as its manifest says; {_CONVERT_AGAIN}"
        )


def _check_extents(path: Path, images: np.ndarray, allocations: np.ndarray, size: int) -> None:
    """Every image's bytes lie in the file, and a raw image has as many as its pixels: the decoder checks neither."""
    by_offset = allocations[np.argsort(allocations["ptr"])]
    found = by_offset[np.searchsorted(by_offset["ptr"], images["data_ptr"]).clip(max=len(allocations) - 1)]
    pixels = 3 * images["height"].astype(np.uint64) * images["width"].astype(np.uint64)
    is_raw = images["mode"] == IMAGE_MODES["raw"]
    inside = (found["ptr"] == images["data_ptr"]) & (found["ptr"] + found["size"] <= size)
    if not (inside & (~is_raw | (found["size"] == pixels))).all():
        raise DataError(
            f"{path}: the position or the size of an image's bytes does not match the file's table; {_CONVERT_AGAIN}"
        )
