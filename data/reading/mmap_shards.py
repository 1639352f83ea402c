"""All shards of a split as one table of samples in memory, which the system fills as it is touched."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numba
import numpy as np

from data.errors import DataError, LoaderError
from data.manifest import Manifest
from data.reading.ffcv_imports import IMAGE_MODES, Compiler, Reader, cast_int_to_byte_ptr

_TABLE = numba.uint64[::1]
_BOXES = numba.int64[:, ::1]
_MARKS = numba.uint8[::1]


class _File(NamedTuple):
    path: Path
    file: BinaryIO
    mapped: mmap.mmap
    samples: int


class MappedShards:
    """All shards of a split, mapped into memory and joined into one table of samples.

    The pointers in FFCV's tables are offsets into a file. Here they become addresses in memory, so that one
    compiled pipeline reads every shard.

    Attributes:
        metadata: FFCV's fields of each sample.
    """

    def __init__(self, directory: Path, manifest: Manifest, split: str) -> None:
        metadata, pointers, sizes = [], [], []
        self._files: list[_File] = []  # mapped as long as there are addresses into them
        for shard in manifest.splits[split]:
            path = directory / shard.name
            reader = Reader(str(path))
            file = open(path, "rb")  # noqa: SIM115  # open as long as it is mapped
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._files.append(_File(path, file, mapped, shard.samples))
            base = np.uint64(np.frombuffer(mapped, np.uint8).ctypes.data)
            rows = reader.metadata.copy()
            _check_rows(path, rows, shard.first_id, shard.samples, manifest)
            _check_places(path, rows["f0"], reader.alloc_table, len(mapped))
            rows["f0"]["data_ptr"] += base
            metadata.append(rows)
            pointers.append(reader.alloc_table["ptr"] + base)
            sizes.append(reader.alloc_table["size"])
            self.handlers = reader.handlers
        self.metadata = np.concatenate(metadata)
        joined = np.concatenate(pointers)
        by_address = np.argsort(joined)
        self.tables = (joined[by_address], np.concatenate(sizes)[by_address])

    @property
    def sizes(self) -> np.ndarray:
        """int64 (samples, 2): height and width of each image, pixels."""
        image = self.metadata["f0"]
        return np.stack([image["height"], image["width"]], 1).astype(np.int64)

    @property
    def labels(self) -> np.ndarray:
        """int64 (samples,)."""
        return self.metadata["f1"].astype(np.int64)

    @property
    def raw(self) -> bool:
        """Whether all images are raw bytes of one size, for which no decoder is needed."""
        sizes, modes = self.sizes, self.metadata["f0"]["mode"]
        return bool((sizes == sizes[0]).all() and (modes == IMAGE_MODES["raw"]).all())

    def parts(self, samples: int) -> Iterator[np.ndarray]:
        """All images of raw shards in order: uint8 (n, H, W, 3), n of at most so many.

        Raises:
            LoaderError: as `check` does.
        """
        height, width = self.sizes[0]
        first = 0
        for file in self._files:
            stored = np.frombuffer(file.mapped, np.uint8)
            images = np.lib.stride_tricks.sliding_window_view(stored, 3 * height * width)
            places = self.metadata["f0"]["data_ptr"][first : first + file.samples] - np.uint64(stored.ctypes.data)
            for begin in range(0, file.samples, samples):
                self.check()
                yield images[places[begin : begin + samples]].reshape(-1, height, width, 3)
            first += file.samples

    def check(self) -> None:
        """Raises LoaderError for a file that has changed: if it shrank, reading it would end the process by SIGBUS."""
        for path, file, mapped, _ in self._files:
            now = os.fstat(file.fileno())
            if now.st_nlink == 0:
                raise LoaderError(f"{path} was deleted or replaced while it was in use")
            if now.st_size != len(mapped):
                raise LoaderError(
                    f"{path} has {now.st_size} bytes instead of {len(mapped)}: it changed while it was in use"
                )

    def forget(self) -> None:
        """Gives back the memory of what was read; it is read again where it is asked for again.

        What other processes have mapped, they keep.
        """
        for _, file, mapped, _ in self._files:
            mapped.madvise(mmap.MADV_DONTNEED)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    @staticmethod
    def compile_read():  # type: ignore[no-untyped-def]  # returns numba's compiled function
        def read(address, tables):  # type: ignore[no-untyped-def]
            size = tables[1][np.searchsorted(tables[0], address)]
            return numba.carray(cast_int_to_byte_ptr(address), size)

        tables = numba.types.Tuple([_TABLE, _TABLE, _BOXES, _MARKS])
        return Compiler.compile(read, numba.uint8[::1](numba.uint64, tables))


class EpochShards:
    """What FFCV asks its storage for in one pass over some batches.

    Args:
        boxes: int64 (samples, 4), for a decoder that cuts; (0, 4) for one that doesn't.
        forget_every: batches after which what was read is forgotten; 0 for never.

    Attributes:
        state: what the compiled pipeline gets: addresses, ascending, the bytes that each holds, the boxes, and room for
            marks at samples that cannot be decoded.
    """

    def __init__(self, shards: MappedShards, boxes: np.ndarray, forget_every: int) -> None:
        self.shards, self.forget_every = shards, forget_every
        self._undecoded = np.zeros(len(boxes), np.uint8)
        self.state = (*shards.tables, boxes, self._undecoded)

    def start_batch(self, batch: int) -> None:
        """FFCV tells of each batch before it reads it."""
        self.shards.check()
        if self.forget_every and batch % self.forget_every == 0:
            self.shards.forget()

    def check_batch(self, ids: np.ndarray) -> None:
        """Raises LoaderError for a sample of this batch, just read, that could not be decoded."""
        if len(self._undecoded) and (bad := ids[self._undecoded[ids] > 0]).size:
            raise LoaderError(f"sample {bad[0]} cannot be decoded: its JPEG is damaged")

    # FFCV opens its storage for each epoch; the mappings outlive that.
    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...


def _check_rows(path: Path, rows: np.ndarray, first_id: int, samples: int, manifest: Manifest) -> None:
    if len(rows) != samples or not np.array_equal(rows["f2"], np.arange(first_id, first_id + samples)):
        raise DataError(f"{path}: not the samples {first_id} to {first_id + samples - 1} that the manifest says")
    if rows["f1"].min() < 0 or rows["f1"].max() >= len(manifest.classes):
        raise DataError(f"{path}: a label outside 0 to {len(manifest.classes) - 1}")
    sides, side = (rows["f0"]["width"], rows["f0"]["height"]), manifest.resolution
    if manifest.mixed:
        if not all(((lengths > 0) & (lengths <= side)).all() for lengths in sides):
            raise DataError(f"{path}: images with sides of none or of more than {side}, which the manifest says")
    elif not all((lengths == side).all() for lengths in sides):
        raise DataError(f"{path}: images of another size than {side}, which the manifest says")


def _check_places(path: Path, images: np.ndarray, places: np.ndarray, size: int) -> None:
    """An image's bytes lie in the file, and a raw one has as many as its pixels: the decoder looks at neither."""
    by_place = places[np.argsort(places["ptr"])]
    found = by_place[np.searchsorted(by_place["ptr"], images["data_ptr"]).clip(max=len(places) - 1)]
    pixels = 3 * images["height"].astype(np.uint64) * images["width"].astype(np.uint64)
    is_raw = images["mode"] == IMAGE_MODES["raw"]
    inside = (found["ptr"] == images["data_ptr"]) & (found["ptr"] + found["size"] <= size)
    if not (inside & (~is_raw | (found["size"] == pixels))).all():
        raise DataError(f"{path}: an image whose bytes are not where, or as many as, its table says")
